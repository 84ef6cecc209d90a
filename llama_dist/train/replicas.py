"""Finds a replica whose weights are no longer those of the others: silent corruption by memory, a core or a link.

What every data-parallel replica holds alike is compared: the weights that forward reads, at ZeRO 0 to 2. The cut master
weights and moments have no second copy to compare with.
"""

import socket
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from data_pipeline.config import ReportedError
from llama_dist.parallel.engine import Engine
from llama_dist.runtime.process_group import all_gather_json


class ReplicasDifferError(ReportedError):
    """The weights of a replica differ from the others'. The newest checkpoint is from before it was seen."""

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


def compare_replicas(engine: Engine, step: int) -> None:
    """Collective. Raises ReplicasDifferError on every rank, with the odd rank and host, if the replicas differ."""
    checksum = engine.weights_checksum()
    if checksum is None:
        return
    mine = [engine.grid.rank, socket.gethostname(), engine.grid.pp_stage, checksum]
    complaints = describe_differences([Replica(*values) for values in all_gather_json(mine)])
    if complaints:
        raise ReplicasDifferError(
            f"after step {step} {'; '.join(complaints)}: the weights were corrupted in silence. Have memory and links "
            "of the host checked; the run can go on from its newest checkpoint"
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
