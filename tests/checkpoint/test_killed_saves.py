"""A process that dies by SIGKILL anywhere in a save leaves a good checkpoint, and the next save works."""

import pytest


@pytest.fixture(scope="module")
def results(run_ranks, tmp_path_factory):
    return run_ranks("killed_saves.py", 1, {"directory": str(tmp_path_factory.mktemp("killed"))})


@pytest.mark.parametrize("comes_upon", ["nothing", "unfinished"])
def test_a_kill_at_any_call_of_a_save_leaves_the_old_or_the_new_checkpoint(results, comes_upon):
    *killed, unharmed = results[comes_upon]
    assert unharmed["killed_in"] is None and unharmed["newest"] == 2
    assert {one["killed_in"] for one in killed} >= {"open", "write", "fsync", "rename", "unlink", "mkdir", "symlink"}
    newest = [one["newest"] for one in killed]
    assert newest == sorted(newest) and set(newest) == {1, 2}, "the old one until one instant, the new one from then on"
    for number, one in enumerate(results[comes_upon]):
        assert one["then"] == 3 and one["entries"] == ["latest", "step_00000003"], (number, one)
