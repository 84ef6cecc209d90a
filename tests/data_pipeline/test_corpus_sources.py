"""Text behind URLs and in datasets of the hub gives what the same files here give, and every failure is told."""

import functools
import gzip
import json
import socket
import subprocess
import sys
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from flaky_store import FlakyStore
from test_corpus_documents import TEXTS, WRITERS, read_all, texts_of, write_jsonl
from typer.testing import CliRunner

from data_pipeline.cli import tokenizer_app
from data_pipeline.config import PreparationConfig, ReadingConfig
from data_pipeline.errors import DataError, StorageError
from data_pipeline.preparation.inputs import find_inputs
from data_pipeline.preparation.plan import check_unchanged, make_plan
from data_pipeline.preparation.prepare import prepare_dataset
from data_pipeline.preparation.remote_file import RemoteFile, look_at_url
from data_pipeline.stores.waiting import RetryPolicy

ROOT = Path(__file__).parents[2]
QUICK = RetryPolicy(num_attempts=3, first_delay_seconds=0.01, request_limit_seconds=2.0, seed=0)
OVER_THE_WEB = [name for name in WRITERS if name not in ("f.arrow", "g.arrow", "saved")]
CONFIG = PreparationConfig(validation_fraction=0.2, task_bytes=2000)


@pytest.fixture
def memory():
    filesystem = fsspec.filesystem("memory")
    yield filesystem
    filesystem.rm("/corpus", recursive=True)


@pytest.mark.parametrize("name", OVER_THE_WEB)
def test_each_format_reads_the_same_over_http_whole_and_in_pieces(tmp_path, name):
    WRITERS[name](tmp_path / name)
    with FlakyStore(tmp_path) as server:
        for piece_bytes in (1 << 30, 9000):
            assert texts_of(f"{server.url}/{name}", piece_bytes=piece_bytes) == TEXTS


def test_a_web_server_without_ranges_is_read_too(tmp_path):
    write_jsonl(tmp_path / "a.jsonl")
    with FlakyStore(tmp_path, knows_ranges=False) as server:
        assert texts_of(f"{server.url}/a.jsonl", piece_bytes=9000) == TEXTS


def test_a_folder_of_the_web_ends_with_a_slash_and_is_listed(tmp_path):
    (tmp_path / "sub").mkdir()
    write_jsonl(tmp_path / "a.jsonl", ["one"])
    write_jsonl(tmp_path / "sub" / "b.jsonl", ["two"])
    (tmp_path / "c.txt").write_text("not wanted")

    class Silent(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Silent, directory=str(tmp_path)))
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        url = f"http://127.0.0.1:{server.server_port}/"
        (first, second) = find_inputs([url], ReadingConfig(globs=["**/*.jsonl"]))
        assert (first.name, second.name) == ("a.jsonl", "sub/b.jsonl")
        assert first.changed_ns == int((tmp_path / "a.jsonl").stat().st_mtime) * 10**9
        assert texts_of(url, globs=["**/*.jsonl"]) == ["one", "two"]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_folder_of_a_store_gives_the_files_that_the_same_folder_here_gives(tmp_path, memory):
    names = ("b.py", "a/z.py", "a/deep/y.py", "a/c.txt", ".hidden/x.py", "a/.y.py", "tests/t.py")
    for name in names:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text(name)
        memory.pipe(f"/corpus/{name}", name.encode())
    for globs, excludes in ((["**/*.py"], ["tests/*"]), (["*.py"], []), (["a/*"], []), (["**/*"], ["*.txt"])):
        here = texts_of(tmp_path, globs=globs, excludes=excludes)
        assert texts_of("memory://corpus", globs=globs, excludes=excludes) == here
        assert texts_of(f"file://{tmp_path}", globs=globs, excludes=excludes) == here


def test_a_prepared_dataset_does_not_depend_on_where_its_text_lay(tmp_path, tokenizer, memory):
    write_jsonl(tmp_path / "a.jsonl")
    memory.pipe("/corpus/a.jsonl", (tmp_path / "a.jsonl").read_bytes())
    # In the parent's memory the store is; so the tasks are done here, one worker.
    here = prepare_dataset([tmp_path / "a.jsonl"], tokenizer.path, tmp_path / "here", CONFIG, num_workers=1).manifest
    with FlakyStore(tmp_path, share=0.1, faults=["503", "reset", "truncated"]) as server:
        far = prepare_dataset(
            [f"{server.url}/a.jsonl"], tokenizer.path, tmp_path / "far", CONFIG, num_workers=2
        ).manifest
    assert far == here
    assert len(make_plan(["memory://corpus/a.jsonl"], tokenizer, CONFIG).tasks) > 3
    stored = prepare_dataset(["memory://corpus"], tokenizer.path, tmp_path / "stored", CONFIG, num_workers=1).manifest
    assert stored == here
    again = prepare_dataset(["memory://corpus"], tokenizer.path, tmp_path / "stored", CONFIG, num_workers=1)
    assert again.was_there
    memory.pipe("/corpus/a.jsonl", (tmp_path / "a.jsonl").read_bytes())
    with pytest.raises(DataError, match=r"memory://corpus/a\.jsonl: changed after .* was prepared from it"):
        prepare_dataset(["memory://corpus"], tokenizer.path, tmp_path / "stored", CONFIG, num_workers=1)


