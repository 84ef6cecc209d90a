"""`srun ... launch` whose first process is refused: the others, which Slurm does not end, leave with its code."""

import json
import os
import time

import pytest

from launcher.console import Console
from launcher.errors import LeaseLostError, LiveRunError, NoSupervisorError, RunDirectoryError, RunRefusedError
from launcher.launch import LaunchRequest, check_launch
from launcher.refusal import REFUSAL_NAME
from launcher.started import take_part
from llama_dist.config import ConfigError, RunDirectory


@pytest.fixture
def take(fake_run, monkeypatch):
    """Take the part of a node in a step of a job of two nodes; node 0 ends with the error."""

    def take(node, step, error=None, job="7", **environment):
        def execute(_launch, _console):
            raise error

        monkeypatch.setattr("launcher.started.execute", execute)
        monkeypatch.setattr("launcher.started._FIRST_JOIN_SECONDS", 0.3)
        variables = {
            "PATH": os.environ["PATH"],
            "SLURM_JOB_ID": job,
            "SLURM_STEP_ID": step,
            "SLURM_STEP_NODELIST": "a,b",
            "SLURM_STEP_NUM_NODES": "2",
            "SLURM_STEP_NUM_TASKS": "2",
            "SLURM_PROCID": str(node),
            "SLURM_NODEID": str(node),
        }
        request = LaunchRequest(fake_run.run_file, None, ("cluster.backend=started",))
        return take_part(check_launch(request, variables | environment), Console())

    return take


@pytest.mark.parametrize(
    ("error", "code"),
    [(ConfigError("unfit"), 78), (LiveRunError("live"), 78), (RunDirectoryError("full"), 74), (ValueError("bug"), 70)],
)
def test_a_process_whose_first_one_was_refused_ends_at_once_with_the_same_code(take, error, code):
    with pytest.raises(type(error)):
        take(0, "3", error)
    began = time.monotonic()
    with pytest.raises(RunRefusedError, match="not started by the first process of this job, on host") as ended:
        take(1, "3")
    assert ended.value.exit_code == code and time.monotonic() - began < 0.3


@pytest.mark.parametrize("other", [{"step": "4"}, {"step": "3", "job": "8"}, {"step": "3", "SLURM_RESTART_COUNT": "1"}])
def test_the_refusal_of_another_start_ends_nobody(take, other):
    with pytest.raises(ConfigError):
        take(0, "3", ConfigError("unfit"))
    with pytest.raises(NoSupervisorError):
        take(1, **other)


def test_a_run_that_was_lost_to_another_supervisor_is_not_written_to(take, fake_run):
    with pytest.raises(LeaseLostError):
        take(0, "3", LeaseLostError("lost"))
    assert not fake_run.run_directory.exists()


@pytest.mark.parametrize("content", ['{"start": "7//3", "exit_code": "x", "host": "\\u001b[31m"}', "[1]", "", "{}"])
def test_what_a_refusal_holds_is_not_trusted(take, fake_run, content):
    path = RunDirectory(fake_run.run_directory).nodes / REFUSAL_NAME
    path.parent.mkdir(parents=True)
    path.write_text(content)
    with pytest.raises((RunRefusedError, NoSupervisorError)) as ended:
        take(1, "3")
    assert ended.value.exit_code == 75 and "\x1b" not in str(ended.value)
    assert isinstance(ended.value, RunRefusedError) == ("7//3" in content)


def test_only_the_owner_can_read_it(take, fake_run):
    with pytest.raises(ConfigError):
        take(0, "3", ConfigError("a secret in a message"))
    run = RunDirectory(fake_run.run_directory)
    assert "secret" not in json.dumps(json.loads((run.nodes / REFUSAL_NAME).read_text()))
    modes = [path.stat().st_mode & 0o077 for path in (run.path, run.nodes, run.nodes / REFUSAL_NAME)]
    assert modes == [0, 0, 0]
