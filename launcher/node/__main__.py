"""The process edge of the node agent: `python -m launcher.node [--host NAME]`, with its channel on stdin and stdout."""

import argparse
import os
import signal

from launcher.edge import run_at_edge
from launcher.node.agent import NodeAgent
from launcher.node.channel import Channel


def _main() -> int:
    os.umask(0o077)  # what a run writes is its owner's alone
    parser = argparse.ArgumentParser(prog="python -m launcher.node", description=__doc__)
    parser.add_argument("--host", default="", help="Name of this node in the run; by default what the machine says.")
    arguments = parser.parse_args()
    writing = os.dup(1)
    os.dup2(2, 1)  # what else prints must not come between the messages
    agent = NodeAgent(Channel(0, writing), arguments.host)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, agent.receive_signal)
    return agent.serve()


if __name__ == "__main__":
    run_at_edge(_main)
