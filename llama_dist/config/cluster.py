"""The machines that a run is started on. What is installed on them is `cluster/`'s to find out."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from data_pipeline.config import StrictModel
from llama_dist.config.cluster_kubernetes import KubernetesConfig
from llama_dist.config.cluster_slurm import SlurmConfig

BackendName = Literal["local", "ssh", "slurm", "mpi", "kubernetes", "started"]


class NodeRange(StrictModel):
    """How many nodes an attempt of an elastic run may have."""

    min: Annotated[int, Field(ge=1)]
    """Fewest nodes to train on; with fewer the run waits for one to return."""

    max: Annotated[int, Field(ge=1)]
    """Most nodes to train on."""

    @model_validator(mode="after")
    def _check_order(self) -> "NodeRange":
        if self.min > self.max:
            raise ValueError(f"min {self.min} is more than max {self.max}: swap them")
        return self


class ClusterConfig(StrictModel):
    """Where the processes of a run live. The same run file works with any of these."""

    backend: BackendName = "local"
    """What starts the processes: `local` is this machine alone; `ssh` reaches `hosts`; `slurm` works inside an
    allocation and submits itself from outside of one; `mpi` uses mpirun; `kubernetes` renders a manifest; `started` is
    for processes that a scheduler has started already, one per node."""

    hosts: list[str] = Field(default_factory=list)
    """Names of the nodes, in the order of their ranks, where no scheduler names them."""

    hostfile: str | None = None
    """In place of `hosts`: a file with lines like `node1 slots=8`."""

    num_processes_per_node: Annotated[int, Field(ge=1)] | None = None
    """Worker processes of a node; by default one per GPU, or one where there is no GPU."""

    nodes: NodeRange | None = None
    """Least and most nodes of an attempt; by default all of them, and a lost one is waited for."""

    spare_nodes: Annotated[int, Field(ge=0)] = 0
    """Nodes, the last of `hosts`, that only take the place of a lost one."""

    rendezvous_port: Annotated[int, Field(ge=1024, le=65535)] | None = None
    """TCP port on which the workers meet; by default a free one is taken at each attempt."""

    ssh_config: str | None = None
    """Configuration file for `ssh -F`; by default the user's own."""

    connect_timeout_seconds: Annotated[float, Field(gt=0)] = 20.0
    """How long a node may take to answer when an attempt begins."""

    node_timeout_seconds: Annotated[float, Field(ge=2)] = 10.0
    """How long a node may be silent before it is taken for lost. A node that hears nothing ends its ranks in half of
    this time, so that no rank of it is left when others go on."""

    python: str | None = None
    """Python interpreter on the nodes; by default the path of this one."""

    slurm: SlurmConfig = SlurmConfig()
    """The job that `backend: slurm` submits."""

    kubernetes: KubernetesConfig | None = None
    """The job that `backend: kubernetes` writes a manifest of."""