def test_a_tokenizer_is_trained_from_a_url(tmp_path):
    write_jsonl(tmp_path / "a.jsonl")
    with FlakyStore(tmp_path) as server:
        for name, path in (("here", str(tmp_path / "a.jsonl")), ("far", f"{server.url}/a.jsonl")):
            arguments = ["train", path, "--vocabulary-size", "300", "-o", str(tmp_path / name)]
            result = CliRunner().invoke(tokenizer_app, arguments)
            assert result.exit_code == 0, result.exception
    contents = [(tmp_path / name / "tokenizer.model").read_bytes() for name in ("here", "far")]
    assert contents[0] == contents[1]


@pytest.mark.parametrize("fault", ["500", "503", "reset", "truncated", "short"])
def test_a_read_that_fails_twice_is_done_a_third_time(tmp_path, fault):
    write_jsonl(tmp_path / "a.jsonl")
    with FlakyStore(tmp_path) as server:
        file = RemoteFile(f"{server.url}/a.jsonl", QUICK)
        server.script = [fault, fault]
        assert file.read(5000) == (tmp_path / "a.jsonl").read_bytes()[:5000]
        assert [request[3] for request in server.requests if request[0] == "GET"] == [fault, fault, None]


def test_a_store_that_fails_on_and_one_without_the_file_are_told_apart(tmp_path):
    write_jsonl(tmp_path / "a.jsonl")
    with FlakyStore(tmp_path) as server:
        with pytest.raises(DataError, match=rf"{server.url}/b\.jsonl: not in the store"):
            find_inputs([f"{server.url}/b.jsonl"], ReadingConfig())
        file = RemoteFile(f"{server.url}/a.jsonl", QUICK)
        server.script = ["503"] * 9
        with pytest.raises(StorageError, match=rf"{server.url}/a\.jsonl bytes 0\.\.100: .* 3 attempts .*503") as caught:
            file.read(100)
        assert caught.value.exit_code == 74
        server.deny_status = 503
        with pytest.raises(StorageError, match=r"a\.jsonl: not to be had in 3 attempts .*503"):
            look_at_url(f"{server.url}/a.jsonl", QUICK)
        server.deny_status = 403
        with pytest.raises(DataError, match=r"a\.jsonl: the store denies access"):
            look_at_url(f"{server.url}/a.jsonl", QUICK)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(StorageError, match=r"a\.jsonl: not to be had in 3 attempts"):
            look_at_url(f"http://127.0.0.1:{unused.getsockname()[1]}/a.jsonl", QUICK)


def test_a_parquet_file_whose_store_goes_away_is_the_stores_fault(tmp_path):
    WRITERS["e.parquet"](tmp_path / "e.parquet")
    with FlakyStore(tmp_path) as server:
        file = RemoteFile(f"{server.url}/e.parquet", QUICK)
        server.script = ["503"] * 9
        with pytest.raises(StorageError, match=r"e\.parquet bytes .*503"):
            pq.ParquetFile(file)


def test_a_file_that_changes_in_its_store_is_an_error_with_both_sides(memory, tokenizer):
    content = "".join(json.dumps({"text": text}) + "\n" for text in TEXTS).encode()
    memory.pipe("/corpus/a.jsonl", content)
    plan = make_plan(["memory://corpus/a.jsonl"], tokenizer, CONFIG)
    check_unchanged(plan.tasks[0])
    memory.pipe("/corpus/a.jsonl", content)
    with pytest.raises(DataError, match=r"memory://corpus/a\.jsonl: changed while it was prepared"):
        check_unchanged(plan.tasks[0])
    memory.pipe("/corpus/a.jsonl", content + content)
    with pytest.raises(DataError, match=f"{len(content)} bytes at the start, {2 * len(content)} now"):
        check_unchanged(plan.tasks[0])


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("memory://corpus/f.arrow", r"f\.arrow: Arrow files are mapped.*Parquet"),
        ("memory://corpus/nowhere", r"nowhere: not in the store"),
        ("nostore://x/y", r"nostore://x/y: .*install the fsspec package"),
        ("https://me:secret@host/a.jsonl", r"^https://\.\.\.@host/a\.jsonl: holds a password"),
        ("hub://", "names no dataset: write hub://owner/name"),
        ("hub://a/b?splits=train", "unknown settings splits"),
    ],
)
def test_urls_that_cannot_be_read_say_why(memory, url, message):
    memory.pipe("/corpus/f.arrow", b"x")
    with pytest.raises(DataError, match=message):
        find_inputs([url], ReadingConfig())


