"""A launch inside a job that a scheduler has started already: each of its processes takes its own part.

Once a node (srun, mpirun, Kubernetes): the first supervises, the others are node agents. Once a rank (torchrun): each
becomes that rank, and what supervises is whatever started it.
"""

import os
import signal
import time
from functools import partial

from cluster.started import Started
from launcher.console import Console
from launcher.execute import execute
from launcher.hosts import required_started
from launcher.launch import Launch
from launcher.node.agent import AGENT_SIGNALS
from launcher.node.joining import agent_on, join
from launcher.rank_process import become_rank
from launcher.records import TERMINAL_STATES, read_supervisor
from launcher.refusal import raise_if_refused, refusal_told, start_of
from llama_dist.config import ConfigError, RunDirectory
from llama_dist.exit_codes import ExitCode

_FIRST_JOIN_SECONDS = 600.0  # an image may still be pulled for the first node
_JOIN_AGAIN_SECONDS = 60.0


def take_part(launch: Launch, console: Console) -> int:
    """Be what the scheduler's variables say; answers the exit code. Raises ReportedError."""
    started = required_started(launch.caller_environment)
    if started.is_rank:
        _check_rank(started)
        become_rank(launch, console, os.environ)
    start = start_of(launch.caller_environment)
    if started.node_index == 0:
        with refusal_told(launch.run, start):
            return execute(launch, console)
    return _serve(launch, started, start)


def _check_rank(started: Started) -> None:
    if started.scheduler != "torchrun":
        raise ConfigError(
            f"{started.scheduler} started several processes on a node, and one is needed, which starts the ranks of "
            "the node by itself: `srun --ntasks-per-node=1`, `mpirun --map-by ppr:1:node`; for several ranks a node "
            "set cluster.num_processes_per_node"
        )


def _serve(launch: Launch, started: Started, start: str) -> int:
    """Be this node's agent until the supervisor lets it go. One that loses its supervisor looks for the next.

    Raises RunRefusedError where the first process of the same start has ended without one.
    """
    host = launch.hosts[started.node_index]
    wait = _FIRST_JOIN_SECONDS
    while True:
        began = time.monotonic()
        connection = join(launch.run, host, wait, partial(raise_if_refused, launch.run, start))
        agent = agent_on(connection, host)
        for number in AGENT_SIGNALS:  # a scheduler asks every process of a job to stop
            signal.signal(number, agent.receive_signal)
        code = agent.serve()
        connection.close()
        if code == ExitCode.DONE:
            return _code_of_run(launch.run)
        for number in AGENT_SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        wait = _JOIN_AGAIN_SECONDS
        time.sleep(max(0.0, 1.0 - (time.monotonic() - began)))


def _code_of_run(run: RunDirectory) -> int:
    """The code that the supervisor ends with: a scheduler that starts its process again must start this one too."""
    record = read_supervisor(run.supervisor)
    if record is None or record.state not in TERMINAL_STATES or record.exit_code is None:
        return ExitCode.RETRY
    return record.exit_code
