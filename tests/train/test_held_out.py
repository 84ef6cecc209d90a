"""Evaluation sets: every sequence in one replica's share, and what cannot be evaluated is refused at the start."""

import random

import numpy as np
import pytest

from data_pipeline.config import PreparationConfig, SourceConfig, StageConfig, TokenizerTrainingConfig
from data_pipeline.errors import DataError
from data_pipeline.preparation.prepare import prepare_dataset
from data_pipeline.stream import open_stream
from data_pipeline.tokenizer_training import train_tokenizer
from llama_dist.config import parse_run_config
from llama_dist.parallel.grid import Grid
from llama_dist.train.held_out import open_held_out_sets


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    """Two datasets of the same text, whose tokenizers differ."""
    folder = tmp_path_factory.mktemp("held_out")
    text = folder / "text"
    text.mkdir()
    source = random.Random(0)
    words = ["".join(source.choices("abcdefghi", k=1 + place % 6)) for place in range(90)]
    for number in range(60):
        (text / f"{number}.txt").write_text(" ".join(source.choices(words, k=40)))
    found = []
    for vocabulary in (270, 275):
        training = TokenizerTrainingConfig(vocabulary_size=vocabulary)
        tokenizer = train_tokenizer([text], folder / f"tokenizer_{vocabulary}", training).tokenizer
        output = folder / f"data_{vocabulary}"
        prepare_dataset([text], tokenizer.path, output, PreparationConfig(validation_fraction=0.4), num_workers=1)
        found.append(str(output))
    return found


def run_config(source, **evaluation):
    model = {"vocabulary_size": 300, "hidden_size": 8, "num_layers": 1, "num_heads": 2, "feed_forward_size": 8}
    return parse_run_config(
        {
            "name": "x",
            "model": model,
            "data": {"sources": [{"path": source}], "sequence_length_tokens": 16},
            "batch": {"global_batch_sequences": 12},
            "train": {"num_steps": 7},
            "evaluation": evaluation,
        },
        where="test",
    )


def held_out_sets(config):
    return open_held_out_sets(config, open_stream(config.data))


@pytest.mark.parametrize(("dp_size", "micro_batch"), [(1, 1), (1, 4), (2, 3), (3, 4), (4, 1)])
def test_every_label_is_in_one_share_and_the_shares_are_equally_long(datasets, dp_size, micro_batch):
    (one,) = held_out_sets(run_config(datasets[0], num_sequences=7))
    shares = [list(one.micro_batches(Grid(rank, dp_size, 1), micro_batch)) for rank in range(dp_size)]
    assert len({len(share) for share in shares}) == 1
    rows = [row for share in shares for batch in share for row in batch.labels.numpy() if (row != -100).any()]
    wanted = one.stream.read(np.arange(7)).labels
    assert sorted(row.tolist() for row in rows) == sorted(row.tolist() for row in wanted)


def test_sets_keep_their_tokens_when_the_training_skips_samples(datasets):
    config = run_config(datasets[0], sets=[{"name": "seen", "split": "train", "num_sequences": 5}])
    skipping = config.model_copy(
        update={
            "data": config.data.model_validate(config.data.model_dump() | {"skip_samples": [{"first": 0, "last": 3}]})
        }
    )
    tokens = [held_out_sets(one)[1].stream.read(np.arange(5)).tokens for one in (config, skipping)]
    np.testing.assert_array_equal(*tokens)


def test_sets_keep_their_tokens_when_a_later_stage_gets_a_source_of_its_own(datasets):
    config = run_config(datasets[0], num_sequences=5)
    later = SourceConfig(path=datasets[0], weight=0, name="later")
    stage = StageConfig(starts_at_tokens=10**6, weights={"later": 1})
    data = config.data.model_copy(update={"sources": [*config.data.sources, later], "stages": [stage]})
    longer = config.model_copy(update={"data": data})
    first, second = (held_out_sets(one)[0].stream for one in (config, longer))
    assert first.num_sequences == second.num_sequences
    np.testing.assert_array_equal(*(one.read(np.arange(5)).sample_ids for one in (first, second)))


def test_a_set_longer_than_its_split_is_refused_by_its_field(datasets):
    config = run_config(datasets[0], num_sequences=2, sets=[{"name": "far", "num_sequences": 10**6}])
    with pytest.raises(
        DataError, match=r"evaluation\.sets\.0\.num_sequences is 1000000, the validation split of set `far`"
    ):
        held_out_sets(config)


def test_a_set_of_another_tokenizer_is_refused(datasets):
    sets = [{"name": "foreign", "sources": [{"path": datasets[1]}], "num_sequences": 2}]
    with pytest.raises(DataError, match="set `foreign` was prepared with another tokenizer"):
        held_out_sets(run_config(datasets[0], num_sequences=2, sets=sets))
