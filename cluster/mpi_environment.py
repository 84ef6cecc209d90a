"""A process that `mpirun` has started, from the variables of Open MPI (4 and 5), or of MPICH's and Intel's Hydra. Pure.

MPI names no hosts. MASTER_ADDR (`mpirun -x MASTER_ADDR`) may say where node 0 is reached; it is only checked here.
"""

from collections.abc import Mapping

from cluster.host_names import check_host_name
from cluster.started import SchedulerVariables, Started, is_any_set

_OPEN_MPI = (
    *("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    *("OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"),
)
_HYDRA = ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS")
_NUM_NODES = "OMPI_MCA_orte_num_nodes"  # Open MPI 4 sets it; 5 has no like


def read_mpi(environment: Mapping[str, str]) -> Started | None:
    """Return what mpirun says of this process, None where it did not start it. Raises ConfigError."""
    if is_any_set(environment, _OPEN_MPI):
        return _read(SchedulerVariables(environment, "Open MPI"), _OPEN_MPI)
    if is_any_set(environment, _HYDRA[2:]):  # Slurm's own PMI sets the first two as well
        return _read(SchedulerVariables(environment, "MPI's Hydra"), _HYDRA)
    return None


def _read(variables: SchedulerVariables, names: tuple[str, ...]) -> Started:
    variables.require(*names)
    rank_name, size_name, local_rank_name, local_size_name = names
    size, local_size = variables.number(size_name, at_least=1), variables.number(local_size_name, at_least=1)
    if size % local_size:
        raise variables.contradiction(
            f"{size_name}={size} is no multiple of {local_size_name}={local_size}: start as many processes on each "
            "node, as with `--map-by ppr:1:node`"
        )
    rank = variables.place(rank_name, size_name, size)
    local_rank = variables.place(local_rank_name, local_size_name, local_size)
    num_nodes = size // local_size
    if rank % local_size != local_rank:
        raise variables.contradiction(
            f"{rank_name}={rank} with {local_rank_name}={local_rank} of {local_size}: the ranks of a node do not "
            "follow each other; map by slot, or start one process per node with `--map-by ppr:1:node`"
        )
    _check_num_nodes(variables, size_name, local_size_name, num_nodes)
    if master := variables.environment.get("MASTER_ADDR"):
        check_host_name(master)
    return Started("mpi", rank // local_size, num_nodes, (), is_rank=local_size > 1)


def _check_num_nodes(variables: SchedulerVariables, size_name: str, local_size_name: str, num_nodes: int) -> None:
    """Compare with the nodes of the whole job, which may be more than have processes, but never fewer."""
    if variables.environment.get(_NUM_NODES) and variables.number(_NUM_NODES) < num_nodes:
        raise variables.contradiction(
            f"{size_name} and {local_size_name} make {num_nodes} node(s), {_NUM_NODES} says "
            f"{variables.environment[_NUM_NODES]}"
        )
