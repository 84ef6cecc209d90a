"""Verdicts on each node's GPUs, memory, idleness and clock. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from launcher.doctor.node_facts import Hardware
from launcher.doctor.result import CheckResult, Verdict, join_hosts, summed_up
from launcher.doctor.software_checks import majority

GPUS = "gpus"
GPU_ERRORS = "gpu errors"
IDLE = "idle"
MEMORY = "memory"
CLOCK = "clock"

_HERE = ""  # among the names of nodes
_GIB = 1 << 30
# A driver without any process holds some hundred MiB of a large GPU.
_BUSY_GPU_BYTES = 1 * _GIB
_BUSY_GPU_PERCENT = 10
_BUSY_LOAD_PER_CORE = 0.5
# Logs of several nodes are read side by side; beyond seconds also file times and certificates mislead.
_WARNED_SKEW_SECONDS = 0.5
_FAILED_SKEW_SECONDS = 5.0


@dataclass(frozen=True)
class MemoryNeed:
    """What one rank needs, by the plan's estimate."""

    state_bytes: int
    """Weights, gradients, optimizer: within 10 %."""

    total_bytes: int
    """With the activations: within a factor of 1.5."""

    num_ranks_per_node: int


@dataclass(frozen=True)
class ClockReading:
    """A node's clock, asked at `sent_at` and heard at `received_at` by ours."""

    sent_at: float
    received_at: float
    node_time: float

    @property
    def error_seconds(self) -> float:
        """How far off the skew may be: the node read its clock at some moment in between."""
        return max(0.0, self.received_at - self.sent_at) / 2

    @property
    def skew_seconds(self) -> float:
        """How far the node's clock is ahead of ours."""
        return self.node_time - (self.sent_at + self.received_at) / 2


def check_gpus(nodes: Mapping[str, Hardware], num_processes_per_node: int | None) -> list[CheckResult]:
    """Judge how many GPUs there are, and of which kind: one per rank, the same number and kind on every node."""
    if not any(node.gpus.has_driver_tool for node in nodes.values()):
        return [CheckResult(GPUS, None, "skipped", "no nvidia-smi on any node: the run uses the CPU, over gloo")]
    usual = majority({host: len(node.gpus.gpus) for host, node in nodes.items()})
    needed = usual if num_processes_per_node is None or usual == 0 else num_processes_per_node
    kind = majority({host: _kinds(node) for host, node in nodes.items()})
    findings = {}
    for host, node in nodes.items():
        found = len(node.gpus.gpus)
        if node.gpus.fault:
            advice = "look at `nvidia-smi` and the kernel's log of the node; restart its driver"
            findings[host] = CheckResult(GPUS, host, "failed", node.gpus.fault, advice)
        elif found < needed or (found != usual and num_processes_per_node is None):
            text = f"{found} GPU(s), {needed} needed as on the other nodes"
            findings[host] = CheckResult(GPUS, host, "failed", text, "look for a lost GPU, or leave the node out")
        elif _kinds(node) != kind:
            text = f"{_kinds(node)}, elsewhere {kind}: the slowest sets the pace"
            findings[host] = CheckResult(GPUS, host, "warning", text)
    return summed_up(GPUS, list(nodes), findings, f"{usual} GPU(s) on every node: {kind}")


def check_gpu_errors(nodes: Mapping[str, Hardware]) -> list[CheckResult]:
    """Judge the memory errors that ECC could not correct."""
    counted = {
        host: [gpu for gpu in node.gpus.gpus if gpu.num_uncorrected_errors is not None] for host, node in nodes.items()
    }
    if not any(counted.values()):
        return [CheckResult(GPU_ERRORS, None, "skipped", "no GPU that counts ECC errors")]
    findings = {}
    for host, gpus in counted.items():
        bad = [f"GPU {gpu.index}: {gpu.num_uncorrected_errors}" for gpu in gpus if gpu.num_uncorrected_errors]
        if bad:
            text = f"uncorrected memory errors since the driver was loaded: {', '.join(bad)}"
            findings[host] = CheckResult(GPU_ERRORS, host, "failed", text, "reset the GPU; if they return, replace it")
    return summed_up(GPU_ERRORS, list(nodes), findings, "no uncorrected memory error on any GPU")


