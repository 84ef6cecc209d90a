"""A stream over a store is the local stream: same batches and state, whatever the store does, however many read."""

import json
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import fsspec
import numpy as np
import pytest
from data_corpus import SMALL_PREPARATION, write_corpus
from flaky_store import FlakyStore

from data_pipeline.config import DataConfig
from data_pipeline.durable_file import checksum_bytes
from data_pipeline.errors import DataError, StorageError
from data_pipeline.manifest import read_manifest
from data_pipeline.preparation.prepare import prepare_dataset
from data_pipeline.stores.cache_layout import list_files, room_lock_path
from data_pipeline.stores.file_lock import file_lock
from data_pipeline.stores.opening import RemoteSources
from data_pipeline.stores.waiting import RetryPolicy, Wait
from data_pipeline.stream import open_stream

LENGTH = 64
WINDOW = 40_000
READER = Path(__file__).with_name("store_reader.py")


@pytest.fixture(scope="module")
def many_shards(tokenizer, tmp_path_factory) -> Path:
    """A dataset of some twenty small shards. Read only."""
    corpus = write_corpus(tmp_path_factory.mktemp("text"), num_files=110, seed=3)
    output = tmp_path_factory.mktemp("datasets") / "many"
    prepare_dataset(
        [corpus], tokenizer.path, output,
        SMALL_PREPARATION.model_copy(update={"shard_bytes": 15_000, "tokens_per_record_batch": 1500}), num_workers=1,
    )  # fmt: skip
    return output


def config_of(path, cache=None, max_bytes=1_000_000, window=WINDOW, **values) -> DataConfig:
    cache_values = {"cache": {"directory": str(cache), "max_bytes": max_bytes}} if cache else {}
    return DataConfig.model_validate(
        {
            "sources": [{"path": str(path)}],
            "sequence_length_tokens": LENGTH,
            "shuffle_window_bytes": window,
            "shuffle_seed": 5,
        }
        | cache_values
        | values
    )


def least_bytes(url, tmp_path) -> int:
    with pytest.raises(DataError) as caught:
        open_stream(config_of(url, tmp_path / "least", 1))
    return int(re.search(r"needs at least (\d+)", str(caught.value))[1])


def cache_bytes(cache) -> int:
    """Count under the lock under which files come and go."""
    if not (cache / "OWNER").exists():
        return 0
    with file_lock(room_lock_path(cache), Wait("the count", 10)):
        return sum(file.num_bytes for file in list_files(cache))


def num_deleted_maps(cache) -> int:
    """Count the evicted files of the cache that this process still keeps on the disk."""
    maps = Path("/proc/self/maps").read_text().splitlines()
    return sum(str(cache) in line and line.endswith("(deleted)") for line in maps)


def cached_batches(cache):
    return {file.path.name for file in list_files(cache) if file.key}


def assert_same(first, second, numbers):
    one, other = first.read(numbers), second.read(numbers)
    for name in ("tokens", "labels", "sample_ids", "epochs"):
        assert np.array_equal(getattr(one, name), getattr(other, name)), name


def test_two_epochs_through_the_least_cache_and_a_failing_server_are_the_local_ones(many_shards, tmp_path):
    local = open_stream(config_of(many_shards))
    with FlakyStore(many_shards, share=0.03, seed=1) as server:
        max_bytes = least_bytes(server.url, tmp_path)
        assert max_bytes < sum(shard.num_bytes for shard in read_manifest(many_shards).train) / 2
        cache = tmp_path / "cache"
        remote, still_mapped = open_stream(config_of(server.url, cache, max_bytes)), []
        for start in range(0, 2 * local.num_sequences, 16):
            assert_same(local, remote, np.arange(start, start + 16))
            assert cache_bytes(cache) <= max_bytes
            still_mapped.append(num_deleted_maps(cache))
        assert any(fault for *_, fault in server.requests)
        assert max(still_mapped) <= 6, "the disk of evicted batches comes free"
        times = Counter(fetch for fetch in server.good_fetches() if fetch[1])
        # Once an epoch, and again where a neighbour's last sequence runs into it.
        assert 1.5 * len(times) < sum(times.values()) < 2.8 * len(times)
        remote.follower.close()


def test_what_is_remembered_of_verified_batches_does_not_grow_with_the_run(many_shards, tmp_path, monkeypatch):
    monkeypatch.setattr("data_pipeline.stores.remote_shards._MOST_VERIFIED", 3)
    local, remote = open_stream(config_of(many_shards)), open_stream(config_of(f"file://{many_shards}", tmp_path / "c"))
    numbers = np.arange(local.num_sequences)
    assert_same(local, remote, numbers)
    remote.follower.close()
    assert len(cached_batches(tmp_path / "c")) > 3
    assert 0 < len(remote.sources[0].sequences.line._files._verified) <= 3


def test_a_cache_one_byte_too_small_is_refused_with_the_number_that_works(many_shards, tmp_path):
    url = f"file://{many_shards}"
    needed = least_bytes(url, tmp_path)
    with pytest.raises(DataError, match=f"data.cache.max_bytes is {needed - 1}, this data needs at least {needed}"):
        open_stream(config_of(url, tmp_path / "cache", needed - 1))
    open_stream(config_of(url, tmp_path / "cache", needed)).read(np.arange(50))


