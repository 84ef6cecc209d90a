"""The order of a drill: wait until the run is settled, break something, see it noticed, see it go on, mend.

What is broken, and how, is `injection`'s.
"""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from launcher.lab.layout import Lab
from launcher.rehearsal.faults import Fault, choose_host, may_be_set_aside
from launcher.rehearsal.injection import DiskInjection, Injection, NodeInjection, RankInjection
from launcher.rehearsal.progress import Progress, StuckError
from launcher.rehearsal.record import FaultResult
from launcher.rehearsal.setting import Setting
from launcher.rehearsal.small_disk import SmallDisk

_LEAST_NOTICE_SECONDS = 60.0
_LEAST_RECOVERY_SECONDS = 300.0  # a start imports, connects and loads; a busy machine takes its time
_RECOVERIES_LONGER_THAN_START = 5
_NOTICES_LONGER_THAN_TOLD = 3
_STEPS_PAST_SAVE = 2  # what is hit then has steps to do again, which must come out alike


@dataclass(frozen=True)
class Limits:
    """How long a drill waits before it says that something did not come."""

    start_seconds: float
    notice_seconds: float
    recovery_seconds: float

    @classmethod
    def of(cls, setting: Setting, settled_after_seconds: float = 0.0) -> "Limits":
        """From what the config says, and how long the first start took until its first checkpoint."""
        supervision = setting.config.supervision
        hang = supervision.hang_timeout_min_seconds or supervision.process_group_timeout_seconds
        told = max(hang, setting.cluster.node_timeout_seconds)
        return cls(
            start_seconds=supervision.start_timeout_seconds or float("inf"),
            notice_seconds=_LEAST_NOTICE_SECONDS + _NOTICES_LONGER_THAN_TOLD * told + settled_after_seconds,
            recovery_seconds=max(_LEAST_RECOVERY_SECONDS, _RECOVERIES_LONGER_THAN_START * settled_after_seconds),
        )


@dataclass
class Drill:
    """The faults of one rehearsal, one after the other, on one launch."""

    setting: Setting
    lab: Lab
    disk: SmallDisk | None
    progress: Progress
    say: Callable[[str], None]
    _limits: Limits = field(init=False)
    _num_failures: Counter[str] = field(default_factory=Counter, init=False)

    def __post_init__(self) -> None:
        self._limits = Limits.of(self.setting)

    def start(self) -> None:
        """Wait until training moves and saves. Raises StuckError."""
        began = time.monotonic()
        self._settle(self._limits.start_seconds)
        seconds = time.monotonic() - began
        self._limits = Limits.of(self.setting, seconds)
        self.say(f"training moves, and the first checkpoint is there after {seconds:.1f} s")

    def rehearse(self, faults: Sequence[Fault]) -> tuple[FaultResult, ...]:
        """Rehearse each fault. Raises LabError where the lab itself fails."""
        return tuple(self._rehearse_one(fault) for fault in faults)

    def _rehearse_one(self, fault: Fault) -> FaultResult:
        result = FaultResult(fault, "", self.progress.position[1])
        try:
            attempt = self._settle(self._limits.recovery_seconds)
            injection = self._aim(fault, attempt)
        except StuckError as error:
            result = replace(result, problem=f"not tried: {error}")
        else:
            result = self._rehearse_at(fault, injection, attempt)
        verdict = f"NOT recovered: {result.problem}" if result.problem else "recovered"
        self.say(f"{fault}: {verdict}{result.aftermath and f'; {result.aftermath}'}")
        return result

    def _settle(self, limit_seconds: float) -> int:
        """Wait until the newest attempt has saved something, so that it counts as progress; answers its number."""
        attempt, saved = 0, 0

        def is_settled() -> bool:
            nonlocal attempt, saved
            if self.progress.attempt != attempt:
                attempt, saved = self.progress.attempt, self.progress.newest_checkpoint
            of, step = self.progress.position
            newest = self.progress.newest_checkpoint
            is_alive = of == attempt > 0 and self.progress.end_of(attempt) is None
            return is_alive and newest > saved and step >= newest + _STEPS_PAST_SAVE

        self.progress.wait(is_settled, limit_seconds, "attempt that trains and saves")
        return attempt

    def _aim(self, fault: Fault, attempt: int) -> Injection:
        if fault == Fault.FULL_DISK:
            assert self.disk is not None, "no disk was made for it"
            return DiskInjection(self.disk, self.progress, attempt)
        ranks = self.progress.ranks_by_host(attempt)
        host = choose_host(list(ranks), self._num_failures)
        if fault.loses_node:
            return NodeInjection(fault, self.lab, self.progress, attempt, host)
        return RankInjection(fault, self.progress, attempt, ranks[host][-1], host)

    def _rehearse_at(self, fault: Fault, injection: Injection, attempt: int) -> FaultResult:
        num_nodes = len(self.progress.ranks_by_host(attempt))
        result = FaultResult(fault, injection.where, self.progress.position[1])
        self.say(f"{fault}: {injection.where}, at step {result.step}")
        began = time.monotonic()
        try:
            injection.inject()
            if injection.host:
                self._num_failures[injection.host] += 1
            self.progress.wait(lambda: bool(injection.read_notice()), self._limits.notice_seconds, "word of it")
            result = replace(result, said=injection.read_notice(), noticed_seconds=time.monotonic() - began)
            self.say(f"{fault}: noticed after {result.noticed_seconds:.1f} s: {result.said}")
            if not self._goes_on_without(fault):
                injection.mend()
            self._wait_for_new_step()
            result = replace(result, new_step_seconds=time.monotonic() - began)
            injection.mend()
            result = replace(result, aftermath=self._see_it_whole(fault, injection.host, num_nodes))
            if not injection.is_named_in(result.said):
                result = replace(result, problem=f"the run went on, but what was said does not name {injection.where}")
        except StuckError as error:
            result = replace(result, problem=str(error))
        finally:
            injection.mend()
        return result

    def _goes_on_without(self, fault: Fault) -> bool:
        """Whether the run is to go on before the fault is mended; one with too few nodes waits for a node instead."""
        return not fault.loses_node or len(self.lab.nodes) - 1 >= self.setting.fewest_nodes

    def _wait_for_new_step(self) -> None:
        _, step = self.progress.position
        self.progress.wait(
            lambda: self.progress.position[1] > step, self._limits.recovery_seconds, f"step after step {step}"
        )

    def _see_it_whole(self, fault: Fault, host: str, num_nodes: int) -> str:
        """After the mending: see the run grow again, or save again; answers what was seen."""
        began = time.monotonic()
        if fault == Fault.FULL_DISK:
            before = self.progress.newest_checkpoint
            self.progress.wait(
                lambda: self.progress.newest_checkpoint > before,
                self._limits.recovery_seconds,
                "save once it was freed",
            )
            return f"saved again after {time.monotonic() - began:.1f} s"
        if not fault.loses_node or may_be_set_aside(host, self._num_failures):
            left = self._nodes_that_train()
            return "" if left >= num_nodes else f"goes on with {left} of {num_nodes} nodes"
        self.progress.wait(
            lambda: self._nodes_that_train() >= num_nodes,
            self._limits.recovery_seconds,
            f"attempt on {num_nodes} node(s) again",
        )
        return f"on {num_nodes} node(s) again after {time.monotonic() - began:.1f} s"

    def _nodes_that_train(self) -> int:
        """Nodes of the attempt that did the last step."""
        attempt, _ = self.progress.position
        is_newest = attempt == self.progress.attempt
        return len(self.progress.ranks_by_host(attempt)) if is_newest else 0
