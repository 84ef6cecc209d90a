"""Of equal texts in a corpus exactly the first is prepared, whatever number of workers, machines and kills."""

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from data_pipeline.config import PreparationConfig, parse_config
from data_pipeline.errors import DataError
from data_pipeline.manifest import read_manifest
from data_pipeline.preparation import deduplication, document_hashes
from data_pipeline.preparation.document_hashes import (
    NUM_BUCKETS,
    hashes_path,
    kept_path,
    read_hash_file,
    write_hash_file,
)
from data_pipeline.preparation.finish import finalize
from data_pipeline.preparation.plan import make_plan
from data_pipeline.preparation.prepare import prepare_dataset
from data_pipeline.preparation.task_record import TASKS_NAME
from data_pipeline.transforms.deduplication import text_hash
from data_pipeline.verification import verify_dataset

ROOT = Path(__file__).parents[2]
LLAMA_DIST = Path(sys.executable).parent / "llama-dist"
DEDUPLICATE = {"kind": "deduplicate"}
TASK_BYTES = 3000
PREPARATION_HASH = "0123456789abcdef" * 2


@pytest.fixture(scope="module")
def texts() -> list[str]:
    """Every text but some stands at several places, near and far."""
    words = ["def", "return", "value", "日本", "é", "x ="]
    return [
        " ".join(words[place] for place in source.integers(0, 6, 30)) + f" {source.integers(0, 60)}"
        for source in (np.random.default_rng(seed) for seed in np.random.default_rng(5).integers(0, 130, 400))
    ]


@pytest.fixture(scope="module")
def corpus_folder(texts, tmp_path_factory) -> Path:
    return write_files(tmp_path_factory.mktemp("repeating"), texts)


@pytest.fixture(scope="module")
def unbroken(corpus_folder, tokenizer, tmp_path_factory) -> Path:
    return prepare(corpus_folder, tokenizer, tmp_path_factory.mktemp("unbroken") / "out")


@pytest.fixture(scope="module")
def unbroken_verb(corpus_folder, tokenizer, tmp_path_factory) -> Path:
    """What the verb makes with two processes; its shards are larger than those of `unbroken`."""
    output = tmp_path_factory.mktemp("unbroken_verb") / "out"
    run_verb(command(corpus_folder, tokenizer, output, "--workers", "2"))
    return output


def run_verb(call: list[str]) -> None:
    run = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


