"""What the sentence says, from beats and stacks as ranks leave them."""

import pytest

from launcher.backend import RankBeat
from launcher.hang_verdict import judge
from launcher.hang_watch import Stall
from launcher.rank_list import name_ranks
from launcher.stack_text import parse_stacks, read_standing
from launcher.stacks import NO_ANSWER

SITE = "/home/llama_dist/venv/lib/python3.11/site-packages"

# A rank in the loop's decision, as CPython 3.11 prints it: the newest thread first, the main thread last.
IN_ALL_REDUCE = f"""Thread 0x00007fd0bb7fe6c0 (most recent call first):
  File "/usr/lib/python3.11/threading.py", line 320 in wait
  File "/usr/lib/python3.11/site/llama_dist/checkpoint/writer.py", line 90 in _run
  File "/usr/lib/python3.11/threading.py", line 1002 in _bootstrap

Current thread 0x00007fd0c9a40740 (most recent call first):
  File "{SITE}/torch/distributed/distributed_c10d.py", line 3010 in all_reduce
  File "{SITE}/torch/distributed/c10d_logger.py", line 83 in wrapper
  File "/srv/llama_dist/llama_dist/train/decision.py", line 140 in _largest_of_all
  File "/srv/llama_dist/llama_dist/train/loop.py", line 66 in train_steps
  File "<frozen runpy>", line 198 in _run_module_as_main
"""
IN_DEEPSPEED = f"""Current thread 0x00007fd0c9a40740 (most recent call first):
  File "{SITE}/torch/distributed/distributed_c10d.py", line 3010 in all_reduce
  File "{SITE}/torch/distributed/c10d_logger.py", line 83 in wrapper
  File "{SITE}/deepspeed/comm/torch.py", line 200 in all_reduce
  File "{SITE}/deepspeed/comm/comm.py", line 500 in all_reduce
  File "{SITE}/deepspeed/comm/comm.py", line 120 in log_wrapper
  File "{SITE}/deepspeed/runtime/zero/stage_1_and_2.py", line 1100 in allreduce_bucket
  File "/srv/llama_dist/llama_dist/parallel/zero_engine.py", line 47 in train_batch
"""
READING = """Current thread 0x00007fd0c9a40740 (most recent call first):
  File "/usr/lib/python3.11/ssl.py", line 1100 in read
  File "/srv/llama_dist/data_pipeline/stream.py", line 80 in read
  File "/srv/llama_dist/llama_dist/train/batches.py", line 40 in read
"""
STOPPED = f"""{NO_ANSWER}: process 77 is in state T, wchan do_signal_stop, syscall 7 0x1
Process 77: python -m llama_dist.train
Python v3.11.7 (/usr/bin/python3.11)

Thread 80 (idle): "upload"
    wait (threading.py:320)
Thread 77 (idle): "MainThread"
    read (data_pipeline/stream.py:80)
    train_steps (llama_dist/train/loop.py:66)
"""
IN_BACKWARD = f"""Thread 0x00007fd0bb7fe6c0 (most recent call first):
  File "{SITE}/torch/distributed/distributed_c10d.py", line 4000 in reduce_scatter_tensor
  File "{SITE}/deepspeed/runtime/zero/stage3.py", line 1300 in __reduce_and_partition

Current thread 0x00007fd0c9a40740 (most recent call first):
  File "{SITE}/torch/autograd/graph.py", line 829 in _engine_run_backward
  File "/srv/llama_dist/llama_dist/parallel/zero_engine.py", line 43 in train_batch
"""


def beat(step=56, phase="train", state="S", host="node1", micro_batch=0):
    return RankBeat(host, 77, step, phase, micro_batch, 31.0, state)


def stall(num_ranks, ranks=None, others_seconds=1.0):
    ranks = tuple(range(num_ranks) if ranks is None else ranks)
    seconds = {rank: 31.0 if rank in ranks else others_seconds for rank in range(num_ranks)}
    return Stall(ranks, len(ranks) == num_ranks, seconds)


