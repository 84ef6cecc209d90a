"""`torchrun -m launcher launch` with the real trainer: its processes are the ranks, and a second start continues."""

import os
import subprocess
import sys
import time

import pytest
from run_evidence import losses

from launcher.status import read_status
from llama_dist.checkpoint.manifest import list_steps
from llama_dist.config import RunDirectory

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]


def command(run_file, *settings: str, max_restarts: int = 0) -> list[str]:
    overrides = ("cluster.backend=started", "parallel.pipeline_stages=2", *settings)
    return [
        *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--max-restarts", str(max_restarts)),
        *("-m", "launcher", "launch", str(run_file)),
        *(word for override in overrides for word in ("--set", override)),
    ]


def torchrun(run_file, *settings: str) -> None:
    done = subprocess.run(
        command(run_file, *settings),
        check=False,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout


def test_torchruns_processes_train_and_a_second_start_continues_from_the_checkpoint(write_run, tmp_path):
    run_file = write_run("torchrun", train={"num_steps": 10, "precision": "fp32"})
    torchrun(run_file)
    torchrun(run_file, "train.num_steps=15")
    run = RunDirectory(tmp_path / "runs" / "torchrun")
    assert sorted(losses(run)) == list(range(1, 16))
    assert [path.name for path in sorted(run.attempts.iterdir())] == ["0001", "0002"]


def test_a_live_run_of_torchruns_is_seen_saves_when_asked_and_stops_with_a_checkpoint(
    write_run, llama_dist, tmp_path, capfd
):
    run_file = write_run("live", train={"num_steps": 1_000_000, "precision": "fp32"})
    run = RunDirectory(tmp_path / "runs" / "live")
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    with subprocess.Popen(command(run_file, max_restarts=3), env=environment) as process:
        try:
            deadline = time.monotonic() + 120
            while not any(rank.step >= 3 for rank in read_status(run).ranks):
                assert process.poll() is None and time.monotonic() < deadline, capfd.readouterr()
                time.sleep(0.2)
            assert read_status(run).state == "running"
            saved = llama_dist("checkpoint", "now", run.path)
            assert saved.returncode == 0, saved.stderr
            second = llama_dist("launch", run_file)
            assert second.returncode == 78 and "started by torchrun" in second.stderr, second.stderr
            stopped = llama_dist("stop", run.path)
            assert stopped.returncode == 0, stopped.stderr
            assert process.wait(20) != 0
        finally:
            process.terminate()
    status = read_status(run)
    assert (status.state, status.exit_code) == ("stopped", 143), status
    assert list_steps(run.checkpoints)[-1] == max(rank.step for rank in status.ranks)
