"""Prints how fast shuffled int64 [8, 2048] batches are read: ours beside the peers, in turns, in one run.

Also the time to the first batch, and to the first one after a resume at 90 % of an epoch.
"""

import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any

from measuring.turns import median, print_machine, print_table, run_beside_peers, shown, take_turns

NUM_ROUNDS = 3
SECONDS_A_TURN = 1.0


def main() -> None:
    """Measure in process, then over 2 worker processes, and print the table."""
    run_beside_peers()
    from measuring import peer_formats as peers  # noqa: PLC0415

    print_machine()
    tokens = peers.ROWS * peers.LENGTH
    resumed = int(0.9 * peers.num_sequences()) // peers.ROWS * peers.ROWS
    ours: dict[str, Callable[[], Iterator[Any]]] = {
        "ours": lambda: peers.ours(isolate=False),
        "ours, with positions": lambda: peers.ours(isolate=True),
    }
    alone = ours | {name: lambda read=read: read(0) for name, read in peers.READERS.items()}
    firsts = take_turns({name: first_batch(make) for name, make in alone.items()}, num_rounds=NUM_ROUNDS)
    resumes = take_turns(
        {
            "ours": first_batch(lambda: peers.ours(isolate=False, consumed=resumed)),
            "ours, with positions": first_batch(lambda: peers.ours(isolate=True, consumed=resumed)),
            "Megatron-like": first_batch(lambda: peers.megatron(resumed)),
        },
        num_rounds=NUM_ROUNDS,
    )
    speeds = take_turns({name: steady_speed(make, tokens) for name, make in alone.items()}, num_rounds=NUM_ROUNDS)
    workers = {name: lambda read=read: read(2) for name, read in peers.READERS.items()}
    parallel = take_turns({name: steady_speed(make, tokens) for name, make in workers.items()}, num_rounds=NUM_ROUNDS)
    print_table(
        ["loader", "in process, Mtok/s", "2 workers, Mtok/s", "first batch, s", "resume at 90 %, s"],
        [
            [name, *(shown(median(part.get(name, []))) for part in (speeds, parallel, firsts, resumes))]
            for name in alone
        ],
    )
    bases = {name: median(values) for name, values in speeds.items()}
    best = max((median(values) or 0 for values in parallel.values()), default=0)
    base = bases["Megatron-like"]
    assert base and bases["ours"] and bases["ours, with positions"]
    print(f"with positions / Megatron-like {bases['ours, with positions'] / base:.2f} (target 0.9)")
    print(f"without / Megatron-like {bases['ours'] / base:.2f} (target 1.5)")
    print(f"default mode / best peer with 2 workers {bases['ours'] / best:.1f} (target 5)")


def first_batch(make: Callable[[], Iterator[Any]]) -> Callable[[], float]:
    """Seconds from nothing to the first batch."""

    def turn() -> float:
        started = time.perf_counter()
        next(make())
        return time.perf_counter() - started

    return turn


def steady_speed(make: Callable[[], Iterator[Any]], tokens: int) -> Callable[[], float]:
    """Millions of tokens a second, after a warm-up of some batches."""
    opened: list[Iterator[Any]] = []

    def turn() -> float:
        if not opened:
            opened.append(make())
            for _ in itertools.islice(opened[0], 20):
                pass
        started, batches = time.perf_counter(), 0
        while (seconds := time.perf_counter() - started) < SECONDS_A_TURN:
            next(opened[0])
            batches += 1
        return batches * tokens / seconds / 1e6

    return turn


if __name__ == "__main__":
    main()
