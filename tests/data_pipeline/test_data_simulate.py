"""`data simulate` counts what the order gives, sample for sample, and says where text is repeated too often."""

import json
from pathlib import Path

import numpy as np
import pytest
from order_cases import config, shape
from typer.testing import CliRunner

from data_pipeline.cli import data_app
from data_pipeline.config import ConfigError, write_yaml
from data_pipeline.simulation import simulate
from data_pipeline.training_order import TrainingOrder


def test_the_counts_are_those_of_the_samples_that_the_order_gives():
    settings = config(2, 1, 0, stages=[(700, (1, 0, 1)), (1300, (0, 1, 3)), (9000, (1, 1, 1))], skips=[(650, 760)])
    shapes = [shape(500), shape(90), shape(2000)]
    simulated = simulate(settings, shapes, num_steps=100, batch_sequences=20)
    order = TrainingOrder(settings, shapes)
    positions = np.arange(2000)
    located, numbers = order.locate(positions), order.sample_numbers(positions)
    assert (simulated.samples, simulated.skipped_samples) == (2000, 111)
    for stage, (first, last) in zip(simulated.stages, ((0, 700), (700, 1300), (1300, 9000)), strict=True):
        inside = (numbers >= first) & (numbers < last)
        assert stage.samples == np.count_nonzero(inside)
        assert stage.first_step == int(positions[inside][0]) // 20 + 1
        for source in stage.sources:
            own = inside & (located.sources == int(source.name[1:]))
            assert source.samples == np.count_nonzero(own)
            assert source.tokens == source.samples * settings.sequence_length_tokens
            assert source.share == pytest.approx(source.samples / stage.samples, abs=1e-6)
    assert [source.samples for source in simulated.sources] == np.bincount(located.sources).tolist()
    # Passes are those of the order, whose last sample lies in the pass that was begun.
    last_epochs = [int(located.epochs[located.sources == source].max()) for source in range(3)]
    assert [int(source.epochs) for source in simulated.sources] == last_epochs
    assert simulated.warnings == [
        f"s1 is read {simulated.sources[1].epochs:.1f} times: beyond about 4 passes repeated text teaches little: "
        "add text, or lower its weight",
        "data.stages.2 begins after step 100, the last one",
    ]


def run_file(folder: Path, datasets: list[Path], **sections) -> Path:
    values = {
        "name": "x",
        "data": {
            "sources": [
                {"path": str(path), "weight": weight} for path, weight in zip(datasets, (1.0, 0.0), strict=True)
            ],
            "stages": [{"starts_at_tokens": 6400, "weights": {datasets[0].name: 1.0, datasets[1].name: 1.0}}],
            "sequence_length_tokens": 64,
        },
        "batch": {"global_batch_sequences": 10},
        "train": {"num_steps": 30},
    } | sections
    path = folder / "run.yaml"
    write_yaml(path, values)
    return path


def test_the_verb_reads_a_run_file_or_a_run_directory(built_dataset, other_dataset, tmp_path):
    path = run_file(tmp_path, [built_dataset, other_dataset])
    answers = [
        json.loads(CliRunner().invoke(data_app, ["simulate", str(run), *options, "--json"]).stdout)
        for run, options in ((path, []), (tmp_path, []), (path, ["--steps", "15"]))
    ]
    assert answers[0] == answers[1]
    assert [answer["tokens"] for answer in answers] == [30 * 640, 30 * 640, 15 * 640]
    assert [stage["first_step"] for stage in answers[0]["stages"]] == [1, 11]
    text = CliRunner().invoke(data_app, ["simulate", str(path)]).stdout
    assert "stage 1, from step 11: 200 samples, 12,800 tokens" in text
    assert "run, 30 steps: 300 samples, 19,200 tokens" in text


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"batch": None}, "has no section `batch`"),
        ({"train": {}}, r"train\.num_steps is None, needs a number of steps"),
        ({"batch": {"global_batch": 1}}, "batch: the config cannot be used"),
    ],
)
def test_a_run_file_without_what_is_needed_is_refused(built_dataset, other_dataset, tmp_path, sections, message):
    path = run_file(tmp_path, [built_dataset, other_dataset], **sections)
    with pytest.raises(ConfigError, match=message):
        raise CliRunner().invoke(data_app, ["simulate", str(path)]).exception
