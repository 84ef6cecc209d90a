"""Reading from stores: what is tried again, what is refused at once, what is never returned."""

import time

import fsspec
import pytest
from flaky_store import FlakyStore

from data_pipeline.config import SourceConfig
from data_pipeline.durable_file import checksum_bytes
from data_pipeline.errors import DataError, StorageError
from data_pipeline.stores.location import check_url
from data_pipeline.stores.remote_store import ByteRange, RemoteStore
from data_pipeline.stores.waiting import RetryPolicy

CONTENT = bytes(range(256)) * 40
FAST = RetryPolicy(
    num_attempts=6, first_delay_seconds=0.01, longest_delay_seconds=0.02, request_limit_seconds=0.4, seed=0
)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "file.bin").write_bytes(CONTENT)
    return tmp_path


def some_range(start=1000, num_bytes=3000):
    checksum = checksum_bytes(CONTENT[start : start + num_bytes])
    return ByteRange("file.bin", start, num_bytes, len(CONTENT), checksum)


@pytest.mark.parametrize("fault", ["500", "503", "reset", "truncated", "short", "corrupt", "stall"])
def test_a_request_that_fails_twice_is_done_a_third_time(folder, fault):
    with FlakyStore(folder) as server:
        server.script = [fault, fault]
        assert RemoteStore(server.url, FAST).read_range(some_range()) == CONTENT[1000:4000]
        assert [request[3] for request in server.requests] == [fault, fault, None]


def test_a_store_that_never_answers_well_is_named_with_bytes_attempts_and_cause(folder):
    with FlakyStore(folder, share=1.0, faults=["503"]) as server:
        with pytest.raises(StorageError) as caught:
            RemoteStore(server.url, FAST).read_range(some_range())
        assert caught.value.exit_code == 74
        assert len(server.requests) == FAST.num_attempts
    for part in (f"{server.url}/file.bin bytes 1000..4000", "6 attempts", "503"):
        assert part in str(caught.value)


def test_a_stall_ends_at_the_time_limit_and_is_announced(folder, capfd):
    policy = RetryPolicy(
        num_attempts=2, first_delay_seconds=0.01, request_limit_seconds=0.6, notice_after_seconds=0.1, seed=0
    )
    started = time.monotonic()
    with (
        FlakyStore(folder, share=1.0, faults=["stall"]) as server,
        pytest.raises(StorageError, match="no whole answer"),
    ):
        RemoteStore(server.url, policy).read_range(some_range())
    assert time.monotonic() - started < 10
    notices = [line for line in capfd.readouterr().err.splitlines() if "waiting since" in line]
    assert len(notices) == 1 and "file.bin bytes 1000..4000" in notices[0]


def test_a_store_without_any_time_limit_is_given_up_too(folder, monkeypatch):
    store = RemoteStore(f"file://{folder}", RetryPolicy(num_attempts=1, request_limit_seconds=0.2))
    asked = []
    monkeypatch.setattr(type(store._filesystem), "cat_file", lambda *_, **__: asked.append(1) or time.sleep(1))
    with pytest.raises(StorageError, match="no whole answer"):
        store.read_range(some_range())
    assert asked


def test_bytes_that_stay_damaged_are_an_error_with_range_and_both_checksums(folder):
    wanted = some_range()
    with FlakyStore(folder, share=1.0, faults=["corrupt"]) as server, pytest.raises(DataError) as caught:
        RemoteStore(server.url, FAST).read_range(wanted)
    damaged = bytes([CONTENT[1000] ^ 1]) + CONTENT[1001:4000]
    for part in (f"{server.url}/file.bin bytes 1000..4000", wanted.checksum, checksum_bytes(damaged), "3 times"):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("status", "advice"), [(404, "not in the store"), (403, "denies access"), (401, "denies access"), (400, "refuses")]
)
def test_what_cannot_pass_is_refused_at_the_first_request(folder, status, advice):
    with FlakyStore(folder) as server:
        server.deny_status = status
        with pytest.raises(DataError, match=advice):
            RemoteStore(server.url, FAST).read_range(some_range())
        assert len(server.requests) == 1


def test_the_settings_of_fsspec_sign_in_to_a_web_server(folder, monkeypatch):
    with FlakyStore(folder) as server:
        server.needed_authorization = "Bearer abc"
        with pytest.raises(DataError, match="denies access"):
            RemoteStore(server.url, FAST).read_range(some_range())
        monkeypatch.setitem(fsspec.config.conf, "http", {"headers": {"Authorization": "Bearer abc"}})
        assert RemoteStore(server.url, FAST).read_range(some_range()) == CONTENT[1000:4000]


def test_a_file_shorter_than_the_manifest_says_is_refused(folder):
    with FlakyStore(folder) as server, pytest.raises(DataError, match="another one than the manifest says"):
        RemoteStore(server.url, FAST).read_range(ByteRange("file.bin", 20_000, 100, 30_000, "0" * 32))


def test_a_server_that_ignores_ranges_is_told_apart(folder):
    with FlakyStore(folder, knows_ranges=False) as server:
        with pytest.raises(DataError, match="ignores ranges of bytes"):
            RemoteStore(server.url, FAST).read_range(some_range())
        assert len(server.requests) == 1


@pytest.mark.parametrize("scheme", ["memory", "file"])
def test_other_stores_are_read_the_same_way(folder, scheme):
    url = f"file://{folder}"
    if scheme == "memory":
        url = f"memory://{folder.name}"
        fsspec.filesystem("memory").pipe_file(f"/{folder.name}/file.bin", CONTENT)
    store = RemoteStore(url, FAST)
    assert store.read_range(some_range()) == CONTENT[1000:4000]
    assert store.has_file("file.bin", len(CONTENT))
    assert not store.has_file("file.bin", len(CONTENT) - 1)
    assert not store.has_file("absent.bin", 1)
    with pytest.raises(DataError, match="not in the store"):
        store.read_file("absent.bin", lambda _: None)


def test_an_unknown_protocol_is_refused_with_advice():
    with pytest.raises(DataError, match="install the fsspec package"):
        RemoteStore("nowhere://bucket/data")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("https://me:secret@host/data", "holds a password"),
        ("https://secret-token@host/data", "holds a password or user"),
        ("https://host/data?token=secret", "query"),
        ("simplecache::s3://bucket/data", "chained"),
    ],
)
def test_urls_that_leak_or_lead_nowhere_are_refused_without_their_secret(url, message):
    with pytest.raises(DataError, match=message) as caught:
        check_url(url)
    assert "secret" not in str(caught.value)


def test_a_directory_is_no_url():
    paths = ("data/code", "/data:x", "s3://bucket/x", "memory://x")
    assert [SourceConfig(path=path).is_remote for path in paths] == [False, False, True, True]
    assert check_url("s3://bucket/x/") == "s3://bucket/x"
    assert check_url("abfs://container@account.dfs.core.windows.net/x").startswith("abfs://container@")


def test_delays_double_up_to_the_cap_and_are_never_in_step():
    policy = RetryPolicy(first_delay_seconds=1, longest_delay_seconds=8)
    delays = RetryPolicy(first_delay_seconds=1, longest_delay_seconds=8, seed=3).delays()
    seen = [delays(number) for number in range(1, 8)]
    for number, whole in enumerate([1, 2, 4, 8, 8, 8, 8]):
        assert whole / 2 <= seen[number] <= whole
    assert policy.delays()(1) != policy.delays()(1)
