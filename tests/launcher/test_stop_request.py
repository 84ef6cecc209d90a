"""Signals as wishes to stop: those of this process, and those that a scheduler sent to other nodes' agents."""

import signal
import sys
import threading
import time

import pytest

from launcher.stop_request import StopRequest


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass only when a test says so."""
    seconds = [100.0]
    monkeypatch.setattr("launcher.stop_request.time.monotonic", lambda: seconds[0])
    return seconds


def relaying(*batches: list[str]) -> StopRequest:
    left = list(batches)
    return StopRequest(relayed=lambda: left.pop(0) if left else [])


def test_signals_of_many_nodes_are_one_wish_however_late_each_is_told(clock):
    stop = relaying(["SIGTERM", "SIGTERM"], ["SIGTERM"], ["SIGINT"])
    for _ in range(3):
        stop.look()
        clock[0] += 5.0
    assert (stop.is_asked, stop.is_urgent, stop.signal_name) == (True, False, "SIGTERM")


def test_the_signal_to_this_process_is_the_same_wish_as_one_that_was_relayed_before_it(clock):
    stop = relaying(["SIGTERM"])
    stop.look()
    clock[0] += 5.0
    stop.ask(signal.SIGTERM)
    assert stop.is_asked and not stop.is_urgent
    clock[0] += 5.0
    stop.ask(signal.SIGINT)
    assert stop.is_urgent, "a second one of its own does not wait"


def test_a_relayed_wish_to_save_stops_nothing_and_other_signals_mean_nothing():
    stop = relaying(["SIGUSR1", "SIGUSR2", "nonsense"])
    stop.look()
    assert stop.take_save() and not stop.take_save() and not stop.is_asked


def test_a_wait_ends_by_a_relayed_signal():
    assert relaying([], ["SIGTERM"]).wait(30.0)


def test_a_wait_without_a_wish_lasts_its_time():
    began = time.monotonic()
    assert not StopRequest().wait(0.15)
    assert 0.15 <= time.monotonic() - began < 5.0


def wait_with_signal_at(moment: int) -> tuple[bool, int]:
    """Run `wait` with a signal before the line that comes as number `moment`; answers (was asked, lines that came)."""
    stop, lines = StopRequest(), [0]

    def trace(_frame, event, _argument):
        if event == "line":
            lines[0] += 1
            if lines[0] == moment:
                stop.ask(signal.SIGTERM)
        return trace

    def work():
        sys.settrace(trace)  # of this thread alone; its own lines are not traced, as those of a handler that runs
        stop.wait(0.02)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(10)
    assert not thread.is_alive(), f"a signal at line {moment} of the wait never returns"
    return stop.is_asked, lines[0]


def test_a_signal_at_any_moment_of_a_wait_returns():
    """A handler runs between two lines of whatever the main thread does: it may take no lock that this one holds."""
    _, num_lines = wait_with_signal_at(0)
    assert num_lines > 5
    assert all(wait_with_signal_at(moment)[0] for moment in range(1, num_lines // 2))
