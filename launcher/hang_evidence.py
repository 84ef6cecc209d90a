"""All that the ranks of this host can say of a hang, in a bounded time: their stacks, and on CUDA their collectives."""

import time
from collections.abc import Mapping
from pathlib import Path

from launcher.flight_recorder import ask_recorders, wait_for_dumps
from launcher.records import Heartbeat
from launcher.stacks import collect_stacks


def collect_evidence(
    ranks: Mapping[int, Heartbeat], stacks_directory: Path, log_directory: Path, seconds: float
) -> dict[int, str]:
    """Return each rank's stacks, with the place of its flight recorder's dump where it wrote one."""
    deadline = time.monotonic() + seconds
    asked = ask_recorders(log_directory, ranks)
    texts = collect_stacks(ranks, stacks_directory, seconds)
    dumps = wait_for_dumps(log_directory, asked, deadline)
    return {
        rank: f"{text}\nflight recorder: {dumps[rank]}\n" if rank in dumps else text for rank, text in texts.items()
    }
