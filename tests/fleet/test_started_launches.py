"""Launches that something else places or starts: a real mpirun over three hosts, torchrun, the entry of a pod."""

import os
import sys

import pytest
from slurm_run import LONG, wait_until

from launcher.lab.inside import command_inside
from launcher.lab.node_processes import pids_in
from launcher.stop_request import request_stop

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

ENDLESS = {"steps": 100_000, "save_every": 5}
# No checkpoint before: a rank that comes late would begin at it, past the step of its end.
RANK_1_IS_KILLED = {"steps": 100_000, "save_every": 1000, "ranks": {"1": {"kill_at": 20}}}
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2")


@pytest.fixture
def with_mpi(lab, fake_run):
    """A fake run that is launched on node1, from where mpirun reaches the others by the lab's ssh."""
    fake_run.within = command_inside(lab.node("node1"), [sys.executable])
    fake_run.environment |= {
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        "OMPI_MCA_plm_rsh_agent": f"ssh -F {lab.ssh_config}",
    }
    return fake_run


def started_by_mpirun(lab) -> list[str]:
    hosts = ",".join(node.name for node in lab.nodes)
    mpirun = ["mpirun", "--host", hosts, "-n", str(len(lab.nodes)), "--map-by", "ppr:1:node", "--bind-to", "none"]
    return command_inside(lab.node("node1"), [*mpirun, sys.executable])


def beats(run, attempt, num_ranks=3):
    paths = [f"heartbeats/rank_{rank:05d}.json" for rank in range(num_ranks)]
    return [run.wait_for(path, seconds=LONG, attempt=attempt, phase="train") for path in paths]


def hosts_of_exits(run, attempt, num_ranks=3):
    return [run.json(f"attempts/{attempt:04d}/exits/rank_{rank:05d}.json")["host"] for rank in range(num_ranks)]


def test_mpirun_places_an_agent_on_each_host_and_nothing_is_left(lab, with_mpi):
    before = {node.name: pids_in(node.namespace) for node in lab.nodes}
    with_mpi.script(RANK_1_IS_KILLED, {"steps": 40})
    code, output = with_mpi.launch("cluster.backend=mpi", "cluster.hosts=[node1, node2, node3]", timeout=LONG)
    assert code == 0, output
    assert "rank 1 on node2 was killed by SIGKILL at step 20" in with_mpi.json("attempts/0001/exit.json")["reason"]
    assert hosts_of_exits(with_mpi, 2) == ["node1", "node2", "node3"]
    wait_until(lambda: all(pids_in(node.namespace) == before[node.name] for node in lab.nodes), LONG, "something left")


def test_what_mpirun_refuses_is_told_and_the_launch_overrides_none_of_it(with_mpi):
    """It runs as root only if the user said so in the environment: a launch does not say it for them."""
    for name in ("OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM"):
        del with_mpi.environment[name]
        assert name not in os.environ
    with_mpi.script({"steps": 0})
    code, output = with_mpi.launch("cluster.backend=mpi", "cluster.hosts=[node1]", timeout=LONG)
    assert code == 78, output
    assert "node1: " in output and "root" in output
    assert not with_mpi.run_directory.exists()


def test_the_processes_that_mpirun_started_take_their_parts_and_stop_and_go_on_together(lab, with_mpi):
    with_mpi.script(ENDLESS, {"steps": 0})
    with_mpi.within = started_by_mpirun(lab)
    started = ("cluster.backend=started", "cluster.hosts=[node1, node2, node3]")
    launch = with_mpi.start(*started)
    beats(with_mpi, 1)
    request_stop(with_mpi.run_directory / "stop_request.json", now=False)
    output, _ = launch.communicate(timeout=LONG)
    assert launch.returncode == 143, output
    assert hosts_of_exits(with_mpi, 1) == ["node1", "node2", "node3"]
    code, output = with_mpi.launch("cluster.backend=started", timeout=LONG)
    assert code == 0, f"without names, by the addresses alone: {output}"
    assert "continues; newest checkpoint: step" in output


def test_hosts_that_contradict_what_was_started_are_refused(lab, with_mpi):
    with_mpi.within = started_by_mpirun(lab)
    code, output = with_mpi.launch("cluster.backend=started", "cluster.hosts=[node1, node2]", timeout=LONG)
    assert code == 78, output
    assert "cluster.hosts names 2 host(s), mpi has started 3" in output


def test_torchruns_processes_become_the_ranks_and_a_second_start_goes_on(fake_run):
    """Both starts look alike to a rank (the same id, count and port); each takes the attempt of its own start."""
    fake_run.script({"steps": 20}, {"steps": 40})
    fake_run.num_processes = 2
    fake_run.within = [*TORCHRUN, "--master-port", "29417"]
    for attempt, step in ((1, 20), (2, 40)):
        code, output = fake_run.launch("cluster.backend=started", "parallel.pipeline_stages=2", timeout=LONG)
        assert code == 0, output
        ends = [fake_run.json(f"attempts/{attempt:04d}/exits/rank_{rank:05d}.json") for rank in range(2)]
        assert [end["step"] for end in ends] == [step, step]
    assert len(fake_run.json("attempts/0002/plan.json")["ranks"]) == 2
    assert "rank 0 begins at step 20" in output
    assert fake_run.json("heartbeats/rank_00001.json")["attempt"] == 2


def test_a_ranks_end_reaches_torchrun_which_starts_a_new_attempt(fake_run):
    killed = ENDLESS | {"ranks": {"1": {"kill_after": 20}}}  # rank 0 saves when torchrun ends it, at some later step
    fake_run.script(killed, killed, {"steps": 60})
    fake_run.num_processes = 2
    fake_run.within = list(TORCHRUN)
    code, output = fake_run.launch("cluster.backend=started", timeout=LONG)
    assert code == 1 and "exitcode  : -9" in output, output
    fake_run.within = [*TORCHRUN, "--max-restarts", "1"]
    code, output = fake_run.launch("cluster.backend=started", timeout=LONG)
    assert code == 0, output
    assert fake_run.json("attempts/0003/exits/rank_00001.json")["step"] >= 60


def test_a_refused_launch_reaches_torchrun_by_its_code(fake_run):
    fake_run.within = list(TORCHRUN)
    code, output = fake_run.launch("cluster.backend=started", "parallel.pipeline_stages=5", timeout=LONG)
    assert code == 1 and "exitcode  : 78" in output, output


def test_a_rank_whose_supervisor_is_torchrun_keeps_other_launches_out(fake_run):
    fake_run.script(ENDLESS)
    fake_run.num_processes = 2
    fake_run.within = list(TORCHRUN)
    torchrun = fake_run.start("cluster.backend=started")
    beats(fake_run, 1, num_ranks=2)
    fake_run.within = [sys.executable]
    code, output = fake_run.launch(timeout=LONG)
    assert code == 78, output
    assert "is being launched by another process" in output or "is live" in output
    torchrun.terminate()
    torchrun.communicate(timeout=LONG)
    assert fake_run.json("attempts/0001/exits/rank_00000.json")["exit_code"] == 143
