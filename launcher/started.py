"""A launch inside a job that a scheduler has started already: each of its processes takes its own part.

Once a node (srun, mpirun, Kubernetes): the first supervises, the others are node agents. Once a rank (torchrun): each
becomes that rank, and what supervises is whatever started it.
"""

import os
import time

from cluster.started import Started
from launcher.console import Console
from launcher.execute import execute
from launcher.hosts import required_started
from launcher.launch import Launch
from launcher.node.agent import NodeAgent
from launcher.node.channel import Channel
from launcher.node.joining import join
from launcher.rank_process import become_rank
from llama_dist.exit_codes import ExitCode

_FIRST_JOIN_SECONDS = 600.0  # an image may still be pulled for the first node
_JOIN_AGAIN_SECONDS = 60.0


def take_part(launch: Launch, console: Console) -> int:
    """Be what the scheduler's variables say; answers the exit code. Raises ReportedError."""
    started = required_started(launch.caller_environment)
    if started.is_rank:
        become_rank(launch, os.environ)
    if started.node_index == 0:
        return execute(launch, console)
    return _serve(launch, started)


def _serve(launch: Launch, started: Started) -> int:
    """Be this node's agent until the supervisor lets it go. One that loses its supervisor looks for the next."""
    host = launch.hosts[started.node_index]
    wait = _FIRST_JOIN_SECONDS
    while True:
        began = time.monotonic()
        connection = join(launch.run, host, wait)
        code = NodeAgent(Channel(connection.fileno(), connection.fileno()), host).serve()
        connection.close()
        if code == ExitCode.DONE:
            return code
        wait = _JOIN_AGAIN_SECONDS
        time.sleep(max(0.0, 1.0 - (time.monotonic() - began)))
