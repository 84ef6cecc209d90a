"""Facts of nodes that are well, for the doctor's verdicts: a test changes what it is about."""

from dataclasses import replace

from cluster.gpu_health import GpuHealth, GpuSurvey
from cluster.software import SoftwareFacts
from launcher.doctor.node_facts import Dataset, Hardware, Hello, Place

GIB = 1 << 30
HOSTS = ("node1", "node2", "node3", "node4")

SOFTWARE = SoftwareFacts(
    python="3.11.7",
    executable="/venv/bin/python",
    packages={"torch": "2.13.0", "deepspeed": "0.19.8", "numpy": "2.4.6"},
    code_directory="/opt/llama-dist",
    code_hash="a" * 64,
    git_revision="c" * 40,
    git_dirty=False,
)
GPU = GpuHealth(0, "NVIDIA H100", 80 * GIB, 4 << 20, 0, 0)
HARDWARE = Hardware(16, 128 * GIB, 120 * GIB, 0.2, GpuSurvey(True, None, (GPU, replace(GPU, index=1))))
CPU_NODE = replace(HARDWARE, gpus=GpuSurvey(False, None, ()))
PLACE = Place("", "/shared/runs", True, 500 * GIB, 0)
DATASET = Dataset("", "f" * 32, "m" * 64, 12, 3 * GIB)


def hello(host: str) -> Hello:
    return Hello(host, f"boot-{host}", SOFTWARE)


def nodes(facts, **changes):
    """Return the facts for every host, with other values for those named."""
    return {host: replace(facts, **changes.get(host, {})) for host in HOSTS}


def found(results, verdict="failed"):
    """Return the hosts with a verdict of that kind."""
    return [result.host for result in results if result.verdict == verdict]
