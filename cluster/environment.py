"""The environment of a run's processes, as a pure function of the machine, the plan and the caller's environment.

Nothing is inherited by accident: what is not set here or named in an allow list does not reach a process.
Sets nothing itself.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from cluster.facts import MachineFacts

FROM_CALLER = "from the calling environment"

_PASSED_NAMES = frozenset(
    {
        *("PATH", "HOME", "USER", "LOGNAME", "LANG", "LANGUAGE", "TZ", "TMPDIR", "XDG_CACHE_HOME"),
        *("PYTHONPATH", "PYTHONPYCACHEPREFIX", "PYTHONHASHSEED", "VIRTUAL_ENV", "LD_LIBRARY_PATH", "LD_PRELOAD"),
        *("CC", "CXX", "MAX_JOBS"),  # DeepSpeed compiles its CPU communication op at first use
    }
)
_PASSED_PREFIXES = (
    *("LC_", "CUDA_", "NVIDIA_", "NCCL_", "UCX_", "FI_", "GLOO_", "TORCH_", "TORCHINDUCTOR_", "TRITON_", "PYTORCH_"),
    *("DS_", "OMP_", "GOMP_", "KMP_", "MKL_", "MALLOC_"),
)
# The metrics shipper alone talks to a server: only it gets what the talk needs.
_SHIPPER_NAMES = frozenset(
    {
        *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"),
        *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"),
    }
)
_SHIPPER_PREFIXES = ("MLFLOW_",)

_SECRET_NAME = re.compile(r"TOKEN|PASSWORD|PASSWD|SECRET|CREDENTIAL|(^|_)(API_?)?KEY(_|$)|(^|_)AUTH", re.IGNORECASE)
_REFERENCE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_USER_INFO = re.compile(r"(?<=://)[^/@\s]+(?=@)")
MASK = "***"
FLIGHT_RECORDER_STEM = "collectives_rank_"
"""The recorder of a rank writes the file `<stem><rank>`, and listens to the pipe `<stem><rank>.pipe`, of its logs."""


@dataclass(frozen=True)
class Variable:
    """One environment variable, and why it is there."""

    name: str
    value: str
    reason: str
    is_secret: bool = False


def worker_environment(
    facts: MachineFacts, num_processes: int, log_directory: Path, caller: Mapping[str, str], interface: str = "lo"
) -> tuple[Variable, ...]:
    """Everything that a rank sees, apart from what torchrun adds (RANK, WORLD_SIZE, MASTER_ADDR and the like).

    `num_processes` share the machine; ranks meet on the network `interface`, or where it is empty on the one that the
    host's name leads to. A variable of the caller's that the allow list names wins over ours,
    so that a user can tune what they know better.
    """
    ours = [*_python(), *_threads(facts, num_processes), *_allocator(), *_gloo(interface)]
    ours += _cuda(log_directory, interface) if facts.gpus else _cpu()
    return _merge(ours, caller, _PASSED_NAMES, _PASSED_PREFIXES)


def shipper_environment(caller: Mapping[str, str], tracking_uri: str | None) -> tuple[Variable, ...]:
    """Everything that the metrics shipper sees: MLflow's settings and credentials reach it and no rank.

    A variable that the tracking address names as `${NAME}` is passed on; such are secrets, and masked.
    """
    named = frozenset(_REFERENCE.findall(tracking_uri or ""))
    ours = [
        *_python(),
        Variable("OMP_NUM_THREADS", "1", "the shipper computes nothing: leave the cores to the ranks"),
        Variable("MLFLOW_DISABLE_TELEMETRY", "true", "nothing about a run leaves the machine unasked"),
    ]
    merged = _merge(ours, caller, _PASSED_NAMES | _SHIPPER_NAMES | named, _PASSED_PREFIXES + _SHIPPER_PREFIXES)
    return tuple(replace(each, is_secret=True) if each.name in named else each for each in merged)


def as_mapping(variables: tuple[Variable, ...]) -> dict[str, str]:
    """Return the variables as a process start takes them."""
    return {variable.name: variable.value for variable in variables}


def masked(variables: tuple[Variable, ...]) -> tuple[Variable, ...]:
    """Return what may be shown or written down: no password, token or key, nor a user name inside an address."""
    return tuple(replace(each, value=_mask(each)) for each in variables)


def _mask(variable: Variable) -> str:
    """Hide the whole value of a secret, and the user's part of any address."""
    if variable.is_secret or _SECRET_NAME.search(variable.name):
        return MASK
    return mask_addresses(variable.value)


