"""Prints our checkpoints against DeepSpeed's own, of the same engine and processes, in one run.

Saves and loads take turns on two ranks, so that a noisy machine slows both; only the ratios mean something.
"""

import json
import os
import socket
import statistics
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from data_pipeline.config import PreparationConfig, TokenizerTrainingConfig
from data_pipeline.preparation.prepare import prepare_dataset
from data_pipeline.tokenizer_training import train_tokenizer

NUM_ROUNDS = 5
WORLD_SIZE, OTHER_WORLD_SIZE = 2, 1
RANK_PROGRAM = Path(__file__).parent / "measuring" / "checkpoint_ranks.py"
TIMEOUT_SECONDS = 1800

Measured = dict[str, list[float]]


def main() -> None:
    """Measure on two ranks, then on one, and print one line a target."""
    with tempfile.TemporaryDirectory(prefix="checkpoint_speed_") as directory:
        prepare_data(Path(directory))
        same = run_ranks(WORLD_SIZE, "same", Path(directory))
        other = run_ranks(OTHER_WORLD_SIZE, "other", Path(directory))
    sizes = same["bytes ours"][0] / 1e6, same["bytes theirs"][0] / 1e6
    print(
        f"{WORLD_SIZE} ranks, ZeRO-1; ours {sizes[0]:.0f} MB, DeepSpeed's {sizes[1]:.0f} MB; medians of {NUM_ROUNDS}\n"
    )
    print("| what | ours | DeepSpeed | ratio | target |\n|---|---|---|---|---|")
    print(row("training waits for a save", same, "ours save blocks", "theirs save", "<= 0.25", is_ours_over=True))
    print(row("... against one step", same, "ours save blocks", "step", "<= 1", is_ours_over=True))
    print(row("whole save, both synced to the disk", same, "ours save", "theirs save, synced", ">= 1"))
    print(row("whole save, neither synced", same, "ours save, not synced", "theirs save", ">= 1"))
    print(row("load, same topology", same, "ours load", "theirs load", ">= 1"))
    other["theirs convert and load"] = [
        sum(pair) for pair in zip(other["theirs converts"], other["theirs universal load"], strict=True)
    ]
    what = f"load on {OTHER_WORLD_SIZE} rank, end to end"
    print(row(what, other, "ours load", "theirs convert and load", ">= 5"))
    print(row("steps beside a save / alone", same, "steps beside a save", "steps alone", "<= 1.05", is_ours_over=True))
    far, near = "resume at step 100000", "resume at step 10"
    print(row("resume at step 100,000 / 10, with its first batch", same, far, near, "1", is_ours_over=True))
    peak, theirs = same["peak / staged"][0], same["peak theirs / ours staged"][0]
    print(f"| peak host memory added, in staged copies | {peak:.2f} | {theirs:.2f} | | <= 1.10 |")


def prepare_data(directory: Path) -> None:
    """Make what a resumed run reads its first batch from: a small dataset, so that step 100,000 is far past its end."""
    text = directory / "text.jsonl"
    sources = sorted((Path(sysconfig.get_paths()["stdlib"]) / "asyncio").glob("*.py"))
    text.write_text("".join(json.dumps({"text": path.read_text(encoding="utf-8")}) + "\n" for path in sources))
    tokenizer = directory / "tokenizer.model"
    train_tokenizer([text], tokenizer, TokenizerTrainingConfig(vocabulary_size=1000))
    prepare_dataset([text], tokenizer, directory / "data", PreparationConfig(), num_workers=1)


def row(what: str, measured: Measured, ours: str, theirs: str, target: str, *, is_ours_over: bool = False) -> str:
    """One line of the table; the ratio is the median of the rounds' ratios, theirs over ours unless told."""
    pairs = list(zip(measured[ours], measured[theirs], strict=True))
    ratio = statistics.median(a / b if is_ours_over else b / a for a, b in pairs)
    seconds = [statistics.median(measured[name]) for name in (ours, theirs)]
    return f"| {what} | {seconds[0]:.3f} s | {seconds[1]:.3f} s | {ratio:.2f} | {target} |"


def run_ranks(world_size: int, which: str, directory: Path) -> Measured:
    """Start the ranks of one part and return what rank 0 measured. Ends them all where one fails."""
    shared = {
        "WORLD_SIZE": str(world_size), "LOCAL_WORLD_SIZE": str(world_size), "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()), "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "GLOO_SOCKET_IFNAME": "lo",
    }  # fmt: skip
    command = [sys.executable, str(RANK_PROGRAM), which, str(directory), str(NUM_ROUNDS)]
    log_file = directory / f"{which}.log"
    log = log_file.open("w")
    ranks = [
        subprocess.Popen(
            command,
            env=os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE if rank == 0 else subprocess.DEVNULL,
            stderr=log,
            text=True,
        )
        for rank in range(world_size)
    ]
    try:
        output, _ = ranks[0].communicate(timeout=TIMEOUT_SECONDS)
        codes = [rank.wait(timeout=60) for rank in ranks]
    finally:
        log.close()
        for rank in ranks:
            if rank.poll() is None:
                rank.kill()
                rank.wait()
    if any(codes):
        raise SystemExit(f"{RANK_PROGRAM} {which}: the ranks ended with {codes}:\n{log_file.read_text()[-3000:]}")
    lines = [line for line in output.splitlines() if line.startswith('{"')]
    measured: Measured = json.loads(lines[-1])
    return measured


def free_port() -> int:
    """A port of this host that nothing listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


if __name__ == "__main__":
    main()
