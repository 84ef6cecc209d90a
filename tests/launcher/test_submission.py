"""`sbatch` that gives no answer. A real Slurm is in `tests/fleet`."""

import os

import pytest

from launcher.console import Console
from launcher.errors import SubmissionError
from launcher.launch import LaunchRequest, check_launch
from launcher.submit import submit


def test_whether_a_job_was_submitted_is_told_to_be_unknown_where_sbatch_gives_no_answer(fake_run, monkeypatch):
    programs = fake_run.path / "programs"
    programs.mkdir()
    (programs / "sbatch").write_text("#!/bin/sh\nexec sleep 60\n")
    (programs / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr("launcher.submit._SUBMIT_SECONDS", 0.2)
    launch = check_launch(
        LaunchRequest(fake_run.run_file, None, ("cluster.backend=slurm",)), {"PATH": os.environ["PATH"]}
    )
    with pytest.raises(SubmissionError, match=r"no answer in 0 s: whether .*squeue --me --name=fake"):
        submit(launch, Console())
