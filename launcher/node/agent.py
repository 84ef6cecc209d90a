"""The node agent: starts this node's ranks when told, says how they are, and ends them when nobody listens any more.

It decides nothing about the run. Its supervisor is at the other end of a channel and says `tick` every second; when
the channel closes, or the ticks stop for as long as the lease, the ranks are ended: whoever takes over the run can
count on that.
"""

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

from cluster.facts import read_machine_facts
from cluster.ports import port_is_free
from launcher.backend import AttemptSpec, NodeSpec
from launcher.local_backend import LocalAttempt, start_local_attempt
from launcher.node.channel import Channel
from launcher.node.installation import describe_installation
from launcher.node.messages import Message, beats_to_json, facts_to_json, failures_to_json
from launcher.node.place import find_place
from launcher.node.seat import Seat, SeatTakenError
from llama_dist.config import ConfigError, ReportedError, RunDirectory
from llama_dist.exit_codes import ExitCode

_POLL_SECONDS = 0.1
_ALIVE_SECONDS = 1.0
AGENT_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
"""What a scheduler may send to an agent, whose process passes them on by `receive_signal`."""

_FIRST_WORD_SECONDS = 60.0  # a supervisor that is not heard for so long at the start is gone


class NodeAgent:
    """One node's part of a run, over all its attempts while the channel is open."""

    def __init__(self, channel: Channel, host: str, address: str = "") -> None:
        """`address` is this end of the channel, where that is a connection; `host` may be empty: it is then found."""
        self._channel, self._host, self._address = channel, host, address
        self._lease_seconds = _FIRST_WORD_SECONDS
        self._heard_at = time.monotonic()
        self._alive_at = 0.0
        self._working_directory = ""
        self._run: RunDirectory | None = None
        self._seat: Seat | None = None
        self._attempt: LocalAttempt | None = None
        self._number = 0
        self._is_dismissed = False
        self._signals: list[str] = []
        self._fault: Exception | None = None

    def serve(self) -> int:
        """Work until the channel closes, the lease is over or the supervisor says `leave`; answers the exit code."""
        try:
            while not self._is_dismissed:
                if not self._hear() or self._channel.is_closed:
                    return ExitCode.RETRY
                self._watch()
            return ExitCode.DONE
        finally:
            self._end_attempt()
            if self._seat:
                self._seat.leave()
            self._channel.flush()

    def _hear(self) -> bool:
        """Obey what has come; answers whether the supervisor is there.

        The lease is looked at where nothing waits to be read: ticks that came while a message was obeyed count.
        """
        messages = self._channel.receive(_POLL_SECONDS)
        for message in messages:
            self._heard_at = time.monotonic()
            self._obey(message)
        return bool(messages) or time.monotonic() - self._heard_at <= self._lease_seconds

    def receive_signal(self, number: int, _frame: FrameType | None = None) -> None:
        """Note a scheduler's signal, to be passed on: the supervisor decides what it means.

        Nothing is sent here: the signal may have come while the channel's queue is locked.
        """
        self._signals.append(signal.Signals(number).name)

    def _say(self, what: str, **values: Any) -> None:
        self._channel.send({"say": what, "host": self._host, **values})

    def _obey(self, message: Message) -> None:
        """Do what one message asks for. What goes to several nodes over one pipe names those that are meant."""
        match message.get("do"):
            case "tick":
                return
            case "hello":
                self._lease_seconds = float(message["lease_seconds"])
                self._beside(lambda: self._greet(message))
            case _ if self._host in message["to"]:
                self._told(lambda: self._carry_out(message))

    def _carry_out(self, message: Message) -> None:
        match message["do"]:
            case "sit":
                self._sit(message)
            case "port":
                self._offer_port(message.get("wanted"))
            case "start":
                self._start(message)
            case "stacks":
                attempt, number = self._attempt, self._number
                self._beside(lambda: self._tell_stacks(attempt, number, float(message["seconds"])))
            case "stop" if self._attempt:
                self._attempt.ask_to_stop()
            case "save" if self._attempt:
                self._attempt.ask_to_save()
            case "end" if self._attempt:
                self._attempt.kill()  # that it has ended is told when all are gone: a disk write may hold one for long
            case "leave":
                self._is_dismissed = True

    def _told(self, work: Callable[[], None]) -> None:
        """Do something; a fault of this node is told, and is no end of the agent."""
        try:
            work()
        except (ReportedError, OSError) as error:
            self._say("refused", reason=str(error))

    def _beside(self, work: Callable[[], None]) -> None:
        """Do what may take long beside the loop, which goes on hearing, and saying that this node is there."""
        threading.Thread(target=self._do_beside, args=(work,), daemon=True).start()

    def _do_beside(self, work: Callable[[], None]) -> None:
        try:
            self._told(work)
        except Exception as error:  # noqa: BLE001 - the edge of the thread: the loop ends with it
            self._fault = error

    def _greet(self, message: Message) -> None:
        """Tell what this node is: reading its GPUs and the program's sources may take longer than the lease."""
        place = find_place(self._host, message["hosts"], os.environ, self._address)
        self._host, self._working_directory = place.host, message["working_directory"]
        if not (Path(self._working_directory).is_dir() and os.access(self._working_directory, os.X_OK)):
            raise ConfigError(
                f"{self._working_directory}: no such directory on {self._host}, or it may not be entered: ranks run "
                "where the launch was typed, for relative paths begin there: launch where all nodes have the directory"
            )
        facts = replace(
            read_machine_facts(os.environ), host=place.host, address=place.address, interface=place.interface
        )
        self._say("hello", facts=facts_to_json(facts), code=describe_installation())

    def _sit(self, message: Message) -> None:
        """Make this the only agent of the node in the run. An older one, cut off from its supervisor, ends itself."""
        self._run = RunDirectory(Path(message["run_directory"]))
        try:
            self._seat = self._seat or Seat.take(self._run, self._host, message["nonce"])
        except SeatTakenError as error:
            self._say("busy", reason=str(error))
            return
        self._say("seated")

    def _offer_port(self, wanted: int | None) -> None:
        if wanted is not None and not port_is_free(wanted):
            raise ConfigError(
                f"cluster.rendezvous_port {wanted} is in use on {self._host}: name another port, or leave the field "
                "out and a free one is taken at each attempt"
            )
        with socket.socket() as probe:
            probe.bind(("", 0))
            self._say("port", port=wanted or probe.getsockname()[1])

    def _start(self, message: Message) -> None:
        assert self._run is not None, "the supervisor greets first"
        self._end_attempt()
        environment = {**message["environment"], **_own_gpus(os.environ)}
        node = NodeSpec(self._host, message["command"], environment, message["ranks"])
        nodes = (node,) * int(message["num_nodes"])  # their number alone matters here
        self._number = int(message["attempt"])
        spec = AttemptSpec(self._run, self._number, nodes, int(message["num_ranks"]))
        self._attempt = start_local_attempt(spec, node, self._working_directory)

    def _watch(self) -> None:
        """Tell how the ranks are, once a second, and at once that they have ended or that a signal came.

        Raises what is a bug beside the loop.
        """
        if self._fault:
            raise self._fault
        while self._signals:
            self._say("signal", name=self._signals.pop(0))
        status = self._attempt.poll() if self._attempt else None
        if self._attempt and status is not None:
            failures = failures_to_json(self._attempt.failures())
            self._say("ended", attempt=self._number, status=status, failures=failures)
            self._attempt = None
        now = time.monotonic()
        if now - self._alive_at >= _ALIVE_SECONDS:
            self._alive_at = now
            self._say_alive()

    def _say_alive(self) -> None:
        beats = beats_to_json(self._attempt.beats()) if self._attempt else {}
        has_failed = bool(self._attempt and self._attempt.has_failed)
        self._say("alive", attempt=self._number, beats=beats, has_failed=has_failed)
        if self._seat:
            self._seat.stay()

    def _tell_stacks(self, attempt: LocalAttempt | None, number: int, seconds: float) -> None:
        stacks = attempt.stacks(seconds) if attempt else {}
        self._say("stacks", attempt=number, stacks={str(rank): text for rank, text in stacks.items()})

    def _end_attempt(self) -> None:
        if self._attempt:
            self._attempt.end_now()
            self._attempt.poll()


def _own_gpus(environment: Mapping[str, str]) -> dict[str, str]:
    """What a scheduler said on this node of its GPUs; the supervisor's machine may have others, or none."""
    name = "CUDA_VISIBLE_DEVICES"
    return {name: environment[name]} if name in environment else {}
