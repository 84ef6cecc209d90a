"""What supervisor and node agents tell each other: JSON objects, one a line. Sends and receives nothing itself.

From the supervisor, `do`: `hello` (the run's hosts, lease, working directory), `tick`, `sit` (run directory, nonce),
`port`, `start` (command, environment, ranks), `stop`, `save`, `stacks`, `end`, `leave`; `to` names the hosts that are
meant, which `hello` and `tick` do not look at. From a node, `say`: `here` (the first word over a socket), `hello`
(facts, program), `seated`, `busy`, `refused` (reason), `port`, `alive` (beats), `ended` (status, failures), `stacks`,
`signal`. Each names its host.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from cluster.facts import Gpu, MachineFacts
from launcher.agent_log import WorkerFailures
from launcher.backend import RankBeat

LARGEST_LINE_BYTES = 1 << 24  # the stacks of a node's ranks; a longer line is no message of ours

Message = dict[str, Any]


def encode(message: Mapping[str, Any]) -> bytes:
    """One line."""
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


def decode(line: bytes) -> Message | None:
    """The message of a line; None for anything else, such as a banner that a login shell prints."""
    if not line.startswith(b"{"):
        return None
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return message if isinstance(message, dict) else None


class LineBuffer:
    """Cuts what arrives into lines. A line that grows past all bounds is dropped."""

    def __init__(self) -> None:
        self._rest = b""

    def take(self, data: bytes) -> Iterator[Message]:
        """Yield the messages that `data` completes."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > LARGEST_LINE_BYTES:
            self._rest = b""
        for line in lines:
            message = decode(line)
            if message is not None:
                yield message


def facts_to_json(facts: MachineFacts) -> Message:
    """Plain values of a machine's facts."""
    return asdict(facts)


def facts_from_json(values: Mapping[str, Any]) -> MachineFacts:
    """Read `facts_to_json`. Raises KeyError, TypeError or ValueError for anything else."""
    gpus = tuple(Gpu(int(one["index"]), str(one["name"]), int(one["memory_bytes"])) for one in values["gpus"])
    return MachineFacts(
        host=str(values["host"]),
        num_cores=int(values["num_cores"]),
        memory_bytes=int(values["memory_bytes"]),
        gpus=gpus,
        address=str(values["address"]),
        interface=str(values["interface"]),
    )


def beats_to_json(beats: Mapping[int, RankBeat]) -> Message:
    """Plain values of the ranks' signs of life, by rank."""
    return {str(rank): asdict(beat) for rank, beat in beats.items()}


def beats_from_json(values: Mapping[str, Any]) -> dict[int, RankBeat]:
    """Read `beats_to_json`. Raises KeyError, TypeError or ValueError for anything else."""
    return {int(rank): RankBeat(**beat) for rank, beat in values.items()}


def failures_to_json(failures: WorkerFailures) -> Message:
    """Plain values of how the ranks of a node ended."""
    values: Message = {"statuses": failures.statuses, "first_failed_rank": failures.first_failed_rank}
    return values | {"oom_kills": failures.oom_kills}


def failures_from_json(values: Mapping[str, Any]) -> WorkerFailures:
    """Read `failures_to_json`. Raises KeyError, TypeError or ValueError for anything else."""
    first = values["first_failed_rank"]
    statuses = {int(rank): int(status) for rank, status in values["statuses"].items()}
    oom_kills = {str(host): int(count) for host, count in values["oom_kills"].items()}
    return WorkerFailures(statuses, None if first is None else int(first), oom_kills=oom_kills)