def write_files(folder: Path, texts: list[str], num_files: int = 5) -> Path:
    """Write the texts as files of lines, in order."""
    folder.mkdir(exist_ok=True)
    for number in range(num_files):
        part = texts[len(texts) * number // num_files : len(texts) * (number + 1) // num_files]
        content = "".join(json.dumps({"text": text}) + "\n" for text in part)
        (folder / f"part_{number}.jsonl").write_text(content, encoding="utf-8")
    return folder


def config_of(*transforms: dict) -> PreparationConfig:
    values = {"validation_fraction": 0.2, "tokens_per_record_batch": 700, "shard_bytes": 4000, "task_bytes": TASK_BYTES}
    return parse_config(PreparationConfig, values | {"transforms": list(transforms)}, where="test")


def prepare(corpus: Path, tokenizer, output: Path, *transforms: dict, num_workers: int = 1, **more) -> Path:
    config = config_of(*(transforms or (DEDUPLICATE,)))
    prepare_dataset([corpus], tokenizer.path, output, config, num_workers=num_workers, **more)
    return output


def command(corpus: Path, tokenizer, output: Path, *more: str) -> list[str]:
    """The verb that does what `prepare` does, but for the sizes of shards."""
    file = output.with_suffix(".yaml")
    file.write_text("transforms: [{kind: deduplicate}]\n")
    options = ["--tokenizer", str(tokenizer.path), "--output", str(output), "--task-megabytes", "0.003", "--json"]
    return [str(LLAMA_DIST), "data", "prepare", str(corpus), *options, "--transforms", str(file), *more]


def contents(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def stored(directory: Path, tokenizer, split: str) -> list[tuple[bytes, str]]:
    """Return hash and text of each document."""
    found = []
    for shard in read_manifest(directory).shards(split):
        for row in pa.ipc.open_file(str(directory / shard.file)).read_all().to_pylist():
            found.append((row["doc_id"], tokenizer.decode(row["tokens"][:-1])))
    return found


def test_exactly_the_first_of_equal_texts_stays_where_it_was(texts, corpus_folder, unbroken, tokenizer, tmp_path):
    plain = prepare(corpus_folder, tokenizer, tmp_path / "plain", {"kind": "filter_length", "min_characters": 1})
    assert len(make_plan([corpus_folder], tokenizer, config_of(DEDUPLICATE)).tasks) > 5
    num_stored = 0
    for split in ("train", "validation"):
        firsts = list(dict.fromkeys(stored(plain, tokenizer, split)))
        assert stored(unbroken, tokenizer, split) == firsts
        assert all(name == text_hash(text) for name, text in firsts)
        num_stored += len(firsts)
    assert num_stored == len(set(texts)) < len(texts) / 2
    (count,) = read_manifest(unbroken).transforms
    assert (count.num_documents_in, count.num_documents_out) == (len(texts), num_stored)
    assert count.dropped == {"duplicate": len(texts) - num_stored}
    assert count.num_text_bytes_out == sum(len(text.encode()) for text in set(texts))


def test_four_processes_write_the_bytes_of_one_and_leave_no_work_file(corpus_folder, unbroken, tokenizer, tmp_path):
    assert contents(prepare(corpus_folder, tokenizer, tmp_path / "out", num_workers=4)) == contents(unbroken)
    verify_dataset(unbroken)
    assert not (unbroken / TASKS_NAME).exists()


def test_a_machine_says_whose_hashes_it_waits_for_and_two_write_the_bytes_of_one(
    corpus_folder, unbroken_verb, tokenizer, tmp_path
):
    output = tmp_path / "out"
    shares = [command(corpus_folder, tokenizer, output, "--num-workers", "2", "--worker-index", str(n)) for n in (0, 1)]
    first = subprocess.Popen([*shares[0], "--workers", "1"], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    assert first.stderr is not None
    line = first.stderr.readline()
    num_tasks = len(make_plan([corpus_folder], tokenizer, config_of(DEDUPLICATE)).tasks)
    assert f"{num_tasks // 2} of {num_tasks} tasks: {num_tasks // 2} of --worker-index 1 (--num-workers 2)" in line
    assert first.poll() is None
    run_verb([*shares[1], "--workers", "1"])
    _, errors = first.communicate(timeout=60)
    assert first.returncode == 0, errors
    assert contents(output) == contents(unbroken_verb)


def test_a_kill_in_each_reading_costs_no_byte_and_no_finished_task(corpus_folder, unbroken_verb, tokenizer, tmp_path):
    output = tmp_path / "out"
    kept_before: dict[str, int] = {}
    for pattern, unwanted in (("hashes-*.bin", "kept-*.bin"), ("kept-*.bin", ""), ("[0-9]*.json", "")):
        tasks = output / TASKS_NAME
        process = subprocess.Popen(
            command(corpus_folder, tokenizer, output, "--workers", "1"),
            cwd=ROOT, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        deadline = time.monotonic() + 30
        while process.poll() is None and not any(tasks.glob(pattern)) and time.monotonic() < deadline:
            time.sleep(0.0005)
        process.kill()
        process.wait()
        assert any(tasks.glob(pattern)), "killed too late: nothing is left to go on with"
        assert not unwanted or not any(tasks.glob(unwanted)), "killed too late: the first reading was over"
        files = {path.name: path.stat().st_mtime_ns for path in tasks.glob("*[0-9].*") if ".tmp-" not in path.name}
        assert kept_before.items() <= files.items(), "a finished part was made again"
        kept_before = {name: changed for name, changed in files.items() if name.startswith(("hashes-", "0"))}
    run_verb(command(corpus_folder, tokenizer, output, "--workers", "1"))
    assert contents(output) == contents(unbroken_verb)
    verify_dataset(output)


def test_what_an_earlier_transform_makes_equal_is_a_duplicate_and_a_later_one_sees_the_kept_only(tokenizer, tmp_path):
    composed, decomposed = "caf\u00e9 au lait", "cafe\u0301 au lait"
    corpus = write_files(
        tmp_path / "corpus", [decomposed, "a", composed, "a", "", composed, "longer " * 9], num_files=3
    )
    normalize, filter_length = (
        {"kind": "normalize_unicode", "form": "NFC"},
        {"kind": "filter_length", "min_characters": 2},
    )
    output = prepare(corpus, tokenizer, tmp_path / "d", normalize, DEDUPLICATE, filter_length)
    counts = read_manifest(output).transforms
    assert [(count.num_documents_in, count.num_documents_out) for count in counts] == [(6, 6), (6, 3), (3, 2)]
    assert [count.dropped for count in counts] == [{}, {"duplicate": 3}, {"too_short": 1}]
    names = {name for split in ("train", "validation") for name, _ in stored(output, tokenizer, split)}
    assert names == {text_hash(composed), text_hash("longer " * 9)}
    other = prepare(corpus, tokenizer, tmp_path / "other", DEDUPLICATE, normalize, filter_length)
    assert [count.dropped for count in read_manifest(other).transforms] == [{"duplicate": 2}, {}, {"too_short": 1}]


def test_damaged_work_files_are_made_anew(corpus_folder, unbroken, tokenizer, tmp_path, monkeypatch):
    output = tmp_path / "out"
    with monkeypatch.context() as patched:
        patched.setattr("data_pipeline.preparation.prepare.run_task", stop)
        with pytest.raises(DataError, match="stopped"):
            prepare(corpus_folder, tokenizer, output)
    before = contents(output)
    for path in (hashes_path(output, 1), kept_path(output, 2)):
        content = bytearray(path.read_bytes())
        content[len(content) // 3] ^= 1
        path.write_bytes(content)
    hashes_path(output, 3).write_bytes(hashes_path(output, 3).read_bytes()[:-20])
    kept_path(output, 0).unlink()
    with monkeypatch.context() as patched:
        patched.setattr("data_pipeline.preparation.prepare.run_task", stop)
        with pytest.raises(DataError, match="stopped"):
            prepare(corpus_folder, tokenizer, output)
    assert contents(output) == before
    prepare(corpus_folder, tokenizer, output)
    assert contents(output) == contents(unbroken)


def stop(*arguments):
    raise DataError("stopped")


def test_a_text_that_changed_between_the_readings_is_refused(texts, tokenizer, tmp_path, monkeypatch):
    corpus = write_files(tmp_path / "corpus", texts[:60], num_files=1)
    first_reading = deduplication.text_hash
    monkeypatch.setattr(deduplication, "text_hash", lambda text: first_reading(text.replace("def", "DEF")))
    with pytest.raises(DataError, match="other documents at the second reading"):
        prepare(corpus, tokenizer, tmp_path / "out")
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_all_tasks_done_but_the_manifest_is_finalized(corpus_folder, unbroken, tokenizer, tmp_path, monkeypatch):
    output = tmp_path / "out"
    with monkeypatch.context() as patched:
        patched.setattr("data_pipeline.preparation.prepare.finish_if_done", stop)
        with pytest.raises(DataError, match="stopped"):
            prepare(corpus_folder, tokenizer, output)
    finalize(output)
    assert contents(output) == contents(unbroken)


def test_comparing_a_few_first_bytes_at_a_time_finds_the_same(
    corpus_folder, unbroken, tokenizer, tmp_path, monkeypatch
):
    monkeypatch.setattr(deduplication, "_HASHES_AT_A_TIME", 20)
    monkeypatch.setattr(document_hashes, "_BLOCK_DOCUMENTS", 8)
    output = prepare(corpus_folder, tokenizer, tmp_path / "out")
    assert contents(output) == contents(unbroken)


@pytest.mark.parametrize("num_documents", [0, 1, 16, 1003])
def test_a_hash_file_gives_back_each_hash_with_its_place(tmp_path, monkeypatch, num_documents):
    monkeypatch.setattr(document_hashes, "_BLOCK_DOCUMENTS", 16)
    (tmp_path / TASKS_NAME).mkdir()
    written = np.random.default_rng(1).integers(0, 256, (num_documents, 16), np.uint8)
    with write_hash_file(tmp_path, 4, PREPARATION_HASH) as writer:
        for row in written:
            writer.append(row.tobytes())
    assert read_hash_file(tmp_path, 4, PREPARATION_HASH[::-1]) is None
    file = read_hash_file(tmp_path, 4, PREPARATION_HASH)
    assert file is not None
    seen = np.zeros_like(written)
    num_seen = 0
    for first in range(0, NUM_BUCKETS, 64):
        hashes, numbers = file.read(first, first + 64)
        rows = np.frombuffer(hashes.astype(">u8").tobytes(), np.uint8).reshape(-1, 16)
        assert not len(rows) or first <= rows[:, 0].min() <= rows[:, 0].max() < first + 64
        seen[numbers] = rows
        num_seen += len(numbers)
    assert num_seen == num_documents
    assert (seen == written).all()
