"""Runs attempts until the policy says done or stop: starts, watches, stops, records. Decides nothing itself."""

import os
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import psutil

from launcher.agent_log import read_tail
from launcher.attempt_files import next_attempt, write_exit
from launcher.backend import AttemptSpec, Backend, Machines, RunningAttempt
from launcher.blame import Blame
from launcher.console import Console, Follower
from launcher.ends import Manifests, Outcome, RankEnd
from launcher.errors import TooFewNodesError
from launcher.hang_guard import HangGuard
from launcher.hang_watch import HangWatch
from launcher.lease import Lease
from launcher.plan import log_directory
from launcher.policy import Finish, Past, Retry, decide
from launcher.records import State, SupervisorRecord, read_exit_records, read_heartbeats, write_supervisor
from launcher.stop_request import StopRequest
from launcher.watch import AttemptWatch, Watched
from llama_dist.checkpoint.manifest import MANIFEST_NAME, list_steps, step_directory
from llama_dist.config import RunConfig, RunDirectory
from llama_dist.exit_codes import ExitCode

_SECONDS_PER_MINUTE = 60.0
_MOST_NODE_BACKOFF_SECONDS = 15.0
_LOG_TAIL_BYTES = 4000
_LOG_TAIL_LINES = 30


@dataclass(frozen=True)
class Supervised:
    """What one launch supervises. `prepare` writes the files of the attempt with that number and answers its start."""

    run: RunDirectory
    config: RunConfig
    backend: Backend
    prepare: Callable[[int, Machines], AttemptSpec]


