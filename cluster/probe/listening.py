"""Whether the ports of nodes can be reached from each other: one side listens, the other says a word and hears one."""

import contextlib
import socket
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

_MAX_TOKEN_BYTES = 128
_CLIENT_SECONDS = 5.0
_REPLY = b"llama-dist "
_MAX_THREADS = 32


@dataclass(frozen=True)
class Target:
    """A listening probe of another node."""

    host: str
    port: int
    token: str


class Listener:
    """Answers whoever knows its token, until it is closed. Port 0 takes a free one."""

    def __init__(self, port: int, token: str) -> None:
        self._token = token.encode()
        self._server = _server(port)
        self.port: int = self._server.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        """Listen no longer."""
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)  # wakes the thread that waits in `accept`
        self._server.close()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(client,), daemon=True).start()

    def _answer(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError), client:
            client.settimeout(_CLIENT_SECONDS)
            if _receive_line(client) == self._token:
                client.sendall(_REPLY + self._token + b"\n")


def reach_all(targets: Sequence[Target], timeout_seconds: float) -> dict[str, str]:
    """Try all targets at once; answers why, by host, for those that cannot be reached."""
    with ThreadPoolExecutor(min(_MAX_THREADS, max(1, len(targets)))) as pool:
        faults = list(pool.map(lambda target: _reach(target, timeout_seconds), targets))
    return {target.host: fault for target, fault in zip(targets, faults, strict=True) if fault}


def _reach(target: Target, timeout_seconds: float) -> str | None:
    try:
        with socket.create_connection((target.host, target.port), timeout_seconds) as connection:
            connection.sendall(target.token.encode() + b"\n")
            if _receive_line(connection) == _REPLY + target.token.encode():
                return None
            return f"port {target.port} is answered by something else: does the name lead to another machine?"
    except socket.gaierror as error:
        return f"the name is not known here: {error.strerror}"
    except TimeoutError:
        return f"port {target.port} gave no answer in {timeout_seconds:.0f} s"
    except OSError as error:
        return f"port {target.port}: {error.strerror or error}"


def _receive_line(connection: socket.socket) -> bytes:
    line = b""
    while len(line) < _MAX_TOKEN_BYTES and not line.endswith(b"\n"):
        part = connection.recv(_MAX_TOKEN_BYTES - len(line))
        if not part:
            break
        line += part
    return line.rstrip(b"\n")


def _server(port: int) -> socket.socket:
    """Listen on every interface, as the rendezvous does."""
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=128)
    return socket.create_server(("", port), backlog=128)
