"""How a launch would reach its nodes: the commands of this machine, or the script or manifest it would hand over.

Starts and writes nothing.
"""

import shlex
from dataclasses import dataclass

from launcher.backends import placement_of
from launcher.hosts import is_outside_allocation
from launcher.kubernetes_manifest import render_kubernetes_manifest
from launcher.launch import Launch
from launcher.sbatch_script import render_sbatch_script
from launcher.submit import submission_of


@dataclass(frozen=True)
class Start:
    """What would be done to start the nodes' agents."""

    commands: tuple[tuple[str, ...], ...] = ()
    """Argument lists that this machine would run, one or more for all nodes; none where there is one node alone."""

    script: str = ""
    """The job that would be submitted to Slurm."""

    manifest: str = ""
    """The Kubernetes objects to apply."""

    def to_lines(self) -> list[str]:
        """As a page shows it."""
        if self.script:
            return ["", "job, submitted by sbatch", *(f"  {line}" for line in self.script.splitlines())]
        if self.manifest:
            return ["", "manifest, for kubectl apply", *(f"  {line}" for line in self.manifest.splitlines())]
        return ["", "node agents", *(f"  {shlex.join(one)}" for one in self.commands)] if self.commands else []


def describe_start(launch: Launch) -> Start:
    """Render what a launch would run or hand over. Raises ConfigError for values that cannot be."""
    if is_outside_allocation(launch.cluster, launch.caller_environment):
        return Start(script=render_sbatch_script(launch.cluster, submission_of(launch)))
    if launch.cluster.backend == "local":
        return Start()
    if launch.cluster.backend == "kubernetes":
        return Start(manifest=render_kubernetes_manifest(launch.config, launch.cluster))
    placement = placement_of(launch)
    links = placement.links(placement.hosts())  # also those that are spare: a launch chooses among all that answer
    return Start(commands=tuple(link.command for link in links))
