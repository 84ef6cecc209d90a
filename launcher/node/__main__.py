"""The process edge of the node agent.

python -m launcher.node [--host NAME]                       its channel is stdin and stdout
python -m launcher.node [--host NAME] --join RUN_DIRECTORY  it finds its supervisor by the run directory
"""

import argparse
import os
import signal
from pathlib import Path

from launcher.edge import run_at_edge
from launcher.node.agent import AGENT_SIGNALS, NodeAgent
from launcher.node.channel import Channel
from launcher.node.joining import agent_on, join
from launcher.node.place import own_names
from llama_dist.config import RunDirectory

_JOIN_SECONDS = 60.0


def _main() -> int:
    os.umask(0o077)  # what a run writes is its owner's alone
    parser = argparse.ArgumentParser(prog="python -m launcher.node", description=__doc__)
    parser.add_argument("--host", default="", help="Name of this node in the run; by default what the machine says.")
    parser.add_argument("--join", type=Path, default=None, help="Directory of the run whose supervisor to find.")
    arguments = parser.parse_args()
    if arguments.join:
        host = arguments.host or own_names(os.environ)[0]
        connection = join(RunDirectory(arguments.join), host, _JOIN_SECONDS)
        agent = agent_on(connection, host)
    else:
        writing = os.dup(1)
        os.dup2(2, 1)  # what else prints must not come between the messages
        agent = NodeAgent(Channel(0, writing), arguments.host)
    for number in AGENT_SIGNALS:
        signal.signal(number, agent.receive_signal)
    return agent.serve()


if __name__ == "__main__":
    run_at_edge(_main)
