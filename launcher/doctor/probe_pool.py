"""Asks the probes of all nodes at once, over the pipes of the programs that reach them. Waits no longer than told.

A node that ended or fell silent is lost: it is asked nothing more, and answers its reason.
"""

import contextlib
import json
import os
import selectors
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from cluster.probe.serve import ANSWER_MARK

Request = Mapping[str, Any]

_BLOCK_BYTES = 1 << 16
_MAX_LINE_BYTES = 1 << 24
_MAX_SAID_BYTES = 2000
_END_SECONDS = 2.0  # a probe ends at once when its stdin does; a dead link's ssh does not


@dataclass(frozen=True)
class Loss:
    """Why a node cannot be asked any more."""

    kind: Literal["not started", "ended", "silent"]
    exit_code: int | None
    said: str
    """The end of what came on stderr, or on stdout beside the answers."""

    def __str__(self) -> str:
        detail = {"ended": f"its probe ended with {self.exit_code}", "silent": "gave no answer in time"}
        return ": ".join(part for part in (detail.get(self.kind, self.kind), self.said) if part)


@dataclass(frozen=True)
class Answer:
    """What became of one request."""

    values: Mapping[str, Any] | None
    """The answer; None where there is none."""

    fault: str = ""
    sent_at: float = 0.0
    """By our clock, seconds since the epoch."""

    received_at: float = 0.0
    """Likewise; 0 where nothing came."""


class Asker(Protocol):
    """Whoever can put questions to the nodes."""

    def ask(self, requests: Mapping[str, Request], seconds: float, *, loses_silent: bool = True) -> dict[str, Answer]:
        """Put one question to each host named; answers for each of them, after `seconds` at the latest.

        Who is silent for so long is lost, if `loses_silent`.
        """
        ...

    @property
    def lost(self) -> Mapping[str, Loss]:
        """The hosts that are lost, and why."""
        ...


def ask_all(nodes: Asker, hosts: Iterable[str], request: Request, seconds: float) -> dict[str, Answer]:
    """Put the same question to some hosts."""
    return nodes.ask({host: request for host in hosts}, seconds)  # noqa: C420 - a request is never changed


class ProbePool:
    """The probes, each reached by a process of its own. Close it: that ends the probes."""

    def __init__(self, commands: Mapping[str, Sequence[str]]) -> None:
        self.lost: dict[str, Loss] = {}
        self._selector = selectors.DefaultSelector()
        self._nodes: dict[str, _Node] = {}
        for host, command in commands.items():
            try:
                self._nodes[host] = _Node(command)
            except OSError as error:
                self.lost[host] = Loss("not started", None, f"{command[0]}: {error.strerror}")
                continue
            for descriptor in (self._nodes[host].output, self._nodes[host].errors):
                self._selector.register(descriptor, selectors.EVENT_READ, host)

    def __enter__(self) -> "ProbePool":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ask(self, requests: Mapping[str, Request], seconds: float, *, loses_silent: bool = True) -> dict[str, Answer]:
        """Put one question to each host named; answers for each of them, after `seconds` at the latest.

        Who is silent for so long is lost, if `loses_silent`.
        """
        deadline = time.monotonic() + seconds
        waiting = [host for host in requests if host not in self.lost]
        for host in waiting:
            self._nodes[host].send(requests[host])
        while waiting and (remaining := deadline - time.monotonic()) > 0:
            self._wait(remaining, [host for host in waiting if self._nodes[host].unsent])
            waiting = [host for host in waiting if self._nodes[host].answer is None and host not in self.lost]
        for host in waiting if loses_silent else ():
            self._lose(host, Loss("silent", None, self._nodes[host].said))
        return {host: self._answer(host) for host in requests}

    def close(self) -> None:
        """End the probes by closing their stdin, then whatever process of ours is left."""
        for node in self._nodes.values():
            node.close_stdin()
        deadline = time.monotonic() + _END_SECONDS
        for node in self._nodes.values():
            node.end(deadline)
        self._selector.close()

    def _wait(self, seconds: float, unsent: Sequence[str]) -> None:
        for host in unsent:
            self._nodes[host].flush()
        for key, _ in self._selector.select(min(seconds, 0.01) if unsent else seconds):
            node, descriptor = self._nodes[key.data], int(key.fd)
            if node.read(descriptor):
                continue
            self._selector.unregister(descriptor)
            if descriptor == node.output and key.data not in self.lost:
                self._lose(key.data, node.loss())

    def _lose(self, host: str, loss: Loss) -> None:
        self.lost[host] = loss

    def _answer(self, host: str) -> Answer:
        answer = self._nodes[host].take_answer() if host in self._nodes else None
        return answer or Answer(None, fault=str(self.lost.get(host, "has not answered yet")))


