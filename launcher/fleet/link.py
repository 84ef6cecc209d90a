"""One open channel to node agents: a process that reaches them (ssh, srun, mpirun), or a socket. Reads and writes
without waiting; knows no message's meaning.
"""

import contextlib
import os
import socket
import subprocess
from collections.abc import Mapping
from typing import Any

from launcher.fleet.placement import LinkCommand
from launcher.node.messages import LineBuffer, Message, encode

_BLOCK_BYTES = 1 << 16
_TOLD_CHARACTERS = 500  # of what the program that reaches the nodes says on stderr
_END_SECONDS = 2.0


class Link:
    """A channel to the agents of `hosts`."""

    def __init__(self, hosts: tuple[str, ...], reading: int, writing: int) -> None:
        self.hosts, self.reading, self._writing = hosts, reading, writing
        self.errors: int | None = None
        """Descriptor of what the reaching program says for people; None for a socket."""

        self.is_open = True
        self._lines = LineBuffer()
        self._unsent = b""
        self._told = ""
        for descriptor in {reading, writing}:
            os.set_blocking(descriptor, False)

    def receive(self) -> list[Message]:
        """Return what has come; the end closes the link."""
        return list(self._lines.take(self._read(self.reading)))

    def receive_errors(self) -> None:
        """Keep the end of what the reaching program says on stderr."""
        assert self.errors is not None
        text = _read_some(self.errors)
        self._told = (self._told + (text or b"").decode(errors="replace"))[-_TOLD_CHARACTERS:]

    def send(self, message: Mapping[str, Any]) -> None:
        """Queue a message, and write what the channel takes now."""
        self._unsent += encode(message)
        self.flush()

    def flush(self) -> None:
        """Write what the channel takes now."""
        try:
            while self._unsent and self.is_open:
                self._unsent = self._unsent[os.write(self._writing, self._unsent) :]
        except BlockingIOError:
            return
        except OSError:
            self.is_open = False

    def why_closed(self) -> str:
        """What the reaching program said, for people."""
        return self._told.strip().replace("\r", "").replace("\n", "; ") or "the connection ended"

    def close(self) -> None:
        """Close the channel: the agents at its other end then end their ranks and themselves."""
        self.is_open = False
        for descriptor in {self.reading, self._writing}:
            with contextlib.suppress(OSError):
                os.close(descriptor)

    def _read(self, descriptor: int) -> bytes:
        data = _read_some(descriptor)
        if data == b"":
            self.is_open = False
        return data or b""


class ProcessLink(Link):
    """A channel through the stdin and stdout of a program of this machine."""

    def __init__(self, command: LinkCommand) -> None:
        self._process = subprocess.Popen(
            command.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # a terminal's Ctrl-C is the supervisor's to handle
        )
        assert self._process.stdin and self._process.stdout and self._process.stderr
        super().__init__(command.hosts, self._process.stdout.fileno(), self._process.stdin.fileno())
        self.errors = self._process.stderr.fileno()
        os.set_blocking(self.errors, False)

    def why_closed(self) -> str:
        """What ssh, srun or mpirun said, and how it ended."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_SECONDS)
        self.receive_errors()
        return f"{super().why_closed()} (exit status {self._process.returncode})"

    def close(self) -> None:
        """End the program as well, gently first: ssh then closes its connection."""
        self.is_open = False
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            with contextlib.suppress(OSError):  # what could not be flushed is of no use any more
                if stream:
                    stream.close()
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_SECONDS)
            return
        self._process.kill()
        self._process.wait()


class SocketLink(Link):
    """A channel through an accepted connection, whose other end has proved itself."""

    def __init__(self, host: str, connection: socket.socket) -> None:
        self._connection = connection
        super().__init__((host,), connection.fileno(), connection.fileno())

    def close(self) -> None:
        """Close the connection."""
        self.is_open = False
        self._connection.close()


def _read_some(descriptor: int) -> bytes | None:
    """What is there: None for nothing yet, empty at the end."""
    try:
        return os.read(descriptor, _BLOCK_BYTES)
    except BlockingIOError:
        return None
    except OSError:
        return b""
