"""The pod of one node: what runs in it, what it may use, how Kubernetes sees that it lives. Pure."""

import math
import posixpath
from collections.abc import Iterator
from typing import Any

from cluster.kubernetes_environment import JOB_NAME, NUM_NODES, SERVICE
from launcher.fleet.listener import KEY_VARIABLE
from launcher.kubernetes_names import job_name
from llama_dist.config import ClusterConfig, ConfigError, KubernetesConfig, RunConfig

CONTAINER = "node"
CONFIG_DIRECTORY = "/etc/llama-dist"
POD_NAME = "LLAMA_DIST_POD_NAME"

# After the ranks have saved, the agent writes down how they ended and the supervisor says why.
_GRACE_MARGIN_SECONDS = 30
_STARTUP_PERIOD_SECONDS = 10
_PROBE_TIMEOUT_SECONDS = 10  # starting Python and a read from a busy shared disk
# A pod is ended for a silent agent alone, and late: stalls of the shared disk pass, and hangs of ranks are the
# supervisor's to judge.
_MIN_AGE_SECONDS = 120.0
_AGE_IN_NODE_TIMEOUTS = 6


def pod_spec(config: RunConfig, cluster: ClusterConfig, kubernetes: KubernetesConfig, name: str) -> dict[str, Any]:
    """Return the `spec` of the pod template. Raises ConfigError for a run directory that the pods would not share."""
    spec = {
        "restartPolicy": "Never",  # the job replaces a pod, and its failure policy sees each exit code
        "subdomain": name,
        "terminationGracePeriodSeconds": math.ceil(config.supervision.stop_grace_seconds) + _GRACE_MARGIN_SECONDS,
        "enableServiceLinks": False,
        "automountServiceAccountToken": False,
        "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [_container(config, cluster, kubernetes, name)],
        "volumes": [
            {"name": "shared", "persistentVolumeClaim": {"claimName": kubernetes.claim}},
            {"name": "config", "configMap": {"name": name}},
            {"name": "shm", "emptyDir": {"medium": "Memory"}},  # the default of 64 MiB is too small for NCCL and gloo
        ],
    }
    if kubernetes.service_account:
        spec["serviceAccountName"] = kubernetes.service_account
    return spec


def _container(config: RunConfig, cluster: ClusterConfig, kubernetes: KubernetesConfig, name: str) -> dict[str, Any]:
    run_file, cluster_file = f"{CONFIG_DIRECTORY}/run.yaml", f"{CONFIG_DIRECTORY}/cluster.yaml"
    return {
        "name": CONTAINER,
        "image": kubernetes.image,
        "workingDir": kubernetes.mount_path,
        "command": ["llama-dist", "launch", run_file, "--cluster", cluster_file],
        "env": list(_environment(kubernetes, name)),
        "resources": _resources(kubernetes),
        "securityContext": {"allowPrivilegeEscalation": False},
        "volumeMounts": [
            {"name": "shared", "mountPath": kubernetes.mount_path},
            {"name": "config", "mountPath": CONFIG_DIRECTORY, "readOnly": True},
            {"name": "shm", "mountPath": "/dev/shm"},  # noqa: S108 - where shared memory is, by its standard
        ],
        **_probes(config, cluster, kubernetes),
    }


def _environment(kubernetes: KubernetesConfig, name: str) -> Iterator[dict[str, Any]]:
    """Yield the variables of a pod: secrets by the name of their place, never by value."""
    yield {"name": NUM_NODES, "value": str(kubernetes.num_nodes)}
    yield {"name": JOB_NAME, "value": job_name(name, kubernetes.jobset)}
    yield {"name": SERVICE, "value": name}
    yield {"name": POD_NAME, "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}
    join_key = {KEY_VARIABLE: kubernetes.join_key_secret} if kubernetes.join_key_secret else {}
    for variable, place in (join_key | kubernetes.secret_environment).items():
        secret, _, key = place.partition("/")
        yield {"name": variable, "valueFrom": {"secretKeyRef": {"name": secret, "key": key}}}


def _resources(kubernetes: KubernetesConfig) -> dict[str, Any]:
    """Return equal requests and limits: the pod is then the last to be evicted from a full node."""
    amounts = {"cpu": kubernetes.cpu, "memory": kubernetes.memory}
    amounts["nvidia.com/gpu"] = str(kubernetes.gpus_per_pod) if kubernetes.gpus_per_pod else None
    asked = {resource: amount for resource, amount in amounts.items() if amount is not None}
    return {"requests": asked, "limits": dict(asked)} if asked else {}


def _probes(config: RunConfig, cluster: ClusterConfig, kubernetes: KubernetesConfig) -> dict[str, Any]:
    age_seconds = max(_MIN_AGE_SECONDS, _AGE_IN_NODE_TIMEOUTS * cluster.node_timeout_seconds)
    command = [cluster.python or "python", "-m", "launcher.node_probe", run_directory(config, kubernetes)]
    probe = {"exec": {"command": [*command, f"{age_seconds:g}"]}, "timeoutSeconds": _PROBE_TIMEOUT_SECONDS}
    num_startup_probes = kubernetes.startup_timeout_minutes * 60 // _STARTUP_PERIOD_SECONDS
    return {
        "startupProbe": probe | {"periodSeconds": _STARTUP_PERIOD_SECONDS, "failureThreshold": num_startup_probes},
        "livenessProbe": probe | {"periodSeconds": 20, "failureThreshold": 3},
    }


def run_directory(config: RunConfig, kubernetes: KubernetesConfig) -> str:
    """Return where the run lies in each pod. Raises ConfigError where that is not on the claim."""
    mount = kubernetes.mount_path
    path = posixpath.normpath(posixpath.join(mount, config.runs_directory, config.name))
    if not path.startswith(f"{mount}/"):
        raise ConfigError(
            f"runs_directory {config.runs_directory!a} leads out of kubernetes.mount_path {mount}, and so off the disk "
            f"that the pods share: give a relative path, or one under {mount}"
        )
    if not path.isprintable():
        raise ConfigError(f"runs_directory {config.runs_directory!a} holds an unprintable character: take it out")
    return path
