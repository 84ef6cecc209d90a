"""Starts an attempt on this machine: one torchrun agent, tied to this process. Decides nothing."""

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import psutil

from cluster.facts import MachineFacts
from cluster.oom import count_oom_kills
from cluster.ports import port_is_free
from launcher.agent_log import WorkerFailures, agent_ends_its_ranks, read_agent_log
from launcher.backend import AttemptSpec, Machines, NodeSpec, RankBeat
from launcher.hang_evidence import collect_evidence
from launcher.local_ranks import local_ranks, read_local_beats
from launcher.plan import tied_command
from launcher.records import read_exit_records
from launcher.tied import PARENT_VARIABLE
from llama_dist.config import ClusterConfig, ConfigError
from llama_dist.exit_codes import ExitCode

_END_TIMEOUT_SECONDS = 30.0  # a killed process may finish a disk write first
_BREAK_UP_SECONDS = 3.0  # for survivors of a lost rank to say what they saw; torchrun itself would give them 30 s
_LOOK_SECONDS = 0.5


class LocalBackend:
    """This machine."""

    def __init__(self, cluster: ClusterConfig, machine: MachineFacts) -> None:
        self._port, self._machine = cluster.rendezvous_port, machine

    def check(self) -> None:
        """Raise ConfigError where the configured port is taken."""
        if self._port is not None and not port_is_free(self._port):
            raise ConfigError(
                f"cluster.rendezvous_port {self._port} is in use by another process: name another port, "
                "or leave the field out and a free one is taken at each attempt"
            )

    def gather(self, _set_aside: Mapping[str, str]) -> Machines:
        """Answer this machine."""
        return Machines((self._machine,))

    def has_more_nodes(self) -> bool:
        """There is one."""
        return False

    def start(self, spec: AttemptSpec) -> "LocalAttempt":
        """Start the agent of the only node."""
        return start_local_attempt(spec, spec.nodes[0])

    def take_signals(self) -> list[str]:
        """Signals to this machine reach the supervisor itself."""
        return []

    def close(self) -> None:
        """Hold nothing."""