def check_idle(nodes: Mapping[str, Hardware]) -> list[CheckResult]:
    """Judge whether somebody else uses the nodes."""
    findings = {}
    for host, node in nodes.items():
        busy = [gpu for gpu in node.gpus.gpus if gpu.used_bytes > _BUSY_GPU_BYTES]
        working = [gpu for gpu in node.gpus.gpus if (gpu.utilization_percent or 0) > _BUSY_GPU_PERCENT]
        if busy:
            used = ", ".join(f"GPU {gpu.index}: {_size(gpu.used_bytes)}" for gpu in busy)
            text = f"memory in use by other processes: {used}"
            findings[host] = CheckResult(IDLE, host, "failed", text, "see whose they are by `nvidia-smi` on the node")
        elif working:
            text = f"GPU {', '.join(str(gpu.index) for gpu in working)} works for other processes"
            findings[host] = CheckResult(IDLE, host, "warning", text, "see whose they are by `nvidia-smi` on the node")
        elif node.load > _BUSY_LOAD_PER_CORE * node.num_cores:
            text = f"load {node.load:.1f} on {node.num_cores} cores: other processes run there"
            findings[host] = CheckResult(IDLE, host, "warning", text, "see whose they are by `top` on the node")
    return summed_up(IDLE, list(nodes), findings, "nothing else works on any node")


def check_memory(nodes: Mapping[str, Hardware], need: MemoryNeed) -> list[CheckResult]:
    """Judge whether the ranks of each node fit: into a GPU each, or together into the free memory of the host."""
    findings = {}
    for host, node in nodes.items():
        on_gpus = bool(node.gpus.gpus)
        num_ranks = 1 if on_gpus else need.num_ranks_per_node
        free = min(gpu.memory_bytes for gpu in node.gpus.gpus) if on_gpus else node.available_bytes
        where = "a GPU" if on_gpus else "free on the host"
        total, state = num_ranks * need.total_bytes, num_ranks * need.state_bytes
        if total > free:
            verdict: Verdict = "failed" if state > free else "warning"
            text = f"{_size(free)} {where}, about {_size(total)} needed ({_size(state)} of it model state)"
            advice = "free it, or take more nodes, a higher ZeRO stage or smaller micro-batches: see `llama-dist plan`"
            findings[host] = CheckResult(MEMORY, host, verdict, text, advice)
    fine = f"about {_size(need.total_bytes)} a rank fits on every node"
    return summed_up(MEMORY, list(nodes), findings, fine)


def check_clocks(readings: Mapping[str, Sequence[ClockReading]]) -> list[CheckResult]:
    """Judge the clocks by the reading with the shortest round trip of each node.

    With two machines or more beside this one the median clock is the reference, so that this host's own may be wrong.
    """
    best = {host: min(some, key=lambda one: one.error_seconds) for host, some in readings.items() if some}
    if not best:
        return [CheckResult(CLOCK, None, "skipped", "no node's clock was read")]
    here = ClockReading(0.0, 0.0, 0.0)
    clocks = {_HERE: here, **best}
    reference = sorted(clocks.values(), key=lambda one: one.skew_seconds)[(len(clocks) - 1) // 2]
    if len(clocks) == 2:
        reference = here
    findings, largest = {}, 0.0
    for host, clock in clocks.items():
        skew, error = clock.skew_seconds - reference.skew_seconds, clock.error_seconds + reference.error_seconds
        largest = max(largest, abs(skew))
        surely = abs(skew) - error
        if surely > _WARNED_SKEW_SECONDS:
            verdict: Verdict = "failed" if surely > _FAILED_SKEW_SECONDS else "warning"
            text = f"clock {abs(skew):.2f} s {'ahead of' if skew > 0 else 'behind'} the others (within {error:.3f} s)"
            about, whose = (None, "this host's ") if host == _HERE else (host, "")
            findings[host] = CheckResult(CLOCK, about, verdict, whose + text, "set it right, for example by chrony")
    error = max(clock.error_seconds for clock in best.values())
    fine = f"no clock is off by more than {largest:.3f} s (read within {error:.3f} s)"
    return summed_up(CLOCK, list(clocks), findings, fine)


def _kinds(node: Hardware) -> str:
    return join_hosts(sorted({f"{gpu.name}, {_size(gpu.memory_bytes)}" for gpu in node.gpus.gpus})) or "none"


def _size(num_bytes: int) -> str:
    return f"{num_bytes / _GIB:.2f} GiB"
