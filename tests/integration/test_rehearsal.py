"""`rehearse` on a real run over ssh: faults are noticed and mended, the rest is refused, and nothing is left."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from cluster_in_a_box import skip_unless_possible

from launcher.errors import LiveRunError
from launcher.lab.lab_error import LabError
from launcher.records import SupervisorRecord, write_supervisor
from launcher.rehearsal.faults import parse_faults
from launcher.rehearsal.rehearse import RehearsalRequest, rehearse
from llama_dist.config import RunDirectory

sys.path.append(str(Path(__file__).parents[1] / "lab"))

from lab_observation import left_of

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

BATCH = {"global_batch_sequences": 12, "micro_batch_sequences": 2}  # for 1, 2 and 3 replicas
# On a busy machine a start takes minutes; on an idle one the whole drill takes half of one.
LIMIT_SECONDS = 1200


@pytest.fixture
def started():
    """Start `rehearse` in the background; what still runs at the end is killed, and its leftovers with the next one."""
    processes = []

    def start(*arguments):
        process = subprocess.Popen(
            [sys.executable, "-m", "launcher", "rehearse", *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        if process.poll() is None:
            process.terminate()  # takes down what it built
            process.wait(300)


def left_of_rehearsal(process, run):
    """What a rehearsal has left of its lab, mounts and processes."""
    left = left_of(f"r{process.pid}")
    left += [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(run.path) in line]
    left += [str(path) for path in run.path.glob("rehearsals/*/lab.json")]
    commands = [one.info["cmdline"] or [] for one in psutil.process_iter(["cmdline"]) if one.pid != os.getpid()]
    return left + [" ".join(one) for one in commands if any(str(run.path) in word for word in one)]


def assert_untouched(run):
    assert not run.attempts.exists() and not run.checkpoints.exists(), "the run itself has not begun"


@pytest.mark.timeout(LIMIT_SECONDS)
def test_a_killed_rank_and_a_full_disk_are_noticed_and_mended_and_nothing_is_left(write_run, started, tmp_path):
    skip_unless_possible()
    run = RunDirectory(tmp_path / "runs" / "drilled")
    process = started(write_run("drilled", batch=BATCH), "--nodes", "2", "--faults", "full-disk,kill-rank")
    output, _ = process.communicate(timeout=LIMIT_SECONDS)
    assert process.returncode == 0, output
    assert "verdict: RECOVERED" in output
    (path,) = run.path.glob("rehearsals/*/verdict.json")
    assert output.rstrip().endswith(f"kept in {path}")

    verdict = json.loads(path.read_text())
    killed, filled = verdict["results"]
    assert "was killed by SIGKILL" in killed["said"] and killed["where"] == "rank 1 on node2"
    assert killed["noticed_seconds"] < killed["new_step_seconds"]
    assert filled["said"].startswith("ALERT: ") and "No space left on device" in filled["said"]
    assert filled["aftermath"].startswith("saved again")
    assert verdict["evidence"]["num_repeated_alike"] > 0 and verdict["evidence"]["clean"]
    assert not list(path.parent.rglob("step_*")), "what is large is removed"
    assert left_of_rehearsal(process, run) == []
    assert_untouched(run)


@pytest.mark.timeout(2 * LIMIT_SECONDS)
def test_all_faults_on_three_nodes_are_mended_and_the_checkpoints_stay_if_asked(write_run, started, tmp_path):
    skip_unless_possible()
    run = RunDirectory(tmp_path / "runs" / "drilled")
    process = started(write_run("drilled", batch=BATCH), "--keep")
    output, _ = process.communicate(timeout=2 * LIMIT_SECONDS)
    assert process.returncode == 0, output
    (path,) = run.path.glob("rehearsals/*/verdict.json")
    results = {one["fault"]: one for one in json.loads(path.read_text())["results"]}
    assert results["kill-node"]["aftermath"].startswith("on 3 node(s) again")
    assert results["partition"]["aftermath"].startswith("on 3 node(s) again")
    assert "hangs" in results["hang"]["said"]
    assert list(path.parent.glob("rehearsed/checkpoints/step_*/manifest.json"))
    assert left_of_rehearsal(process, run) == []
    assert_untouched(run)


@pytest.mark.timeout(LIMIT_SECONDS)
def test_ctrl_c_in_the_midst_takes_everything_down(write_run, started, tmp_path):
    skip_unless_possible()
    run = RunDirectory(tmp_path / "runs" / "broken_off")
    process = started(write_run("broken_off", batch=BATCH), "--nodes", "2", "--faults", "full-disk")
    deadline = time.monotonic() + LIMIT_SECONDS
    while not list(run.path.glob("rehearsals/*/rehearsed/attempts/0001/logs/rank_*")):
        assert process.poll() is None and time.monotonic() < deadline, "no rank was started"
        time.sleep(0.05)
    assert left_of_rehearsal(process, run) != []
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 130, output
    assert left_of_rehearsal(process, run) == []
    assert_untouched(run)


def test_an_unknown_fault_is_refused_with_the_nearest_name(write_run, llama_dist, tmp_path):
    refused = llama_dist("rehearse", write_run("refused"), "--faults", "kill-nod")
    assert refused.returncode == 78
    assert "--faults kill-nod: there is no such fault, did you mean kill-node?" in refused.stderr
    assert not (tmp_path / "runs").exists()


def test_another_user_than_root_is_refused(write_run, monkeypatch, tmp_path):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(LabError, match=r"needs root.*user 1000"):
        rehearse(RehearsalRequest(write_run("refused"), None, (), parse_faults(None)), sys.stderr)
    assert LabError.exit_code == 78
    assert not (tmp_path / "runs").exists()


def test_a_live_run_is_refused(write_run, tmp_path):
    skip_unless_possible()
    run = RunDirectory(tmp_path / "runs" / "live")
    run.path.mkdir(parents=True)
    me = psutil.Process()
    record = SupervisorRecord(me.pid, me.create_time(), os.uname().nodename, 1, "running", None, "", time.time())
    write_supervisor(run.supervisor, record)
    with pytest.raises(LiveRunError, match=f"supervisor pid {me.pid}.*rehearse before it starts"):
        rehearse(RehearsalRequest(write_run("live", batch=BATCH), None, (), parse_faults(None)), sys.stderr)
    assert not (run.path / "rehearsals").exists()
