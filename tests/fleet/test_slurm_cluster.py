"""A real Slurm on three hosts: runs of fake workers are submitted, signalled, preempted, queued again."""

import json
import os
import signal
from pathlib import Path

import pytest
import yaml
from cluster_in_a_box import lab_for_tests
from fake_run import FakeRun, run_values, write_fake_data
from slurm_run import LONG, SlurmRun, ask_slurm, wait_until

from launcher.console import Console
from launcher.lab.faults import kill, mend
from launcher.lab.node_processes import pids_in
from launcher.run_lookup import find_run
from launcher.status import read_status
from launcher.stop import stop_run
from launcher.stop_request import request_stop
from llama_dist.config import RunDirectory

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

ENDLESS = {"steps": 100_000, "save_every": 5}
HOSTILE = "it's $(touch canary) `touch canary` \"; touch canary; #"


@pytest.fixture(scope="module")
def lab():
    with lab_for_tests("s", with_slurm=True) as lab:
        ask_slurm(lab, "scontrol", "update", "PartitionName=batch", "GraceTime=20")
        yield lab


@pytest.fixture
def slurm_run(lab, fake_run):
    yield SlurmRun(lab, fake_run)
    ask_slurm(lab, "scancel", "--user=root")
    wait_until(lambda: ask_slurm(lab, "squeue", "--noheader") == "", LONG, "jobs are left")


def command_lines() -> str:
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:  # it has ended
            continue
    return "\n".join(lines)


def start_urgent_job(lab, seconds: int) -> str:
    options = ("--partition=urgent", "--nodes=3", "--exclusive", "--output=/dev/null", "--parsable")
    return ask_slurm(lab, "sbatch", *options, f"--wrap=sleep {seconds}").strip()


