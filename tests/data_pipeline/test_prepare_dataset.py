"""Preparation gives the same bytes however it is run, and a dataset exists whole or not at all."""

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pytest
import xxhash
from data_corpus import SMALL_PREPARATION, write_corpus

from data_pipeline.config import PreparationConfig, ReadingConfig
from data_pipeline.errors import DataError, StorageError, WorkerLostError
from data_pipeline.manifest import read_manifest
from data_pipeline.preparation.prepare import prepare_dataset
from data_pipeline.preparation.task import split_of
from data_pipeline.verification import verify_dataset


def contents(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def documents_of(directory: Path, split: str) -> dict[bytes, list[int]]:
    shards = read_manifest(directory).shards(split)
    rows = [row for shard in shards for row in pa.ipc.open_file(str(directory / shard.file)).read_all().to_pylist()]
    return {row["doc_id"]: row["tokens"] for row in rows}


def test_one_and_two_workers_write_the_same_bytes(corpus, tokenizer, built_dataset, tmp_path):
    prepare_dataset([corpus], tokenizer.path, tmp_path / "two", SMALL_PREPARATION, num_workers=2)
    assert contents(tmp_path / "two") == contents(built_dataset)


def test_every_document_is_stored_once_and_decodes_to_its_text(corpus, tokenizer, built_dataset):
    stored = documents_of(built_dataset, "train") | documents_of(built_dataset, "validation")
    texts = [path.read_bytes() for path in corpus.rglob("*.py")]
    assert set(stored) == {xxhash.xxh3_128_digest(text) for text in texts}
    for text in texts:
        tokens = stored[xxhash.xxh3_128_digest(text)]
        assert tokens[-1] == tokenizer.eos_id
        assert tokenizer.decode(tokens[:-1]) == text.decode()


def test_held_out_documents_are_picked_by_hash_and_stay_when_text_is_added(built_dataset, corpus, tokenizer, tmp_path):
    added = write_corpus(tmp_path / "added", num_files=10, seed=5)
    prepare_dataset([added, corpus], tokenizer.path, tmp_path / "more", SMALL_PREPARATION, num_workers=1)
    before, after = documents_of(built_dataset, "validation"), documents_of(tmp_path / "more", "validation")
    assert before
    assert set(before) <= set(after)
    assert all(split_of(document_id, SMALL_PREPARATION.validation_fraction) == "validation" for document_id in after)


def test_manifest_says_where_everything_lies(built_dataset):
    manifest = read_manifest(built_dataset)
    for shard in manifest.train + manifest.validation:
        content = (built_dataset / shard.file).read_bytes()
        assert len(content) == shard.num_bytes
        assert xxhash.xxh3_128_hexdigest(content) == shard.checksum
        assert shard.num_tokens == sum(batch.num_tokens for batch in shard.record_batches)
        reader = pa.ipc.open_file(pa.BufferReader(content))
        for number, batch in enumerate(shard.record_batches):
            column = reader.get_batch(number).column(0)
            assert batch.tokens_offset_bytes % 64 == 0
            tokens = np.frombuffer(content, np.uint16, batch.num_tokens, batch.tokens_offset_bytes)
            assert np.array_equal(tokens, column.values.to_numpy())
            bounds = np.frombuffer(content, np.int32, batch.num_documents + 1, batch.list_offsets_offset_bytes)
            assert np.array_equal(bounds, column.offsets.to_numpy())


def test_shards_are_plain_arrow_files_that_datasets_reads(built_dataset, tmp_path):
    shard = read_manifest(built_dataset).train[0]
    rows = datasets.load_dataset(
        "arrow", data_files=str(built_dataset / shard.file), split="train", streaming=True, cache_dir=str(tmp_path)
    )
    assert sum(len(row["tokens"]) for row in rows) == shard.num_tokens


def test_special_ids_frame_documents_as_asked(corpus, tokenizer, tmp_path):
    config = SMALL_PREPARATION.model_copy(update={"adds_bos": True, "adds_eos": False})
    prepare_dataset([corpus], tokenizer.path, tmp_path / "out", config, num_workers=1)
    for tokens in documents_of(tmp_path / "out", "train").values():
        assert tokens[0] == tokenizer.bos_id
        assert tokenizer.eos_id not in tokens
    manifest = read_manifest(tmp_path / "out")
    assert manifest.preparation.adds_bos
    assert not manifest.preparation.adds_eos


def test_preparing_again_does_nothing(dataset, corpus, tokenizer):
    before = {path: path.stat().st_mtime_ns for path in dataset.rglob("*.arrow")}
    assert prepare_dataset([corpus], tokenizer.path, dataset, SMALL_PREPARATION, num_workers=1).was_there
    assert before == {path: path.stat().st_mtime_ns for path in dataset.rglob("*.arrow")}


@pytest.mark.parametrize(
    ("change", "message"),
    [({"validation_fraction": 0.5}, r"validation_fraction: there 0\.15, asked for 0\.5"), ({"adds_bos": True}, "bos")],
)
def test_another_preparation_is_not_written_over_a_dataset(dataset, corpus, tokenizer, change, message):
    before = contents(dataset)
    with pytest.raises(DataError, match=message):
        prepare_dataset([corpus], tokenizer.path, dataset, SMALL_PREPARATION.model_copy(update=change), num_workers=1)
    assert contents(dataset) == before


def test_other_sources_are_not_written_over_a_dataset(dataset, corpus, tokenizer, tmp_path):
    other = Path(shutil.copytree(corpus, tmp_path / "other"))
    (other / "new.py").write_text("x = 1\n")
    with pytest.raises(DataError, match="sources: there"):
        prepare_dataset([other], tokenizer.path, dataset, SMALL_PREPARATION, num_workers=1)
    (other / "new.py").unlink()
    changed = next(other.rglob("*.py"))
    changed.write_bytes(b"#" + changed.read_bytes()[1:])
    with pytest.raises(DataError, match="changed after"):
        prepare_dataset([other], tokenizer.path, dataset, SMALL_PREPARATION, num_workers=1)


def test_a_directory_with_other_things_is_not_written_to(corpus, tokenizer, tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(DataError, match=r"holds other things \(thesis\.tex\)"):
        prepare_dataset([corpus], tokenizer.path, tmp_path, SMALL_PREPARATION, num_workers=1)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_empty_documents_are_left_out_and_counted(tokenizer, tmp_path):
    (tmp_path / "a.txt").write_text("one\n\n\ntwo\n")
    config = PreparationConfig(reading=ReadingConfig(text_unit="line"), validation_fraction=0)
    manifest = prepare_dataset([tmp_path / "a.txt"], tokenizer.path, tmp_path / "out", config, num_workers=1).manifest
    assert manifest.num_skipped_empty == 2
    assert manifest.train[0].num_documents == 2
    assert manifest.validation == []


def test_a_corpus_of_empty_documents_leaves_no_dataset(tokenizer, tmp_path):
    (tmp_path / "a.txt").write_text("\n\n\n")
    config = PreparationConfig(reading=ReadingConfig(text_unit="line"))
    with pytest.raises(DataError, match="empty corpus: 1 files hold no document"):
        prepare_dataset([tmp_path / "a.txt"], tokenizer.path, tmp_path / "out", config, num_workers=1)
    with pytest.raises(DataError, match=r"manifest\.json is missing"):
        read_manifest(tmp_path / "out")


@pytest.mark.parametrize("num_workers", [1, 2])
def test_bad_text_ends_the_preparation_by_name_and_leaves_no_dataset(corpus, tokenizer, tmp_path, num_workers):
    bad = Path(shutil.copytree(corpus, tmp_path / "corpus")) / "part_6" / "latin.py"
    bad.write_bytes(b"# caf\xe9\n")
    with pytest.raises(DataError, match=r"latin\.py: not UTF-8 at byte 5"):
        prepare_dataset(
            [tmp_path / "corpus"], tokenizer.path, tmp_path / "out", SMALL_PREPARATION, num_workers=num_workers
        )
    assert not (tmp_path / "out" / "manifest.json").exists()
    bad.unlink()
    # The corpus is another one now, and there may be finished work of the old one: only a person may discard that.
    again = ([tmp_path / "corpus"], tokenizer.path, tmp_path / "out", SMALL_PREPARATION)
    refusal = r"unfinished preparation of another kind:\n  sources: there .*\n(.*\n)*.*--restart"
    with pytest.raises(DataError, match=refusal):
        prepare_dataset(*again, num_workers=1)
    prepare_dataset(*again, num_workers=1, restart=True)
    assert verify_dataset(tmp_path / "out").num_documents == 60


def test_ids_over_sixteen_bits_are_stored_in_32(tmp_path):
    from data_pipeline.preparation.shard_writer import ShardWriter

    (tmp_path / "shards").mkdir()
    with ShardWriter(tmp_path, "train-0.arrow", token_dtype="uint32", tokens_per_record_batch=10) as writer:
        writer.append(np.array([0, 65_536, 100_000]), b"0123456789abcdef", 3)
    (entry,) = [writer.entry()]
    table = pa.ipc.open_file(str(tmp_path / entry.file)).read_all()
    assert table["tokens"].to_pylist() == [[0, 65_536, 100_000]]
    assert table.schema.field("tokens").type == pa.list_(pa.uint32())


PREPARE = """
import sys
from pathlib import Path
from data_pipeline.config import PreparationConfig
from data_pipeline.preparation.prepare import prepare_dataset

if __name__ == "__main__":
    corpus, tokenizer, output, config, workers = sys.argv[1:]
    prepare_dataset(
        [Path(corpus)], Path(tokenizer), Path(output), PreparationConfig.model_validate_json(config),
        num_workers=int(workers),
    )
"""


def start_preparation(corpus: Path, tokenizer: Path, output: Path, folder: Path, *, prelude: str = ""):
    program = folder / "prepare_program.py"
    program.write_text(prelude + PREPARE)
    root = Path(__file__).parents[2]
    return subprocess.Popen(
        [sys.executable, program, corpus, tokenizer, output, SMALL_PREPARATION.model_dump_json(), "2"],
        env=os.environ | {"PYTHONPATH": str(root)},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def processes_of_session(session: int) -> list[int]:
    import psutil

    found = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
        except (psutil.Error, ProcessLookupError):
            continue
    return found


def test_a_killed_preparation_leaves_no_dataset_and_no_process_and_the_next_one_is_the_same(tokenizer, tmp_path):
    big = write_corpus(tmp_path / "big", num_files=500, seed=9)
    output = tmp_path / "out"
    process = start_preparation(big, tokenizer.path, output, tmp_path)
    deadline = time.monotonic() + 60
    while not list(output.glob("shards/*.arrow")) and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=30)
    assert list(output.glob("shards/*.arrow"))
    with pytest.raises(DataError, match=r"manifest\.json is missing"):
        read_manifest(output)
    while processes_of_session(process.pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert processes_of_session(process.pid) == []
    # What a power failure can leave as well: a shard and a manifest that were never finished.
    (output / "shards" / "train-00000-000.arrow.tmp-12345").write_bytes(b"half")
    (output / "manifest.json.tmp-12345").write_bytes(b"{")
    prepare_dataset([big], tokenizer.path, output, SMALL_PREPARATION, num_workers=1)
    prepare_dataset([big], tokenizer.path, tmp_path / "straight", SMALL_PREPARATION, num_workers=1)
    assert contents(output) == contents(tmp_path / "straight")


def test_two_preparations_at_once_do_not_share_a_directory(corpus, tokenizer, tmp_path):
    import fcntl

    output = tmp_path / "out"
    output.mkdir()
    with (output / ".lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(DataError, match="another process is preparing"):
            prepare_dataset([corpus], tokenizer.path, output, SMALL_PREPARATION, num_workers=1)


def test_a_full_disk_is_a_storage_error_and_leaves_no_dataset(corpus, tokenizer, tmp_path):
    """A limit on the size of files stands for the full disk: the write fails in the same place."""
    prelude = "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (12_000, 12_000))\n"
    process = start_preparation(corpus, tokenizer.path, tmp_path / "out", tmp_path, prelude=prelude)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "StorageError" in errors
    assert "cannot be written: File too large" in errors
    assert not (tmp_path / "out" / "manifest.json").exists()
    assert StorageError.exit_code == 74


def test_a_task_for_a_worker_that_is_gone_names_the_worker():
    from data_pipeline.preparation.worker_pool import _send

    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    worker = context.Process(target=os._exit, args=(3,))
    worker.start()
    theirs.close()
    worker.join(30)
    with pytest.raises(WorkerLostError, match=f"worker process {worker.pid} ended .*exit code 3"):
        _send(ours, worker, 1)
    ours.close()


def test_a_worker_that_dies_is_reported_and_the_others_end():
    import multiprocessing

    from data_pipeline.preparation.worker_pool import WorkerPool

    pool = WorkerPool(die_at_three, num_workers=2, num_counters=1)
    with pytest.raises(WorkerLostError, match="exit code -9") as caught:
        list(pool.run(range(8), lambda totals: None))
    assert caught.value.exit_code == 75
    assert multiprocessing.active_children() == []


def die_at_three(task, advance):
    if task == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    advance([task])
    return task


@pytest.mark.parametrize("num_workers", [1, 2])
def test_the_pool_does_every_task_once_and_adds_up_the_progress(num_workers):
    from data_pipeline.preparation.worker_pool import WorkerPool

    totals = []
    pool = WorkerPool(double_it, num_workers=num_workers, num_counters=2)
    assert sorted(pool.run(range(10), totals.append)) == [2 * task for task in range(10)]
    if num_workers == 1:
        assert totals[-1] == [45, 10]


def double_it(task, advance):
    advance([task, 1])
    return 2 * task
