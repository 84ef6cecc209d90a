"""Prints how fast tokenized documents become files: our shards with their checksums beside the peers, in turns.

Into memory (/dev/shm), which leaves the disk out; and onto the disk, where ours alone waits until the bytes are there.
"""

import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from measuring.turns import median, print_machine, print_table, run_beside_peers, shown, take_turns

NUM_ROUNDS = 3
MEMORY = Path("/dev/shm")  # noqa: S108 - a folder of our own is made in it


def main() -> None:
    """Write the same documents by every writer, in memory and on the disk, and print the table."""
    run_beside_peers()
    from measuring import peer_writers as peers  # noqa: PLC0415
    from measuring.corpus import FOLDER  # noqa: PLC0415

    print_machine()
    num_tokens = sum(len(tokens) for tokens, _ in peers.documents_in_memory())
    print(f"{num_tokens:,} tokens of {len(peers.documents_in_memory()):,} documents\n")
    seconds: list[dict[str, float | None]] = []
    for place in (MEMORY, FOLDER):
        with tempfile.TemporaryDirectory(prefix="write-", dir=place) as folder:
            turns = {name: writing(write, Path(folder) / "out") for name, write in peers.WRITERS.items()}
            # Once untimed: every library loads parts of itself at its first use.
            take_turns(turns, num_rounds=1)
            measured = take_turns(turns, num_rounds=NUM_ROUNDS)
        seconds.append({name: median(values) for name, values in measured.items()})
    print_table(
        ["writer", "in memory, s", "Mtok/s", "on the disk, s", "Mtok/s"],
        [
            [name, *(text for part in seconds for text in (shown(part[name]), speed(num_tokens, part[name])))]
            for name in peers.WRITERS
        ],
    )
    for where, part in zip(("in memory", "on the disk, ours synced"), seconds, strict=True):
        for peers_name, group, target in (("HF", peers.HUGGING_FACE, 4), ("MDS", peers.MOSAIC, 10)):
            usual, fastest = ratios([part[name] for name in group], part[peers.OURS])
            print(f"{where}: {usual} x {peers_name}'s usual way, {fastest} x its fastest (target {target})")


def writing(write: Callable[[Path], None], folder: Path) -> Callable[[], float]:
    """Seconds to write into a folder that is not there before, and is removed after."""

    def turn() -> float:
        try:
            started = time.perf_counter()
            write(folder)
            return time.perf_counter() - started
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    return turn


def speed(num_tokens: int, seconds: float | None) -> str:
    """Millions of tokens a second."""
    return shown(num_tokens / seconds / 1e6 if seconds else None)


def ratios(seconds: Sequence[float | None], ours: float | None) -> tuple[str, str]:
    """How many times as long as ours the first of some peers took, and the fastest."""
    times = [time for time in seconds if time]
    if not (ours and times and seconds[0]):
        return shown(None), shown(None)
    return shown(seconds[0] / ours), shown(min(times) / ours)


if __name__ == "__main__":
    main()
