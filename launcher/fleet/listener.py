"""Where node agents that no pipe reaches come in: a port on this host, and a key that only the run's owner can read.

The key proves each side to the other (HMAC, by `multiprocessing.connection`'s challenge) without being sent; after
that nothing but JSON lines is read. Address and key are files of the run directory, readable by its owner alone.
"""

import contextlib
import hashlib
import ipaddress
import json
import multiprocessing
import os
import secrets
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing.connection import Connection, answer_challenge, deliver_challenge
from pathlib import Path

from launcher.fleet.link import SocketLink
from launcher.node.messages import decode
from launcher.records import write_text
from llama_dist.config import ConfigError, RunDirectory

KEY_NAME = "key"
KEY_VARIABLE = "LLAMA_DIST_JOIN_KEY"
ADDRESS_NAME = "supervisor.json"
_HANDSHAKE_SECONDS = 10
_BACKLOG = 4096  # all nodes of a large run come at once
_FIRST_LINE_BYTES = 4096
_MOST_HOSTS = 16  # whose names are looked up for the address that faces them
_ELSEWHERE = "192.0.2.1"  # of the documentation's network (RFC 5737): the way there is the default route

NOT_OURS = (OSError, EOFError, KeyError, ValueError, multiprocessing.AuthenticationError, AssertionError)
"""What a handshake with a stranger may raise; Python 3.11 asserts that what came is a challenge."""


class Listener:
    """Accepts agents, and hands each over as a link. Only who holds the run's lock opens one: it has one door."""

    def __init__(self, run: RunDirectory, hosts: Sequence[str], take: Callable[[SocketLink], None]) -> None:
        """Open a port on the address that faces the hosts of the cluster. Raises ConfigError where there is none."""
        self._take = take
        told = key_from_environment(os.environ)
        self._key = told or secrets.token_bytes(32)
        self._server = _server_on(address_facing(hosts, os.environ))
        self._nodes = run.nodes
        run.nodes.mkdir(mode=0o700, parents=True, exist_ok=True)
        host, port = self._server.getsockname()[:2]
        self.address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        """Where agents look for it."""

        address = {"address": host, "port": port, "time": time.time(), "door": secrets.token_hex(16)}
        self._files = {} if told else {run.nodes / KEY_NAME: self._key.hex()}
        self._files[run.nodes / ADDRESS_NAME] = json.dumps(address)
        for path, text in self._files.items():
            write_text(path, text)
        threading.Thread(target=self._accept, name="listener", daemon=True).start()

    def close(self) -> None:
        """Take no more agents. Files that a later supervisor has written since are not touched."""
        for path, text in self._files.items():
            with contextlib.suppress(OSError):  # who follows one that stays meets nobody, and looks again
                if path.read_text(encoding="ascii") == text:
                    path.unlink()
        with contextlib.suppress(OSError):
            self._nodes.rmdir()  # where nothing else came of the launch
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return  # closed
            # A thread each: one that says nothing must not keep the others out.
            threading.Thread(target=self._welcome, args=(connection,), daemon=True).start()

    def _welcome(self, connection: socket.socket) -> None:
        """Hand over whoever proves that it has the key; drop anything else without a word."""
        connection.settimeout(None)
        limit_waits(connection, _HANDSHAKE_SECONDS)
        try:
            with borrowed(connection) as messages:
                deliver_challenge(messages, self._key)
                answer_challenge(messages, self._key)
            with connection.makefile("rb", buffering=0) as lines:
                message = decode(lines.readline(_FIRST_LINE_BYTES)) or {}
            self._take(SocketLink(str(message["host"]), connection))
        except NOT_OURS:
            connection.close()


@contextlib.contextmanager
def borrowed(connection: socket.socket) -> Iterator["Connection[bytes, bytes]"]:
    """The socket as multiprocessing's challenge wants it, for the time of the block."""
    messages = Connection(os.dup(connection.fileno()))
    try:
        yield messages
    finally:
        messages.close()


def limit_waits(connection: socket.socket, seconds: int) -> None:
    """Let no read or write of the handshake take longer."""
    for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
        connection.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", seconds, 0))


def address_facing(hosts: Sequence[str], environment: Mapping[str, str]) -> str:
    """This host's address on the way to the others; nothing is sent. Raises ConfigError where none can be told.

    A host's own name may mean a loopback address on itself, by which no other comes in: that is taken only where there
    is no other. MASTER_ADDR, where a scheduler or its user set it, is the best name of the cluster's network.
    """
    named = [name for name in (environment.get("MASTER_ADDR", ""), *hosts[:_MOST_HOSTS]) if name]
    found = [address for name in (*named, _ELSEWHERE) if (address := _own_end(name))]
    if not found:
        raise ConfigError(
            f"this host has no way to the run's hosts ({', '.join(named[:3])}): no name of them is known here: set "
            "MASTER_ADDR to the first node's name or address, for example by `mpirun -x MASTER_ADDR=node1`"
        )
    others = [address for address in found if not ipaddress.ip_address(address.partition("%")[0]).is_loopback]
    return next(iter(others), found[0]) if len(hosts) > 1 else found[0]


def _own_end(peer: str) -> str:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(peer, 9, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.connect(address)
            return str(probe.getsockname()[0])
    except OSError:  # an unknown name, or no route
        return ""


def _server_on(address: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return socket.create_server((address, 0), family=family, backlog=_BACKLOG)


def read_key(nodes: Path) -> bytes:
    """The key of the run, from the environment or its file. Raises OSError or ValueError where there is none."""
    told = key_from_environment(os.environ)
    return told or bytes.fromhex((nodes / KEY_NAME).read_text(encoding="ascii"))


def key_from_environment(environment: Mapping[str, str]) -> bytes | None:
    """The key that a scheduler hands to all nodes as a secret, where there is one."""
    secret = environment.get(KEY_VARIABLE)
    return hashlib.sha256(secret.encode()).digest() if secret else None
