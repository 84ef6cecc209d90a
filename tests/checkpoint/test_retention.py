"""Which checkpoints are kept: the policy by property, the removal on a real directory."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama_dist.checkpoint.manifest import list_steps, step_directory
from llama_dist.checkpoint.retention import Facts, Retention, reasons_to_keep, remove_checkpoint
from llama_dist.checkpoint.save import write_checkpoint
from llama_dist.config import CheckpointConfig

KINDS = ("interval", "clock", "asked", "stop", "end", "imported")
CHECKPOINTS = st.lists(
    st.builds(
        Facts,
        step=st.integers(0, 200),
        kind=st.sampled_from(KINDS),
        held_out_loss=st.none() | st.floats(0, 10),
        is_uploaded=st.booleans(),
    ),
    min_size=1,
    max_size=15,
    unique_by=lambda one: one.step,
)
POLICIES = st.builds(
    CheckpointConfig,
    keep_last=st.integers(1, 4),
    keep_every_steps=st.none() | st.integers(1, 40),
    keep_best=st.integers(0, 3),
    upload=st.none() | st.just("file:///store"),
)


def kept(checkpoints, policy, newest, **known):
    return {step for step, reasons in reasons_to_keep(checkpoints, policy, newest, **known).items() if reasons}


def facts(*steps, kind="interval"):
    return [Facts(step, kind) for step in steps]


@given(CHECKPOINTS, POLICIES, st.data())
def test_the_newest_good_one_the_later_ones_and_those_not_uploaded_always_stay(checkpoints, policy, data):
    newest = data.draw(st.sampled_from([one.step for one in checkpoints]))
    stays = kept(checkpoints, policy, newest)
    assert newest in stays
    assert {one.step for one in checkpoints if one.step > newest} <= stays
    if policy.upload:
        assert {one.step for one in checkpoints if not one.is_uploaded} <= stays
    if policy.keep_every_steps:
        assert {one.step for one in checkpoints if one.step % policy.keep_every_steps == 0} <= stays


@given(CHECKPOINTS, POLICIES, st.data())
def test_what_is_kept_is_kept_when_asked_again(checkpoints, policy, data):
    newest = data.draw(st.sampled_from([one.step for one in checkpoints]))
    stays = kept(checkpoints, policy, newest)
    assert kept([one for one in checkpoints if one.step in stays], policy, newest) == stays


def test_the_last_ones_are_counted_up_to_the_newest_good_one():
    assert kept(facts(10, 20, 30, 40, 50), CheckpointConfig(keep_last=2), 40) == {30, 40, 50}


def test_a_damaged_one_that_the_run_is_past_stays_and_counts_for_nothing():
    checkpoints = [Facts(step, "interval", loss) for step, loss in ((10, 3.0), (20, 2.0), (30, 1.0), (40, 4.0))]
    for policy in (CheckpointConfig(keep_last=2), CheckpointConfig(keep_last=1, keep_best=1)):
        assert kept(checkpoints, policy, 40, damaged_steps={30}) == {20, 30, 40}


@given(CHECKPOINTS, POLICIES, st.data())
def test_the_last_one_that_was_read_stays_whatever_was_written_since(checkpoints, policy, data):
    newest, verified = (data.draw(st.sampled_from([one.step for one in checkpoints])) for _ in range(2))
    assert verified in kept(checkpoints, policy, newest, verified_step=verified)


def test_those_of_the_clock_stay_until_the_next_and_count_for_nothing():
    checkpoints = [*facts(10, 20), *facts(25, kind="clock"), *facts(30), *facts(35, kind="clock")]
    assert kept(checkpoints, CheckpointConfig(keep_last=2), 35) == {20, 30, 35}
    assert kept([*checkpoints, *facts(40)], CheckpointConfig(keep_last=2), 40) == {30, 40}


def test_the_best_and_every_nth_stay_for_good():
    checkpoints = [Facts(step, "interval", loss) for step, loss in ((10, 3.0), (20, 1.0), (30, 2.0), (40, None))]
    assert kept(checkpoints, CheckpointConfig(keep_last=1, keep_best=2), 40) == {20, 30, 40}
    assert kept(checkpoints, CheckpointConfig(keep_last=1, keep_every_steps=10), 40) == {10, 20, 30, 40}


@pytest.fixture
def checkpoints(tmp_path, progress):
    for step in (1, 2, 3, 4):
        write_checkpoint(tmp_path, progress(step), [], scalars={}, tokenizer=b"", states=("fp32",))
    return tmp_path


def retention(checkpoints, **policy):
    return Retention(checkpoints, CheckpointConfig(**policy), lambda _: False)


def test_superseded_ones_are_removed_with_all_their_files(checkpoints):
    assert retention(checkpoints, keep_last=2).remove_superseded(4) == [1, 2]
    assert list_steps(checkpoints) == [3, 4]
    assert sorted(path.name for path in checkpoints.iterdir()) == ["latest", "step_00000003", "step_00000004"]


def test_one_with_a_damaged_manifest_is_left_for_a_person(checkpoints):
    (step_directory(checkpoints, 1) / "manifest.json").write_text("{}")
    assert retention(checkpoints, keep_last=1).remove_superseded(4) == [2, 3]
    assert step_directory(checkpoints, 1).is_dir()


def test_a_removal_cut_off_by_a_kill_is_finished_by_the_next(checkpoints):
    step_directory(checkpoints, 1).rename(checkpoints / ".removing_00000001")
    retention(checkpoints, keep_last=9).remove_superseded(4)
    assert not list(checkpoints.glob(".removing_*"))


def test_two_removals_at_once_do_not_disturb_each_other(checkpoints):
    remove_checkpoint(checkpoints, 1)
    remove_checkpoint(checkpoints, 1)
    assert list_steps(checkpoints) == [2, 3, 4]
