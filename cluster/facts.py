"""What this machine has: cores, memory, GPUs, name. Reads only; starts nothing but `nvidia-smi`'s query."""

import math
import os
import shutil
import socket
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_QUERY = ("--query-gpu=index,name,memory.total", "--format=csv,noheader,nounits")
_QUERY_TIMEOUT_SECONDS = 20.0  # the first query loads the driver, which takes seconds on a machine of 8 GPUs


@dataclass(frozen=True)
class Gpu:
    """One GPU that the run may use."""

    index: int
    name: str
    memory_bytes: int


@dataclass(frozen=True)
class MachineFacts:
    """One machine, as far as this process may use it."""

    host: str
    num_cores: int
    memory_bytes: int
    gpus: tuple[Gpu, ...]

    address: str = ""
    """IP address by which the other nodes reach it; empty where there are none."""

    interface: str = ""
    """Network interface with that address."""


def read_machine_facts(environment: Mapping[str, str]) -> MachineFacts:
    """Look at this machine; `environment` gives PATH for `nvidia-smi` and CUDA_VISIBLE_DEVICES."""
    control_group = Path("/sys/fs/cgroup")
    return MachineFacts(
        host=socket.gethostname(),
        num_cores=_num_cores(control_group / "cpu.max"),
        memory_bytes=_memory_bytes(Path("/proc/meminfo"), control_group / "memory.max"),
        gpus=visible_gpus(_query_gpus(environment), environment.get("CUDA_VISIBLE_DEVICES")),
    )


def visible_gpus(gpus: tuple[Gpu, ...], visible: str | None) -> tuple[Gpu, ...]:
    """Keep those that CUDA_VISIBLE_DEVICES names by number; CUDA stops reading at the first unknown one."""
    if visible is None:
        return gpus
    by_index = {str(gpu.index): gpu for gpu in gpus}
    kept: list[Gpu] = []
    for name in visible.split(","):
        if name.strip().startswith(("GPU-", "MIG-")):
            return gpus[: len(visible.split(","))]  # named by UUID: the count is what the plan needs
        gpu = by_index.get(name.strip())
        if gpu is None:
            break
        kept.append(gpu)
    return tuple(kept)


def parse_gpus(csv: str) -> tuple[Gpu, ...]:
    """Read `index, name, MiB` lines; a GPU whose memory is not a number (a failing one) is left out."""
    gpus = []
    for line in csv.splitlines():
        fields = [field.strip() for field in line.split(",")]
        if len(fields) == 3 and fields[0].isdigit() and fields[2].isdigit():
            gpus.append(Gpu(int(fields[0]), fields[1], int(fields[2]) << 20))
    return tuple(gpus)


def _query_gpus(environment: Mapping[str, str]) -> tuple[Gpu, ...]:
    program = shutil.which("nvidia-smi", path=environment.get("PATH", os.defpath))
    if program is None:
        return ()
    try:
        answer = subprocess.run(
            [program, *_QUERY], capture_output=True, text=True, timeout=_QUERY_TIMEOUT_SECONDS, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ()  # a driver that does not answer gives no usable GPU
    return parse_gpus(answer.stdout)


def _num_cores(quota_file: Path) -> int:
    """Cores of the affinity mask, cut by a container's CPU quota."""
    cores = len(os.sched_getaffinity(0))
    quota, _, period = _read(quota_file).partition(" ")
    if quota.isdigit() and period.strip().isdigit():
        cores = min(cores, math.ceil(int(quota) / int(period)))
    return max(1, cores)


def _memory_bytes(meminfo: Path, limit_file: Path) -> int:
    """Physical memory, cut by a container's limit."""
    total = next((line for line in _read(meminfo).splitlines() if line.startswith("MemTotal:")), "MemTotal: 0 kB")
    memory = int(total.split()[1]) << 10
    limit = _read(limit_file).strip()
    return min(memory, int(limit)) if limit.isdigit() else memory


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
