"""Which nodes a launch can use, over a fleet that answers at once; real agents are in `tests/fleet`."""

import json
import sys

import pytest
from fake_fleet import FakeFleet

from launcher.errors import TooFewNodesError
from launcher.fleet.mpi import MpiPlacement
from launcher.fleet.placed_backend import PlacedBackend
from launcher.fleet.ssh import SshPlacement
from llama_dist.config import ClusterConfig, ConfigError, RunDirectory

HOSTS = ["a", "b", "c"]
PORT = "cluster.rendezvous_port 7799 is in use on a"


@pytest.fixture
def run(tmp_path):
    (tmp_path / "run").mkdir()
    return RunDirectory(tmp_path / "run")


@pytest.fixture
def fleet(monkeypatch):
    fleet = FakeFleet(HOSTS)
    monkeypatch.setattr("launcher.fleet.placed_backend.Fleet", lambda _placement, _times: fleet)
    return fleet


@pytest.fixture
def look_later(run, fleet, monkeypatch):
    """Asks a backend of two to three nodes, whose attempt runs on two since `c` was down, every minute from then on."""
    minutes = [100]
    monkeypatch.setattr("launcher.fleet.placed_backend.time.monotonic", lambda: 60.0 * minutes[0])
    cluster = ClusterConfig(backend="ssh", hosts=HOSTS, nodes={"min": 2, "max": 3})
    backend = PlacedBackend(SshPlacement(cluster, HOSTS, sys.executable), cluster, run)
    fleet.down.add("c")
    assert [str(facts) for facts in backend.gather({}).nodes] == ["a", "b"]
    fleet.down.clear()
    fleet.may_wait = False

    def look():
        minutes[0] += 1
        return backend.has_more_nodes()

    return look


def test_a_node_that_has_a_seat_has_come_back(look_later, fleet):
    assert look_later() and fleet.state("c").stage == "seated"


def test_a_node_that_runs_another_program_has_not_come_back(look_later, fleet):
    fleet.codes["c"] = {"torch": "0.1"}
    assert not look_later()
    assert "runs another program than this machine" in fleet.state("c").reason


def test_a_node_without_the_runs_disk_has_not_come_back_until_it_has(look_later, fleet):
    fleet.refusals["sit", "c"] = "the run directory must be on a disk that all nodes share"
    assert not look_later() and not look_later()
    fleet.refusals.clear()
    look_later()  # the refusal of before is told, and it is reached anew
    assert look_later()


def test_a_program_that_goes_missing_ends_no_attempt(look_later, fleet, monkeypatch):
    def reach(_hosts):
        raise FileNotFoundError(2, "No such file or directory", "ssh")

    monkeypatch.setattr(fleet, "reach", reach)
    assert not look_later()


def with_port(run) -> PlacedBackend:
    cluster = ClusterConfig(backend="ssh", hosts=HOSTS, rendezvous_port=7799)
    return PlacedBackend(SshPlacement(cluster, HOSTS, sys.executable), cluster, run)


def test_a_port_that_is_taken_at_the_start_is_refused(run, fleet):
    fleet.refusals["port", "a"] = PORT
    with pytest.raises(ConfigError, match="7799 is in use on a"):
        with_port(run).check()


def test_a_port_that_is_taken_later_is_waited_for(run, fleet):
    backend = with_port(run)
    backend.check()
    fleet.refusals["port", "a"] = PORT
    with pytest.raises(TooFewNodesError, match="7799 is in use on a"):
        backend.gather({})
    fleet.refusals.clear()
    assert backend.gather({}).master_port == 7799


@pytest.mark.parametrize(("kind", "program"), [("ssh", "ssh"), ("mpi", "mpirun")])
def test_a_program_that_this_machine_has_not_is_told_by_name(run, monkeypatch, tmp_path, kind, program):
    monkeypatch.setenv("PATH", str(tmp_path))
    cluster = ClusterConfig(backend=kind, hosts=["localhost"])
    placement = {
        "ssh": SshPlacement(cluster, ["localhost"], sys.executable),
        "mpi": MpiPlacement(["localhost"], sys.executable, run.path),
    }[kind]
    backend = PlacedBackend(placement, cluster, run)
    try:
        with pytest.raises(ConfigError, match=rf"^{program}: No such file .* cluster\.backend {kind} .* PATH"):
            backend.check()
    finally:
        backend.close()
        backend.close()  # a second time does nothing
    assert not run.nodes.exists()


def joined_by(run) -> PlacedBackend:
    return PlacedBackend(MpiPlacement(HOSTS, sys.executable, run.path), ClusterConfig(backend="mpi", hosts=HOSTS), run)


def test_where_no_agent_found_the_way_in_it_is_told_where_they_look_and_what_to_set(run, fleet):
    fleet.down |= {"a", "b", "c"}
    backend = joined_by(run)
    try:
        with pytest.raises(ConfigError, match=r"agents look for this supervisor at \S+:\d+: if .* set MASTER_ADDR to"):
            backend.check()
        place = json.loads((run.nodes / "supervisor.json").read_text())
        with pytest.raises(TooFewNodesError, match=rf"at {place['address']}:{place['port']}: if"):
            backend.gather({})
    finally:
        backend.close()


def test_where_another_nodes_agent_came_the_way_in_is_not_to_blame(run, fleet):
    fleet.down |= {"c"}
    backend = joined_by(run)
    try:
        with pytest.raises(ConfigError, match="c: not reached yet") as refused:
            backend.check()
    finally:
        backend.close()
    assert "MASTER_ADDR" not in str(refused.value)
