"""A checkpoint of any topology resumes on any other, directly. Real DeepSpeed over gloo."""

import pytest

# First loss after the load, in fp32: equal weights, another order of additions.
FIRST_LOSS_TOLERANCE = 1e-5
# Later losses: the weights part by the rounding of each update.
LATER_LOSS_TOLERANCE = 1e-3
BEFORE, AFTER = [0, 4], [4, 8]


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


@pytest.fixture(scope="module")
def results(run_ranks, tmp_path_factory):
    """Every job's result by name. One launch a world: starting costs more than the steps."""
    root = tmp_path_factory.mktemp("checkpoints")

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
