import os
import socket

import pytest

from cluster.facts import Gpu, parse_gpus, read_machine_facts, visible_gpus
from cluster.ports import port_is_free

TWO_GPUS = (Gpu(0, "NVIDIA H100 80GB HBM3", 81559 << 20), Gpu(1, "NVIDIA H100 80GB HBM3", 81559 << 20))


def test_this_machine_has_a_name_cores_and_memory():
    facts = read_machine_facts({"PATH": ""})
    assert facts.host == socket.gethostname()
    assert 1 <= facts.num_cores <= len(os.sched_getaffinity(0))
    assert facts.memory_bytes > 1 << 27
    assert facts.gpus == ()  # no nvidia-smi on an empty PATH


def test_cores_follow_the_affinity_mask():
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert read_machine_facts({"PATH": ""}).num_cores == 1
    finally:
        os.sched_setaffinity(0, allowed)


def test_nvidia_smi_is_asked_by_an_argument_list_and_a_failing_one_means_no_gpu(tmp_path):
    program = tmp_path / "nvidia-smi"
    program.write_text('#!/bin/sh\necho "0, NVIDIA H100 80GB HBM3, 81559"\necho "1, NVIDIA H100 80GB HBM3, 81559"\n')
    program.chmod(0o755)
    assert read_machine_facts({"PATH": str(tmp_path)}).gpus == TWO_GPUS
    assert read_machine_facts({"PATH": str(tmp_path), "CUDA_VISIBLE_DEVICES": "1"}).gpus == TWO_GPUS[1:]
    program.write_text("#!/bin/sh\nexit 9\n")
    assert read_machine_facts({"PATH": str(tmp_path)}).gpus == ()


def test_a_gpu_without_a_memory_size_is_left_out():
    assert parse_gpus("0, NVIDIA A100, [N/A]\n1, NVIDIA H100 80GB HBM3, 81559\n") == TWO_GPUS[1:]
    assert parse_gpus("No devices were found\n") == ()


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        (None, TWO_GPUS),
        ("", ()),
        ("-1", ()),
        ("1,0", TWO_GPUS[::-1]),
        ("0,7,1", TWO_GPUS[:1]),
        ("GPU-8932f937", TWO_GPUS[:1]),
    ],
)
def test_visible_devices_are_read_as_cuda_reads_them(visible, expected):
    assert visible_gpus(TWO_GPUS, visible) == expected


def test_a_port_with_a_listener_is_not_free():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(1)
        port = server.getsockname()[1]
        assert not port_is_free(port)
    assert port_is_free(port)
