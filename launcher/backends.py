"""Which backend a cluster config means. A new kind of cluster is one file, and a line here."""

from launcher.backend import Backend
from launcher.fleet.mpi import MpiPlacement
from launcher.fleet.placed_backend import PlacedBackend
from launcher.fleet.placement import Placement
from launcher.fleet.slurm import SlurmPlacement
from launcher.fleet.ssh import SshPlacement
from launcher.fleet.started import StartedPlacement
from launcher.launch import Launch
from launcher.local_backend import LocalBackend
from launcher.plan import python_of
from llama_dist.config import ConfigError


def backend_of(launch: Launch) -> Backend:
    """Return what starts the processes. Raises ConfigError for one that cannot start them from here."""
    if launch.cluster.backend == "local":
        return LocalBackend(launch.cluster, launch.machine)
    return PlacedBackend(placement_of(launch), launch.cluster, launch.run)


def agents_join(launch: Launch) -> bool:
    """Whether the nodes' agents come by themselves. The launch's files lead them here. Raises ConfigError."""
    return launch.cluster.backend != "local" and placement_of(launch).agents_join


def placement_of(launch: Launch) -> Placement:
    """Return what reaches the nodes. Raises ConfigError for a backend that has none."""
    cluster, hosts, run, python = launch.cluster, launch.hosts, launch.run.path, python_of(launch.cluster)
    match cluster.backend:
        case "ssh":
            return SshPlacement(cluster, hosts, python)
        case "slurm":
            return SlurmPlacement(hosts, python, run)
        case "mpi":
            return MpiPlacement(hosts, python, run)
        case "started":
            return StartedPlacement(hosts, python, run)
    raise ConfigError(f"cluster.backend {cluster.backend}: its manifest starts the processes: see `launch --dry-run`")
