"""Prints the engine's speed against a bare PyTorch loop of the same model, on one process, in one run.

Both take the same steps in turns, so that a noisy machine slows both; only the ratio means something.
"""

import os
import statistics
import sys
import time
from collections.abc import Callable

# Before torch: the worker's allocator settings (see `llama-dist plan`) must stand when the process starts.
ALLOCATOR = {
    "MALLOC_MMAP_THRESHOLD_": "1099511627776", "MALLOC_TRIM_THRESHOLD_": "1099511627776", "MALLOC_TOP_PAD_": "67108864"
}  # fmt: skip
NUM_ROUNDS = 3
STEPS_PER_ROUND = 6


def main() -> None:
    """Time both loops in turns and print the ratio of every round."""
    if any(os.environ.get(name) != value for name, value in ALLOCATOR.items()):
        environment = os.environ | ALLOCATOR | {"DS_ACCELERATOR": "cpu", "LOCAL_RANK": "0"}
        os.execve(sys.executable, [sys.executable, *sys.argv], environment)  # noqa: S606 - this file itself
    bare, engine, tokens_per_step = build_both()
    for step in (bare, engine):
        step()
    print("| round | bare loop tokens/s | engine (ZeRO-1) tokens/s | engine / bare |\n|---|---|---|---|")
    ratios = []
    for number in range(1, NUM_ROUNDS + 1):
        seconds = {bare: 0.0, engine: 0.0}
        for _ in range(STEPS_PER_ROUND):
            for step in (bare, engine):
                started = time.perf_counter()
                step()
                seconds[step] += time.perf_counter() - started
        speeds = [STEPS_PER_ROUND * tokens_per_step / seconds[step] for step in (bare, engine)]
        ratios.append(speeds[1] / speeds[0])
        print(f"| {number} | {speeds[0]:,.0f} | {speeds[1]:,.0f} | {ratios[-1]:.3f} |")
    print(f"\nmedian ratio {statistics.median(ratios):.3f}")


def build_both() -> tuple[Callable[[], object], Callable[[], object], int]:
    """A step of the bare loop, a step of our engine, and the tokens of either."""
    sys.modules["mlflow"] = None  # type: ignore[assignment]
    import torch  # noqa: PLC0415

    from llama_dist.config import parse_run_config  # noqa: PLC0415
    from llama_dist.model.initialization import initialize_weights  # noqa: PLC0415
    from llama_dist.model.llama import Llama  # noqa: PLC0415
    from llama_dist.model.loss import next_token_loss  # noqa: PLC0415
    from llama_dist.optim.adamw import build_adamw  # noqa: PLC0415
    from llama_dist.parallel.build import build_engine, join_deepspeed  # noqa: PLC0415
    from llama_dist.parallel.engine import MicroBatch  # noqa: PLC0415
    from llama_dist.parallel.grid import Grid  # noqa: PLC0415

    config = parse_run_config(
        {
            "name": "overhead",
            "model": {
                "vocabulary_size": 16000, "hidden_size": 384, "num_layers": 6, "num_heads": 6,
                "feed_forward_size": 1024, "max_sequence_length_tokens": 512,
            },
            "data": {"sources": [{"path": "unused"}], "sequence_length_tokens": 512},
            "batch": {"global_batch_sequences": 4, "micro_batch_sequences": 2},
            "train": {"num_steps": 1000, "precision": "fp32"},
        },
        where="overhead",
    )  # fmt: skip
    torch.distributed.init_process_group("gloo", init_method="tcp://127.0.0.1:29555", rank=0, world_size=1)
    join_deepspeed()
    tokens = torch.randint(0, config.model.vocabulary_size, (2, 2, 513))
    micro_batches = [MicroBatch(batch[:, :-1].contiguous(), batch[:, 1:].contiguous()) for batch in tokens]

    model = Llama(config.model)
    initialize_weights(model.named_parameters(), config.model, 0)
    optimizer = build_adamw(model.named_parameters(), config.optimizer)

    def bare_step() -> None:
        for batch, labels, _ in micro_batches:
            (next_token_loss(model(batch), labels) / len(micro_batches)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    engine = build_engine(config, Grid(0, 1, 1), lambda named: build_adamw(named, config.optimizer))
    return bare_step, lambda: engine.train_batch(micro_batches, 3e-4), 4 * 512


if __name__ == "__main__":
    main()
