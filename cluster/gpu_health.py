"""Whether the GPUs of this machine are whole and idle, as `nvidia-smi` says. Reads only."""

import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass

from cluster.facts import Gpu, visible_gpus

_FIELDS = (
    "index",
    "name",
    "memory.total",
    "memory.used",
    "utilization.gpu",
    "ecc.errors.uncorrected.volatile.total",
)
_TIMEOUT_SECONDS = 20.0  # the first query loads the driver, which takes seconds on a machine of 8 GPUs
_MAX_SAID_CHARACTERS = 300


@dataclass(frozen=True)
class GpuHealth:
    """One GPU that the run may use."""

    index: int
    name: str
    memory_bytes: int
    used_bytes: int
    utilization_percent: int | None
    num_uncorrected_errors: int | None
    """ECC errors since the driver was loaded; None where the GPU has no ECC or it is off."""


@dataclass(frozen=True)
class GpuSurvey:
    """What the machine says of its GPUs."""

    has_driver_tool: bool
    """Whether there is an `nvidia-smi`."""

    fault: str | None
    """Why it gave no answer."""

    gpus: tuple[GpuHealth, ...]


def survey_gpus(environment: Mapping[str, str]) -> GpuSurvey:
    """Ask `nvidia-smi` once; `environment` gives PATH and CUDA_VISIBLE_DEVICES."""
    program = shutil.which("nvidia-smi", path=environment.get("PATH", os.defpath))
    if program is None:
        return GpuSurvey(has_driver_tool=False, fault=None, gpus=())
    command = [program, f"--query-gpu={','.join(_FIELDS)}", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return GpuSurvey(True, f"nvidia-smi gave no answer in {_TIMEOUT_SECONDS:.0f} s", ())
    except OSError as error:
        return GpuSurvey(True, f"nvidia-smi cannot be started: {error.strerror}", ())
    if answer.returncode != 0:
        said = " ".join((answer.stdout + answer.stderr).split())[:_MAX_SAID_CHARACTERS]
        return GpuSurvey(True, f"nvidia-smi ended with {answer.returncode}: {said}", ())
    return _survey_of(parse_gpu_health(answer.stdout), environment.get("CUDA_VISIBLE_DEVICES"))


def parse_gpu_health(csv: str) -> tuple[tuple[GpuHealth, ...], tuple[str, ...]]:
    """Read the lines of `nvidia-smi`; answers the GPUs, and the lines of those that give no numbers: failing ones."""
    gpus, failing = [], []
    for line in csv.splitlines():
        fields = [field.strip() for field in line.split(",")]
        if len(fields) == len(_FIELDS) and fields[0].isdigit() and fields[2].isdigit() and fields[3].isdigit():
            index, name, total, used, utilization, errors = fields
            gpus.append(
                GpuHealth(int(index), name, int(total) << 20, int(used) << 20, _number(utilization), _number(errors))
            )
        elif line.strip():
            failing.append(" ".join(line.split())[:_MAX_SAID_CHARACTERS])
    return tuple(gpus), tuple(failing)


def _survey_of(parsed: tuple[tuple[GpuHealth, ...], tuple[str, ...]], visible: str | None) -> GpuSurvey:
    gpus, failing = parsed
    plain = tuple(Gpu(gpu.index, gpu.name, gpu.memory_bytes) for gpu in gpus)
    kept = {gpu.index for gpu in visible_gpus(plain, visible)}
    fault = f"nvidia-smi gives no numbers for a GPU: {'; '.join(failing)}" if failing else None
    return GpuSurvey(True, fault, tuple(gpu for gpu in gpus if gpu.index in kept))


def _number(text: str) -> int | None:
    """A number, or None for `[N/A]` and the like."""
    return int(text) if text.isdigit() else None
