"""Which backend a cluster config means. A new kind of cluster is one file, and a line here."""

from launcher.backend import Backend
from launcher.fleet.placed_backend import PlacedBackend
from launcher.fleet.placement import Placement
from launcher.fleet.ssh import SshPlacement
from launcher.launch import Launch
from launcher.local_backend import LocalBackend
from launcher.plan import python_of
from llama_dist.config import ConfigError


def backend_of(launch: Launch) -> Backend:
    """Return what starts the processes. Raises ConfigError for one that cannot start them from here."""
    cluster = launch.cluster
    if cluster.backend == "local":
        return LocalBackend(cluster, launch.machine)
    return PlacedBackend(_placement_of(launch), cluster, launch.run)


def _placement_of(launch: Launch) -> Placement:
    cluster, python = launch.cluster, python_of(launch.cluster)
    match cluster.backend:
        case "ssh":
            return SshPlacement(cluster, launch.hosts, python)
    raise ConfigError(f"cluster.backend {cluster.backend} cannot start processes from here")
