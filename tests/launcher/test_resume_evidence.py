"""What `verify-resume` finds in the records of two runs, and the verdict that follows."""

import json
from dataclasses import asdict
from functools import partial

import pytest
import torch

from launcher.resume_evidence import compare_losses, first_step_with_other_samples
from launcher.verdict import Finding, Tolerance, Topology, Verdict, render_verdict, tolerance_of
from llama_dist.checkpoint.compare import compare_checkpoints
from llama_dist.checkpoint.manifest import Progress
from llama_dist.checkpoint.save import write_checkpoint
from llama_dist.config import RunDirectory
from llama_dist.parallel.engine import STATES

STEPS = range(1, 5)


@pytest.fixture
def record(tmp_path):
    """Writes the records of a run from (attempt, step, loss, sample ids), one line each."""

    def write(name, lines):
        run = RunDirectory(tmp_path / name)
        audit = run.metrics / "audit"
        audit.mkdir(parents=True)
        run.spool.parent.mkdir(parents=True, exist_ok=True)
        with run.spool.open("w") as spool, (audit / "rank_00000.jsonl").open("w") as samples:
            for attempt, step, loss, ids in lines:
                spool.write(json.dumps({"attempt": attempt, "step": step, "loss": loss}) + "\n")
                entry = {"attempt": attempt, "step": step, "epochs": [0] * len(ids), "sample_ids": ids}
                samples.write(json.dumps(entry) + "\n")
            samples.write('{"attempt": 1, "st')  # cut off by a kill
        return run

    return write


STRAIGHT = [(1, step, 3.0 - step / 10, [2 * step, 2 * step + 1]) for step in STEPS]


def changed(step, **values):
    """The straight run's lines, one of them by a second attempt and with another loss or other samples."""
    lines = [list(line) for line in STRAIGHT]
    lines[step - 1] = [2, step, values.get("loss", lines[step - 1][2]), values.get("ids", lines[step - 1][3])]
    return lines


def test_equal_records_differ_nowhere(record):
    straight, other = record("straight", STRAIGHT), record("other", [*STRAIGHT[:3], *STRAIGHT[2:]])
    losses = compare_losses(straight, other, STEPS, 0.0)
    assert (losses.num_compared, losses.first_step, losses.largest) == (5, None, 0.0)
    assert first_step_with_other_samples(straight, record("again", STRAIGHT), STEPS, 2) is None


@pytest.mark.parametrize(
    ("lines", "first_step"),
    [(changed(3, loss=2.7000001), 3), (STRAIGHT[:3], 4), (changed(2, loss=float("nan")), 2)],
)
def test_another_loss_or_a_missing_one_is_found(record, lines, first_step):
    straight, other = record("straight", STRAIGHT), record("other", lines)
    assert compare_losses(straight, other, STEPS, 0.0).first_step == first_step


@pytest.mark.parametrize("ids", [[4, 6], [4, 4], [4], [4, 5, 5]])
def test_another_repeated_or_missing_sample_is_found(record, ids):
    straight, other = record("straight", STRAIGHT), record("other", changed(2, ids=ids))
    assert first_step_with_other_samples(straight, other, STEPS, 2) == 2


def test_the_verdict_names_the_first_step_and_the_state_that_differs(record):
    straight, other = record("straight", STRAIGHT), record("other", changed(3, loss=2.8))
    state = {"num_tensors": 1, "largest_difference": 0.5, "tensor": "norm.weight"}
    state |= {"largest_share": 0.7, "share_tensor": "embed.weight"}
    states = {
        "fp32": state | {"equal": False, "hash_a": "aa", "hash_b": "bb"},
        "exp_avg": state | {"equal": True, "hash_a": "cc", "hash_b": "cc"},
    }
    topology = Topology(2, 1, 1)
    finding = Finding(
        run="interrupted",
        story="killed",
        topology=topology,
        tolerance=Tolerance(),
        losses=compare_losses(straight, other, STEPS, 0.0),
        first_step_with_other_samples=None,
        checkpoints={"equal": False, "states": states, "fields": {}},
    )
    verdict = Verdict("run", "2026-01-01T00:00:00Z", {}, "hash", 4, topology, (finding,))
    assert finding.faulty_states == ["fp32"]
    text = render_verdict(verdict)
    assert "differ by 5.0e-01 in norm.weight, by 7.0e-01 of its movement since the half in embed.weight" in text
    assert text.endswith("verdict: DIFFERENT: the first step that differs is 3")
    assert verdict.to_json()["first_step_that_differs"] == 3


@pytest.fixture
def verdict_on(record, tmp_path):
    """The faulty states of a run on another topology, whose last checkpoint has some tensors replaced."""
    straight = record("straight", STRAIGHT)

    def checkpoint(name, tensors):
        whole = ((name, state, tensor) for (name, state), tensor in tensors.items())
        progress = Progress(4, 4, {}, "test", {}, {})
        return write_checkpoint(tmp_path / name, progress, whole, scalars={}, tokenizer=b"", states=STATES)

    def verdict(precision, replaced):
        noise = partial(torch.randn, 64, generator=torch.Generator().manual_seed(0))
        rounding = {"fp32": 1e-5, "bf16": 1e-2}[precision]
        half, end, other = {}, {}, {}
        # Weights that are 1 and move by a thousandth; moments of two tensors that are not of one size.
        for name, size in (("embed.weight", 1e-3), ("norm.weight", 1.0)):
            for state in STATES:
                is_weight = state == "fp32"
                half[name, state] = torch.ones(64) if is_weight else size * noise()
                change = 1e-3 * noise() if is_weight else size * noise()
                end[name, state] = half[name, state] + change
                other[name, state] = end[name, state] + rounding * change
        for name, state in replaced:
            other[name, state] = half[name, state] if state == "fp32" else torch.zeros(64)
        directories = [checkpoint(str(number), tensors) for number, tensors in enumerate((end, other, half))]
        compared = json.loads(json.dumps(asdict(compare_checkpoints(*directories))))
        losses = compare_losses(straight, straight, STEPS, 0.0)
        return Finding("moved", "", Topology(1, 1, 3), tolerance_of(precision), losses, None, compared).faulty_states

    return verdict


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_on_another_topology_rounding_passes_and_one_forgotten_tensor_does_not(verdict_on, precision):
    assert verdict_on(precision, []) == []
    for fault in (("norm.weight", "fp32"), ("embed.weight", "exp_avg"), ("embed.weight", "exp_avg_sq")):
        assert verdict_on(precision, [fault]) == [fault[1]]
