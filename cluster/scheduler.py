"""What a process that a scheduler has already started is, whichever scheduler it was. Pure; starts nothing."""

from collections.abc import Mapping

from cluster.kubernetes_environment import read_kubernetes
from cluster.mpi_environment import read_mpi
from cluster.slurm_environment import read_slurm_step
from cluster.started import Started
from cluster.torchrun_environment import read_torchrun


def read_started(environment: Mapping[str, str]) -> Started | None:
    """Return what this process is in the job that its scheduler has started, None where none has.

    Where one starts the other, the inner one speaks: torchrun and mpirun may run inside of a Slurm step or a pod, and
    their processes keep the outer variables. Raises ConfigError, naming the variables, for those that are half set
    or contradict each other.
    """
    for read in (read_torchrun, read_mpi, read_slurm_step, read_kubernetes):
        started = read(environment)
        if started:
            return started
    return None
