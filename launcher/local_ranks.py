"""The ranks of an attempt that run on this host, from their heartbeats and /proc. Signals nothing."""

import time
from collections.abc import Iterable
from pathlib import Path

from launcher.backend import RankBeat
from launcher.records import Heartbeat, process_state, read_heartbeat, read_heartbeats


def local_ranks(heartbeats: Path, attempt: int, host: str, ranks: Iterable[int] | None = None) -> dict[int, Heartbeat]:
    """Return the newest heartbeat of each rank of `attempt` on `host`.

    A node that knows its `ranks` names them: else the files of all nodes are read, where they share the directory.
    """
    if ranks is None:
        beats = read_heartbeats(heartbeats)
    else:
        found = {rank: read_heartbeat(heartbeats / f"rank_{rank:05d}.json") for rank in ranks}
        beats = {rank: beat for rank, beat in found.items() if beat}
    return {rank: beat for rank, beat in beats.items() if beat.attempt == attempt and beat.host == host}


def read_local_beats(
    heartbeats: Path, attempt: int, host: str, ranks: Iterable[int] | None = None
) -> dict[int, RankBeat]:
    """Return the last sign of life of each rank of `attempt` on this host, with what its process does now."""
    now = time.time()
    return {
        rank: RankBeat(
            host=beat.host,
            pid=beat.pid,
            step=beat.step,
            phase=beat.phase,
            micro_batch=beat.micro_batch,
            age_seconds=max(0.0, now - beat.time),
            process_state=process_state(beat.pid, beat.create_time),
        )
        for rank, beat in local_ranks(heartbeats, attempt, host, ranks).items()
    }