def test_state_and_resume_are_those_of_the_local_stream(many_shards, tmp_path):
    local, remote = (
        open_stream(config_of(many_shards)),
        open_stream(config_of(f"file://{many_shards}", tmp_path / "cache")),
    )
    assert local.state(1000) == remote.state(1000)
    remote.check_state(local.state(1000))
    assert_same(local, remote, np.arange(1000, 1064))


@pytest.mark.parametrize("scheme", ["memory", "file"])
@pytest.mark.parametrize("split", ["train", "validation"])
def test_both_splits_of_other_stores_are_the_local_ones(many_shards, tmp_path, scheme, split):
    url = f"{scheme}://{many_shards}"
    if scheme == "memory":
        url = f"memory://{tmp_path.name}"
        fsspec.filesystem("memory").put(f"{many_shards}/", f"/{tmp_path.name}/", recursive=True)
    local = open_stream(config_of(many_shards), split=split)
    remote = open_stream(config_of(url, tmp_path / "cache"), split=split)
    assert remote.tokenizer_path.read_bytes() == local.tokenizer_path.read_bytes()
    assert_same(local, remote, np.arange(local.num_sequences))


def test_packs_of_a_remote_dataset_are_the_local_ones(many_shards, tmp_path):
    from data_pipeline.packing.pack_dataset import pack_split

    dataset = Path(shutil.copytree(many_shards, tmp_path / "packed"))
    url, values = f"file://{dataset}", {"packing": "best_fit", "isolate_documents": True}
    with pytest.raises(DataError, match=f"data pack DIRECTORY --sequence-length {LENGTH}"):
        open_stream(config_of(url, tmp_path / "cache", **values))
    pack_split(dataset, "train", LENGTH, least_group_tokens=8000)
    local = open_stream(config_of(dataset, **values))
    remote = open_stream(config_of(url, tmp_path / "cache", **values))
    assert_same(local, remote, np.arange(local.num_sequences))


def test_the_rest_of_a_window_is_fetched_ahead(many_shards, tmp_path):
    cache = tmp_path / "cache"
    with FlakyStore(many_shards) as server:
        remote = open_stream(config_of(server.url, cache))
        assert not cached_batches(cache)
        remote.read(np.arange(1))
        every = sum(len(shard.record_batches) for shard in read_manifest(many_shards).train)
        deadline = time.monotonic() + 20
        while len(cached_batches(cache)) < every and time.monotonic() < deadline:
            time.sleep(0.01)
        num_requests = len(server.requests)
        remote.read(np.arange(remote.num_sequences))
        assert len(server.requests) == num_requests, "nothing is left to fetch"


def test_what_the_prefetching_runs_into_is_raised_where_the_stream_is_read(many_shards, tmp_path):
    dataset = Path(shutil.copytree(many_shards, tmp_path / "dataset"))
    remote = open_stream(config_of(f"file://{dataset}", tmp_path / "cache"))
    lost = dataset / read_manifest(dataset).train[-1].file
    lost.unlink()
    with pytest.raises(DataError, match=rf"{lost.name} bytes .*not in the store"):
        for _ in range(2000):
            remote.read(np.arange(1))
            time.sleep(0.01)


def test_a_batch_damaged_in_the_cache_is_fetched_again(many_shards, tmp_path):
    cache = tmp_path / "cache"
    local = open_stream(config_of(many_shards))
    open_stream(config_of(f"file://{many_shards}", cache)).read(np.arange(300))
    for file in list(list_files(cache)):
        if file.key:
            content = bytearray(file.path.read_bytes())
            content[len(content) // 2] ^= 1
            file.path.write_bytes(content)
    assert_same(local, open_stream(config_of(f"file://{many_shards}", cache)), np.arange(300))


def test_nothing_is_evicted_once_the_store_lost_its_copies(many_shards, tmp_path):
    dataset = Path(shutil.copytree(many_shards, tmp_path / "dataset"))
    url, cache = f"file://{dataset}", tmp_path / "cache"
    max_bytes = least_bytes(url, tmp_path)
    config = config_of(url, cache, max_bytes)
    remote = RemoteSources(config, RetryPolicy(num_attempts=3, first_delay_seconds=0.01))
    files = remote.open_dataset(0, "train")
    places = [(number, batch) for number, shard in enumerate(files.table) for batch in range(len(shard.record_batches))]
    for shard, batch in places:
        files.record_batch(shard, batch)
    shutil.rmtree(dataset / "shards")
    before = cached_batches(cache)
    absent = [place for place in places if files.path(*place).name not in before]
    assert absent
    with pytest.raises((StorageError, DataError)):
        files.record_batch(*absent[0])
    assert cached_batches(cache) == before


@pytest.mark.parametrize(
    ("values", "advice"),
    [({}, "set data.cache.directory"), ({"cache": {"directory": "c", "max_bytes": 9}, "window": None}, "window_bytes")],
)
def test_a_url_without_cache_or_window_is_refused_with_advice(values, advice):
    with pytest.raises(DataError, match=advice):
        open_stream(config_of("s3://bucket/data", **values))


def test_a_url_without_a_dataset_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"manifest\.json: not in the store"):
        open_stream(config_of(f"file://{tmp_path}/nothing", tmp_path / "cache"))


