"""Finds a replica whose weights are no longer those of the others: silent corruption by memory, a core or a link.

What every data-parallel replica holds alike is compared: the weights that forward reads, at ZeRO 0 to 2. The cut master
weights and moments have no second copy to compare with, and at ZeRO 1 and 2 every update writes those weights anew.
"""

import socket
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from data_pipeline.config import ReportedError
from llama_dist.parallel.engine import Engine
from llama_dist.runtime.process_group import all_gather_json


class ReplicasDifferError(ReportedError):
    """The weights of a replica differ from the others'. Nothing was saved since they were last found alike."""

    exit_code = 75


@dataclass(frozen=True)
class Replica:
    """One rank's checksum of the weights that all replicas of its pipeline stage hold."""

    rank: int
    host: str
    pp_stage: int
    checksum: int

    def __str__(self) -> str:
        return f"rank {self.rank} on host {self.host}"


class ReplicaComparison:
    """When a run compares: at an interval, and before every save. Collective: every rank calls every method alike."""

    def __init__(self, engine: Engine, interval_steps: int) -> None:
        self._engine, self._interval_steps = engine, interval_steps
        self._alike_after: int | None = None

    def after_step(self, step: int) -> None:
        """Compare, if the interval ends with `step`. Raises as `compare_replicas`."""
        if self._interval_steps and step % self._interval_steps == 0:
            self._compare(step)

    def before_save(self, step: int) -> None:
        """Compare, unless that was done after this very step, or never is. Raises as `compare_replicas`."""
        if self._interval_steps and self._alike_after != step:
            self._compare(step)

    def _compare(self, step: int) -> None:
        compare_replicas(self._engine, step, self._alike_after)
        self._alike_after = step


def compare_replicas(engine: Engine, step: int, alike_after: int | None = None) -> None:
    """Collective. Raises ReplicasDifferError on every rank, with the odd rank and host, if the replicas differ.

    `alike_after` is the step after which they were last compared, since when nothing else was saved.
    """
    checksum = engine.weights_checksum()
    if checksum is None:
        return
    mine = [engine.grid.rank, socket.gethostname(), engine.grid.pp_stage, checksum]
    complaints = describe_differences([Replica(*values) for values in all_gather_json(mine)])
    if complaints:
        raise ReplicasDifferError(
            f"after step {step} {'; '.join(complaints)}: the weights were corrupted in silence. Have memory and links "
            f"of the host checked. {_advice(alike_after)}"
        )


def _advice(alike_after: int | None) -> str:
    if alike_after is None:
        return (
            "They were not compared before in this attempt: the newest checkpoint may be from after the fault, unless "
            "it was written with supervision.compare_replicas_interval_steps set"
        )
    return (
        f"They were last alike after step {alike_after}, and nothing later was saved: go on from the newest checkpoint"
    )


def describe_differences(replicas: Sequence[Replica]) -> list[str]:
    """Return one sentence for each pipeline stage whose replicas differ: the minority is named, or all in a draw."""
    complaints = []
    for stage in sorted({replica.pp_stage for replica in replicas}):
        members = [replica for replica in replicas if replica.pp_stage == stage]
        counts = Counter(replica.checksum for replica in members).most_common()
        if len(counts) == 1:
            continue
        (majority, num_alike), num_next = counts[0], counts[1][1]
        if num_alike == num_next:
            names = ", ".join(str(replica) for replica in members)
            complaints.append(f"the replicas of pipeline stage {stage} hold different weights ({names})")
            continue
        odd = ", ".join(str(replica) for replica in members if replica.checksum != majority)
        complaints.append(f"{odd} holds other weights than {num_alike} replicas of pipeline stage {stage}")
    return complaints
