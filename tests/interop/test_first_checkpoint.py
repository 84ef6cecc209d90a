"""What an import leaves in the run's directory, and what it refuses without a trace. No ranks, no transformers."""

from pathlib import Path

from llama_dist.config import RunDirectory
from llama_dist.config.run_life import is_life, read_life, read_saved
from llama_dist.interop.hf_import import import_from_hf


def run_of(config):
    return RunDirectory(Path(config.runs_directory) / config.name)


def test_an_import_writes_down_that_the_run_has_a_checkpoint(folder, run_config):
    run = run_of(run_config())
    assert import_from_hf(folder, run_config(), "test").name == "step_00000000"
    assert read_saved(run).step == 0 and is_life(read_life(run))
