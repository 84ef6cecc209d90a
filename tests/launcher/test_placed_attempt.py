"""What an attempt over several nodes makes of what their agents say, and of agents that are gone."""

from fake_agents import SOON, FakeAgent, attempt_on, fleet_of

from launcher.fleet.placed_attempt import PlacedAttempt

NO_FAILURES = {"statuses": {}, "first_failed_rank": None, "oom_kills": {}}


def test_what_a_node_refused_once_is_not_held_against_the_next_attempt(tmp_path):
    with fleet_of("node1") as fleet:
        agent = FakeAgent(fleet, "node1")
        first = PlacedAttempt(fleet, attempt_on(["node1"], tmp_path))
        agent.say("refused", reason="no space left on device")
        assert fleet.wait(lambda: first.poll() is not None, SOON)
        assert first.failures().lost == {0: "node1: no space left on device"}
        second = PlacedAttempt(fleet, attempt_on(["node1"], tmp_path, 2))
        assert second.poll() is None
        agent.say("ended", attempt=2, status=0, failures=NO_FAILURES)
        assert fleet.wait(lambda: second.poll() is not None, SOON)
        assert second.poll() == 0 and not second.failures().lost


def test_a_lost_node_is_not_taken_for_a_hang_of_the_ranks_that_wait_for_its_own(tmp_path):
    """Until the others have said what they saw and are ended, they stand still: that is no verdict of its own."""
    with fleet_of("node1", "node2") as fleet:
        agents = [FakeAgent(fleet, host) for host in ("node1", "node2")]
        attempt = PlacedAttempt(fleet, attempt_on(["node1", "node2"], tmp_path))
        assert attempt.is_heard()
        agents[1].leave()
        assert fleet.wait(lambda: attempt.poll() is not None or fleet.state("node2").stage == "absent", SOON)
        assert attempt.poll() is None, "node1's rank still runs"
        assert not attempt.is_heard()


def test_an_agent_that_came_anew_is_no_sign_that_the_attempt_goes_on(tmp_path):
    """It has ended its ranks when it lost this supervisor: nobody will tell how they ended."""
    with fleet_of("node1", "node2", silence_seconds=0.0) as fleet:
        agents = [FakeAgent(fleet, host) for host in ("node1", "node2")]
        attempt = PlacedAttempt(fleet, attempt_on(["node1", "node2"], tmp_path))
        newcomer = FakeAgent(fleet, "node2")
        newcomer.hear("hello")
        agents[0].say("ended", attempt=1, status=1, failures=NO_FAILURES)
        assert fleet.wait(lambda: attempt.poll() is not None, SOON)
        assert attempt.failures().lost == {1: "node2: its agent came anew"}
