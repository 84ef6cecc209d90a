"""A pod of the Indexed Job that `launcher/kubernetes_manifest.py` writes, from the variables it sets. Pure."""

from collections.abc import Mapping

from cluster.inventory import inventory_of_hosts
from cluster.slurm_nodes import MAX_NODES
from cluster.started import SchedulerVariables, Started, is_any_set

NUM_NODES = "LLAMA_DIST_NUM_NODES"
JOB_NAME = "LLAMA_DIST_JOB_NAME"
SERVICE = "LLAMA_DIST_SERVICE"
COMPLETION_INDEX = "JOB_COMPLETION_INDEX"  # Kubernetes sets it in each pod of an Indexed Job
_NAMES = (NUM_NODES, JOB_NAME, SERVICE, COMPLETION_INDEX)


def read_kubernetes(environment: Mapping[str, str]) -> Started | None:
    """Return what the job says of this pod, None outside of such a job. Raises ConfigError."""
    if not is_any_set(environment, _NAMES):
        return None
    variables = SchedulerVariables(environment, "a Kubernetes job")
    variables.require(*_NAMES)
    num_nodes = variables.number(NUM_NODES, at_least=1)
    if num_nodes > MAX_NODES:
        raise variables.contradiction(f"{NUM_NODES}={num_nodes} is over {MAX_NODES}")
    node_index = variables.place(COMPLETION_INDEX, NUM_NODES, num_nodes)
    names = [pod_host(environment[JOB_NAME], index, environment[SERVICE]) for index in range(num_nodes)]
    hosts = inventory_of_hosts(names, f"{JOB_NAME} and {SERVICE}").hosts
    return Started("kubernetes", node_index, num_nodes, hosts, is_rank=False)


def pod_host(job_name: str, index: int | str, service: str) -> str:
    """Return the name under which the other pods reach one: an Indexed Job's pod is `job-index` in its service."""
    return f"{job_name}-{index}.{service}"
