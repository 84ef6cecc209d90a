"""What ended an attempt, by name, and what follows from it."""

import sys
import traceback

import pytest

from cluster.oom import count_oom_kills
from launcher.causes import Cause, cause_of_attempt, last_line
from launcher.ends import Outcome, RankEnd
from launcher.policy import Finish, Past, Retry, decide
from llama_dist.config import SupervisionConfig

LIMITS = SupervisionConfig(max_attempts_without_progress=5, first_backoff_seconds=1.0)
CUDA = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.11 GiB"
CPU = (
    "RuntimeError: [enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory: you tried "
    "to allocate 4000000000000 bytes. Error code 12 (Cannot allocate memory)"
)


def traceback_of(line):
    return f'Traceback (most recent call last):\n  File "x.py", line 3, in train\n    step()\n{line}\n'


def ended(rank, code, reason="", error="", host="node1"):
    return RankEnd(rank, code, code, reason, 7, host, error=error)


def killed(rank, number=9, host="node1"):
    return RankEnd(rank, -number, None, "", 57, host)


def lost(rank, host="node2"):
    return RankEnd(rank, None, None, "", 57, host, lost_because=f"{host} did not answer for 10 s")


def outcome(*ends, first=None, after=None, **more):
    manifests = frozenset() if after is None else frozenset({(after, 1)})
    return Outcome(1, ends, first, frozenset(), manifests, stop_requested=False, **more)


@pytest.mark.parametrize(
    ("ends", "cause"),
    [
        ([ended(0, 70, traceback_of(CUDA), "OutOfMemoryError"), ended(1, 75, "lost a peer")], Cause.OUT_OF_MEMORY),
        ([ended(0, 70, traceback_of(CPU), "RuntimeError")], Cause.OUT_OF_MEMORY),
        ([ended(0, 70, traceback_of("MemoryError"), "MemoryError")], Cause.OUT_OF_MEMORY),
        ([ended(0, 75, "lost a peer"), killed(1)], Cause.KILLED),
        ([ended(0, 75, "lost a peer"), killed(1, 11)], Cause.KILLED),
        ([ended(0, 75, "lost a peer"), lost(1)], Cause.LOST_NODE),
        ([ended(0, 75, "rank 0 of 2 lost a peer in phase `train`: Timed out waiting 60000ms")], Cause.TIMED_OUT),
        ([ended(0, 75, "rank 0 of 2 lost a peer: Connection closed by peer", "PeerLostError")], Cause.LOST_PEER),
        ([ended(0, 75, "replica 1 differs", "ReplicasDifferError")], Cause.REPLICAS_DIFFER),
        ([ended(0, 78, "batch.global_batch 7 is odd", "ConfigError")], Cause.BAD_CONFIG),
        ([ended(0, 78, "shard 3 is 12 bytes", "DataError")], Cause.BAD_DATA),
        ([ended(0, 78, "loss nan", "DivergedError")], Cause.DIVERGED),
        ([ended(0, 74, "no checkpoint is good", "CheckpointError")], Cause.DISK),
        ([ended(0, 70, traceback_of("OSError: [Errno 28] No space left on device: 'x'"), "OSError")], Cause.DISK),
        ([ended(0, 70, traceback_of("ValueError: 3 is not 4"), "ValueError")], Cause.BUG),
        ([RankEnd(0, 1, None, "", None)], Cause.NOT_STARTED),
        ([RankEnd(0, None, None, "", None)], Cause.UNKNOWN),
        ([], Cause.NOT_STARTED),
    ],
)
def test_each_cause_is_named_from_the_rank_that_took_the_others_with_it(ends, cause):
    result = outcome(*ends)
    assert cause_of_attempt(result) == cause
    assert decide(result, Past(), LIMITS).cause == cause


def test_a_hang_is_the_cause_whatever_the_ranks_say_that_were_ended_for_it():
    decision = decide(outcome(killed(0), killed(1), hang="rank 1 hangs in `read`"), Past(), LIMITS)
    assert (decision.cause, decision.reason) == (Cause.HANG, "rank 1 hangs in `read`")