def sentence(beats, stacks, ranks=None, num_ranks=None):
    beats, stacks = (value if isinstance(value, dict) else dict(enumerate(value)) for value in (beats, stacks))
    return judge(stall(num_ranks or len(beats), ranks), beats, stacks).sentence


def test_a_stopped_rank_is_named_with_its_host_and_the_wait_of_the_others():
    beats = [beat(), beat(state="T", host="node2"), beat(), beat()]
    assert sentence(beats, [IN_ALL_REDUCE, STOPPED, IN_ALL_REDUCE, IN_ALL_REDUCE]) == (
        "rank 1 on node2 hangs in phase train of step 57 for 31 s: it is stopped by a signal (state T), "
        "in read (data_pipeline/stream.py:80); 3 other ranks wait in all_reduce (llama_dist/train/decision.py:140)"
    )


def test_a_rank_outside_the_collective_of_the_others_is_the_one():
    beats = [beat(phase="read", micro_batch=3), beat(phase="read")]
    assert sentence(beats, [READING, IN_ALL_REDUCE]) == (
        "rank 0 on node1 hangs in phase read of step 57, micro-batch 3, for 31 s: it is in read "
        "(data_pipeline/stream.py:80); 1 other rank waits in all_reduce (llama_dist/train/decision.py:140)"
    )


def test_a_whole_host_is_one_subject():
    beats = [beat(host=f"node{1 + rank // 8}", state="" if rank >= 8 else "S") for rank in range(16)]
    assert sentence(beats, [IN_DEEPSPEED] * 8) == (
        "8 ranks (8 to 15) on node2 hang in phase train of step 57 for 31 s: they ended without a word; "
        "8 other ranks wait in all_reduce (llama_dist/parallel/zero_engine.py:47)"
    )


def test_a_disk_that_holds_a_rank_up_is_named_only_where_the_rank_could_not_answer():
    beats = [beat(phase="save", state="D"), beat(phase="save")]
    held = f"{NO_ANSWER}: process 77 is in state D, wchan nfs_wait_bit_killable\n"
    assert sentence(beats, [held, IN_ALL_REDUCE]).startswith(
        "rank 0 on node1 hangs in phase save at step 56 for 31 s: it is held up by a disk"
    )
    assert sentence(beats, [IN_ALL_REDUCE, READING]).startswith("rank 1 "), "it answered: it was only writing just now"


def test_a_rank_that_was_never_seen_and_one_that_gave_no_answer():
    assert sentence({0: beat(0, "build")}, {0: IN_ALL_REDUCE}, num_ranks=2) == (
        "rank 1 hangs for 31 s: it gave no sign of life in this attempt; "
        "1 other rank waits in all_reduce (llama_dist/train/decision.py:140)"
    )
    silent = f"{NO_ANSWER}: process 77 is in state S, syscall 202\n"
    assert "rank 0 on node1 hangs in phase build for 31 s: it gave no answer (state S)" in sentence(
        [beat(0, "build"), beat(0, "build")], [silent, IN_ALL_REDUCE]
    )


def test_a_rank_whose_beat_came_a_moment_earlier_is_not_singled_out():
    """All wait for each other: the first to come to its limit is late by the way of its beats alone."""
    beats, stacks = dict(enumerate([beat(), beat()])), dict(enumerate([IN_ALL_REDUCE, READING]))
    verdict = judge(stall(2, ranks=[0], others_seconds=30.5), beats, stacks)
    assert (verdict.ranks, verdict.clue) == ((1,), "outside")
    assert "the others go on" not in verdict.sentence


def test_one_rank_that_stands_while_others_go_on():
    assert sentence([beat(), beat(step=57)], [READING, READING], ranks=[0]) == (
        "rank 0 on node1 hangs in phase train of step 57 for 31 s: it is in read (data_pipeline/stream.py:80); "
        "the others go on"
    )


