"""A checkpoint of any topology resumes on any other, directly. Real DeepSpeed over gloo."""

import pytest

# First loss after the load, in fp32: equal weights, another order of additions.
FIRST_LOSS_TOLERANCE = 1e-4


def job(zero, pp=1, *, steps, load=None, save=None, **options):
    return {"zero": zero, "pp": pp, "steps": steps, "load": load, "save": save, **options}


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_zero_and_pipeline_checkpoints_resume_on_each_other(run_ranks, tmp_path, tied):
    by_zero, by_pipeline = str(tmp_path / "by_zero"), str(tmp_path / "by_pipeline")

    def run(world_size, *jobs):
        return run_ranks("engine_jobs.py", world_size, [{**one, "tied": tied} for one in jobs])

    unbroken = run(2, job(1, steps=[0, 8]), job(1, steps=[0, 4], save=by_zero))[0]["losses"]
    run(2, job(1, 2, steps=[0, 4], save=by_pipeline))
    resumed = {
        "ZeRO-1 x 2 as itself, ZeRO-3 x 2, ZeRO-2 x 2, ZeRO-0 x 2": run(
            2, *(job(zero, steps=[4, 8], load=by_zero) for zero in (1, 3, 2, 0))
        ),
        "ZeRO-1 x 2 as ZeRO-2 x 1, pipeline as ZeRO-0 x 1": run(
            1, job(2, steps=[4, 8], load=by_zero), job(0, steps=[4, 8], load=by_pipeline)
        ),
        "ZeRO-1 x 2 and pipeline as pipeline 2": run(
            2, job(1, 2, steps=[4, 8], load=by_zero), job(1, 2, steps=[4, 8], load=by_pipeline)
        ),
        "ZeRO-1 x 2 and pipeline as pipeline 2 x DP 2": run(
            4, job(1, 2, steps=[4, 8], load=by_zero), job(1, 2, steps=[4, 8], load=by_pipeline)
        ),
        "pipeline as ZeRO-1 x 2, ZeRO-3 x 2": run(
            2, job(1, steps=[4, 8], load=by_pipeline), job(3, steps=[4, 8], load=by_pipeline)
        ),
    }
    for name, results in resumed.items():
        for result in results:
            assert abs(result["losses"][0] - unbroken[4]) < FIRST_LOSS_TOLERANCE, name
            assert max(abs(a - b) for a, b in zip(result["losses"], unbroken[4:], strict=True)) < 1e-3, name
            assert result["scalars"]["optimizer_steps"] == 8, name
    itself = resumed["ZeRO-1 x 2 as itself, ZeRO-3 x 2, ZeRO-2 x 2, ZeRO-0 x 2"][0]["losses"]
    assert itself == unbroken[4:], "the same topology resumes bit for bit"


@pytest.mark.parametrize("topologies", [[(0, 1), (2, 1), (3, 1)], [(1, 2)]], ids=["zero", "pipeline"])
def test_the_same_topology_resumes_bit_for_bit(run_ranks, tmp_path, topologies):
    jobs = []
    for zero, pp in topologies:
        for precision in ("fp32", "bf16"):
            directory = str(tmp_path / f"{zero}_{pp}_{precision}")
            jobs += [
                job(zero, pp, steps=[0, 6], precision=precision),
                job(zero, pp, steps=[0, 3], precision=precision, save=directory),
                job(zero, pp, steps=[3, 6], precision=precision, load=directory),
            ]
    results = run_ranks("engine_jobs.py", 2, jobs)
    for unbroken, resumed in zip(results[::3], results[2::3], strict=True):
        assert resumed["losses"] == unbroken["losses"][3:]
        assert resumed["norms"] == unbroken["norms"][3:]
        assert resumed["held_out"] == unbroken["held_out"]
