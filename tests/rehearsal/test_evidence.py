"""What a run's own records say of a rehearsal: nothing lost, nothing twice, the same losses again."""

import json

import pytest

from launcher.rehearsal.evidence import read_evidence
from llama_dist.config import RunDirectory, write_yaml

TOLERANCE = 1e-4


def config(zero_stage):
    return {
        "name": "rehearsed",
        "model": {"vocabulary_size": 300, "hidden_size": 16, "num_layers": 1, "num_heads": 2, "feed_forward_size": 32},
        "data": {"sources": [{"path": "data"}], "sequence_length_tokens": 16},
        "batch": {"global_batch_sequences": 2},
        "train": {"num_steps": 9},
        "parallel": {"zero_stage": zero_stage},
    }


@pytest.fixture
def evidence(tmp_path):
    """Evidence of a run from (attempt, step, loss, sample ids); `worlds` are the attempts' world sizes."""

    def read(lines, worlds=(2, 2)):
        run = RunDirectory(tmp_path / "rehearsed")
        audit = run.metrics / "audit"
        audit.mkdir(parents=True)
        for number, world_size in enumerate(worlds, start=1):
            run.attempt(number).mkdir(parents=True)
            write_yaml(run.attempt_config(number), config(zero_stage=1))
            (run.attempt(number) / "plan.json").write_text(json.dumps({"world_size": world_size}))
        with run.spool.open("w") as spool, (audit / "rank_00000.jsonl").open("w") as samples:
            for attempt, step, loss, ids in lines:
                if loss is not None:  # else it was begun, and not done
                    spool.write(json.dumps({"attempt": attempt, "step": step, "loss": loss}) + "\n")
                values = {"attempt": attempt, "step": step, "epochs": [0] * len(ids), "sample_ids": ids}
                samples.write(json.dumps(values) + "\n")
        return read_evidence(run, 2, TOLERANCE)

    return read


FIRST = [(1, 1, 5.0, [0, 1]), (1, 2, 4.0, [2, 3]), (1, 3, 3.0, [4, 5]), (1, 4, None, [6])]
AGAIN = [(2, 3, 3.0, [4, 5]), (2, 4, 2.0, [6, 7]), (2, 5, None, [8, 9])]


def test_a_run_that_went_back_and_did_the_same_again_is_clean(evidence):
    found = evidence([*FIRST, *AGAIN])
    assert found.is_clean and found.num_steps == 4
    assert (found.num_repeated_alike, found.num_repeated_elsewhere) == (1, 0)


def test_a_step_on_another_number_of_ranks_may_round_otherwise(evidence):
    found = evidence([*FIRST, (2, 3, 3.00001, [4, 5]), *AGAIN[1:]], worlds=(2, 1))
    assert found.is_clean and (found.num_repeated_alike, found.num_repeated_elsewhere) == (0, 1)
    assert 0 < found.largest_difference < TOLERANCE


@pytest.mark.parametrize(
    ("changed", "field", "step"),
    [
        ((2, 3, 3.00001, [4, 5]), "first_step_with_other_loss", 3),  # on the same topology
        ((2, 3, 3.0, [4, 7]), "first_step_with_wrong_samples", 3),  # not what the first attempt read
        ((2, 3, 3.0, [4]), "first_step_with_wrong_samples", 3),
        ((2, 3, 3.0, [4, 4]), "first_step_with_wrong_samples", 3),
    ],
)
def test_a_step_done_otherwise_the_second_time_is_found(evidence, changed, field, step):
    found = evidence([*FIRST, changed, *AGAIN[1:]])
    assert not found.is_clean and getattr(found, field) == step


def test_a_sample_of_an_earlier_step_is_found(evidence):
    found = evidence([*FIRST[:3], AGAIN[0], (2, 4, 2.0, [6, 1])])
    assert found.first_step_with_wrong_samples == 4


def test_a_step_without_a_record_is_found(evidence):
    found = evidence([FIRST[0], (1, 2, None, [2, 3]), *AGAIN])
    assert not found.is_clean and found.first_step_without_loss == 2
