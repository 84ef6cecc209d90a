"""The cache directory: whose it is, what it holds at most, what leaves it, and what never does."""

import stat
import threading
import time
from pathlib import Path

import pytest

from data_pipeline.errors import DataError, StorageError
from data_pipeline.stores.cache_directory import CacheDirectory, NoRoomError, NoRoomYetError, Wanted
from data_pipeline.stores.cache_layout import BatchKey, CachedFile, batch_path, item_lock_path, list_files
from data_pipeline.stores.eviction import NEVER, NOW, UNKNOWN, OnceThrough, choose_victims
from data_pipeline.stores.file_lock import file_lock
from data_pipeline.stores.waiting import RetryPolicy, Wait

DATASET = "0" * 32
FAST = RetryPolicy(num_attempts=3, first_delay_seconds=0.01, longest_delay_seconds=0.02, seed=0)


class UsesByNumber:
    """Batch n of a shard is used at position n; those below `now` are in the window."""

    def __init__(self, now=0):
        self.now = now

    def next_use(self, key):
        return NOW if key.number < self.now else float(key.number)

    def is_own(self, dataset):
        return dataset == DATASET


class SomeOrigins:
    """Confirms what it is told to, and notes what it was asked."""

    def __init__(self, gone=()):
        self.gone, self.asked = set(gone), []

    def confirm(self, files):
        self.asked += [file.key.number for file in files]
        return [file for file in files if file.key.number not in self.gone]


def cache_of(tmp_path, max_bytes=1000):
    return CacheDirectory(tmp_path / "cache", max_bytes, FAST)


def obtain(cache, number, *, uses=None, origins=None, num_bytes=100, fetch=None, use=None):
    uses = uses or UsesByNumber()
    path = batch_path(cache.root, BatchKey(DATASET, "train-0", number))
    wanted = Wanted(path, num_bytes, f"batch {number}", float(number) if use is None else use)
    cache.obtain(wanted, fetch or (lambda: bytes([number]) * num_bytes), uses, origins or SomeOrigins())
    return path


def numbers_in(cache):
    return sorted(file.key.number for file in list_files(cache.root))


def test_what_is_fetched_is_whole_private_and_fetched_once(tmp_path):
    cache = cache_of(tmp_path)
    path = obtain(cache, 7)
    assert path.read_bytes() == b"\x07" * 100
    obtain(cache, 7, fetch=lambda: pytest.fail("it is there"))
    for item in (cache.root, path.parent, path, cache.root / "locks"):
        assert stat.S_IMODE(item.stat().st_mode) & 0o077 == 0


def test_the_farthest_use_goes_first_and_the_bound_holds(tmp_path):
    cache = cache_of(tmp_path)
    for number in (5, 9, 1, 8, 3, 2, 7, 6, 4, 0):
        obtain(cache, number)
    for number in range(10, 15):
        obtain(cache, number, uses=UsesByNumber(now=2), use=NOW)
        assert cache.num_bytes() <= 1000
    assert numbers_in(cache) == [0, 1, 2, 3, 4, 5, 6, 7, 8, 14]


def test_the_current_window_stays_even_if_nothing_else_can_make_room(tmp_path):
    cache = cache_of(tmp_path)
    for number in range(10):
        obtain(cache, number)
    with pytest.raises(NoRoomError, match="needed sooner"):
        obtain(cache, 20, uses=UsesByNumber(now=10), use=NOW)
    assert numbers_in(cache) == list(range(10))


def test_what_is_used_later_makes_no_room_for_itself(tmp_path):
    cache = cache_of(tmp_path)
    for number in range(10):
        obtain(cache, number)
    with pytest.raises(NoRoomError):
        obtain(cache, 11)
    assert numbers_in(cache) == list(range(10))


def test_nothing_is_removed_whose_remote_copy_is_gone(tmp_path):
    cache, origins = cache_of(tmp_path), SomeOrigins(gone=range(3, 20))
    for number in range(10):
        obtain(cache, number)
    obtain(cache, 20, uses=UsesByNumber(now=1), origins=origins, use=NOW)
    assert origins.asked == [9, 8, 7, 6, 5, 4, 3, 2], "the farthest first, until one is confirmed"
    assert numbers_in(cache) == [0, 1, *range(3, 10), 20]
    gone = SomeOrigins(gone=range(30))
    with pytest.raises(StorageError, match="did not confirm"):
        obtain(cache, 21, uses=UsesByNumber(now=1), origins=gone, use=NOW)
    assert len(numbers_in(cache)) == 10


def test_a_failed_fetch_leaves_no_file_and_no_room_taken(tmp_path):
    cache = cache_of(tmp_path)

    def fail():
        assert cache.num_bytes() == 100, "room is taken before the bytes arrive"
        raise StorageError("no")

    with pytest.raises(StorageError):
        obtain(cache, 1, fetch=fail)
    assert cache.num_bytes() == 0


def test_what_a_dead_process_left_half_is_removed_at_the_start_or_for_room_but_never_what_is_being_fetched(tmp_path):
    cache = cache_of(tmp_path)
    dead, alive = (batch_path(cache.root, BatchKey(DATASET, "train-0", number)) for number in (1, 2))
    dead.parent.mkdir()
    parts = [path.with_name(path.name + ".part") for path in (dead, alive)]
    for part in parts:
        part.write_bytes(bytes(500))
    with file_lock(item_lock_path(cache.root, alive), Wait("", 10)):
        cache_of(tmp_path)
        assert [part.exists() for part in parts] == [False, True]
        parts[0].write_bytes(bytes(500))
        obtain(cache, 9, use=NOW)
        assert [part.exists() for part in parts] == [False, True]


