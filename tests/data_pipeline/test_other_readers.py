"""Other programs open a shard as it is, and see the same documents."""

import json
import subprocess
import sys

import pyarrow as pa
import pytest

from data_pipeline.manifest import read_manifest
from data_pipeline.shard_reader import read_batches


@pytest.fixture(scope="module")
def shard(built_dataset):
    return built_dataset / read_manifest(built_dataset).train[0].file


@pytest.fixture(scope="module")
def documents(shard) -> list[list[int]]:
    """The documents as our own reader gives them."""
    return [
        batch.tokens[start:end].tolist()
        for batch in read_batches(shard, "uint16")
        for start, end in zip(batch.bounds, batch.bounds[1:], strict=False)
    ]


def test_the_shard_of_these_tests_has_many_documents_in_several_batches(shard, documents):
    assert len(documents) > 5
    assert pa.ipc.open_file(str(shard)).num_record_batches > 1


def test_datasets_opens_a_shard(shard, documents, tmp_path):
    program = (
        "import sys, json, datasets\n"
        "loaded = datasets.load_dataset('arrow', data_files=sys.argv[1], split='train', cache_dir=sys.argv[2])\n"
        "print(json.dumps([loaded['tokens'][:], [len(one) for one in loaded['doc_id']]]))\n"
    )
    # The library reads its settings when it is imported, and must look for nothing outside.
    environment = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    result = subprocess.run(
        [sys.executable, "-c", program, str(shard), str(tmp_path / "cache")],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
        env=environment,
    )
    assert result.returncode == 0, result.stderr
    tokens, id_lengths = json.loads(result.stdout.splitlines()[-1])
    assert tokens == documents
    assert set(id_lengths) == {16}


def test_polars_opens_a_shard(shard, documents):
    import polars

    for frame in (polars.read_ipc(shard), polars.scan_ipc(shard).collect()):
        assert frame["tokens"].to_list() == documents
    lengths = polars.scan_ipc(shard).select(polars.col("tokens").list.len().sum()).collect().item()
    assert lengths == sum(map(len, documents))


def test_duckdb_opens_a_shard(shard, documents):
    import duckdb
    import pyarrow.dataset

    connection = duckdb.connect()
    connection.register("shard", pyarrow.dataset.dataset(str(shard), format="ipc"))
    assert [row[0] for row in connection.execute("SELECT tokens FROM shard").fetchall()] == documents
    counted = connection.execute("SELECT count(*), sum(len(tokens)) FROM shard").fetchone()
    assert counted == (len(documents), sum(map(len, documents)))
