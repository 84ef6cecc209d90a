"""The doctor's verdicts on software, GPUs, memory, idleness, clocks: each planted fault is found, on its node alone."""

from dataclasses import replace

import pytest
from doctor_facts import CPU_NODE, GIB, GPU, HARDWARE, HOSTS, SOFTWARE, found, hello, nodes
from hypothesis import given
from hypothesis import strategies as st

from cluster.gpu_health import GpuSurvey
from launcher.doctor.machine_checks import (
    ClockReading,
    MemoryNeed,
    check_clocks,
    check_gpu_errors,
    check_gpus,
    check_idle,
    check_memory,
)
from launcher.doctor.probe_pool import Loss
from launcher.doctor.reach_checks import check_machines, check_reachable
from launcher.doctor.software_checks import check_code, check_config, check_packages

one_host = st.sampled_from(HOSTS)


def gpus_of(**changes):
    return {"gpus": GpuSurvey(True, None, (GPU, replace(GPU, index=1, **changes)))}


def test_healthy_nodes_give_one_good_finding_a_check():
    machines, software = nodes(HARDWARE), nodes(SOFTWARE)
    results = [
        check_reachable(HOSTS, {}, {}, 0.5),
        check_machines({host: hello(host) for host in HOSTS}),
        check_code(SOFTWARE, software),
        check_packages(software),
        check_config({"/a.yaml": "1"}, [], {host: {"/a.yaml": "1"} for host in HOSTS}),
        check_gpus(machines, 2),
        check_gpu_errors(machines),
        check_idle(machines),
        check_memory(machines, MemoryNeed(2 * GIB, 4 * GIB, 2)),
        check_clocks({host: [ClockReading(0.0, 0.1, 0.05)] for host in HOSTS}),
    ]
    assert [[(one.host, one.verdict) for one in some] for some in results] == [[(None, "ok")]] * len(results)


def test_every_lost_node_is_listed_at_once_with_what_was_said_and_what_to_do():
    lost = {
        "node1": Loss("ended", 255, "ssh: Could not resolve hostname node1: Name or service not known"),
        "node2": Loss("ended", 255, "ssh: connect to host node2 port 22: Connection refused"),
        "node3": Loss("silent", None, ""),
    }
    results = check_reachable(HOSTS, lost, {"node4": "`software` is None"}, 20.0)
    assert found(results) == list(HOSTS)
    assert all(result.advice for result in results)
    assert "Could not resolve" in results[0].text and "255" in results[0].text
    assert "another revision" in results[3].advice


def test_two_names_of_one_machine_are_told():
    hellos = {host: hello(host) for host in HOSTS}
    hellos["node4"] = replace(hello("node4"), machine="boot-node2")
    assert found(check_machines(hellos)) == ["node4"]


@given(one_host)
def test_a_node_with_other_sources_is_named(host):
    assert found(check_code(SOFTWARE, nodes(SOFTWARE, **{host: {"code_hash": "b" * 64}}))) == [host]


def test_code_is_compared_with_the_launcher_and_not_with_the_majority():
    assert found(check_code(replace(SOFTWARE, code_hash="b" * 64), nodes(SOFTWARE))) == list(HOSTS)


@given(one_host, st.sampled_from(["torch", "deepspeed"]), st.sampled_from(["1.0", None]))
def test_a_node_with_another_torch_or_deepspeed_or_without_is_named(host, package, version):
    changed = {host: {"packages": {**SOFTWARE.packages, package: version}}}
    results = check_packages(nodes(SOFTWARE, **changed))
    assert found(results) == [host]
    assert package in results[0].text


@pytest.mark.parametrize(("python", "verdict"), [("3.12.1", "failed"), ("3.11.9", "warning")])
def test_another_python_is_a_fault_and_another_patch_level_a_warning(python, verdict):
    assert found(check_packages(nodes(SOFTWARE, node3={"python": python})), verdict) == ["node3"]


