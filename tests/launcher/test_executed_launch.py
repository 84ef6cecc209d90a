"""What a launch leaves and says, over a fake backend; real processes are in `test_supervision.py`."""

import json
import os
import shutil

import pytest
import yaml
from fake_backend import FakeBackend, leave_exit_record, save

from launcher.agent_log import WorkerFailures
from launcher.console import Console
from launcher.errors import RunDirectoryError
from launcher.execute import execute
from launcher.launch import LaunchRequest, check_launch
from llama_dist.checkpoint.manifest import list_steps
from llama_dist.config import ConfigError, RunDirectory
from llama_dist.config.run_life import begin_life, note_saved, read_life


@pytest.fixture
def launch(fake_run, monkeypatch):
    """Execute the run file with these attempts and changes; answers (exit code, backend, run directory)."""

    def run(*attempts, overrides=(), allow=(), fresh=False):
        overrides = ("supervision.first_backoff_seconds=0.001", *overrides)
        request = LaunchRequest(fake_run.run_file, None, overrides, allow, fresh)
        checked = check_launch(request, {"PATH": os.environ["PATH"], "CUDA_VISIBLE_DEVICES": "", "RANK": "9"})
        backend = FakeBackend(checked.run, *attempts)
        monkeypatch.setattr("launcher.execute.backend_of", lambda _launch: backend)
        return execute(checked, Console()), backend, checked.run

    return run


def done_at(step):
    def attempt(run, _number):
        save(run, step)
        return (0,)

    return attempt


def rank_ends(code, reason):
    def attempt(run, number):
        leave_exit_record(run, number, 0, code, reason)
        return 1, WorkerFailures({0: code}, 0)

    return attempt


def killed(run, _number):
    (run.attempt(_number) / "logs" / "rank_00000.err").write_text("connection reset by peer\n")
    return 1, WorkerFailures({0: -9}, 0)


@pytest.mark.parametrize(
    ("code", "reason"), [(78, "shard 3 is 12 bytes, the manifest says 4096"), (74, "no space left"), (70, "a bug")]
)
def test_what_no_retry_can_mend_ends_the_run_at_once_with_the_ranks_reason(launch, capsys, code, reason):
    exit_code, backend, run = launch(rank_ends(code, reason))
    assert exit_code == code
    assert reason in capsys.readouterr().out
    assert len(backend.specs) == 1
    record = json.loads(run.supervisor.read_text())
    assert (record["state"], record["exit_code"]) == ("failed", code)
    assert reason in record["reason"]
    assert json.loads((run.attempt(1) / "exit.json").read_text())["exit_code"] == code


def test_a_traceback_is_shown_once(launch, capsys):
    launch(rank_ends(70, "Traceback (most recent call last):\n  File x, line 3\nValueError: 3 is not 4"))
    output = capsys.readouterr().out
    assert output.count("File x, line 3") == 1


def test_attempts_without_a_newer_checkpoint_end_the_run_with_the_log_of_the_culprit(launch, capsys):
    exit_code, backend, _ = launch(killed, killed, overrides=("supervision.max_attempts_without_progress=2",))
    output = capsys.readouterr().out
    assert exit_code == 75
    assert len(backend.specs) == 2
    assert "no newer checkpoint in 2 attempt(s)" in output
    assert output.count("connection reset by peer") == 1


def test_progress_starts_the_count_again(launch):
    def killed_after_saving(run, number):
        save(run, number)
        return killed(run, number)

    attempts = [killed, killed_after_saving] * 3 + [done_at(20)]
    exit_code, backend, _ = launch(*attempts, overrides=("supervision.max_attempts_without_progress=2",))
    assert (exit_code, len(backend.specs)) == (0, 7)


def test_a_checkpoint_below_a_damaged_one_is_progress(launch):
    def killed_after_saving(run, number):
        if number == 1:
            save(run, 100)
        save(run, 50 + number)
        return killed(run, number)

    attempts = [killed_after_saving] * 4 + [done_at(120)]
    exit_code, backend, _ = launch(*attempts, overrides=("supervision.max_attempts_without_progress=1",))
    assert (exit_code, len(backend.specs)) == (0, 5)