def start_reader(config, dp_rank=0, dp_size=1, num_steps=20, waits=False):
    values = {
        "config": config.model_dump(mode="json"),
        "dp_rank": dp_rank, "dp_size": dp_size, "num_steps": num_steps, "batch": 8,
    }  # fmt: skip
    return subprocess.Popen(
        [sys.executable, str(READER), json.dumps(values)],
        stdin=subprocess.PIPE if waits else subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(reader):
    output, errors = reader.communicate(timeout=120)
    assert reader.returncode == 0, errors
    return output


def run_ranks(config, num_steps, *, num_ranks=3, watch=lambda: None):
    """Return what each rank printed; `watch` is called while they run."""
    readers = [start_reader(config, rank, num_ranks, num_steps) for rank in range(num_ranks)]
    while any(reader.poll() is None for reader in readers):
        watch()
        time.sleep(0.005)
    return [finish(reader) for reader in readers]


def local_ranks(many_shards, num_steps, *, num_ranks=3):
    """What the ranks of a local stream would print."""
    stream, outputs = open_stream(config_of(many_shards)), []
    for rank in range(num_ranks):
        lines = []
        for step in range(num_steps):
            batch = stream.read(np.arange(8) + (step * num_ranks + rank) * 8)
            lines.append(f"{step} {checksum_bytes(batch.tokens.tobytes() + batch.labels.tobytes())}\n")
        outputs.append("".join(lines))
    return outputs


def test_ranks_of_one_node_fetch_each_batch_once(many_shards, tmp_path):
    num_steps = open_stream(config_of(many_shards)).num_sequences // 24
    with FlakyStore(many_shards, share=0.03, seed=4) as server:
        outputs = run_ranks(config_of(server.url, tmp_path / "cache"), num_steps)
        batches = [fetch for fetch in server.good_fetches() if fetch[1]]
    every = sum(len(shard.record_batches) for shard in read_manifest(many_shards).train)
    assert len(batches) == len(set(batches)) == every
    assert outputs == local_ranks(many_shards, num_steps)


def test_ranks_of_one_node_keep_the_bound_of_the_least_cache(many_shards, tmp_path):
    num_steps, seen, cache = 40, [], tmp_path / "cache"
    with FlakyStore(many_shards) as server:
        config = config_of(server.url, cache, least_bytes(server.url, tmp_path))
        outputs = run_ranks(config, num_steps, watch=lambda: seen.append(cache_bytes(cache)))
    assert outputs == local_ranks(many_shards, num_steps)
    assert 0.8 * config.cache.max_bytes < max(seen) <= config.cache.max_bytes


def test_a_reader_killed_in_mid_fetch_leaves_nothing_half(many_shards, tmp_path):
    cache = tmp_path / "cache"
    with FlakyStore(many_shards) as server:
        server.script = [None] * 5 + ["stall"] * 100
        reader = start_reader(config_of(server.url, cache))
        deadline = time.monotonic() + 60
        while not (cache.exists() and any(file.is_part for file in list_files(cache))):
            assert reader.poll() is None and time.monotonic() < deadline
            time.sleep(0.005)
        while not any(fault == "stall" for *_, fault in server.requests):
            assert time.monotonic() < deadline
            time.sleep(0.005)
        reader.kill()
        reader.communicate()
        sizes = {
            f"{Path(shard.file).stem}.{number:05d}.batch": batch.length_bytes
            for shard in read_manifest(many_shards).train
            for number, batch in enumerate(shard.record_batches)
        }
        assert all(file.num_bytes == sizes[file.path.name] for file in list_files(cache) if file.key)
        server.script = []
        assert_same(open_stream(config_of(many_shards)), open_stream(config_of(server.url, cache)), np.arange(200))
        assert not any(file.is_part for file in list_files(cache))


def test_a_reader_ends_while_its_prefetching_hangs(many_shards, tmp_path):
    local = open_stream(config_of(many_shards))
    line = local.sources[0].sequences.line
    touched = {
        part.shard_file
        for sequence in local.locate(np.arange(8)).sequences.tolist()
        for part in line.document_parts(sequence * LENGTH, LENGTH + 1)
    }
    untouched = next(shard.file for shard in read_manifest(many_shards).train if shard.file not in touched)
    with FlakyStore(many_shards) as server:
        server.stalled_path = f"/{untouched}"
        reader = start_reader(config_of(server.url, tmp_path / "cache"), num_steps=1, waits=True)
        deadline = time.monotonic() + 60
        while not any(fault == "stall" for *_, fault in server.requests):
            assert reader.poll() is None and time.monotonic() < deadline
            time.sleep(0.005)
        started = time.monotonic()
        assert finish(reader).startswith("0 ")
        assert time.monotonic() - started < 20, "the time limit of the request is 30 s"
