"""A dataset prepared with transforms and augmentation: the same for any number of workers, counted, as declared."""

import json

import pytest
import typer
from prose_samples import PROSE
from typer.testing import CliRunner

from data_pipeline.cli import dataset_verbs, prepare_verbs
from data_pipeline.config import PreparationConfig, TokenizerTrainingConfig, parse_config
from data_pipeline.errors import DataError
from data_pipeline.manifest import read_manifest
from data_pipeline.preparation.prepare import prepare_dataset
from data_pipeline.shard_reader import read_batches
from data_pipeline.tokenizer_training import train_tokenizer
from data_pipeline.verification import verify_dataset

SENTINELS = ["<fim_prefix>", "<fim_middle>", "<fim_suffix>"]
TRANSFORMS = [
    {"kind": "normalize_unicode", "form": "NFC"},
    {"kind": "filter_length", "min_characters": 40, "max_characters": 900},
    {"kind": "filter_lines", "needs_letter": True},
    {"kind": "remove_stop_words", "words": ["number", "的"]},
]
AUGMENTATION = {
    "seed": 3,
    "subword_sampling": {"rate": 0.5, "dropout": 0.3},
    "fill_in_the_middle": {"rate": 0.5},
}


@pytest.fixture(scope="module")
def texts():
    prose = sorted(PROSE.values())
    return [f"number {number}\n--\n{prose[number % len(prose)][: 20 + number * 7]}" for number in range(120)]


@pytest.fixture(scope="module")
def corpus_file(texts, tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "corpus.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in ["", *texts]), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def reserving(corpus_file, tmp_path_factory):
    config = TokenizerTrainingConfig(vocabulary_size=1400, reserved=SENTINELS)
    return train_tokenizer([corpus_file], tmp_path_factory.mktemp("reserving"), config).tokenizer


def config_of(**values):
    small = {"validation_fraction": 0.2, "tokens_per_record_batch": 2000, "shard_bytes": 20_000, "task_bytes": 15_000}
    return parse_config(PreparationConfig, small | values, where="test")


def contents(directory):
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def stored(directory, tokenizer):
    """Return split, hash and ids of every document, without its end."""
    manifest = read_manifest(directory)
    for split in ("train", "validation"):
        for shard in manifest.shards(split):
            for batch in read_batches(directory / shard.file, manifest.token_dtype):
                for start, end in zip(batch.bounds[:-1], batch.bounds[1:], strict=True):
                    ids = batch.tokens[start:end].tolist()
                    assert ids[-1] == tokenizer.eos_id
                    yield split, ids[:-1]


def test_one_and_three_workers_write_the_same_bytes(corpus_file, reserving, tmp_path):
    config = config_of(transforms=TRANSFORMS, augmentation=AUGMENTATION)
    for name, num_workers in (("one", 1), ("three", 3)):
        prepare_dataset([corpus_file], reserving.path, tmp_path / name, config, num_workers=num_workers)
    assert contents(tmp_path / "one") == contents(tmp_path / "three")
    verify_dataset(tmp_path / "one")


def test_held_out_documents_are_not_augmented_and_the_others_are(corpus_file, texts, reserving, tmp_path):
    config = config_of(augmentation=AUGMENTATION | {"fill_in_the_middle": {"rate": 1.0, "spm_share": 0.0}})
    prepare_dataset([corpus_file], reserving.path, tmp_path / "d", config, num_workers=1)
    plain = {tuple(reserving.encode(text)) for text in texts}
    documents = list(stored(tmp_path / "d", reserving))
    assert {split for split, _ in documents} == {"train", "validation"}
    for split, ids in documents:
        assert (tuple(ids) in plain) == (split == "validation")
        assert [one for one in ids if one in (3, 4, 5)] == ([3, 5, 4] if split == "train" else [])


def test_the_stored_text_is_the_transformed_one_and_the_counts_add_up(corpus_file, reserving, tmp_path):
    prepare_dataset([corpus_file], reserving.path, tmp_path / "d", config_of(transforms=TRANSFORMS), num_workers=1)
    decoded = [reserving.decode(ids) for _, ids in stored(tmp_path / "d", reserving)]
    assert not [text for text in decoded if "--" in text or "的" in text or "number " in text]
    manifest = read_manifest(tmp_path / "d")
    counts = manifest.transforms
    assert [count.kind for count in counts] == [one["kind"] for one in TRANSFORMS]
    # The document without text is skipped before any transform.
    assert (counts[0].num_documents_in, manifest.num_skipped_empty) == (120, 1)
    assert counts[1].dropped["too_short"] > 0
    assert counts[-1].num_documents_out == len(decoded)
    assert counts[-1].num_text_bytes_out == sum(len(text.encode()) for text in decoded)


def test_other_transforms_are_another_preparation(corpus_file, reserving, tmp_path):
    prepare_dataset([corpus_file], reserving.path, tmp_path / "d", config_of(transforms=TRANSFORMS), num_workers=1)
    with pytest.raises(DataError, match="prepared otherwise"):
        prepare_dataset([corpus_file], reserving.path, tmp_path / "d", config_of(), num_workers=1)


def test_a_corpus_of_which_nothing_is_left_is_told_with_the_number_dropped(corpus_file, reserving, tmp_path):
    config = config_of(transforms=[{"kind": "filter_length", "min_characters": 10**6}])
    with pytest.raises(DataError, match="120 dropped by transforms"):
        prepare_dataset([corpus_file], reserving.path, tmp_path / "d", config, num_workers=1)


def test_a_missing_symbol_is_refused_before_anything_is_written(corpus_file, tokenizer, tmp_path):
    config = config_of(augmentation=AUGMENTATION)
    with pytest.raises(DataError, match="--reserve"):
        prepare_dataset([corpus_file], tokenizer.path, tmp_path / "d", config, num_workers=1)
    assert not (tmp_path / "d").exists()


def test_the_command_line_takes_the_file_and_prints_the_counts(corpus_file, reserving, tmp_path):
    app = typer.Typer()
    prepare_verbs.register(app)
    dataset_verbs.register(app)
    file = tmp_path / "text.yaml"
    file.write_text("transforms:\n  - kind: filter_length\n    min_characters: 100\n", encoding="utf-8")
    arguments = ["prepare", str(corpus_file), "--tokenizer", str(reserving.path), "-o", str(tmp_path / "d")]
    told = CliRunner().invoke(app, [*arguments, "--transforms", str(file), "--workers", "1"])
    assert told.exit_code == 0, told.output
    assert "1_filter_length" in told.output
    assert "dropped: too_short" in told.output
    inspected = CliRunner().invoke(app, ["inspect", str(tmp_path / "d"), "--json"])
    assert inspected.exit_code == 0, inspected.output
    assert json.loads(inspected.stdout)["transforms"][0]["num_documents_in"] == 120