def mask_addresses(text: str) -> str:
    """Hide `user:password` in every `scheme://user:password@host` of `text`."""
    return _USER_INFO.sub(MASK, text)


def _merge(
    ours: list[Variable], caller: Mapping[str, str], names: frozenset[str], prefixes: tuple[str, ...]
) -> tuple[Variable, ...]:
    passed = {name: value for name, value in caller.items() if name in names or name.startswith(prefixes)}
    merged = {variable.name: variable for variable in ours}
    merged |= {name: Variable(name, value, FROM_CALLER) for name, value in passed.items()}
    return tuple(merged[name] for name in sorted(merged))


def _python() -> list[Variable]:
    return [
        Variable("PYTHONUNBUFFERED", "1", "a line is in the log when it was printed, also before a kill"),
        Variable("PYTHONFAULTHANDLER", "1", "a crash in native code leaves the Python stack in the log"),
    ]


def _threads(facts: MachineFacts, num_processes: int) -> list[Variable]:
    threads = max(1, facts.num_cores // num_processes)
    return [Variable("OMP_NUM_THREADS", str(threads), f"{facts.num_cores} cores over {num_processes} process(es)")]


def _allocator() -> list[Variable]:
    """Keep glibc's freed memory in the process; it must be set before Python starts.

    With its defaults glibc maps every block above 32 MiB anew and gives it back when freed, so each logits tensor
    is page-faulted again in each micro-batch. A loop of 512 x 32000 fp32 logits: 1,601,000 page faults by default
    and with a threshold of 32 MiB (the largest that glibc adapts to by itself), 32,000 with these.
    The price is that a rank keeps its peak memory.
    """
    never = str(1 << 40)
    return [
        Variable("MALLOC_MMAP_THRESHOLD_", never, "large tensors come from the heap, whose pages are mapped already"),
        Variable("MALLOC_TRIM_THRESHOLD_", never, "the heap is not given back between steps, only to grow again"),
        Variable("MALLOC_TOP_PAD_", str(64 << 20), "the heap grows by 64 MiB at a time: fewer system calls"),
    ]


def _gloo(interface: str) -> list[Variable]:
    return [Variable("GLOO_SOCKET_IFNAME", interface, _why(interface))] if interface else []


def _why(interface: str) -> str:
    if interface == "lo":
        return "one machine: no name lookup and no other interface"
    return "where the node's address is: no name lookup, and no interface that leads elsewhere"


def _cpu() -> list[Variable]:
    return [Variable("DS_ACCELERATOR", "cpu", "no GPU here: DeepSpeed must not look for one")]


def _cuda(log_directory: Path, interface: str) -> list[Variable]:
    stem = str(log_directory / FLIGHT_RECORDER_STEM)
    return [
        *([Variable("NCCL_SOCKET_IFNAME", interface, f"NCCL's bootstrap; {_why(interface)}")] if interface else []),
        Variable("TORCH_NCCL_ASYNC_ERROR_HANDLING", "3", "a collective that failed ends the rank instead of hanging"),
        Variable("TORCH_FR_BUFFER_SIZE", "2000", "flight recorder: the last 2000 collectives of each rank"),
        Variable("TORCH_NCCL_DUMP_ON_TIMEOUT", "1", "a time-out writes the flight recorder down"),
        Variable("TORCH_FR_DUMP_TEMP_FILE", stem, "beside the rank's log"),
        Variable("TORCH_NCCL_DEBUG_INFO_PIPE_FILE", stem, "the supervisor asks through it what a hung rank waits for"),
    ]