def test_another_copy_of_a_config_is_a_warning_and_a_fault_in_the_run_directory():
    seen = {host: {"/a.yaml": "1", "/runs/r/run.yaml": "2"} for host in HOSTS}
    seen["node2"] = {"/a.yaml": "other", "/runs/r/run.yaml": "2"}
    seen["node3"] = {"/a.yaml": None, "/runs/r/run.yaml": "other"}
    results = check_config({"/a.yaml": "1", "/runs/r/run.yaml": "2"}, ["/runs/r/run.yaml"], seen)
    assert found(results, "warning") == ["node2"]
    assert found(results) == ["node3"]


@given(one_host)
def test_a_node_with_fewer_gpus_is_named(host):
    machines = nodes(HARDWARE, **{host: {"gpus": GpuSurvey(True, None, (GPU,))}})
    assert found(check_gpus(machines, None)) == [host]
    assert found(check_gpus(machines, 2)) == [host]
    assert found(check_gpus(machines, 1)) == []


def test_a_driver_that_does_not_answer_and_a_node_without_gpus_are_named():
    machines = nodes(
        HARDWARE,
        node2={"gpus": GpuSurvey(True, "nvidia-smi gave no answer in 20 s", ())},
        node3={"gpus": CPU_NODE.gpus},
    )
    results = check_gpus(machines, None)
    assert found(results) == ["node2", "node3"]
    assert "no answer in 20 s" in results[0].text


def test_a_cluster_without_gpus_is_no_fault():
    assert [one.verdict for one in check_gpus(nodes(CPU_NODE), 2)] == ["skipped"]
    assert [one.verdict for one in check_gpu_errors(nodes(CPU_NODE))] == ["skipped"]


def test_a_smaller_gpu_is_a_warning():
    assert found(check_gpus(nodes(HARDWARE, node4=gpus_of(memory_bytes=40 * GIB)), 2), "warning") == ["node4"]


@given(one_host, st.integers(1, 1000))
def test_uncorrected_memory_errors_are_named(host, count):
    results = check_gpu_errors(nodes(HARDWARE, **{host: gpus_of(num_uncorrected_errors=count)}))
    assert found(results) == [host]
    assert f"GPU 1: {count}" in results[0].text


def test_a_gpu_in_use_is_a_fault_and_a_busy_processor_a_warning():
    machines = nodes(
        HARDWARE, node1=gpus_of(used_bytes=30 * GIB), node2={"load": 12.0}, node3=gpus_of(utilization_percent=90)
    )
    assert found(check_idle(machines)) == ["node1"]
    assert found(check_idle(machines), "warning") == ["node2", "node3"]


def test_model_state_that_does_not_fit_is_a_fault_and_activations_beyond_a_warning():
    machines = nodes(CPU_NODE, node1={"available_bytes": 3 * GIB}, node2={"available_bytes": 6 * GIB})
    results = check_memory(machines, MemoryNeed(2 * GIB, 4 * GIB, 2))
    assert found(results) == ["node1"]
    assert found(results, "warning") == ["node2"]
    small = nodes(HARDWARE, node4=gpus_of(memory_bytes=1 * GIB))
    assert found(check_memory(small, MemoryNeed(2 * GIB, 4 * GIB, 2))) == ["node4"]


@given(
    one_host,
    st.floats(6.0, 1e6),
    st.sampled_from([-1, 1]),
    st.lists(st.floats(0.0, 0.4), min_size=1, max_size=5),
    st.floats(0.0, 1.0),
)
def test_a_wrong_clock_is_found_whatever_the_way_there_takes(host, skew, sign, round_trips, share):
    """The node reads its clock anywhere in the round trip: that may blur the skew by half of it, and no more."""

    def readings(offset):
        return [ClockReading(100.0, 100.0 + trip, 100.0 + trip * share + offset) for trip in round_trips]

    clocks = {one: readings(sign * skew if one == host else 0.0) for one in HOSTS}
    assert found(check_clocks(clocks)) == [host]


def test_a_slow_way_alone_is_no_skew():
    assert found(check_clocks({host: [ClockReading(0.0, 30.0, 30.0)] for host in HOSTS}), "ok") == [None]


def test_this_hosts_own_wrong_clock_is_found_by_the_nodes_agreement():
    results = check_clocks({host: [ClockReading(0.0, 0.01, 99.0)] for host in HOSTS})
    assert found(results) == [None] and "this host's clock" in results[0].text