def test_an_attempt_leaves_config_plan_environment_code_and_end(launch):
    _, backend, run = launch(done_at(20))
    attempt = run.attempt(1)
    assert yaml.safe_load(run.attempt_config(1).read_text()) == yaml.safe_load(run.config.read_text())
    assert json.loads((attempt / "plan.json").read_text())["attempt"] == 1
    environment = json.loads((attempt / "environment.json").read_text())
    assert environment["MALLOC_TRIM_THRESHOLD_"]
    assert "RANK" not in environment
    assert dict(backend.specs[0].nodes[0].environment) == environment  # there was no secret to mask
    code = json.loads((attempt / "code.json").read_text())
    assert code["packages"]["torch"]
    assert set(code) == {"git_revision", "git_dirty", "python", "system", "packages"}
    end = json.loads((attempt / "exit.json").read_text())
    assert (end["exit_code"], end["checkpoint_step_before"], end["checkpoint_step_after"]) == (0, None, 20)
    assert end["started"] <= end["ended"]


def test_the_run_directory_is_private(launch):
    _, _, run = launch(done_at(20))
    open_to_others = [path for path in (run.path, *run.path.rglob("*.json")) if path.stat().st_mode & 0o077]
    assert open_to_others == [run.checkpoints / "step_00000020" / "manifest.json"]  # the fake rank's own


def test_launching_again_continues_and_records_a_new_length(launch, capsys):
    launch(done_at(20))
    _, _, run = launch(done_at(40), overrides=("train.num_steps=40",))
    assert "continues; newest checkpoint: step 20" in capsys.readouterr().out
    changes = json.loads((run.attempt(2) / "changes.json").read_text())["changes"]
    assert changes == [{"field": "train.num_steps", "old": 20, "new": 40, "verdict": "free"}]
    assert yaml.safe_load(run.config.read_text())["train"]["num_steps"] == 20
    assert yaml.safe_load(run.attempt_config(2).read_text())["train"]["num_steps"] == 40


def test_a_refused_change_starts_nothing_and_the_named_one_is_compared_from_then_on(launch):
    launch(done_at(20))
    warmer = ("optimizer.learning_rate=0.01",)
    with pytest.raises(ConfigError, match=r"\[refused\] optimizer.learning_rate: 0.0003 -> 0.01"):
        launch(done_at(21), overrides=warmer)
    launch(done_at(22), overrides=warmer, allow=("optimizer.learning_rate",))
    launch(done_at(23), overrides=warmer)  # against the latest attempt, which had it
    with pytest.raises(ConfigError, match=r"\[refused\] optimizer.learning_rate: 0.01 -> 0.0003"):
        launch(done_at(24))


def test_fresh_sets_the_checkpoints_aside_and_progress_counts_from_nothing(launch, capsys):
    launch(done_at(900))
    _, _, run = launch(killed, done_at(3), fresh=True)
    assert "starts again at step 0" in capsys.readouterr().out
    aside = run.path / "checkpoints.before_attempt_0002"
    assert [path.name for path in aside.iterdir()] == ["step_00000900"]
    end = json.loads((run.attempt(3) / "exit.json").read_text())
    assert (end["checkpoint_step_before"], end["checkpoint_step_after"]) == (None, 3)


def test_checkpoints_lie_where_the_config_says_and_the_link_never_moves(launch, capsys, tmp_path):
    first, second = tmp_path / "fast", tmp_path / "other"
    _, _, run = launch(done_at(20), overrides=[f"checkpoint.directory={first}"])
    target = run.checkpoints.readlink()
    assert target.parent == first and target.name.startswith("fake-")
    assert list_steps(target) == [20]
    capsys.readouterr()
    launch(done_at(21), overrides=[f"checkpoint.directory={second}"])
    assert f"its checkpoints stay in {target}: checkpoint.directory ({second})" in capsys.readouterr().out
    assert run.checkpoints.readlink() == target

    launch(done_at(3), overrides=[f"checkpoint.directory={second}"], fresh=True)
    assert run.checkpoints.readlink().parent == second
    aside = run.path / "checkpoints.before_attempt_0003"
    assert aside.readlink() == target and list_steps(aside) == [20, 21]


