"""`torchrun -m launcher launch` with the real trainer: its processes are the ranks, and a second start continues."""

import os
import subprocess
import sys

import pytest
from run_evidence import losses

from llama_dist.config import RunDirectory

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]


def torchrun(run_file, *settings: str) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "launcher", "launch"]
    overrides = ("cluster.backend=started", "parallel.pipeline_stages=2", *settings)
    done = subprocess.run(
        [*command, str(run_file), *(word for override in overrides for word in ("--set", override))],
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
