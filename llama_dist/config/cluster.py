"""The machines that a run is started on. What is installed on them is `cluster/`'s to find out."""

from typing import Annotated, Literal

from pydantic import Field

from data_pipeline.config import StrictModel


class ClusterConfig(StrictModel):
    """Where the processes of a run live. The same run file works with any of these."""

    backend: Literal["local"] = "local"
    """What starts the processes: `local` is this machine alone."""

    num_processes_per_node: Annotated[int, Field(ge=1)] | None = None
    """Worker processes of a node; by default one per GPU, or one where there is no GPU."""

    rendezvous_port: Annotated[int, Field(ge=1024, le=65535)] | None = None
    """TCP port on which the workers meet; by default a free one is taken at each attempt."""
