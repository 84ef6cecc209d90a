import pytest

from cluster.facts import MachineFacts
from launcher.fleet.slurm import SlurmPlacement
from launcher.hosts import inventory_of, with_slots
from launcher.node.place import find_place
from llama_dist.config import ClusterConfig, ConfigError

MACHINE = MachineFacts("here", 8, 1 << 34, ())
MPI = {
    "OMPI_COMM_WORLD_RANK": "1",
    "OMPI_COMM_WORLD_SIZE": "2",
    "OMPI_COMM_WORLD_LOCAL_RANK": "0",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "1",
}
TORCHRUN = {
    "RANK": "5",
    "WORLD_SIZE": "8",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "4",
    "GROUP_RANK": "1",
    "MASTER_ADDR": "node0",
}


def started(**values) -> ClusterConfig:
    return ClusterConfig(backend="started", **values)


def test_torchruns_processes_are_the_ranks_of_the_plan():
    inventory = inventory_of(started(), MACHINE, TORCHRUN)
    assert len(inventory.nodes) == 2
    assert with_slots(started(), inventory).num_processes_per_node == 4


def test_the_config_names_the_hosts_that_mpi_does_not():
    assert inventory_of(started(hosts=["a", "b"]), MACHINE, MPI).hosts == ("a", "b")
    assert len(inventory_of(started(), MACHINE, MPI).hosts) == 2


@pytest.mark.parametrize("hosts", [["a"], ["a", "b", "c"]])
def test_another_number_of_hosts_than_was_started_is_refused(hosts):
    with pytest.raises(ConfigError, match=rf"names {len(hosts)} host\(s\), mpi has started 2"):
        inventory_of(started(hosts=hosts), MACHINE, MPI)


def test_a_node_is_met_where_it_came_from_not_where_a_user_logged_in():
    """A job that inherits the log-in's environment has the log-in node's address in it."""
    logged_in = {"SSH_CONNECTION": "10.0.0.9 50000 10.0.0.8 22"}
    assert find_place("node7", ["node7"], logged_in, "10.1.0.7").address == "10.1.0.7"
    assert find_place("node7", ["node7"], logged_in).address == "10.0.0.8", "an agent that ssh itself has started"


def test_lost_nodes_are_reached_by_steps_of_their_own(tmp_path):
    """Slurm refuses a whole step where one of its nodes is down."""
    placement = SlurmPlacement(["n1", "n2", "n3"], "python", tmp_path)
    assert [link.hosts for link in placement.links(["n1", "n2", "n3"])] == [("n1", "n2", "n3")]
    assert [link.hosts for link in placement.links(["n2", "n3"])] == [("n2",), ("n3",)]


def test_a_node_knows_the_interface_of_its_address_and_none_of_an_address_that_it_does_not_know():
    assert find_place("node7", ["node7"], {}, "127.0.0.1").interface == "lo"
    assert find_place("node7.invalid", ["node7.invalid"], {}).interface == ""
