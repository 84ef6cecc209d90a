import datetime

import pytest

from launcher.records import write_json
from launcher.slurm_job import SlurmJob, read_job
from launcher.submitted import has_given_up, wants_another_job
from llama_dist.config import RunDirectory
from llama_dist.config.cluster_slurm import SlurmConfig
from llama_dist.exit_codes import ExitCode

NOW = 1_000_000.0
SLURM = SlurmConfig(time_limit_minutes=60, signal_before_limit_seconds=120)
FAR = SlurmJob(True, NOW + 3000, is_preempted=False)
NEAR = SlurmJob(True, NOW + 100, is_preempted=False)
PREEMPTED = SlurmJob(True, NOW + 3000, is_preempted=True)
CANCELLED = SlurmJob(False, NOW, is_preempted=False)
UNKNOWN = SlurmJob(False, None, is_preempted=False)
ENDLESS = SlurmJob(True, None, is_preempted=False)

PREEMPTED_LINE = (
    "JobId=8 JobName=fake JobState=RUNNING RunTime=00:00:38 EndTime=2026-11-25T19:00:18 Deadline=N/A "
    "PreemptEligibleTime=2026-11-25T18:59:23 PreemptTime=2026-11-25T18:59:58 SuspendTime=None"
)


@pytest.mark.parametrize(
    ("code", "job", "is_wanted"),
    [
        (ExitCode.STOPPED, NEAR, True),
        (ExitCode.STOPPED, PREEMPTED, True),
        (ExitCode.STOPPED, FAR, False),  # somebody has stopped the run
        (ExitCode.STOPPED, ENDLESS, False),
        (ExitCode.STOPPED, CANCELLED, False),
        (ExitCode.STOPPED, UNKNOWN, False),
        (ExitCode.RETRY, FAR, True),
        (ExitCode.RETRY, ENDLESS, True),
        (ExitCode.RETRY, CANCELLED, False),
        (ExitCode.RETRY, UNKNOWN, False),
        (ExitCode.DONE, NEAR, False),
        (ExitCode.DONE, PREEMPTED, False),
        (ExitCode.BAD_INPUT, NEAR, False),
        (ExitCode.OUR_BUG, PREEMPTED, False),
        (ExitCode.STORAGE, NEAR, False),
    ],
)
def test_a_run_goes_on_in_another_job_where_its_own_ends_it(code, job, is_wanted):
    assert wants_another_job(code, SLURM, job, True, NOW) == is_wanted


@pytest.mark.parametrize(("job", "is_wanted"), [(NEAR, False), (PREEMPTED, True)])
def test_a_job_whose_time_is_too_short_for_a_checkpoint_is_not_queued_for_ever(job, is_wanted):
    assert wants_another_job(ExitCode.STOPPED, SLURM, job, False, NOW) == is_wanted


@pytest.mark.parametrize("code", [ExitCode.STOPPED, ExitCode.RETRY])
def test_no_other_job_is_wanted_where_the_user_wants_none(code):
    assert not wants_another_job(code, SLURM.model_copy(update={"requeue": False}), PREEMPTED, True, NOW)


def test_the_end_and_the_preemption_of_a_job_are_read():
    job = read_job(PREEMPTED_LINE)
    assert job.is_running and job.is_preempted
    assert job.end_time == datetime.datetime(2026, 11, 25, 19, 0, 18).timestamp()


@pytest.mark.parametrize("state", ["CANCELLED", "COMPLETING", "TIMEOUT", "PENDING", "REQUEUED"])
def test_a_job_in_another_state_does_not_run(state):
    assert not read_job(f"JobId=8 JobState={state} EndTime=2026-11-25T19:00:18").is_running


@pytest.mark.parametrize("end", ["Unknown", "N/A", "None", "2026-13-45T00:00:00", "00000000000000000000", "é"])
def test_an_end_that_is_no_time_is_unknown(end):
    assert read_job(f"JobId=8 JobState=RUNNING EndTime={end} PreemptTime=None") == ENDLESS


@pytest.mark.parametrize("text", ["", "slurm_load_jobs error: Invalid job id specified", "JobId=8 XEndTime=2026-11-25"])
def test_nothing_is_known_of_a_job_of_which_nothing_is_said(text):
    assert read_job(text) == UNKNOWN


@pytest.mark.parametrize(("ends", "expected"), [([], False), (["retry"], False), (["retry", "failed"], True)])
def test_a_run_that_has_given_up_is_told_from_one_that_lost_its_nodes(tmp_path, ends, expected):
    run = RunDirectory(tmp_path)
    for number, following in enumerate(ends, 1):
        run.attempt(number).mkdir(parents=True)
        write_json(run.attempt_end(number), {"next": following})
    assert has_given_up(run) == expected


def test_an_attempt_without_an_end_gives_nothing_up(tmp_path):
    run = RunDirectory(tmp_path)
    run.attempt(1).mkdir(parents=True)
    assert not has_given_up(run)