class _Node:
    """One process and its pipes."""

    def __init__(self, command: Sequence[str]) -> None:
        self.unsent = b""
        self.answer: Answer | None = None
        self._number = 0
        self._sent_at = 0.0
        self._partial = b""
        self._said = b""
        self._process = subprocess.Popen(  # a session of its own has no terminal: nothing can ask for a password
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
        )
        assert self._process.stdin and self._process.stdout and self._process.stderr
        self._input = self._process.stdin.fileno()
        self.output, self.errors = self._process.stdout.fileno(), self._process.stderr.fileno()
        os.set_blocking(self._input, False)

    @property
    def said(self) -> str:
        """The end of what came beside the answers."""
        lines = self._said.decode(errors="replace").strip().splitlines()
        return " | ".join(line.strip() for line in lines if line.strip())[-_MAX_SAID_BYTES:]

    def send(self, request: Request) -> None:
        self._number += 1
        self.answer = None
        self.unsent = json.dumps({"id": self._number, **request}).encode() + b"\n"
        self.flush()

    def flush(self) -> None:
        """Write what the pipe takes. A pipe that broke is found out about on its other side."""
        with contextlib.suppress(BlockingIOError):
            try:
                self.unsent = self.unsent[os.write(self._input, self.unsent) :]
            except BrokenPipeError:
                self.unsent = b""
        self._sent_at = time.time()

    def read(self, descriptor: int) -> bool:
        """Read what is there; False at the end."""
        block = os.read(descriptor, _BLOCK_BYTES)
        if descriptor == self.errors:
            self._keep(block)
            return bool(block)
        received_at = time.time()
        *lines, self._partial = (self._partial + block).split(b"\n")
        for line in lines:
            self._take(line, received_at)
        return bool(block) and len(self._partial) <= _MAX_LINE_BYTES

    def take_answer(self) -> Answer | None:
        answer, self.answer = self.answer, None
        return answer

    def loss(self) -> Loss:
        """Say how the process ended; stderr may still hold its reason."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(1.0)
        os.set_blocking(self.errors, False)
        with contextlib.suppress(BlockingIOError):
            while block := os.read(self.errors, _BLOCK_BYTES):
                self._keep(block)
        return Loss("ended", self._process.returncode, self.said)

    def close_stdin(self) -> None:
        assert self._process.stdin
        with contextlib.suppress(OSError):
            self._process.stdin.close()

    def end(self, deadline: float) -> None:
        try:
            self._process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for stream in (self._process.stdout, self._process.stderr):
            assert stream
            stream.close()

    def _take(self, line: bytes, received_at: float) -> None:
        """Take the answer to the question that is open; a banner, or the answer to an older one, is not it."""
        try:
            values = json.loads(line)
        except ValueError:
            values = None
        if not isinstance(values, dict) or values.get(ANSWER_MARK) != 1:
            self._keep(line + b"\n")
        elif values.get("id") == self._number:
            answer, fault = values.get("answer"), str(values.get("fault", "its answer holds nothing"))
            self.answer = Answer(answer if isinstance(answer, dict) else None, fault, self._sent_at, received_at)

    def _keep(self, block: bytes) -> None:
        self._said = (self._said + block)[-_MAX_SAID_BYTES:]