def test_a_link_to_a_disk_that_is_not_there_is_no_start_from_zero(launch, tmp_path):
    _, _, run = launch(done_at(20), overrides=[f"checkpoint.directory={tmp_path / 'disk'}"])
    (tmp_path / "disk").rename(tmp_path / "unmounted")
    with pytest.raises(RunDirectoryError, match=r"holds no checkpoint, but run `fake` has saved one up to step 20"):
        launch(done_at(20))
    launch(done_at(3), overrides=[f"checkpoint.directory={tmp_path / 'disk'}"], fresh=True)
    assert (run.path / "checkpoints.before_attempt_0002").is_symlink(), "the link is set aside, wherever it leads"


def loses_the_disk(run, number):
    shutil.rmtree(run.checkpoints)
    return killed(run, number)


def saves_at_10(run, number):
    save(run, 10)
    return killed(run, number)


def saves_and_loses_the_disk(run, number):
    save(run, 10)
    note_saved(run, 10)  # as its rank 0 does
    return loses_the_disk(run, number)


@pytest.mark.parametrize("attempts", [[saves_at_10, loses_the_disk], [saves_and_loses_the_disk]])
def test_checkpoints_that_vanish_between_attempts_end_the_run_in_place_of_a_start_from_zero(launch, fake_run, attempts):
    with pytest.raises(RunDirectoryError, match="holds no checkpoint, but run `fake` has saved one up to step 10"):
        launch(*attempts, done_at(20))
    run = RunDirectory(fake_run.run_directory)
    record = json.loads(run.supervisor.read_text())
    assert (record["state"], record["exit_code"], record["attempt"]) == ("failed", 74, len(attempts) + 1)
    exit_code, backend, _ = launch(killed, done_at(3), fresh=True)
    assert (exit_code, len(backend.specs)) == (0, 2), "with --fresh nothing is missed"


def test_an_imported_checkpoint_that_vanishes_is_missed_too(launch, fake_run):
    save(RunDirectory(fake_run.run_directory), 0)
    with pytest.raises(RunDirectoryError, match="has saved one up to step 0"):
        launch(loses_the_disk, done_at(20))


def imported_and_lost(run):
    """What `checkpoint import` leaves, once its checkpoint is gone; the run was never launched."""
    run.path.mkdir(parents=True)
    begin_life(run)
    note_saved(run, 0)


def test_an_imported_checkpoint_that_vanishes_before_the_first_launch_is_missed_too(launch, fake_run):
    run = RunDirectory(fake_run.run_directory)
    imported_and_lost(run)
    with pytest.raises(RunDirectoryError, match="has saved one up to step 0"):
        launch(done_at(20))
    life = read_life(run)
    exit_code, _, _ = launch(done_at(20), fresh=True)
    assert exit_code == 0 and read_life(run) != life and run.config.is_file()


def test_fresh_sets_an_imported_checkpoint_aside_although_the_run_was_never_launched(launch, fake_run):
    run = RunDirectory(fake_run.run_directory)
    imported_and_lost(run)
    save(run, 0)
    launch(done_at(20), fresh=True)
    assert list_steps(run.checkpoints) == [20]
    assert list_steps(run.path / "checkpoints.before_attempt_0001") == [0]


def test_a_run_keeps_its_life_until_it_begins_anew(launch):
    _, _, run = launch(done_at(20))
    life = read_life(run)
    launch(done_at(21))
    assert life and read_life(run) == life
    launch(done_at(3), fresh=True)
    assert read_life(run) not in ("", life)


def test_nodes_disks_without_a_directory_are_refused(launch):
    with pytest.raises(ConfigError, match=r"checkpoint\.directory is not set"):
        launch(done_at(20), overrides=["checkpoint.shared=false"])


