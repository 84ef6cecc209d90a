"""How an agent that a scheduler started finds its supervisor: by the run directory, with the run's key."""

import socket
import time
from collections.abc import Callable
from multiprocessing.connection import answer_challenge, deliver_challenge

from launcher.errors import NoSupervisorError
from launcher.fleet.listener import ADDRESS_NAME, NOT_OURS, borrowed, limit_waits, read_key
from launcher.node.agent import NodeAgent
from launcher.node.channel import Channel
from launcher.node.messages import encode
from launcher.records import read_json
from llama_dist.config import RunDirectory

_CONNECT_SECONDS = 5.0
_AGAIN_SECONDS = 0.25


def join(run: RunDirectory, host: str, seconds: float, look: Callable[[], None] = lambda: None) -> socket.socket:
    """Return a connection to the run's supervisor. Raises NoSupervisorError where none was found in time.

    `look` is called before each try, and raises where there will be none.
    """
    deadline = time.monotonic() + seconds
    fault = ""
    while time.monotonic() < deadline:
        look()
        try:
            return _connect(run, host)
        except NOT_OURS as error:
            fault = str(error) or type(error).__name__
            time.sleep(_AGAIN_SECONDS)
    raise NoSupervisorError(
        f"{run.nodes / ADDRESS_NAME}: no supervisor of the run could be joined in {seconds:.0f} s ({fault}): is the "
        "run launched, and its directory on a disk that all nodes share?"
    )


def agent_on(connection: socket.socket, host: str) -> NodeAgent:
    """Return the node's agent whose supervisor is at the other end."""
    channel = Channel(connection.fileno(), connection.fileno())
    return NodeAgent(channel, host, str(connection.getsockname()[0]))


def _connect(run: RunDirectory, host: str) -> socket.socket:
    place = read_json(run.nodes / ADDRESS_NAME)
    if place is None:
        raise FileNotFoundError("no supervisor has written where it is")
    connection = socket.create_connection((str(place["address"]), int(place["port"])), _CONNECT_SECONDS)
    try:
        connection.settimeout(None)
        limit_waits(connection, int(_CONNECT_SECONDS))
        key = read_key(run.nodes)
        with borrowed(connection) as messages:
            answer_challenge(messages, key)
            deliver_challenge(messages, key)
        connection.sendall(encode({"say": "here", "host": host}))
        limit_waits(connection, 0)
    except BaseException:
        connection.close()
        raise
    return connection
