"""A run's weights go out to Hugging Face's format and begin another run, by the verbs that a user types."""

from llama_dist.checkpoint.manifest import list_steps, read_manifest, step_directory
from llama_dist.config import RunDirectory
from llama_dist.metrics.spool import effective_steps, read_spool, spool_path


def losses(run):
    return [record.metrics.loss for record in effective_steps(read_spool(spool_path(run.metrics)))]


def test_an_exported_run_begins_another_one_from_its_weights(write_run, llama_dist, tmp_path):
    first, second = (RunDirectory(tmp_path / "runs" / name) for name in ("first", "second"))
    train = {"num_steps": 30, "precision": "fp32"}
    optimizer = {"learning_rate": 5e-3}
    launched = llama_dist("launch", write_run("first", train=train, optimizer=optimizer))
    assert launched.returncode == 0, launched.stderr + launched.stdout

    exported = llama_dist("checkpoint", "export", first.path, tmp_path / "hf")
    assert exported.returncode == 0, exported.stderr
    run_file = write_run("second", train={"num_steps": 2, "precision": "fp32"}, optimizer=optimizer)
    imported = llama_dist("checkpoint", "import", tmp_path / "hf", run_file)
    assert imported.returncode == 0, imported.stderr
    assert read_manifest(step_directory(second.checkpoints, 0)).kind == "imported"

    launched = llama_dist("launch", run_file)
    assert launched.returncode == 0, launched.stderr + launched.stdout
    assert "step_00000000 (step 0, 0 tokens seen)" in launched.stdout
    assert list_steps(second.checkpoints) == [0, 2]
    # The same first batch as the first run's, by weights that have learned.
    assert losses(second)[0] < losses(first)[0] - 0.2
    again = llama_dist("checkpoint", "import", tmp_path / "hf", run_file)
    assert again.returncode == 78 and "has checkpoints already" in again.stderr
