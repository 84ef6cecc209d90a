"""What the `launch` verb does with a checked launch: submit it, print its manifest, take part, detach, or supervise.

Decides only which.
"""

from collections.abc import Mapping

from launcher.console import Console
from launcher.detach import launch_detached
from launcher.execute import execute
from launcher.hosts import is_outside_allocation
from launcher.kubernetes_manifest import render_kubernetes_manifest
from launcher.launch import Launch
from launcher.started import take_part
from launcher.submit import submit
from llama_dist.exit_codes import ExitCode


def begin(launch: Launch, console: Console, environment: Mapping[str, str], *, detach: bool = False) -> int:
    """Answer the exit code. Raises ReportedError."""
    if is_outside_allocation(launch.cluster, environment):
        return submit(launch, console)
    if launch.cluster.backend == "kubernetes":
        console.write(render_kubernetes_manifest(launch.config, launch.cluster))
        return ExitCode.DONE
    if launch.cluster.backend == "started":
        return take_part(launch, console)
    if detach:
        return launch_detached(launch, console)
    return execute(launch, console)