class Supervisor:
    """Supervises one launch of a run, as long as it holds the run's lease. Raises LeaseLostError when that is lost."""

    def __init__(self, launch: Supervised, stop: StopRequest, console: Console, lease: Lease) -> None:
        self._lease = lease
        self._launch = launch
        self._run = launch.run
        self._stop = stop
        self._console = console
        self._create_time = psutil.Process().create_time()
        self._blame = Blame()
        self._attempt = next_attempt(self._run) - 1

    def supervise(self) -> int:
        """Run attempts to the end; answers the exit code of the run."""
        past = Past()
        while True:
            started = time.time()
            machines = self._gather()
            if isinstance(machines, Finish):
                return self._finish(machines, ())
            outcome = self._run_attempt(machines)
            decision = decide(outcome, past, self._launch.config.supervision)
            self._record_exit(decision, outcome, started)
            if isinstance(decision, Finish):
                return self._finish(decision, outcome.ranks)
            past = decision.past
            self._announce(decision, outcome)
            if self._stop.wait(decision.delay_seconds):
                reason = f"asked to stop ({self._stop.signal_name}) between attempts; the newest checkpoint is kept"
                return self._finish(Finish("stopped", ExitCode.STOPPED, reason), outcome.ranks)

    def write_state(self, state: State, reason: str, exit_code: int | None = None) -> None:
        """Replace `supervisor.json`. Raises LeaseLostError where it is another supervisor's by now."""
        self._lease.attempt = self._attempt
        self._lease.check()
        record = SupervisorRecord(
            pid=os.getpid(),
            create_time=self._create_time,
            host=socket.gethostname(),
            attempt=self._attempt,
            state=state,
            exit_code=exit_code,
            reason=reason,
            updated=time.time(),
        )
        write_supervisor(self._run.supervisor, record)

    def _gather(self) -> Machines | Finish:
        """Get the machines of the next attempt; where they are too few, wait for some to come back."""
        minutes = self._launch.config.supervision.wait_for_nodes_minutes
        deadline = time.monotonic() + minutes * _SECONDS_PER_MINUTE
        delay, told = self._launch.config.supervision.first_backoff_seconds, ""
        while True:
            try:
                return self._launch.backend.gather(self._blame.set_aside())
            except TooFewNodesError as error:
                if self._blame.set_aside():
                    self._console.say("too few nodes without those set aside: they are used again")
                    self._blame.forgive(self._blame.set_aside())
                    continue
                if time.monotonic() > deadline:
                    return Finish("failed", ExitCode.RETRY, f"{error}\nwaited {minutes:g} min for them")
                if str(error) != told:
                    told = str(error)
                    self._console.say(f"{told}\nwaiting for nodes, {minutes:g} min at most")
                self.write_state("backing_off", told)
            if self._stop.wait(delay):
                return Finish("stopped", ExitCode.STOPPED, f"asked to stop ({self._stop.signal_name}) while it waited")
            delay = min(2 * delay, _MOST_NODE_BACKOFF_SECONDS)

    def _run_attempt(self, machines: Machines) -> Outcome:
        self._attempt += 1
        before = self._manifests()
        self.write_state("starting", "")
        spec = self._launch.prepare(self._attempt, machines)
        self._say_start(spec, machines)
        attempt = self._launch.backend.start(spec)
        try:
            self.write_state("running", "")
            watched = self._watch(attempt, spec)
        except BaseException:
            attempt.end_now()
            raise
        outcome = self._outcome(attempt, spec, watched, before)
        self._blame.note(outcome, {end.rank: end.host for end in outcome.ranks})
        return outcome

    def _say_start(self, spec: AttemptSpec, machines: Machines) -> None:
        where = "" if len(spec.nodes) == 1 else f" on {len(spec.nodes)} nodes"
        self._console.say(
            f"attempt {self._attempt}: starting {spec.num_ranks} rank(s){where}; logs in {spec.log_directory}"
        )
        for host, reason in machines.absent.items():
            self._console.say(f"without {host}: {reason}")
        for change in spec.changes:
            self._console.say(f"changed:{change}")

    def _watch(self, attempt: RunningAttempt, spec: AttemptSpec) -> Watched:
        supervision = self._launch.config.supervision
        guard = HangGuard(HangWatch(supervision, spec.num_ranks), attempt, self._run.attempt(self._attempt))
        output = Follower(spec.log_directory / "rank_00000.out", self._console)
        watch = AttemptWatch(attempt, self._launch.backend, self._stop, self._console, self._lease)
        return watch.watch(output, supervision.stop_grace_seconds, guard.look)

    def _outcome(self, attempt: RunningAttempt, spec: AttemptSpec, watched: Watched, before: Manifests) -> Outcome:
        failures = attempt.failures()
        records = read_exit_records(self._run.attempt(self._attempt) / "exits")
        beats = read_heartbeats(self._run.heartbeats)
        per_node = spec.num_ranks // len(spec.nodes)
        ends = []
        for rank in range(spec.num_ranks):
            record, beat = records.get(rank), beats.get(rank)
            if beat and beat.attempt != self._attempt:
                beat = None
            ends.append(
                RankEnd(
                    rank=rank,
                    status=failures.statuses.get(rank),
                    recorded_code=record.exit_code if record else None,
                    reason=record.reason if record else "",
                    step=record.step if record else beat.step if beat else None,
                    host=spec.nodes[rank // per_node].host,
                    lost_because=failures.lost.get(rank, ""),
                    error=record.error if record else "",
                )
            )
        return Outcome(
            agent_status=watched.agent_status,
            ranks=tuple(ends),
            first_failed_rank=failures.first_failed_rank,
            manifests_before=before,
            manifests_after=self._manifests(),
            stop_requested=self._stop.is_asked,
            hang=watched.hang,
            hung_ranks=watched.hung_ranks,
            is_resized=watched.is_resized,
            oom_kills=failures.oom_kills,
            nodes_change=self._launch.backend.has_more_nodes(),
        )

    def _record_exit(self, decision: Finish | Retry, outcome: Outcome, started: float) -> None:
        values = {
            "exit_code": int(decision.exit_code if isinstance(decision, Finish) else ExitCode.RETRY),
            "reason": decision.reason,
            "cause": decision.cause,
            "next": decision.state if isinstance(decision, Finish) else "retry",
            "started": started,
            "ended": time.time(),
        }
        self._lease.check()
        write_exit(self._run, self._attempt, outcome, values)

    def _announce(self, decision: Retry, outcome: Outcome) -> None:
        origin = "from step 0" if outcome.step_after is None else f"from step {outcome.step_after}"
        line = f"{decision.reason}; resuming {origin} in {decision.delay_seconds:g} s"
        self._console.say(f"attempt {self._attempt}: {line}")
        self.write_state("backing_off", line)

    def _finish(self, decision: Finish, ends: Sequence[RankEnd]) -> int:
        self._console.say(f"run `{self._run.name}`: {decision.state}: {decision.reason}")
        if decision.state == "failed" and decision.culprit is not None:
            self._show_culprit(next(end for end in ends if end.rank == decision.culprit))
        self.write_state(decision.state, decision.reason, int(decision.exit_code))
        return int(decision.exit_code)

    def _show_culprit(self, end: RankEnd) -> None:
        """Show a failed rank's traceback once: from its exit record, or else the end of its log."""
        log = log_directory(self._run, self._attempt) / f"rank_{end.rank:05d}.err"
        text = end.reason
        if end.recorded_code is None:
            text = "\n".join(read_tail(log, _LOG_TAIL_BYTES).splitlines()[-_LOG_TAIL_LINES:])
        elif len(text.strip().splitlines()) <= 1:
            text = ""  # told in the line above already
        if text.strip():
            self._console.write(text.rstrip() + "\n")
        self._console.say(f"log of rank {end.rank}: {log}")

    def _manifests(self) -> Manifests:
        checkpoints = self._run.checkpoints
        paths = {step: step_directory(checkpoints, step) / MANIFEST_NAME for step in list_steps(checkpoints)}
        return frozenset((step, path.stat().st_mtime_ns) for step, path in paths.items() if path.exists())
