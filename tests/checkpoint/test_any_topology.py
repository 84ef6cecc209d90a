"""A checkpoint of any topology and precision resumes on any other, directly. Real DeepSpeed over gloo."""

import pytest

from llama_dist.checkpoint.compare import compare_checkpoints
from llama_dist.checkpoint.manifest import step_directory

# First loss after the load, in fp32: equal weights, another order of additions.
FIRST_LOSS_TOLERANCE = 1e-5
# Later losses: the weights part by the rounding of each update.
LATER_LOSS_TOLERANCE = 1e-3
# First loss in another precision: bf16 keeps 8 bits of each number, and fp16 11.
PRECISION_LOSS_TOLERANCE = 2e-2
BEFORE, AFTER = [0, 4], [4, 8]
FP16 = {"precision": "fp16", "pretend_fp16": True, "loss_scale_power": 10}


def load(directory, *topologies, **options):
    return {
        f"{directory} as ZeRO-{zero}, pipeline {pp}": {
            "zero": zero, "pp": pp, "steps": AFTER, "load": directory, **options,
        }
        for zero, pp in topologies
    }  # fmt: skip


def save_and_resume(directory, zero, pp, **options):
    """An unbroken run, and the same in two halves on the same topology."""
    topology = {"zero": zero, "pp": pp, **options}
    return {
        f"{directory} unbroken": {**topology, "steps": [0, 8]},
        f"{directory} first half": {**topology, "steps": BEFORE, "save": directory},
        f"{directory} second half": {**topology, "steps": AFTER, "load": directory},
    }


def change_precision(directory, zero, **options):
    """Resume in another precision, and save again before the first step."""
    job, name = {"zero": zero, "load": directory, **options}, f"{directory} in {options['precision']}"
    return {
        f"{name} again": {**job, "steps": [4, 4], "save": f"{name} again"},
        f"{name} goes on": {**job, "steps": AFTER},
    }


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("checkpoints")


@pytest.fixture(scope="module")
def results(run_ranks, root):
    """Every job's result by name. One launch a world: starting costs more than the steps."""

    def run(world_size, named):
        placed = {
            name: {key: str(root / value) if key in ("load", "save") else value for key, value in job.items()}
            for name, job in named.items()
        }
        found = run_ranks("engine_jobs.py", world_size, placed)
        return {f"{name} x {world_size}": result for name, result in found.items()}

    pipeline, tied = (1, 2), {"tied": True}
    launches = [
        (2, {
            **save_and_resume("by pipeline", 1, 2),
            **save_and_resume("by tied pipeline", 1, 2, tied=True),
            **save_and_resume("by bf16 pipeline", 1, 2, precision="bf16"),
        }),
        (2, {
            **save_and_resume("by ZeRO-1", 1, 1),
            **save_and_resume("by tied ZeRO-1", 1, 1, tied=True),
            **save_and_resume("by ZeRO-0", 0, 1),
            **save_and_resume("by ZeRO-2", 2, 1),
            **save_and_resume("by ZeRO-3", 3, 1),
            **save_and_resume("by bf16 ZeRO-3", 3, 1, precision="bf16"),
            # A scale of 2**20 overflows a few times on both sides of the save.
            **save_and_resume("by fp16 ZeRO-1", 1, 1, precision="fp16", pretend_fp16=True, loss_scale_power=20),
            **load("by ZeRO-1", (3, 1), (2, 1), (0, 1)),
            **load("by ZeRO-3", (1, 1)),
            **load("by pipeline", (1, 1), (3, 1)),
            **load("by tied pipeline", (1, 1), (3, 1), **tied),
            **change_precision("by ZeRO-1", 1, precision="bf16"),
            **change_precision("by ZeRO-3", 3, precision="bf16"),
            **change_precision("by bf16 ZeRO-3", 1, precision="fp32"),
            **change_precision("by bf16 ZeRO-3", 1, **FP16),
            **change_precision("by fp16 ZeRO-1", 2, precision="bf16"),
        }),
        (1, {**load("by ZeRO-1", (2, 1)), **load("by pipeline", (0, 1)), **load("by ZeRO-3", (3, 1))}),
        (2, {
            **load("by ZeRO-1", pipeline),
            **load("by tied ZeRO-1", pipeline, **tied),
            **load("by pipeline", pipeline, split=[2, 1]),
        }),
        (4, {
            **load("by ZeRO-1", pipeline),
            **load("by pipeline", pipeline),
            **load("by tied ZeRO-1", pipeline, **tied),
        }),
    ]  # fmt: skip
    return {name: result for launch in launches for name, result in run(*launch).items()}


