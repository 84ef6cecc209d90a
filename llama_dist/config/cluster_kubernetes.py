"""What a job needs to run on Kubernetes. Every value is checked for what the manifest makes of it; nothing is sent."""

import re
from typing import Annotated

from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError

from data_pipeline.config import StrictModel

_LABEL = r"[a-z0-9]+(-+[a-z0-9]+)*"
_SUBDOMAIN = rf"^{_LABEL}(\.{_LABEL})*$"
_QUANTITY = r"^[0-9]{1,12}(\.[0-9]{1,3})?(m|[kMGTPE]|[KMGTPE]i)?$"
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SECRET_KEY = re.compile(r"[A-Za-z0-9._-]{1,253}")
# The manifest sets these itself, and so does Kubernetes.
_OWN_VARIABLES = re.compile(r"LLAMA_DIST_.*|JOB_COMPLETION_INDEX|KUBERNETES_.*|HOSTNAME")

DnsSubdomain = Annotated[str, Field(pattern=_SUBDOMAIN, max_length=253)]
Quantity = Annotated[str, Field(pattern=_QUANTITY)]


class KubernetesConfig(StrictModel):
    """An Indexed Job, one pod a node. `llama-dist launch` prints its manifest, for `kubectl apply`."""

    image: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/:@-]{0,499}$")]
    """Container image with llama-dist installed, by tag or digest."""

    claim: DnsSubdomain
    """PersistentVolumeClaim that every pod mounts (ReadWriteMany): runs and data lie on it."""

    mount_path: Annotated[str, Field(pattern=r"^(/[A-Za-z0-9_-][A-Za-z0-9._-]*)+$", max_length=200)] = "/shared"
    """Where the claim is mounted. Relative paths of the run file, as `runs_directory`, start here."""

    namespace: Annotated[str, Field(pattern=rf"^{_LABEL}$", max_length=63)] = "default"
    """Namespace of everything in the manifest."""

    num_nodes: Annotated[int, Field(ge=1, le=10_000)] = 1
    """Pods of the job, each a node with its worker processes, spare ones included."""

    gpus_per_pod: Annotated[int, Field(ge=0)] = 0
    """GPUs of a pod, a worker process for each, asked for as `nvidia.com/gpu`."""

    cpu: Quantity | None = None
    """CPU cores of a pod, as a Kubernetes quantity like `64`."""

    memory: Quantity | None = None
    """Memory of a pod, as a Kubernetes quantity like `512Gi`; what lies in `/dev/shm` counts as well."""

    service_account: DnsSubdomain | None = None
    """Service account of the pods; by default the namespace's. Its token is not mounted: no pod talks to Kubernetes."""

    jobset: bool = False
    """Whether the job is wrapped into a JobSet, for clusters that place those as a whole."""

    max_pod_failures: Annotated[int, Field(ge=0)] = 100
    """Lost worker pods after which Kubernetes gives the job up, over its whole life; disruptions do not count."""

    startup_timeout_minutes: Annotated[int, Field(ge=1)] = 60
    """Minutes that a started pod may wait for the others before it is replaced."""

    secret_environment: dict[str, str] = Field(default_factory=dict)
    """Environment variables from secrets: name to `SECRET/KEY`. The manifest holds no value of a secret."""

    join_key_secret: str | None = None
    """`SECRET/KEY` of the key by which the pods know each other, in `LLAMA_DIST_JOIN_KEY`."""

    @field_validator("secret_environment")
    @classmethod
    def _check_secrets(cls, secrets: dict[str, str]) -> dict[str, str]:
        faults = [fault for name in secrets if (fault := _name_fault(name))]
        faults += [f"{name}: {fault}" for name, place in secrets.items() if (fault := _place_fault(place))]
        if faults:
            raise _unshown("; ".join(faults))
        return secrets

    @field_validator("join_key_secret")
    @classmethod
    def _check_join_key(cls, place: str | None) -> str | None:
        fault = None if place is None else _place_fault(place)
        if fault:
            raise _unshown(fault)
        return place


def _name_fault(name: str) -> str | None:
    if not _VARIABLE.fullmatch(name):
        return f"{name[:80]!a} is no name of an environment variable"
    if _OWN_VARIABLES.fullmatch(name):
        return f"{name} is set by the manifest or by Kubernetes: choose another name"
    return None


def _unshown(fault: str) -> PydanticCustomError:
    """Return an error that does not show the value: it may be a secret that was put there by mistake."""
    return PydanticCustomError("secret", "{fault}", {"fault": fault})


def _place_fault(place: str) -> str | None:
    """Say what is wrong with `SECRET/KEY`."""
    secret, _, key = place.partition("/")
    if len(secret) <= 253 and re.fullmatch(_SUBDOMAIN, secret) and _SECRET_KEY.fullmatch(key):
        return None
    return "a secret is given as SECRET/KEY, the name of a Secret and of a key in it, never by its value"