def test_on_a_gpu_the_rank_that_stands_elsewhere_than_most():
    at_gpu = IN_DEEPSPEED[: IN_DEEPSPEED.index("  File")] + (
        '  File "/srv/llama_dist/llama_dist/parallel/zero_engine.py", line 83 in _mean_over_ranks\n'
    )
    text = sentence([beat()] * 3, [at_gpu, READING, at_gpu])
    assert text.startswith("rank 1 on node1 hangs") and "read (data_pipeline/stream.py:80)" in text


def test_without_stacks_the_rank_that_has_done_least():
    assert sentence([beat(), beat(phase="read"), beat()], {}).startswith(
        "rank 1 on node1 hangs in phase read of step 57 for 31 s: it is behind the others"
    )
    assert sentence([beat(micro_batch=5), beat(micro_batch=2)], {}).startswith("rank 1 on node1 hangs")


def test_where_all_look_alike_no_rank_is_blamed():
    beats = [beat(host="node1"), beat(host="node2")]
    assert sentence(beats, [IN_ALL_REDUCE, IN_ALL_REDUCE]) == (
        "no rank stands out: rank 0 on node1 and rank 1 on node2 stand still in phase train of step 57 for 31 s; "
        "2 ranks wait in all_reduce (llama_dist/train/decision.py:140)"
    )
    # Stages of a pipeline wait in different calls.
    assert sentence([beat()] * 3, [IN_ALL_REDUCE, IN_ALL_REDUCE, IN_DEEPSPEED]).startswith("no rank stands out")
    # Pipeline stages begin micro-batches at different times: that is no sign of a fault.
    assert sentence([beat(micro_batch=5), beat()], [IN_ALL_REDUCE, IN_ALL_REDUCE]).startswith("no rank stands out")


def test_ranks_that_finished_are_not_blamed():
    beats = [beat(phase="finish the save"), beat(phase="done", state="")]
    assert sentence(beats, {0: READING}).startswith("rank 0 on node1 hangs in phase finish the save at step 56")


def test_a_run_of_one_rank_is_told_where_it_stands():
    assert sentence([beat()], [READING]) == (
        "rank 0 on node1 hangs in phase train of step 57 for 31 s: it is in read (data_pipeline/stream.py:80)"
    )


def test_all_ranks_stopped_together_is_told_of_all():
    assert "ranks 0, 1 on node1 hang in phase train of step 57 for 31 s: they are stopped by a signal" in sentence(
        [beat(state="T")] * 2, {}
    )


def test_backward_is_followed_into_the_thread_that_runs_its_hooks():
    assert read_standing(IN_BACKWARD).collective == "reduce_scatter_tensor"


def test_a_wait_for_an_own_thread_is_followed_into_it():
    writing = IN_ALL_REDUCE.replace("distributed_c10d.py", "nothing.py").replace("threading.py", "a.py", 1)
    main = '\nThread 0x01 (most recent call first):\n  File "/usr/lib/python3.11/threading.py", line 320 in wait\n'
    main += '  File "/srv/llama_dist/llama_dist/train/main.py", line 99 in train\n'
    assert read_standing(writing.split("\n\n")[0] + "\n" + main).ours.place == "llama_dist/checkpoint/writer.py:90"


@pytest.mark.parametrize(
    "text", ["", "\0\n" * 50, "Thread 0x12 (most recent call first):\n  <no Python frame>\n", NO_ANSWER]
)
def test_text_without_a_stack_is_no_stack(text):
    assert parse_stacks(text) == [] and read_standing(text) is None


def test_many_ranks_and_hosts_are_counted():
    assert name_ranks({0: "a", 1: "a", 2: "b"}) == "ranks 0, 1 on a and rank 2 on b"
    assert name_ranks({rank: f"n{rank}" for rank in range(9)}) == (
        "rank 0 on n0, rank 1 on n1, rank 2 on n2 and those of 6 more hosts"
    )
