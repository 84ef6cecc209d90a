"""The nodes of a run: opens links to their agents, listens, ticks, and notices who is silent. Decides nothing of a run.

One thread does all reading and writing; the supervisor's own thread asks and waits.
"""

import os
import selectors
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from launcher.fleet.link import Link, ProcessLink
from launcher.fleet.node_state import NodeState
from launcher.fleet.placement import Placement
from launcher.fleet.starters import Starters
from launcher.node.messages import Message

_TICK_SECONDS = 1.0
_LOOK_SECONDS = 0.1
_LEASE_SHARE = 0.5  # of the time-out: a silent node has ended its ranks before it is taken for lost


@dataclass(frozen=True)
class FleetTimes:
    """How long nodes may take."""

    connect_seconds: float
    silence_seconds: float


class Fleet:
    """Links to the hosts of a placement."""

    def __init__(self, placement: Placement, times: FleetTimes) -> None:
        self._placement, self._times = placement, times
        self._working_directory = str(Path.cwd())
        self._lease_seconds = times.silence_seconds * _LEASE_SHARE
        self.hosts = placement.hosts()
        self._states = {host: NodeState(host) for host in self.hosts}
        self._links: list[Link] = []
        self._starters = Starters()
        self._changed = threading.Condition()
        self._signals: list[str] = []
        self._is_closing = False
        self._fault: BaseException | None = None
        self._selector = selectors.DefaultSelector()
        self._wake_reading, self._wake_writing = os.pipe()
        self._selector.register(self._wake_reading, selectors.EVENT_READ, None)
        self._ticked_at = 0.0
        self._thread = threading.Thread(target=self._work, name="fleet", daemon=True)
        self._thread.start()

    def state(self, host: str) -> NodeState:
        """What is known of a host."""
        return self._states[host]

    def reach(self, hosts: Iterable[str]) -> None:
        """Open links to those of `hosts` that are absent; returns at once."""
        with self._changed:
            absent = [host for host in hosts if self._states[host].stage == "absent"]
            if self._placement.agents_join:
                self._expect(absent)
            for command in self._placement.links(absent) if absent else ():
                if self._placement.agents_join:
                    self._watch_starter(ProcessLink(command))
                else:
                    self._add(ProcessLink(command))

    def add(self, link: Link) -> None:
        """Take over a link that an agent opened.

        It is closed where the host is none of the run's, or has an agent that lives: this one is of another job then,
        or comes before its former link is known to be shut, and tries again.
        """
        with self._changed:
            is_known = all(host in self._states for host in link.hosts)
            if self._is_closing or not is_known or any(self._has_live_agent(host) for host in link.hosts):
                link.close()
                return
            for host in link.hosts:
                self._lose(self._states[host], "its agent came anew")
                self._starters.note_came(host)
            self._add(link)

    def wait(self, is_met: Callable[[], bool], seconds: float) -> bool:
        """Wait until `is_met`, which is asked whenever something was heard; answers whether it is."""
        with self._changed:
            is_over = self._changed.wait_for(lambda: self._fault is not None or is_met(), seconds)
            self._check()
            return is_over

    def tell(self, message: Message, hosts: Sequence[str] | None = None) -> None:
        """Send a message to the agents of `hosts`, by default of all that are there."""
        with self._changed:
            wanted = self.hosts if hosts is None else hosts
            links = {id(link): link for host in wanted if (link := self._states[host].link)}
            for link in links.values():
                link.send({**message, "to": [host for host in link.hosts if host in wanted]})

    def take_signals(self) -> list[str]:
        """Names of the signals that a scheduler sent to agents since the last call."""
        with self._changed:
            self._check()
            signals, self._signals = self._signals, []
        return signals

    def drop(self, host: str, reason: str) -> None:
        """Have nothing more to do with a node until it is reached anew."""
        with self._changed:
            self._lose(self._states[host], reason)

    def close(self) -> None:
        """Let all agents leave, and close the links."""
        self.tell({"do": "leave"})
        self._is_closing = True
        os.write(self._wake_writing, b"x")
        self._thread.join()
        for link in (*self._links, *self._starters.links()):
            link.close()
        self._selector.close()
        os.close(self._wake_reading)
        os.close(self._wake_writing)

    def _has_live_agent(self, host: str) -> bool:
        """Whether the node's agent was heard within the time after which an agent gives its supervisor up."""
        state = self._states[host]
        age = time.monotonic() - state.heard_at
        return state.link is not None and state.link.is_open and age < self._lease_seconds

    def _expect(self, hosts: Iterable[str]) -> None:
        """Wait for the agents of these hosts from now on."""
        for host in hosts:
            self._states[host].heard_at = time.monotonic()
            self._states[host].move("reaching")

    def _watch_starter(self, starter: ProcessLink) -> None:
        self._starters.add(starter)
        self._register(starter)

    def _register(self, link: Link) -> None:
        self._selector.register(link.reading, selectors.EVENT_READ, link)
        if link.errors is not None:
            self._selector.register(link.errors, selectors.EVENT_READ, link)

    def _unregister(self, link: Link) -> None:
        for descriptor in (link.reading, link.errors):
            if descriptor is not None:
                self._selector.unregister(descriptor)

    def _add(self, link: Link) -> None:
        self._links.append(link)
        for host in link.hosts:
            state = self._states[host]
            state.link, state.heard_at, state.refusal, state.facts = link, time.monotonic(), "", None
            state.move("reaching")
        self._register(link)
        hello = {"do": "hello", "hosts": list(self.hosts), "lease_seconds": self._lease_seconds}
        hello |= {"working_directory": self._working_directory}
        link.send({**hello, "to": list(link.hosts)})
        os.write(self._wake_writing, b"x")

    def _work(self) -> None:
        try:
            self._look_after_links()
        except BaseException as error:  # noqa: BLE001 - the edge of the thread: whoever asks or waits is told
            with self._changed:
                self._fault = error
                self._changed.notify_all()

    def _check(self) -> None:
        """Raise what ended the thread: nothing is heard any more, and a silent node would never be noticed."""
        if self._fault:
            raise RuntimeError("the nodes are not looked after any more") from self._fault

    def _look_after_links(self) -> None:
        while not self._is_closing:
            ready = self._selector.select(_LOOK_SECONDS)
            with self._changed:
                for key, _ in ready:
                    self._read(key)
                self._tick(time.monotonic())
                self._changed.notify_all()

    def _read(self, key: selectors.SelectorKey) -> None:
        link: Link | None = key.data
        if link is None:
            os.read(self._wake_reading, 1)
        elif not link.is_open:
            return
        elif key.fd == link.errors:
            link.receive_errors()
        else:
            for message in link.receive():
                self._hear(link, message)

    def _hear(self, link: Link, message: Message) -> None:
        host = message.get("host")
        state = self._states.get(host) if isinstance(host, str) else None
        if state is None or state.link is not link:
            return
        if message.get("say") == "signal":
            self._signals.append(str(message.get("name")))
        try:
            state.hear(message)
        except (AttributeError, KeyError, TypeError, ValueError) as error:  # as a list where a mapping is due
            self._lose(state, f"its agent sends what this program does not understand: {error!r}")

    def _tick(self, now: float) -> None:
        is_time = now - self._ticked_at >= _TICK_SECONDS
        if is_time:
            self._ticked_at = now
        for link in list(self._links):
            if is_time and link.is_open:
                link.send({"do": "tick"})
            link.flush()
            if not link.is_open:
                reason = link.why_closed()
                for host in link.hosts:
                    if self._states[host].link is link:
                        self._lose(self._states[host], reason)
        self._notice_silence(now)
        self._look_at_starters()

    def _look_at_starters(self) -> None:
        """Tell why nobody came where the program that starts the agents has ended; end one that is of no use."""
        for starter in self._starters.ended():
            reason = starter.why_closed()
            for host in starter.hosts:
                if self._states[host].link is None and self._starters.is_newest(starter, host):
                    self._lose(self._states[host], reason)
            self._end_starter(starter)
        for starter in self._starters.useless(lambda host: self._states[host].stage == "absent"):
            self._end_starter(starter)

    def _end_starter(self, starter: ProcessLink) -> None:
        self._starters.remove(starter)
        self._unregister(starter)
        threading.Thread(target=starter.close, daemon=True).start()

    def _notice_silence(self, now: float) -> None:
        for state in self._states.values():
            if state.stage == "absent":
                continue
            allowed = self._times.connect_seconds if state.stage == "reaching" else self._times.silence_seconds
            if now - state.heard_at > allowed:
                self._lose(state, f"nothing was heard from it for {allowed:.0f} s")

    def _lose(self, state: NodeState, reason: str) -> None:
        if state.link:
            state.lost_because = state.refusal or reason
        if state.stage != "absent":
            state.move("absent", state.refusal or reason)
        link, state.link = state.link, None
        if link and not any(other.link is link for other in self._states.values()):
            self._links.remove(link)
            self._unregister(link)
            threading.Thread(target=link.close, daemon=True).start()  # it may wait for ssh to end