def test_a_patient_caller_waits_for_a_lock_and_another_goes_on(tmp_path):
    cache = cache_of(tmp_path)
    path = batch_path(cache.root, BatchKey(DATASET, "train-0", 1))
    with file_lock(item_lock_path(cache.root, path), Wait("", 10)):
        wanted = Wanted(path, 100, "batch", NOW)
        assert not cache.obtain(wanted, lambda: b"", UsesByNumber(), SomeOrigins(), is_patient=False)
    assert not path.exists()


def test_room_that_another_fetch_holds_is_waited_for_by_the_patient_and_told_to_others(tmp_path):
    cache = cache_of(tmp_path)
    path, wanted = (batch_path(cache.root, BatchKey(DATASET, "train-0", number)) for number in (1, 2))
    path.parent.mkdir()
    part = path.with_name(path.name + ".part")
    asked = Wanted(wanted, 100, "batch", NOW)
    held, freed = threading.Event(), threading.Event()

    def fetch_elsewhere():
        with file_lock(item_lock_path(cache.root, path), Wait("", 10)):
            part.write_bytes(bytes(1000))
            held.set()
            freed.wait(10)
            part.unlink()

    thread = threading.Thread(target=fetch_elsewhere)
    thread.start()
    held.wait(10)
    with pytest.raises(NoRoomYetError):
        cache.obtain(asked, lambda: bytes(100), UsesByNumber(), SomeOrigins(), is_patient=False)
    # Far longer than the policy's attempts last: a slow fetch beside it is nobody's failure.
    threading.Timer(0.5, freed.set).start()
    started = time.monotonic()
    assert cache.obtain(asked, lambda: bytes(100), UsesByNumber(), SomeOrigins())
    thread.join()
    assert time.monotonic() - started >= 0.4
    assert wanted.read_bytes() == bytes(100)


def test_a_dead_part_that_shares_the_callers_lock_makes_room(tmp_path):
    cache = cache_of(tmp_path)
    wanted = batch_path(cache.root, BatchKey(DATASET, "train-0", 0))
    lock = item_lock_path(cache.root, wanted)
    paths = (batch_path(cache.root, BatchKey(DATASET, "train-0", number)) for number in range(1, 100_000))
    other = next(path for path in paths if item_lock_path(cache.root, path) == lock)
    other.parent.mkdir()
    part = other.with_name(other.name + ".part")
    part.write_bytes(bytes(1000))
    assert obtain(cache, 0, use=NOW).exists()
    assert not part.exists()


def test_a_directory_that_holds_anything_else_is_refused_and_untouched(tmp_path):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "thesis.txt").write_text("years of work")
    with pytest.raises(DataError, match=r"thesis\.txt"):
        cache_of(tmp_path)
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["thesis.txt"]


def test_files_that_the_cache_did_not_write_are_never_removed(tmp_path):
    cache = cache_of(tmp_path)
    mine = [cache.root / "mine.batch", cache.root / "photos" / "train-0.00001.batch"]
    for path in mine:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(bytes(5000))
    for number in range(30):
        obtain(cache, number, use=NOW)
    assert all(path.exists() for path in mine)
    assert cache.num_bytes() <= 1000


def test_a_mark_of_another_version_is_refused(tmp_path):
    cache_of(tmp_path)
    (tmp_path / "cache" / "OWNER").write_text("llama-dist cache, version 99\n")
    with pytest.raises(DataError, match="not the mark"):
        cache_of(tmp_path)


def test_a_file_in_place_of_the_directory_is_a_storage_error(tmp_path):
    (tmp_path / "cache").write_text("")
    with pytest.raises(StorageError, match="cannot be used"):
        cache_of(tmp_path)


def test_victims_come_farthest_first_then_oldest_and_small_files_of_the_own_dataset_never():
    other = "1" * 32

    def file(dataset, name, modified):
        return CachedFile(Path("/cache") / dataset / name, dataset, 1, modified)

    own_small, other_small = file(DATASET, "tokenizer.model", 0), file(other, "tokenizer.model", 7)
    origin, part = file(other, "origin.json", 0), file(DATASET, "a.00005.batch.part", 0)
    batches = [file(DATASET, f"a.{number:05d}.batch", 0) for number in range(4)]
    strangers = [file(other, f"b.{number:05d}.batch", 9 - number) for number in range(2)]
    found = choose_victims([own_small, other_small, origin, part, *batches, *strangers], _Mixed(), later_than=NOW)
    assert found == [other_small, strangers[1], strangers[0], batches[3], batches[2]]
    assert choose_victims(batches, _Mixed(), later_than=2.0) == [batches[3]]


class _Mixed(UsesByNumber):
    def next_use(self, key):
        return UNKNOWN if key.dataset != DATASET else UsesByNumber(now=2).next_use(key)


def test_held_out_text_lets_its_own_go_before_what_training_gathered():
    uses = OnceThrough([DATASET], ["validation-0"])
    assert uses.next_use(BatchKey(DATASET, "validation-0", 3)) == NEVER
    assert uses.next_use(BatchKey(DATASET, "train-0", 3)) == UNKNOWN < NEVER
