"""Starts an attempt on this machine: one torchrun agent, tied to this process. Decides nothing."""

import contextlib
import os
import signal
import subprocess
from pathlib import Path

import psutil

from cluster.ports import port_is_free
from launcher.agent_log import WorkerFailures, read_agent_log
from launcher.backend import AttemptSpec
from launcher.plan import tied_command
from launcher.tied import PARENT_VARIABLE
from llama_dist.config import ClusterConfig, ConfigError

_END_TIMEOUT_SECONDS = 30.0  # a killed process may finish a disk write first


class LocalBackend:
    """This machine."""

    def __init__(self, cluster: ClusterConfig) -> None:
        self._port = cluster.rendezvous_port

    def check(self) -> None:
        """Raise ConfigError where the configured port is taken."""
        if self._port is not None and not port_is_free(self._port):
            raise ConfigError(
                f"cluster.rendezvous_port {self._port} is in use by another process: name another port, "
                "or leave the field out and a free one is taken at each attempt"
            )

    def start(self, spec: AttemptSpec) -> "LocalAttempt":
        """Start the agent in a session of its own, so that a terminal's Ctrl-C reaches this process alone."""
        log = spec.log_directory / "agent.log"
        environment = {**spec.environment, PARENT_VARIABLE: str(os.getpid())}
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            agent = subprocess.Popen(
                tied_command(None, spec.command),
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=descriptor,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        finally:
            os.close(descriptor)
        return LocalAttempt(agent, log)


class LocalAttempt:
    """A torchrun agent and the ranks that are its children."""

    def __init__(self, agent: subprocess.Popen[bytes], log: Path) -> None:
        self._agent = agent
        self._log = log

    def poll(self) -> int | None:
        """Return the agent's status; it waits for its ranks, and the kernel ends them if it is killed itself."""
        return self._agent.poll()

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
        """Kill the ranks with the processes that they started, then the agent."""
        ranks = self._ranks()
        for process_group in [rank.pid for rank in ranks] + [self._agent.pid]:
            with contextlib.suppress(ProcessLookupError):  # torchrun gives each rank a session of its own
                os.killpg(process_group, signal.SIGKILL)
        psutil.wait_procs(ranks, _END_TIMEOUT_SECONDS)
        with contextlib.suppress(subprocess.TimeoutExpired):  # the caller polls on
            self._agent.wait(_END_TIMEOUT_SECONDS)

    def failures(self) -> WorkerFailures:
        """Read the agent's failure table."""
        return read_agent_log(self._log)

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