def test_a_signature_in_a_query_is_not_shown(tmp_path):
    (tmp_path / "a.jsonl").write_text("{")
    with FlakyStore(tmp_path) as server, pytest.raises((DataError, StorageError)) as caught:
        find_inputs([f"{server.url}/none.jsonl?signature=secret"], ReadingConfig())
    assert "none.jsonl" in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.fixture
def hub_folder(tmp_path):
    folder = tmp_path / "named"
    folder.mkdir()
    for number in range(3):
        write_jsonl(folder / f"train-{number}.jsonl", TEXTS[number * 60 : number * 60 + 60])
    (folder / "test.jsonl").write_text('{"text": "held out", "n": 1}\n')
    return folder


def test_a_dataset_is_read_shard_by_shard_by_the_hubs_library(hub_folder, tokenizer, tmp_path):
    url = f"hub://{hub_folder}?split=train"
    assert texts_of(url) == TEXTS[:180]
    assert texts_of(f"hub://{hub_folder}?split=test") == ["held out"]
    (file,) = find_inputs([url], ReadingConfig())
    assert file.num_bytes == sum(path.stat().st_size for path in hub_folder.glob("train-*"))
    plan = make_plan([url], tokenizer, CONFIG)
    assert [piece.start for task in plan.tasks for piece in task.pieces] == [0, 1, 2]
    assert len(plan.tasks) == 3
    (hub_folder / "train-1.jsonl").write_text('{"text": "other", "n": 1}\n')
    with pytest.raises(DataError, match="changed while it was prepared"):
        check_unchanged(plan.tasks[1])


def test_a_dataset_of_parquet_files_is_read_too(tmp_path):
    (tmp_path / "d").mkdir()
    for number in range(2):
        pq.write_table(pa.table({"body": TEXTS[:5], "n": range(5)}), tmp_path / "d" / f"{number}.parquet")
    assert texts_of(f"hub://{tmp_path / 'd'}", text_field="body") == TEXTS[:5] * 2
    with pytest.raises(DataError, match=r"no column `text` \(columns: body, n\).*--text-field"):
        read_all(f"hub://{tmp_path / 'd'}")


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("?split=none", r"no split `none` \(splits: .*train"),
        ("?config=none", "BuilderConfig 'none' not found.*check name"),
    ],
)
def test_a_dataset_without_the_split_or_config_is_named(hub_folder, query, message):
    with pytest.raises(DataError, match=message) as caught:
        find_inputs([f"hub://{hub_folder}{query}"], ReadingConfig())
    assert "\n" not in str(caught.value)


def test_a_damaged_file_of_a_dataset_is_named_in_one_line(hub_folder):
    (hub_folder / "train-2.jsonl").write_text('{"text": "ok", "n": 1}\n{"text": \n')
    with pytest.raises(DataError, match=r"named\?split=train: `datasets` cannot read it") as caught:
        read_all(f"hub://{hub_folder}?split=train")
    assert "\n" not in str(caught.value)


def test_a_dataset_of_the_hub_without_a_network_is_told_in_one_line(tmp_path):
    program = (
        "from data_pipeline.config import ReadingConfig\n"
        "from data_pipeline.preparation.inputs import find_inputs\n"
        "find_inputs(['hub://owner/name?split=train'], ReadingConfig())\n"
    )
    environment = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "PYTHONPATH": str(ROOT), "PATH": ""}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, check=False, env=environment, capture_output=True, text=True, timeout=120)
    last = done.stderr.strip().splitlines()[-1]
    assert "StorageError: hub://owner/name?split=train: the hub does not answer" in last
    assert "HF_HUB_OFFLINE" in last


def test_a_cut_off_compressed_file_of_the_web_is_named(tmp_path):
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b'{"text": "x"}\n' * 1000)[:-20])
    with FlakyStore(tmp_path) as server, pytest.raises(DataError, match=r"http://.*a\.jsonl\.gz: damaged or cut off"):
        read_all(f"{server.url}/a.jsonl.gz")