def test_a_run_of_hostile_paths_and_values_runs_over_three_nodes_and_executes_none_of_them(lab, tmp_path):
    """From the login machine to the last step; the key of the run is in no argument list."""
    before = {node.name: pids_in(node.namespace) for node in lab.nodes}
    directory = tmp_path / HOSTILE
    write_fake_data(directory)
    run = FakeRun(directory, num_processes=2, environment={"LANG": HOSTILE})
    run.run_file.write_text(yaml.safe_dump(run_values(directory) | {"batch": {"global_batch_sequences": 12}}))
    run.script({"steps": 150})
    slurm_run = SlurmRun(lab, run)
    job = slurm_run.submit("parallel.pipeline_stages=2", f"metrics.experiment={json.dumps(HOSTILE)}")
    slurm_run.beats(1, num_ranks=6)
    key = (run.run_directory / "nodes" / "key").read_text()
    assert len(key) == 64 and key not in command_lines()
    assert slurm_run.end_of(job) == ("COMPLETED", "0:0")
    places = [(place["host"], place["pp_stage"]) for place in run.json("attempts/0001/plan.json")["ranks"]]
    assert places == [(f"node{1 + rank // 2}", rank // 3) for rank in range(6)]
    told = [run.json(f"attempts/0001/exits/rank_{rank:05d}.json")["host"] for rank in range(6)]
    assert told == [host for host, _ in places]
    wait_until(lambda: all(pids_in(node.namespace) == before[node.name] for node in lab.nodes), LONG, "something left")
    found = [*Path.cwd().glob("canary"), *tmp_path.rglob("canary"), *Path("/root").glob("canary")]
    assert not found
    assert (run.run_directory / "submission.json").stat().st_mode & 0o077 == 0


def test_a_signal_from_outside_saves_and_stops_and_the_next_launch_goes_on(slurm_run):
    """To the batch script alone, to the step's tasks alone, by `llama-dist stop`: none queues the job again."""
    run = slurm_run.run
    run.script(ENDLESS, ENDLESS, ENDLESS, {"steps": 0})
    job = slurm_run.submit()
    slurm_run.beats(1)
    slurm_run.ask("scancel", "--signal=TERM", "--batch", job)
    assert slurm_run.end_of(job) == ("FAILED", "143:0")
    job = slurm_run.submit()
    slurm_run.beats(2)
    slurm_run.ask("scancel", "--signal=TERM", job)
    assert slurm_run.end_of(job) == ("FAILED", "143:0")
    assert "continues; newest checkpoint: step" in slurm_run.output(job)
    job = slurm_run.submit()
    slurm_run.beats(3)
    code, refused = run.launch(*slurm_run.overrides, timeout=LONG)
    assert code == 78 and "is live (supervisor" in refused
    request_stop(run.run_directory / "stop_request.json", now=False)
    assert slurm_run.end_of(job) == ("FAILED", "143:0")
    assert all(slurm_run.reason(number).startswith("asked to stop") for number in (1, 2, 3))
    assert slurm_run.end_of(slurm_run.submit()) == ("COMPLETED", "0:0")


def test_a_queued_run_is_told_stopped_and_launched_as_it_was_submitted(slurm_run, monkeypatch, capsys):
    """Behind a job that has all nodes: the run file is edited while two jobs of the run wait, one after the other."""
    run, lab = slurm_run.run, slurm_run.lab
    for name, value in lab.environment.items():
        monkeypatch.setenv(name, value)
    run.script({"steps": 0})
    blocker = start_urgent_job(lab, 600)
    cancelled = slurm_run.submit()
    code, refused = run.launch(*slurm_run.overrides, "train.num_steps=9", timeout=LONG)
    assert code == 78 and f"is Slurm job {cancelled} already (PENDING)" in refused
    directory = find_run(str(run.run_directory), Path())
    assert read_status(directory).reason == f"queued as Slurm job {cancelled}"
    stop_run(directory, Console())
    assert f"cancelled its Slurm job {cancelled}, which was PENDING" in capsys.readouterr().out
    assert slurm_run.end_of(cancelled)[0] == "CANCELLED"
    job = slurm_run.submit("train.num_steps=7")
    run.run_file.write_text("name: another\n")
    slurm_run.ask("scancel", blocker)
    assert slurm_run.end_of(job) == ("COMPLETED", "0:0")
    assert yaml.safe_load((run.run_directory / "run.yaml").read_text())["train"]["num_steps"] == 7
    assert read_status(directory).state == "done"


def test_a_stop_while_the_job_is_queued_again_ends_it(slurm_run, monkeypatch, capsys):
    run, lab = slurm_run.run, slurm_run.lab
    for name, value in lab.environment.items():
        monkeypatch.setenv(name, value)
    run.script(ENDLESS, ENDLESS)
    job = slurm_run.submit()
    slurm_run.beats(1)
    start_urgent_job(lab, 600)
    directory = RunDirectory(run.run_directory)
    wait_until(lambda: read_status(directory).state == "queued", what="it was not queued again")
    assert f"queued again as Slurm job {job}" in read_status(directory).reason
    stop_run(directory, Console())
    assert f"cancelled its Slurm job {job}" in capsys.readouterr().out
    assert slurm_run.end_of(job)[0] == "CANCELLED"


def test_a_cancelled_job_stays_cancelled_and_leaves_nothing(slurm_run):
    lab, run = slurm_run.lab, slurm_run.run
    before = {node.name: pids_in(node.namespace) for node in lab.nodes}
    run.script(ENDLESS)
    job = slurm_run.submit()
    slurm_run.beats(1)
    slurm_run.ask("scancel", job)
    assert slurm_run.end_of(job)[0] == "CANCELLED"
    assert slurm_run.job(job)["Restarts"] == "0"
    wait_until(lambda: all(pids_in(node.namespace) == before[node.name] for node in lab.nodes), LONG, "something left")


def test_a_preempted_run_saves_and_goes_on_in_the_same_job_and_so_does_a_requeued_one(slurm_run):
    run = slurm_run.run
    run.script(ENDLESS, ENDLESS, {"steps": 0})
    job = slurm_run.submit()
    slurm_run.beats(1)
    urgent = start_urgent_job(slurm_run.lab, 1)
    wait_until((run.run_directory / "attempts/0001/exit.json").exists)
    saved = run.json("attempts/0001/exit.json")
    assert saved["exit_code"] == 143 and saved["checkpoint_step_after"] > 0, saved
    slurm_run.beats(2)
    assert slurm_run.job(urgent)["JobState"] == "COMPLETED"
    assert int(slurm_run.job(job)["Restarts"]) == 1
    slurm_run.ask("scontrol", "requeue", job)
    assert slurm_run.end_of(job) == ("COMPLETED", "0:0")
    assert int(slurm_run.job(job)["Restarts"]) == 2
    assert "queued again as Slurm job" in slurm_run.output(job)
    assert slurm_run.output(job).count("continues; newest checkpoint: step") == 2


def test_a_run_that_cannot_work_is_not_queued_again(slurm_run):
    """A crash loop ends, and so does its job."""
    crash = {"steps": 100_000, "save_every": 1_000_000, "ranks": {"1": {"kill_at": 2}}}
    slurm_run.run.script(crash)
    job = slurm_run.submit("supervision.max_attempts_without_progress=2")
    assert slurm_run.end_of(job) == ("FAILED", "75:0")
    assert slurm_run.job(job)["Restarts"] == "0"
    assert "no newer checkpoint in 2 attempt(s)" in slurm_run.output(job)


def test_a_run_shrinks_inside_its_allocation_when_a_node_dies(slurm_run):
    lab, run = slurm_run.lab, slurm_run.run
    run.script(ENDLESS)
    job = slurm_run.submit("cluster.nodes={min: 2, max: 3}", "cluster.node_timeout_seconds=8.0")
    slurm_run.beats(1)
    try:
        kill(lab, "node3")
        slurm_run.beats(2, num_ranks=2)
        assert slurm_run.hosts(2) == ["node1", "node2"]
        assert "rank 2 on node3 was lost" in slurm_run.reason(1)
        assert slurm_run.job(job)["JobState"] == "RUNNING" and slurm_run.job(job)["Restarts"] == "0"
        slurm_run.ask("scancel", "--signal=TERM", "--batch", job)
        assert slurm_run.end_of(job) == ("FAILED", "143:0")
    finally:
        mend(lab, "node3")
    plans = [run.json(f"attempts/000{number}/plan.json") for number in (1, 2)]
    assert [plan["accumulation_micro_batches"] for plan in plans] == [4, 6]


def test_a_launch_inside_an_allocation_uses_its_nodes(slurm_run):
    """From the log-in machine of this lab, which does not know the nodes' names: MASTER_ADDR leads to them."""
    run = slurm_run.run
    run.environment |= {"MASTER_ADDR": slurm_run.lab.nodes[0].address, "SSH_CONNECTION": "10.9.9.9 1 10.9.9.8 22"}
    run.script({"steps": 20})
    slurm_run.inside("salloc", "--quiet", "--nodes=3", "--exclusive")
    code, output = run.launch("cluster.backend=slurm", timeout=LONG)
    assert code == 0, output
    assert slurm_run.hosts(1) == ["node1", "node2", "node3"]


def test_every_task_of_a_step_takes_its_part(slurm_run):
    """`srun ... llama-dist launch` with backend `started`: stopped by a signal to all tasks, and gone on with."""
    run = slurm_run.run
    run.script(ENDLESS, {"steps": 0})
    slurm_run.inside("salloc", "--quiet", "-N3", "--exclusive", "srun", "-N3", "--ntasks-per-node=1")
    launch = run.start("cluster.backend=started")
    slurm_run.beats(1)
    job = slurm_run.ask("squeue", "--noheader", "--format=%i").strip()
    slurm_run.ask("scancel", "--signal=TERM", job)
    output, _ = launch.communicate(timeout=LONG)
    assert launch.returncode == 143, output
    assert slurm_run.hosts(1) == ["node1", "node2", "node3"]
    code, output = run.launch("cluster.backend=started", timeout=LONG)
    assert code == 0, output
    assert "continues; newest checkpoint: step" in output


def test_a_step_whose_first_task_is_refused_ends_with_its_code(slurm_run):
    """The others would look for a supervisor for ten minutes."""
    (slurm_run.run.run_directory / "lock").mkdir(parents=True)  # stands for a disk that the first task cannot write to
    slurm_run.inside("salloc", "--quiet", "-N3", "--exclusive", "srun", "-N3", "--ntasks-per-node=1")
    code, output = slurm_run.run.launch("cluster.backend=started", timeout=LONG)
    assert code == 74, output
    assert output.count("was not started by the first process of this job") == 2


def test_several_tasks_of_a_node_are_told_to_be_one(slurm_run):
    slurm_run.inside("srun", "-N1", "--ntasks=2")
    code, output = slurm_run.run.launch("cluster.backend=started", timeout=LONG)
    assert code == 78, output
    assert "slurm started several processes on a node" in output and "--ntasks-per-node=1" in output


def test_a_run_that_meets_its_jobs_time_limit_saves_and_goes_on_in_a_second_one(slurm_run):
    run = slurm_run.run
    run.script(ENDLESS, {"steps": 0})
    job = slurm_run.submit("cluster.slurm.time_limit_minutes=2", "cluster.slurm.signal_before_limit_seconds=15")
    slurm_run.beats(1)
    assert slurm_run.end_of(job, 270) == ("COMPLETED", "0:0")
    assert slurm_run.job(job)["Restarts"] == "1"
    assert slurm_run.reason(1).startswith("asked to stop")
    assert run.json("attempts/0001/exit.json")["checkpoint_step_after"] > 0


def test_a_killed_supervisor_inside_a_job_leaves_no_rank(slurm_run):
    """Slurm ends the job with its batch script, and the agents end their ranks when they hear no more of it."""
    run = slurm_run.run
    before = {node.name: pids_in(node.namespace) for node in slurm_run.lab.nodes}
    run.script(ENDLESS)
    job = slurm_run.submit()
    slurm_run.beats(1)
    os.kill(run.json("supervisor.json")["pid"], signal.SIGKILL)
    assert slurm_run.end_of(job)[0] == "FAILED"
    wait_until(
        lambda: all(pids_in(node.namespace) == before[node.name] for node in slurm_run.lab.nodes),
        LONG,
        "ranks are left",
    )
    assert run.json("supervisor.json")["state"] == "running", "nobody could write that it ended"