def test_the_line_that_names_the_error_is_found_in_a_real_chained_traceback():
    try:
        try:
            raise ValueError("first")
        except ValueError as error:
            raise RuntimeError("3 is not 4\nand a second line") from error
    except RuntimeError:
        text = traceback.format_exc()
    assert last_line(text) == "RuntimeError: 3 is not 4"
    assert sys.exc_info() == (None, None, None)


def test_memory_that_the_trainer_asked_for_in_vain_ends_the_run_at_once_with_advice():
    decision = decide(outcome(ended(0, 70, traceback_of(CUDA)), ended(1, 75)), Past(), LIMITS)
    assert isinstance(decision, Finish) and (decision.state, decision.exit_code, decision.culprit) == ("failed", 78, 0)
    for advice in ("CUDA out of memory", "micro_batch_sequences", "activation_checkpointing", "zero_stage", "nodes"):
        assert advice in decision.reason


def test_the_same_is_tried_again_where_the_next_attempt_has_another_number_of_nodes():
    decision = decide(outcome(ended(0, 70, traceback_of(CUDA)), ended(1, 75), nodes_change=True), Past(), LIMITS)
    assert isinstance(decision, Retry) and decision.cause == Cause.OUT_OF_MEMORY


def test_a_rank_killed_by_the_kernel_for_memory_is_tried_once_more_and_then_ends_the_run():
    result = outcome(killed(1, host="node2"), ended(0, 75, "lost a peer"), oom_kills={"node1": 0, "node2": 1})
    first = decide(result, Past(), LIMITS)
    assert isinstance(first, Retry) and "rank 1 on node2 was killed by SIGKILL" in first.reason
    assert "out-of-memory killer" in first.reason and first.cause == Cause.KILLED_FOR_MEMORY
    second = decide(result, first.past, LIMITS)
    assert isinstance(second, Finish) and second.exit_code == 78 and "2 times in a row" in second.reason


def test_a_kill_for_memory_that_comes_after_progress_counts_as_the_first():
    oom = {"oom_kills": {"node1": 1}}
    past = decide(outcome(killed(0), **oom), Past(), LIMITS).past
    decision = decide(outcome(killed(0), after=50, **oom), past, LIMITS)
    assert isinstance(decision, Retry) and decision.past == Past(2, 0, 1)


def test_a_kill_on_another_host_than_the_one_short_of_memory_is_a_plain_one():
    assert cause_of_attempt(outcome(killed(1, host="node2"), oom_kills={"node1": 3})) == Cause.KILLED
    assert cause_of_attempt(outcome(killed(1, 15), oom_kills={"node1": 3})) == Cause.UNKNOWN, "the agent ended it"


def test_a_bug_told_beside_a_lost_node_is_its_echo():
    decision = decide(outcome(ended(0, 70, traceback_of("RuntimeError: x")), lost(1)), Past(), LIMITS)
    assert isinstance(decision, Retry)
    assert decision.reason == "rank 1 on node2 was lost at step 57 with its node: node2 did not answer for 10 s"


def test_the_budget_of_attempts_ends_the_run_whatever_progress_it_makes():
    limits = LIMITS.model_copy(update={"max_attempts": 3})
    decision = Retry(0, Past(), "", Cause.KILLED)
    for _ in range(3):
        assert isinstance(decision, Retry)
        decision = decide(outcome(killed(0), after=50), decision.past, limits)
    assert isinstance(decision, Finish) and decision.exit_code == 75
    assert "its 3 attempt(s) are used up (supervision.max_attempts); last: rank 0 was killed" in decision.reason


def test_the_kernels_counter_is_read_and_a_kernel_without_one_counts_none(tmp_path):
    vmstat = tmp_path / "vmstat"
    vmstat.write_text("nr_free_pages 5\noom_kill 3\noom_kill_other 9\n")
    assert count_oom_kills(vmstat) == 3
    vmstat.write_text("nr_free_pages 5\n")
    assert count_oom_kills(vmstat) == count_oom_kills(tmp_path / "absent") == 0
    assert count_oom_kills() >= 0
