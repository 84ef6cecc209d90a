"""The verdict on a rehearsal, and its table."""

from dataclasses import replace

import pytest

from launcher.rehearsal.evidence import Evidence
from launcher.rehearsal.faults import Fault
from launcher.rehearsal.record import FaultResult, Rehearsal, render_rehearsal
from launcher.verdict import Topology

EVIDENCE = Evidence(
    num_steps=40,
    first_step_without_loss=None,
    first_step_with_wrong_samples=None,
    num_repeated_alike=3,
    num_repeated_elsewhere=2,
    largest_difference=2e-7,
    tolerance=1e-4,
    first_step_with_other_loss=None,
)
KILLED = FaultResult(Fault.KILL_RANK, "rank 1 on node2", 7, "rank 1 on node2 was killed by SIGKILL at step 7", 1.2, 9.0)
HUNG = FaultResult(Fault.HANG, "rank 0 on node1", 12, problem="no word of it within 90 s")
REHEARSAL = Rehearsal(
    run="mine",
    date="2025-01-01T00:00:00Z",
    code={},
    config_hash="",
    num_nodes=2,
    topology=Topology(2, 1, 1),
    changes=("parallel.pipeline_stages=1",),
    results=(KILLED,),
    stop_problem="",
    evidence=EVIDENCE,
)


def test_a_run_that_recovered_from_all_with_clean_records_has_recovered():
    assert REHEARSAL.result == REHEARSAL.to_json()["verdict"] == "recovered"
    lines = render_rehearsal(REHEARSAL).splitlines()
    assert lines[1] == "  changed to fit: parallel.pipeline_stages=1"
    assert lines[3:5] == [
        "  kill-rank  rank 1 on node2  1.2 s    9.0 s      recovered",
        "    rank 1 on node2 was killed by SIGKILL at step 7",
    ]
    assert lines[-1] == "verdict: RECOVERED"


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ({"results": (KILLED, HUNG)}, "NOT: no word of it within 90 s"),
        ({"stop_problem": "the run ended with exit code 70"}, "stop     FAIL  the run ended with exit code 70"),
        ({"evidence": replace(EVIDENCE, first_step_without_loss=4)}, "losses   FAIL  missing in step 4"),
        ({"evidence": replace(EVIDENCE, first_step_with_wrong_samples=5)}, "samples  FAIL  wrong in step 5"),
        ({"evidence": replace(EVIDENCE, first_step_with_other_loss=6)}, "2.0e-07 of the value, first in step 6"),
    ],
)
def test_any_fault_in_results_stop_or_records_is_told_and_decides_the_verdict(fault, told):
    rehearsal = replace(REHEARSAL, **fault)
    assert rehearsal.result == "not recovered"
    text = render_rehearsal(rehearsal)
    assert told in text and text.endswith("verdict: NOT RECOVERED")


def test_a_long_saying_is_cut_in_the_table_and_whole_in_the_record():
    rehearsal = replace(REHEARSAL, results=(replace(KILLED, said="word " * 100),))
    line = render_rehearsal(rehearsal).splitlines()[4]
    assert len(line) < 130 and line.endswith(" ...")
    assert rehearsal.to_json()["results"][0]["said"] == "word " * 100
