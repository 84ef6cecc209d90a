"""What `kubectl apply` gets for a run: an Indexed Job with a pod a node, its service and its config. Pure.

Nothing here talks to Kubernetes, and no value of a secret enters.
"""

from typing import Any

from data_pipeline.config.yaml_file import dump_yaml, dump_yaml_documents
from launcher.kubernetes_names import REPLICATED_JOB, object_name
from launcher.kubernetes_pod import CONTAINER, pod_spec
from llama_dist.config import ClusterConfig, ConfigError, KubernetesConfig, RunConfig, dump_config
from llama_dist.exit_codes import ExitCode

_MAX_CONFIG_BYTES = 900_000  # Kubernetes refuses a ConfigMap over 1 MiB
# Fields of the cluster config that are of no use inside of a pod.
_FIELDS_OUTSIDE = {"hosts", "hostfile", "ssh_config", "python", "slurm", "kubernetes"}


def render_kubernetes_manifest(config: RunConfig, cluster: ClusterConfig) -> str:
    """Return the manifest as YAML documents. Raises ConfigError."""
    return dump_yaml_documents(manifest_documents(config, cluster))


def manifest_documents(config: RunConfig, cluster: ClusterConfig) -> list[dict[str, Any]]:
    """Return the manifest's objects. A JobSet makes its service itself. Raises ConfigError."""
    kubernetes = cluster.kubernetes
    if kubernetes is None:
        raise ConfigError("backend kubernetes: needs cluster.kubernetes with `image` and `claim`: see docs/config.md")
    name = object_name(config.name)
    metadata = {
        "name": name,
        "namespace": kubernetes.namespace,
        "labels": _labels(name),
        "annotations": {"llama-dist/run": config.name},
    }
    job = _job_spec(config, cluster, kubernetes, name)
    files = _config_map(config, cluster, kubernetes)
    documents: list[dict[str, Any]] = [{"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": files}]
    if kubernetes.jobset:
        api = {"apiVersion": "jobset.x-k8s.io/v1alpha2", "kind": "JobSet"}
        return [*documents, api | {"metadata": metadata, "spec": _jobset_spec(job, name)}]
    documents.append({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": _service_spec(name)})
    return [*documents, {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": job}]


def _labels(name: str) -> dict[str, str]:
    return {"app.kubernetes.io/name": "llama-dist", "app.kubernetes.io/instance": name}


def _config_map(config: RunConfig, cluster: ClusterConfig, kubernetes: KubernetesConfig) -> dict[str, str]:
    """Return the two files that the pods launch with: one process in each has been started already."""
    inside = cluster.model_dump(mode="json", exclude=_FIELDS_OUTSIDE) | {"backend": "started"}
    inside["num_processes_per_node"] = cluster.num_processes_per_node or kubernetes.gpus_per_pod or None
    files = {"run.yaml": dump_yaml(dump_config(config)), "cluster.yaml": dump_yaml(inside)}
    num_bytes = sum(len(text.encode()) for text in files.values())
    if num_bytes > _MAX_CONFIG_BYTES:
        raise ConfigError(f"the config takes {num_bytes} bytes, and a ConfigMap holds {_MAX_CONFIG_BYTES}: shorten it")
    return files


def _service_spec(name: str) -> dict[str, Any]:
    """Give each pod a name in DNS, also before it is ready: they must meet to become so."""
    return {"clusterIP": "None", "publishNotReadyAddresses": True, "selector": _labels(name)}


def _job_spec(config: RunConfig, cluster: ClusterConfig, kubernetes: KubernetesConfig, name: str) -> dict[str, Any]:
    return {
        "completionMode": "Indexed",
        "completions": kubernetes.num_nodes,
        "parallelism": kubernetes.num_nodes,
        "backoffLimit": kubernetes.max_pod_failures,
        "podFailurePolicy": {"rules": _failure_rules()},
        "template": {"metadata": {"labels": _labels(name)}, "spec": pod_spec(config, cluster, kubernetes, name)},
    }


def _failure_rules() -> list[dict[str, Any]]:
    """Say what the exit codes mean; the first rule that fits decides, and other failures count.

    A pod that was stopped from outside has saved: another one takes its place and goes on.
    """
    return [
        _on_exit_codes("FailJob", ExitCode.OUR_BUG, ExitCode.STORAGE, ExitCode.BAD_INPUT),
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        _on_exit_codes("Ignore", ExitCode.STOPPED),
        _on_exit_codes("Count", ExitCode.RETRY),
    ]


def _on_exit_codes(action: str, *codes: ExitCode) -> dict[str, Any]:
    values = sorted(int(code) for code in codes)
    return {"action": action, "onExitCodes": {"containerName": CONTAINER, "operator": "In", "values": values}}


def _jobset_spec(job: dict[str, Any], name: str) -> dict[str, Any]:
    return {
        "network": {"enableDNSHostnames": True, "subdomain": name, "publishNotReadyAddresses": True},
        "replicatedJobs": [{"name": REPLICATED_JOB, "replicas": 1, "template": {"spec": job}}],
    }
