"""Links to nodes: who may come in, what ends, and that no fault of the thread that looks after them stays unseen."""

import contextlib

import psutil
import pytest
from fake_agents import SOON, FakeAgent, fleet_of

STARTER = ("sleep", "600")  # as an srun or mpirun that never gets through


def test_a_newcomer_does_not_take_the_place_of_an_agent_that_lives():
    """As where the same job is started twice: the second one's agents find the first one's supervisor."""
    with fleet_of("node1", "node2") as fleet:
        agent = FakeAgent(fleet, "node1")
        link = fleet.state("node1").link
        assert FakeAgent(fleet, "node1").is_shut_out()
        assert FakeAgent(fleet, "elsewhere").is_shut_out()
        assert fleet.state("node1").link is link
        agent.hear("tick")
        FakeAgent(fleet, "node2").hear("hello")


def test_an_agent_comes_anew_once_its_former_link_is_shut_or_silent():
    with fleet_of("node1", silence_seconds=60.0) as fleet:
        FakeAgent(fleet, "node1").leave()
        assert fleet.wait(lambda: fleet.state("node1").stage == "absent", SOON)
        silent = FakeAgent(fleet, "node1")
        silent.hear("hello")
        fleet.state("node1").heard_at -= 31.0  # longer than the lease after which an agent gives its supervisor up
        newcomer = FakeAgent(fleet, "node1")
        newcomer.hear("hello")
        assert fleet.state("node1").lost_because == "its agent came anew"


def starters():
    """Those that run; the process that tests share has other children too."""
    found = []
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.NoSuchProcess):  # it has just ended
            found += [child] if child.cmdline() == list(STARTER) else []
    return found


def test_a_program_that_brought_no_agent_is_ended_with_the_try():
    with fleet_of("node1", connect_seconds=0.0, program=STARTER) as fleet:
        for _ in range(3):
            fleet.reach(["node1"])
            assert fleet.wait(lambda: fleet.state("node1").stage == "absent", SOON)
        assert fleet.wait(lambda: not starters(), SOON)


def test_a_program_whose_agent_came_is_left_to_end_by_itself_and_says_nothing_of_a_later_try():
    """The agent ends its ranks first, and holds the node's seat until then."""
    with fleet_of("node1", program=STARTER) as fleet:
        fleet.reach(["node1"])
        (first,) = starters()
        FakeAgent(fleet, "node1").leave()
        assert fleet.wait(lambda: fleet.state("node1").stage == "absent", SOON)
        fleet.reach(["node1"])
        assert first.is_running() and len(starters()) == 2
        first.kill()
        assert fleet.wait(lambda: len(starters()) == 1, SOON)
        assert fleet.state("node1").stage == "reaching"
        (second,) = starters()
        second.kill()
        assert fleet.wait(lambda: fleet.state("node1").stage == "absent", SOON)
        assert fleet.state("node1").reason == "the connection ended (exit status -9)"


def test_an_agent_whose_words_have_another_shape_is_lost_by_name_and_no_other():
    with fleet_of("node1", "node2") as fleet:
        strange, other = FakeAgent(fleet, "node1"), FakeAgent(fleet, "node2")
        strange.say("alive", attempt=0, beats=["not", "by", "rank"], has_failed=False)
        assert fleet.wait(lambda: fleet.state("node1").stage == "absent", SOON)
        assert "sends what this program does not understand" in fleet.state("node1").reason
        other.hear("tick")
        other.hear("tick")


def test_the_end_of_the_thread_that_looks_after_the_nodes_is_an_error_of_the_supervisor(monkeypatch):
    """Nobody would notice a silent node any more."""

    def fail(_now):
        raise ValueError("a bug")

    with fleet_of("node1") as fleet:
        monkeypatch.setattr(fleet, "_notice_silence", fail)
        with pytest.raises(RuntimeError, match="nodes are not looked after any more") as told:
            fleet.wait(lambda: False, SOON)
        assert isinstance(told.value.__cause__, ValueError)
        with pytest.raises(RuntimeError):
            fleet.take_signals()


def test_an_agent_is_told_where_the_launch_was_typed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with fleet_of("node1") as fleet:
        monkeypatch.chdir("/")
        assert FakeAgent(fleet, "node1").hear("hello")["working_directory"] == str(tmp_path)
