"""Runs attempts until the policy says done or stop: starts, watches, stops, records. Decides nothing itself."""

import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass

import psutil

from launcher.agent_log import read_tail
from launcher.attempt_files import next_attempt, write_exit
from launcher.backend import AttemptSpec, Backend, RunningAttempt
from launcher.console import Console, Follower
from launcher.ends import Manifests, Outcome, RankEnd
from launcher.errors import LeaseLostError
from launcher.lease import Lease
from launcher.plan import log_directory
from launcher.policy import Finish, Past, Retry, decide
from launcher.records import State, SupervisorRecord, read_exit_records, read_heartbeats, write_supervisor
from launcher.stop_request import StopRequest
from llama_dist.checkpoint.manifest import MANIFEST_NAME, list_steps, step_directory
from llama_dist.config import RunConfig, RunDirectory
from llama_dist.exit_codes import ExitCode

_POLL_SECONDS = 0.1
_LOG_TAIL_BYTES = 4000
_LOG_TAIL_LINES = 30


@dataclass(frozen=True)
class Supervised:
    """What one launch supervises. `prepare` writes the files of the attempt with that number and answers its start."""

    run: RunDirectory
    config: RunConfig
    num_ranks: int
    backend: Backend
    prepare: Callable[[int], AttemptSpec]


class Supervisor:
    """Supervises one launch of a run, as long as it holds the run's lease. Raises LeaseLostError when that is lost."""

    def __init__(self, launch: Supervised, stop: StopRequest, console: Console, lease: Lease) -> None:
        self._lease = lease
        self._launch = launch
        self._run = launch.run
        self._stop = stop
        self._console = console
        self._create_time = psutil.Process().create_time()
        self._attempt = next_attempt(self._run) - 1

    def supervise(self) -> int:
        """Run attempts to the end; answers the exit code of the run."""
        past = Past()
        while True:
            started = time.time()
            outcome = self._run_attempt()
            decision = decide(outcome, past, self._launch.config.supervision)
            self._record_exit(decision, outcome, started)
            if isinstance(decision, Finish):
                return self._finish(decision, outcome)
            past = decision.past
            self._announce(decision, outcome)
            if self._stop.wait(decision.delay_seconds):
                reason = f"asked to stop ({self._stop.signal_name}) between attempts; the newest checkpoint is kept"
                return self._finish(Finish("stopped", ExitCode.STOPPED, reason), outcome)

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

    def _run_attempt(self) -> Outcome:
        self._attempt += 1
        before = self._manifests()
        self.write_state("starting", "")
        spec = self._launch.prepare(self._attempt)
        num_ranks = self._launch.num_ranks
        self._console.say(f"attempt {self._attempt}: starting {num_ranks} rank(s); logs in {spec.log_directory}")
        attempt = self._launch.backend.start(spec)
        try:
            self.write_state("running", "")
            agent_status = self._watch(attempt, spec)
        except BaseException:
            attempt.end_now()
            raise
        return self._outcome(attempt, agent_status, before)

    def _watch(self, attempt: RunningAttempt, spec: AttemptSpec) -> int:
        """Show rank 0's output until the agent ends; on a stop, ask the ranks once, then end them at the deadline."""
        output = Follower(spec.log_directory / "rank_00000.out", self._console)
        deadline = float("inf")
        while (status := attempt.poll()) is None:
            if self._lease.is_lost:
                raise LeaseLostError(self._lease.lost_because)  # the caller ends the ranks
            output.show_new()
            self._stop.look()
            if self._stop.take_save():
                self._console.say(f"asked to save (SIGUSR1): {attempt.ask_to_save()} rank(s) save and go on")
            if self._stop.is_asked and not self._stop.is_urgent and deadline == float("inf"):
                deadline = time.monotonic() + self._launch.config.supervision.stop_grace_seconds
                self._ask_to_stop(attempt)
            if time.monotonic() > deadline or self._stop.is_urgent:
                self._console.say("ending the ranks without waiting for a save; the newest checkpoint is kept")
                attempt.end_now()
            time.sleep(_POLL_SECONDS)
        output.show_new()
        return status

    def _ask_to_stop(self, attempt: RunningAttempt) -> None:
        count = attempt.ask_to_stop()
        grace = self._launch.config.supervision.stop_grace_seconds
        self._console.say(
            f"asked to stop ({self._stop.signal_name}): {count} rank(s) save and end, in {grace:.0f} s at most; "
            "ask again to end them now"
        )

    def _outcome(self, attempt: RunningAttempt, agent_status: int, before: Manifests) -> Outcome:
        failures = attempt.failures()
        records = read_exit_records(self._run.attempt(self._attempt) / "exits")
        beats = read_heartbeats(self._run.heartbeats)
        ends = []
        for rank in range(self._launch.num_ranks):
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
                    host=record.host if record else beat.host if beat else "",
                    lost_because=failures.lost.get(rank, ""),
                    error=record.error if record else "",
                )
            )
        return Outcome(
            agent_status=agent_status,
            ranks=tuple(ends),
            first_failed_rank=failures.first_failed_rank,
            manifests_before=before,
            manifests_after=self._manifests(),
            stop_requested=self._stop.is_asked,
            oom_kills=failures.oom_kills,
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

    def _finish(self, decision: Finish, outcome: Outcome) -> int:
        self._console.say(f"run `{self._run.name}`: {decision.state}: {decision.reason}")
        if decision.state == "failed" and decision.culprit is not None:
            self._show_culprit(next(end for end in outcome.ranks if end.rank == decision.culprit))
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
