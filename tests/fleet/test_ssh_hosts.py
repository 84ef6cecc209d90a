"""Three real hosts over real ssh, their ranks fake workers: what breaks is named, and the run goes on or ends."""

import json
import os
import signal
import time

import psutil
import pytest
from cluster_in_a_box import skip_unless_possible

from launcher.lab.faults import cut, mend
from launcher.lab.node_processes import pids_in
from launcher.records import process_is_alive

pytestmark = pytest.mark.cluster
ENDLESS = {"steps": 100_000, "save_every": 5}


def reason_of(run, attempt):
    return run.json(f"attempts/{attempt:04d}/exit.json")["reason"]


def beats(run, attempt, ranks):
    return [run.wait_for(f"heartbeats/rank_{rank:05d}.json", attempt=attempt, phase="train") for rank in ranks]


def wait_until(condition, seconds=20.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.05)


def nothing_left(lab, before):
    return all(pids_in(node.namespace) == before[node.name] for node in lab.nodes)


def daemons_of(lab):
    return {node.name: pids_in(node.namespace) for node in lab.nodes}


def test_ranks_stand_where_the_plan_says_and_nothing_is_left_on_the_hosts(lab, fake_run, over_ssh):
    before = daemons_of(lab)
    fake_run.num_processes = 2
    fake_run.script({"steps": 20})
    code, output = fake_run.launch(*over_ssh, "parallel.pipeline_stages=2")
    assert code == 0, output
    plan = fake_run.json("attempts/0001/plan.json")
    places = {place["rank"]: (place["host"], place["pp_stage"]) for place in plan["ranks"]}
    assert list(places.values()) == [(f"node{1 + rank // 2}", rank // 3) for rank in range(6)]
    for rank, (host, _) in places.items():
        assert fake_run.json(f"attempts/0001/exits/rank_{rank:05d}.json")["host"] == host
    wait_until(lambda: nothing_left(lab, before))


def test_each_fault_is_named_with_its_host_and_the_run_goes_on_to_its_end(lab, fake_run, over_ssh):
    """One rank killed, a rank stopped, one that holds the interpreter's lock: an attempt each."""
    before = daemons_of(lab)
    fake_run.script(
        ENDLESS | {"ranks": {"1": {"kill_at": 20}}},
        ENDLESS | {"ranks": {"2": {"stop_after": 60}}},
        ENDLESS | {"ranks": {"0": {"hold_gil_after": 60}}},
        {"steps": 0},
    )
    limits = ("supervision.max_attempts_without_progress=9", "supervision.hang_timeout_min_seconds=4.0")
    code, output = fake_run.launch(*over_ssh, *limits, timeout=180)
    assert code == 0, output
    assert "rank 1 on node2 was killed by SIGKILL at step 20" in reason_of(fake_run, 1)
    assert "rank 2 on node3 hangs in phase train" in reason_of(fake_run, 2)
    assert "stopped by a signal" in reason_of(fake_run, 2)
    assert "rank 0 on node1 hangs in phase train" in reason_of(fake_run, 3)
    wait_until(lambda: nothing_left(lab, before))


def test_all_ranks_of_a_host_killed_at_once_are_told_and_the_run_goes_on(lab, fake_run, over_ssh):
    before = daemons_of(lab)
    fake_run.num_processes = 2
    fake_run.script(ENDLESS, {"steps": 0})
    supervisor = fake_run.start(*over_ssh)
    ranks = beats(fake_run, 1, range(6))
    for rank in (2, 3):
        os.kill(ranks[rank]["pid"], signal.SIGKILL)
    output, _ = supervisor.communicate(timeout=90)
    assert supervisor.returncode == 0, output
    assert "on node2 was killed by SIGKILL" in reason_of(fake_run, 1)
    wait_until(lambda: nothing_left(lab, before))


def test_a_host_that_is_cut_off_ends_its_ranks_and_the_run_shrinks_and_grows_again(lab, fake_run, over_ssh):
    fake_run.script(ENDLESS)
    supervisor = fake_run.start(*over_ssh, "cluster.nodes={min: 2, max: 3}")
    try:
        old = beats(fake_run, 1, range(3))[1]
        cut(lab, "node2")
        beats(fake_run, 2, range(2))
        assert not process_is_alive(old["pid"], old["create_time"]), "it ended before the others went on"
        assert "rank 1 on node2 was lost" in reason_of(fake_run, 1)
        assert "nothing was heard from it for 6 s" in reason_of(fake_run, 1)
        assert [one["host"] for one in fake_run.json("attempts/0002/plan.json")["machines"]] == ["node1", "node3"]
        mend(lab, "node2")
        beats(fake_run, 3, range(3))
        assert reason_of(fake_run, 2) == "nodes have come back"
    finally:
        mend(lab, "node2")
    supervisor.send_signal(signal.SIGTERM)
    output, _ = supervisor.communicate(timeout=60)
    assert supervisor.returncode == 143, output
    plans = [fake_run.json(f"attempts/000{number}/plan.json") for number in (1, 2, 3)]
    assert [plan["accumulation_micro_batches"] for plan in plans] == [4, 6, 4]
    assert {plan["tokens_per_step"] for plan in plans} == {12 * 16}


def test_a_killed_supervisor_leaves_no_rank_and_no_agent_behind(lab, fake_run, over_ssh):
    before = daemons_of(lab)
    fake_run.script(ENDLESS)
    supervisor = fake_run.start(*over_ssh)
    beats(fake_run, 1, range(3))
    wait_until(lambda: list(fake_run.run_directory.glob("checkpoints/step_*/manifest.json")))
    supervisor.kill()
    supervisor.communicate(timeout=10)
    wait_until(lambda: nothing_left(lab, before))
    fake_run.script({"steps": 0})
    code, output = fake_run.launch(*over_ssh)
    assert code == 0, output
    assert "continues; newest checkpoint: step" in output


def test_a_supervisor_that_is_stopped_loses_its_ranks_before_it_loses_its_lease(lab, fake_run, over_ssh):
    """No split brain: when it comes back, its ranks are gone, and another supervisor's attempt is not touched."""
    fake_run.script(ENDLESS, {"steps": 0})
    supervisor = fake_run.start(*over_ssh)
    ranks = beats(fake_run, 1, range(3))
    os.kill(supervisor.pid, signal.SIGSTOP)
    try:
        wait_until(lambda: not any(process_is_alive(one["pid"], one["create_time"]) for one in ranks))
    finally:
        os.kill(supervisor.pid, signal.SIGCONT)
    output, _ = supervisor.communicate(timeout=60)
    assert supervisor.returncode == 0, output
    assert "was lost" in reason_of(fake_run, 1)


def test_every_host_that_cannot_be_used_is_told_at_once_and_nothing_is_written(lab, fake_run, over_ssh):
    hosts = "cluster.hosts=[node1, nowhere1, node2, nowhere2]"
    code, output = fake_run.launch(*over_ssh, hosts, "cluster.connect_timeout_seconds=5.0")
    assert code == 78
    for host in ("nowhere1", "nowhere2"):
        assert f"{host}: " in output
    assert "2 of 4 node(s) can be used, the run needs 4" in output
    assert not fake_run.run_directory.exists()


def test_a_port_that_is_taken_on_the_first_host_is_refused_by_name(lab, fake_run, over_ssh):
    server = psutil.Popen(
        ["ip", "netns", "exec", lab.nodes[0].namespace, "python3", "-c",
         "import socket, time; s = socket.create_server(('', 7799)); print('up', flush=True); time.sleep(60)"],
        stdout=-1,
    )  # fmt: skip
    try:
        assert server.stdout.readline() == b"up\n"
        code, output = fake_run.launch(*over_ssh, "cluster.rendezvous_port=7799")
    finally:
        server.kill()
        server.wait(10)
    assert code == 78, output
    assert "rendezvous_port 7799 is in use on node1" in output


def test_a_spare_takes_the_place_of_a_lost_host(lab, fake_run, over_ssh):
    skip_unless_possible()
    fake_run.script(ENDLESS)
    supervisor = fake_run.start(*over_ssh, "cluster.spare_nodes=1")
    try:
        beats(fake_run, 1, range(2))
        cut(lab, "node1")
        beats(fake_run, 2, range(2))
        assert [one["host"] for one in fake_run.json("attempts/0002/plan.json")["machines"]] == ["node2", "node3"]
    finally:
        mend(lab, "node1")
    supervisor.send_signal(signal.SIGTERM)
    output, _ = supervisor.communicate(timeout=60)
    assert supervisor.returncode == 143, output
    assert json.loads((fake_run.run_directory / "supervisor.json").read_text())["state"] == "stopped"