def test_the_first_loss_on_another_topology_is_the_unbroken_runs(results):
    resumed = {name: result for name, result in results.items() if " as " in name}
    assert len(resumed) == 17
    for name, result in resumed.items():
        unbroken = results[f"{name.partition(' as ')[0]} unbroken x 2"]["losses"][4:]
        assert abs(result["losses"][0] - unbroken[0]) < FIRST_LOSS_TOLERANCE, name
        assert max(abs(a - b) for a, b in zip(result["losses"], unbroken, strict=True)) < LATER_LOSS_TOLERANCE, name
        assert result["scalars"]["optimizer_steps"] == 8, name


def test_the_same_topology_resumes_bit_for_bit(results):
    halves = [name for name in results if "second half" in name]
    assert len(halves) == 10
    for name in halves:
        unbroken, resumed = results[name.replace("second half", "unbroken")], results[name]
        assert resumed["losses"] == unbroken["losses"][4:], name
        assert resumed["norms"] == unbroken["norms"][4:], name
        assert resumed["held_out"] == unbroken["held_out"], name


def test_the_loss_scale_of_fp16_goes_on_where_it_stood(results):
    unbroken, resumed = results["by fp16 ZeRO-1 unbroken x 2"], results["by fp16 ZeRO-1 second half x 2"]
    assert any(unbroken["skipped"][:4]) and any(unbroken["skipped"][4:])
    assert resumed["skipped"] == unbroken["skipped"][4:]
    assert resumed["scalars"] == unbroken["scalars"]
    assert resumed["scalars"]["cur_scale"] < 2**20


CHANGED_PRECISIONS = [
    ("by ZeRO-1", "bf16"),
    ("by ZeRO-3", "bf16"),
    ("by bf16 ZeRO-3", "fp32"),
    ("by bf16 ZeRO-3", "fp16"),
    ("by fp16 ZeRO-1", "bf16"),
]


@pytest.mark.parametrize(("directory", "precision"), CHANGED_PRECISIONS)
def test_another_precision_takes_over_weights_and_moments_bit_for_bit(results, root, directory, precision):
    again = root / f"{directory} in {precision} again"
    compared = compare_checkpoints(step_directory(root / directory, 4), step_directory(again, 4))
    assert [state.equal for state in compared.states.values()] == [True] * 3
    assert set(compared.fields) <= {"scalars"}, "and the loss scale is no state of the model"


@pytest.mark.parametrize(("directory", "precision"), CHANGED_PRECISIONS)
def test_the_first_loss_in_another_precision_is_the_unbroken_runs(results, directory, precision):
    resumed, unbroken = results[f"{directory} in {precision} goes on x 2"], results[f"{directory} unbroken x 2"]
    assert abs(resumed["losses"][0] - unbroken["losses"][4]) < PRECISION_LOSS_TOLERANCE
    assert not any(resumed["diverged"]) and resumed["losses"][-1] < resumed["losses"][0]
    num_done = results[f"{directory} first half x 2"]["scalars"]["optimizer_steps"]
    assert resumed["scalars"]["optimizer_steps"] == num_done + 4 - sum(resumed["skipped"])


def test_fp16_from_a_checkpoint_without_a_loss_scale_begins_with_its_own(results):
    assert "cur_scale" not in results["by bf16 ZeRO-3 first half x 2"]["scalars"]
    again = results["by bf16 ZeRO-3 in fp16 again x 2"]
    assert again["scalars"] == {
        "optimizer_steps": 4, "cur_scale": 2**10, "cur_iter": 0, "last_overflow_iter": -1, "cur_hysteresis": 2,
    }  # fmt: skip
    assert not any(results["by bf16 ZeRO-3 in fp16 goes on x 2"]["skipped"])
