"""A preparation that is killed, starved or shared out ends with the bytes of one that was left alone."""

import json
import os
import random
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from data_corpus import SMALL_PREPARATION, write_corpus

from data_pipeline.config import read_yaml
from data_pipeline.errors import DataError
from data_pipeline.preparation import prepare
from data_pipeline.preparation.finish import finalize
from data_pipeline.preparation.prepare import prepare_dataset
from data_pipeline.preparation.task_record import read_plan, record_path, write_plan
from data_pipeline.preparation.work_directory import Share, open_work_directory
from data_pipeline.verification import verify_dataset

ROOT = Path(__file__).parents[2]
TEMPLATES = ROOT / "docs" / "templates"
LLAMA_DIST = Path(sys.executable).parent / "llama-dist"


@pytest.fixture(scope="module")
def big_corpus(tmp_path_factory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("big"), num_files=500, seed=9)


@pytest.fixture(scope="module")
def unbroken(big_corpus, tokenizer, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("unbroken") / "out"
    run = subprocess.run(command(big_corpus, tokenizer, output), cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return output


def command(corpus: Path, tokenizer, output: Path, *more: str) -> list[str]:
    options = ["--tokenizer", str(tokenizer.path), "--output", str(output), "--task-megabytes", "0.02", "--json"]
    return [str(LLAMA_DIST), "data", "prepare", str(corpus), *options, "--workers", "2", *more]


def contents(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def records(output: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (output / "tasks").glob("[0-9]*.json")}


def wait_for_the_end_of_session(session: int) -> None:
    import psutil

    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        alive = [one for one in psutil.pids() if session_of(one) == session and psutil.pid_exists(one)]
        if not [one for one in alive if is_running(one)]:
            return
        time.sleep(0.01)
    raise AssertionError(f"processes of session {session} outlive their parent")


def session_of(process: int) -> int | None:
    try:
        return os.getsid(process)
    except ProcessLookupError:
        return None


def is_running(process: int) -> bool:
    import psutil

    try:
        return psutil.Process(process).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_twenty_kills_at_random_moments_cost_a_task_a_worker_and_not_a_byte(big_corpus, tokenizer, unbroken, tmp_path):
    """Half of the kills come a random time after the start of work, the others at sight of a half-written file."""
    source, output = random.Random(3), tmp_path / "out"
    killed_at_work = 0
    for number in range(20):
        before = records(output)
        # Three processes take seconds to start, one takes one: so mostly one. The last --workers counts.
        call = command(big_corpus, tokenizer, output, "--workers", "2" if number % 4 == 0 else "1")
        process = subprocess.Popen(
            call, cwd=ROOT, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True
        )
        wait_for_a_moment(process, output, before, source, aimed=number % 2 == 0)
        killed_at_work += process.poll() is None and (output / "tasks" / "plan.json").exists()
        process.kill()
        process.wait()
        wait_for_the_end_of_session(process.pid)
        if (output / "manifest.json").exists():
            # Done before the twentieth kill: so was it whole?
            finalize(output)
            shutil.rmtree(output / "tasks", ignore_errors=True)
            assert contents(output) == contents(unbroken)
            shutil.rmtree(output)
        else:
            assert before.items() <= records(output).items(), "a finished task was done again"
    assert killed_at_work >= 10
    finished = subprocess.run(command(big_corpus, tokenizer, output), cwd=ROOT, capture_output=True, check=True)
    assert json.loads(finished.stdout)["complete"]
    assert contents(output) == contents(unbroken)


def wait_for_a_moment(process, output: Path, before: dict, source: random.Random, *, aimed: bool) -> None:
    deadline = time.monotonic() + 30
    patterns = ("shards/*.tmp-*", "tasks/*.json.tmp-*", "tasks/[0-9]*.json")
    pattern = source.choice(patterns)
    while process.poll() is None and time.monotonic() < deadline:
        if aimed and [one for one in output.glob(pattern) if one.name not in before]:
            return
        if not aimed and (output / "shards").exists() and any((output / "shards").glob("*.tmp-*")):
            time.sleep(source.random() * 0.1)
            return
        # Without a pause the watch would take a processor from the work.
        time.sleep(0.002)


@pytest.mark.parametrize("num_workers", [1, 4])
def test_any_number_of_processes_writes_the_same_bytes(big_corpus, tokenizer, unbroken, tmp_path, num_workers):
    config = read_plan_config(unbroken)
    prepare_dataset([big_corpus], tokenizer.path, tmp_path / "out", config, num_workers=num_workers)
    assert contents(tmp_path / "out") == contents(unbroken)


def read_plan_config(dataset: Path):
    from data_pipeline.manifest import read_manifest

    return read_manifest(dataset).preparation


def test_three_machines_write_the_bytes_of_one_and_the_last_writes_the_manifest(corpus, tokenizer, tmp_path):
    output, one = tmp_path / "out", tmp_path / "one"
    prepare_dataset([corpus], tokenizer.path, one, SMALL_PREPARATION, num_workers=1)
    for index in (2, 0):
        prepared = prepare_dataset(
            [corpus], tokenizer.path, output, SMALL_PREPARATION, num_workers=1, share=Share(index, 3)
        )
        assert prepared.finished is None
        assert "--worker-index" in prepared.waits_for
    with pytest.raises(DataError, match=r"of \d+ tasks are not done: 1(, \d+)* \(of --worker-index 1, --num-workers 3"):
        finalize(output)
    prepared = prepare_dataset([corpus], tokenizer.path, output, SMALL_PREPARATION, num_workers=1, share=Share(1, 3))
    assert prepared.finished is not None
    assert contents(output) == contents(one)


def test_workers_of_several_machines_run_at_once_and_exactly_one_writes_the_manifest(
    big_corpus, tokenizer, unbroken, tmp_path
):
    output = tmp_path / "out"
    workers = [
        subprocess.Popen(
            command(big_corpus, tokenizer, output, "--worker-index", str(index), "--num-workers", "2"),
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    answers = [worker.communicate(timeout=120) for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], answers
    assert any(json.loads(output)["complete"] for output, _ in answers)
    assert contents(output) == contents(unbroken)


def test_a_worker_with_other_options_is_refused_while_the_others_work(corpus, tokenizer, tmp_path):
    output = tmp_path / "out"
    prepare_dataset([corpus], tokenizer.path, output, SMALL_PREPARATION, num_workers=1, share=Share(0, 2))
    other = SMALL_PREPARATION.model_copy(update={"adds_bos": True})
    with open_work_directory(output, Share(0, 2)) as held, held.work():
        for config, share, message in (
            (other, Share(1, 2), r"adds_bos: there False, asked for True"),
            (SMALL_PREPARATION, Share(1, 3), r"--num-workers: there 2, asked for 3"),
            (SMALL_PREPARATION, Share(0, 2), r"another process is preparing data in it as worker 0 of 2"),
        ):
            with pytest.raises(DataError, match=message):
                prepare_dataset([corpus], tokenizer.path, output, config, num_workers=1, share=share)
    with pytest.raises(DataError, match=r"use indices 0\.\.1"):
        Share(2, 2)


def test_finished_work_of_another_kind_is_never_removed_unasked(corpus, tokenizer, tmp_path):
    output = tmp_path / "out"
    prepare_dataset([corpus], tokenizer.path, output, SMALL_PREPARATION, num_workers=1, share=Share(0, 2))
    before = contents(output)
    other = SMALL_PREPARATION.model_copy(update={"adds_bos": True})
    with pytest.raises(DataError, match=r"adds_bos: there False, asked for True\n(.*\n)*.*discard its \d+ shards"):
        prepare_dataset([corpus], tokenizer.path, output, other, num_workers=1)
    assert contents(output) == before
    # Another dealing of the same tasks goes on with what is there.
    kept = records(output)
    first = record_path(output, 0)
    content = first.read_bytes()
    first.write_bytes(content.replace(b'"num_tokens": ', b'"num_tokens": 1', 1))
    prepare_dataset([corpus], tokenizer.path, output, SMALL_PREPARATION, num_workers=1, share=Share(0, 4))
    assert first.read_bytes() == content, "a damaged record was not made anew"
    assert {name: time for name, time in records(output).items() if name in kept and name != first.name} == {
        name: time for name, time in kept.items() if name != first.name
    }
    assert prepare_dataset([corpus], tokenizer.path, output, other, num_workers=1, restart=True).finished
    verify_dataset(output)


def test_a_file_that_changes_during_the_preparation_is_named_with_both_sizes(corpus, tokenizer, tmp_path, monkeypatch):
    from data_pipeline.preparation import task

    own = Path(shutil.copytree(corpus, tmp_path / "corpus"))
    growing = own / "part_0" / "file_000.py"
    size = growing.stat().st_size
    read = task.DocumentReader.read

    def read_while_it_grows(reader, piece):
        yield from read(reader, piece)
        if piece.path == str(growing):
            growing.write_bytes(growing.read_bytes() + b"more")

    monkeypatch.setattr(task.DocumentReader, "read", read_while_it_grows)
    with pytest.raises(DataError, match=rf"file_000\.py: changed while .*: {size} bytes at the start, {size + 4} now"):
        prepare_dataset([own], tokenizer.path, tmp_path / "out", SMALL_PREPARATION, num_workers=1)
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_after_a_full_disk_a_rerun_keeps_the_finished_tasks(tokenizer, tmp_path):
    """A limit on the size of files stands for the full disk: only the large last task fails."""
    own = write_corpus(tmp_path / "corpus", num_files=20)
    (own / "z.py").write_text("value = 1234567\n" * 6000)
    limited = "import resource, runpy, sys\nresource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))\n"
    limited += f"sys.argv = sys.argv[1:]\nrunpy.run_path({str(LLAMA_DIST)!r}, run_name='__main__')\n"
    call = command(own, tokenizer, tmp_path / "out", "--workers", "1")
    full = subprocess.run([sys.executable, "-c", limited, *call], cwd=ROOT, capture_output=True, text=True, check=False)
    assert full.returncode == 74, full.stderr
    assert "cannot be written: File too large" in full.stderr
    kept = records(tmp_path / "out")
    assert kept
    again = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, check=True)
    assert f"{len(kept)} of {len(kept) + 1} tasks were done before" in again.stderr
    verify_dataset(tmp_path / "out")


def test_the_slurm_array_and_the_indexed_job_prepare_one_dataset(corpus, tokenizer, unbroken, tmp_path):
    path = f"{LLAMA_DIST.parent}{os.pathsep}{os.environ['PATH']}"
    slurm = {"INPUT": str(corpus), "TOKENIZER": str(tokenizer.path), "OUTPUT": str(tmp_path / "slurm")}
    for index in range(2):
        variables = {"SLURM_ARRAY_TASK_ID": str(index), "SLURM_ARRAY_TASK_COUNT": "2", "PATH": path}
        subprocess.run(
            ["bash", str(TEMPLATES / "prepare_array.sbatch"), "--workers", "1", "--task-megabytes", "0.05"],
            env=os.environ | slurm | variables, cwd=ROOT, check=True, capture_output=True,
        )  # fmt: skip
    verify_dataset(tmp_path / "slurm")

    job = read_yaml(TEMPLATES / "prepare_job.yaml")
    spec = job["spec"]
    assert (job["apiVersion"], job["kind"], spec["completionMode"]) == ("batch/v1", "Job", "Indexed")
    (container,) = spec["template"]["spec"]["containers"]
    assert f"--num-workers={spec['completions']}" in container["command"]
    assert spec["parallelism"] <= spec["completions"]
    places = {"/data/corpus": str(corpus), "/data/tok/tokenizer.model": str(tokenizer.path)}
    places["/data/datasets/code"] = str(tmp_path / "job")
    for index in range(2):
        line = "\0".join(container["command"]).replace("$(JOB_COMPLETION_INDEX)", str(index))
        line = re.sub(r"--num-workers=\d+", "--num-workers=2", line) + "\0--task-megabytes=0.05\0--workers=1"
        for there, here in places.items():
            line = line.replace(there, here)
        subprocess.run(line.split("\0"), env=os.environ | {"PATH": path}, cwd=ROOT, check=True, capture_output=True)
    assert contents(tmp_path / "job") == contents(tmp_path / "slurm")
    assert read_plan(tmp_path / "job") is None


def test_a_plan_that_another_process_put_in_its_place_is_not_worked_by(big_corpus, tokenizer, tmp_path, monkeypatch):
    def lose_the_race(output, record):
        write_plan(output, record.model_copy(update={"preparation_hash": "0" * 32}))

    monkeypatch.setattr(prepare, "write_plan", lose_the_race)
    with pytest.raises(DataError, match="another kind"):
        prepare_dataset([big_corpus], tokenizer.path, tmp_path / "out", SMALL_PREPARATION, num_workers=1)
    assert not list((tmp_path / "out" / "shards").iterdir())