def start_local_attempt(spec: AttemptSpec, node: NodeSpec, working_directory: str | None = None) -> "LocalAttempt":
    """Start this node's agent in a session of its own, so that a terminal's Ctrl-C reaches this process alone.

    It and its ranks run in `working_directory`, by default this process's own.
    """
    log = spec.agent_log(node.host)
    environment = {**node.environment, PARENT_VARIABLE: str(os.getpid())}
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        agent = subprocess.Popen(
            tied_command(None, node.command),
            env=environment,
            cwd=working_directory,
            stdin=subprocess.DEVNULL,
            stdout=descriptor,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    finally:
        os.close(descriptor)
    return LocalAttempt(agent, log, spec, node)


class LocalAttempt:
    """A torchrun agent and the ranks that are its children."""

    def __init__(self, agent: subprocess.Popen[bytes], log: Path, spec: AttemptSpec, node: NodeSpec) -> None:
        self._agent = agent
        self._log = log
        self._spec, self._node = spec, node
        self._ended_pids: set[int] = set()
        self._oom_kills_before = count_oom_kills()
        self._killed: list[psutil.Process] = []
        self._killed_at = 0.0
        self._look_at = 0.0
        self._breaks_up_since: float | None = None

    def poll(self) -> int | None:
        """Return the agent's status; it waits for its ranks, and the kernel ends them if it is killed itself.

        Where a rank has failed, the others get some seconds to say so, and are then ended. After `kill` the ranks are
        looked at as well.
        """
        status = self._agent.poll()
        now = time.monotonic()
        if any(_runs(rank) for rank in self._killed) and now - self._killed_at < _END_TIMEOUT_SECONDS:
            return None
        if status is None and now >= self._look_at:
            self._look_at = now + _LOOK_SECONDS
            if self._breaks_up_since is None and self._breaks_up():
                self._breaks_up_since = now
            if self._breaks_up_since is not None and now - self._breaks_up_since > _BREAK_UP_SECONDS:
                self._end_ranks()
        return status

    @property
    def has_failed(self) -> bool:
        """Whether one of its ranks has failed, though others may still run."""
        return self._breaks_up_since is not None

    def ask_to_stop(self) -> int:
        """Send SIGTERM to the ranks, not to the agent: that would end them after 30 s, whatever they still save.

        Before any rank runs there is nothing to save, and the agent is ended at once.
        """
        num_ranks = self._signal_ranks(signal.SIGTERM)
        if not num_ranks:
            self._agent.terminate()
        return num_ranks

    def ask_to_save(self) -> int:
        """Send SIGUSR1 to the ranks; those that do not listen yet have nothing to save, and ignore it."""
        return self._signal_ranks(signal.SIGUSR1)

    def end_now(self) -> None:
        """Kill all, and wait until they are gone."""
        self.kill()
        psutil.wait_procs(self._killed, _END_TIMEOUT_SECONDS)
        with contextlib.suppress(subprocess.TimeoutExpired):  # the caller polls on
            self._agent.wait(_END_TIMEOUT_SECONDS)

    def kill(self) -> None:
        """Kill the ranks with the processes that they started, then the agent; `poll` answers once they are gone."""
        self._killed += self._end_ranks()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._agent.pid, signal.SIGKILL)
        self._killed_at = time.monotonic()

    def failures(self) -> WorkerFailures:
        """Read the agent's failure table; ranks that were ended here are not among the causes."""
        oom_kills = {self._node.host: count_oom_kills() - self._oom_kills_before}
        return replace(read_agent_log(self._log, self._ended_pids), oom_kills=oom_kills)

    def is_heard(self) -> bool:
        """This host's files are there to be read."""
        return True

    def beats(self) -> Mapping[int, RankBeat]:
        """Read this host's ranks' heartbeats, which have its own name; the run may know it by another."""
        spec = self._spec
        beats = read_local_beats(spec.run.heartbeats, spec.attempt, socket.gethostname(), self._node.ranks)
        return {rank: replace(beat, host=self._node.host) for rank, beat in beats.items()}

    def stacks(self, seconds: float) -> Mapping[int, str]:
        """Ask this host's ranks."""
        spec = self._spec
        ranks = local_ranks(spec.run.heartbeats, spec.attempt, socket.gethostname(), self._node.ranks)
        return collect_evidence(ranks, spec.run.stacks(spec.attempt, 0).parent, spec.log_directory, seconds)

    def _breaks_up(self) -> bool:
        """Whether a rank has failed. One that saved and left, or was done, lets the others finish in their time."""
        if not agent_ends_its_ranks(self._log):
            return False
        records = read_exit_records(self._spec.run.attempt(self._spec.attempt) / "exits").values()
        return not any(record.exit_code in (ExitCode.STOPPED, ExitCode.DONE) for record in records)

    def _end_ranks(self) -> list[psutil.Process]:
        ranks = self._ranks()
        for rank in ranks:
            self._ended_pids.add(rank.pid)
            with contextlib.suppress(ProcessLookupError):  # torchrun gives each rank a session of its own
                os.killpg(rank.pid, signal.SIGKILL)
        return ranks

    def _signal_ranks(self, number: signal.Signals) -> int:
        ranks = self._ranks()
        for rank in ranks:
            with contextlib.suppress(psutil.NoSuchProcess):
                rank.send_signal(number)
        return len(ranks)

    def _ranks(self) -> list[psutil.Process]:
        try:
            return psutil.Process(self._agent.pid).children()
        except psutil.NoSuchProcess:
            return []


def _runs(process: psutil.Process) -> bool:
    """Whether it has not ended; where nobody takes note of its end, it stays a zombie, which holds nothing."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