def test_a_disk_that_fails_under_the_supervisor_ends_the_run_with_74(launch):
    def spoil(run, number):
        (run.attempt(number) / "exit.json").mkdir()  # stands for a write that the disk refuses
        return (0,)

    with pytest.raises(RunDirectoryError) as ended:
        launch(spoil)
    assert ended.value.exit_code == 74


@pytest.mark.parametrize("blocked", ["lock", "run.yaml.tmp"])
def test_what_the_disk_refuses_before_the_first_attempt_is_told_with_path_and_74(launch, fake_run, blocked):
    (fake_run.run_directory / blocked).mkdir(parents=True)  # stands for a file that cannot be written
    with pytest.raises(RunDirectoryError, match=f"{blocked}: .*run `fake` was not started") as refused:
        launch(done_at(1))
    assert refused.value.exit_code == 74


def test_checkpoints_that_cannot_be_set_aside_are_told_with_74(launch):
    _, _, run = launch(done_at(20))
    (run.path / "checkpoints.before_attempt_0002" / "held").mkdir(parents=True)
    with pytest.raises(RunDirectoryError, match=r"fake/checkpoints: ") as refused:
        launch(done_at(1), fresh=True)
    assert refused.value.exit_code == 74


SHAPE = ("model.vocabulary_size=128", "optimizer.learning_rate=0.01")


def test_a_run_without_a_checkpoint_takes_any_change_and_begins_anew_with_it(launch, capsys):
    launch(rank_ends(78, "the data has 128 token ids, model.vocabulary_size is 64"))
    _, _, run = launch(done_at(20), overrides=SHAPE)
    assert "changed:  [allowed] model.vocabulary_size: 64 -> 128" in capsys.readouterr().out
    assert yaml.safe_load(run.config.read_text())["model"]["vocabulary_size"] == 128
    changes = json.loads((run.attempt(2) / "changes.json").read_text())["changes"]
    assert {change["field"] for change in changes} == {"model.vocabulary_size", "optimizer.learning_rate"}
    with pytest.raises(ConfigError, match=r"\[never\] model.vocabulary_size: 128 -> 64"):
        launch(done_at(21))


def test_fresh_takes_any_change_although_there_is_a_checkpoint(launch):
    launch(done_at(20))
    _, _, run = launch(done_at(3), overrides=SHAPE, fresh=True)
    assert yaml.safe_load(run.config.read_text())["model"]["vocabulary_size"] == 128
    assert (run.path / "checkpoints.before_attempt_0002" / "step_00000020").is_dir()


def test_a_checkpoint_without_a_manifest_keeps_the_config(launch):
    """It may be damage, and then the run's past is worth more than the new config."""
    _, _, run = launch(rank_ends(78, "bad shard"))
    (run.checkpoints / "step_00000020").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"\[never\] model.vocabulary_size: 64 -> 128"):
        launch(done_at(20), overrides=SHAPE)
    assert yaml.safe_load(run.config.read_text())["model"]["vocabulary_size"] == 64


def test_fresh_sets_the_metrics_aside_too(launch):
    _, _, run = launch(done_at(20))
    run.metrics.mkdir(exist_ok=True)
    run.spool.write_text("{}\n")
    launch(done_at(3), fresh=True)
    assert (run.path / "metrics.before_attempt_0002" / "spool.jsonl").is_file()
    assert not run.spool.exists()


def test_a_runs_directory_that_cannot_be_made_is_told_by_name(launch, fake_run):
    (fake_run.path / "file").write_text("")
    with pytest.raises(RunDirectoryError, match="set runs_directory"):
        launch(done_at(1), overrides=(f"runs_directory={fake_run.path / 'file'}",))


def test_a_launch_that_is_interrupted_while_it_is_checked_says_that_nothing_began(
    launch, fake_run, monkeypatch, capsys
):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("launcher.execute.check_before_launch", interrupt)
    with pytest.raises(KeyboardInterrupt):
        launch(done_at(20))
    assert capsys.readouterr().out == "llama-dist: interrupted before the run began\n"
    assert not fake_run.run_directory.exists()
