"""Shipping to a real MLflow: its sqlite store from a real process, and its server through an unreliable network."""

import json
import os
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from data_pipeline.config import read_yaml, write_yaml
from llama_dist.config import RunDirectory, set_aside_path
from llama_dist.exit_codes import ExitCode
from llama_dist.metrics import Spool
from llama_dist.metrics.mlflow_tracker import MlflowTracker
from llama_dist.metrics.ship import Shipper
from llama_dist.metrics.tracker import METRIC_KEYS

PROCESS_LIMIT_SECONDS = 90


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory) -> Path:
    """Return a database with MLflow's tables and nothing in it: building them takes seconds, so it is done once."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowClient(tracking_uri=f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def database(run_directory, empty_database) -> Path:
    """Return the default store of `run_directory`: beside the run directories."""
    return Path(shutil.copy(empty_database, run_directory.path.parent / "mlflow.db"))


@pytest.fixture
def start_shipper(run_directory) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    """Return a function that starts the real shipping process; what is left is ended by its own pid."""
    started = []

    def start() -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "llama_dist.metrics.ship", "--run-directory", str(run_directory.path)]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate(timeout=10)


def spool_steps(directory: RunDirectory, attempt: int, steps: range, make_step: Callable[..., Any]) -> None:
    spool = Spool(directory.metrics, attempt)
    for step in steps:
        spool.append(make_step(step))
    spool.close()


def the_run(client: MlflowClient) -> Any:
    (experiment,) = [one for one in client.search_experiments() if one.name == "llama-dist"]
    (run,) = client.search_runs([experiment.experiment_id])
    return run


def assert_each_once(client: MlflowClient, run_id: str, steps: range) -> None:
    for key in (*METRIC_KEYS, "held_out_loss/code"):
        expected = [step for step in steps if not key.startswith("held_out_loss") or step % 5 == 0]
        history = client.get_metric_history(run_id, key)
        assert Counter(metric.step for metric in history) == Counter(expected), key


def count_rows(database: Path) -> int:
    with sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=10) as connection:
        return int(connection.execute("select count(*) from metrics where key = 'loss'").fetchone()[0])


def wait_until(claim: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + PROCESS_LIMIT_SECONDS
    while not claim():
        assert time.monotonic() < deadline and process.poll() is None, "the shipper ended or hangs"
        time.sleep(0.002)


def test_a_shipper_killed_twice_in_mid_send_leaves_one_run_with_each_step_once(
    run_directory, database, make_step, set_state, start_shipper
):
    client = MlflowClient(tracking_uri=f"sqlite:///{database}")
    set_state("running")
    spool_steps(run_directory, 1, range(1, 601), make_step)
    killed_at = []
    for least in (1, 250):
        process = start_shipper()
        wait_until(lambda least=least: count_rows(database) >= least, process)
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=10)
        killed_at.append(count_rows(database))
    assert killed_at[0] < killed_at[1] < 600, "the kills must fall into the sending"
    spool_steps(run_directory, 2, range(501, 701), make_step)
    set_state("done")
    process = start_shipper()
    assert process.wait(timeout=PROCESS_LIMIT_SECONDS) == 0
    run = the_run(client)
    assert_each_once(client, run.info.run_id, range(1, 701))
    assert run.info.status == "FINISHED" and run.info.run_name == "tiny"
    assert run.data.params["optimizer.learning_rate"] == "0.0003"
    assert run.data.tags["llama_dist.attempt_0002.rewind"].startswith("resumed after step 500")
    assert stat.S_IMODE((run_directory.metrics / "mlflow_run.json").stat().st_mode) == 0o600


def test_values_and_times_arrive_as_spooled(run_directory, database, make_step, set_state):
    client = MlflowClient(tracking_uri=f"sqlite:///{database}")
    set_state("stopped")
    spool_steps(run_directory, 1, range(1, 6), make_step)
    assert Shipper(run_directory, lambda _: MlflowTracker(f"sqlite:///{database}", "llama-dist")).run() == ExitCode.DONE
    run = the_run(client)
    assert run.info.status == "KILLED" and run.info.end_time is not None
    lines = [json.loads(line) for line in (run_directory.metrics / "spool.jsonl").read_text().splitlines()]
    for key in (*METRIC_KEYS, "held_out_loss/code"):
        shipped = [(one.step, one.value, one.timestamp) for one in client.get_metric_history(run.info.run_id, key)]
        expected = [(one["step"], one[key], int(one["time"] * 1000)) for one in lines if one.get(key) is not None]
        assert sorted(shipped) == expected


def test_a_lost_identity_file_finds_the_same_run_again_but_never_that_of_another_machine(
    run_directory, database, make_step, set_state
):
    client = MlflowClient(tracking_uri=f"sqlite:///{database}")
    set_state("failed")

    def ship() -> str:
        Shipper(run_directory, lambda _: MlflowTracker(f"sqlite:///{database}", "llama-dist")).run()
        return str(json.loads(identity_file.read_text())["run_id"])

    identity_file = run_directory.metrics / "mlflow_run.json"
    spool_steps(run_directory, 1, range(1, 4), make_step)
    first = ship()
    identity_file.unlink()
    spool_steps(run_directory, 2, range(4, 6), make_step)
    assert ship() == first
    assert_each_once(client, first, range(1, 6))
    # Another machine with the same path: its spool shares no time with that run.
    identity_file.unlink()
    (run_directory.metrics / "spool.jsonl").unlink()
    time.sleep(0.002)
    spool_steps(run_directory, 1, range(1, 3), make_step)
    assert ship() != first


def test_a_run_that_began_anew_is_a_new_run_of_its_own_and_the_old_curve_stays(
    run_directory, database, make_step, set_state
):
    client = MlflowClient(tracking_uri=f"sqlite:///{database}")
    set_state("failed")

    def shipper() -> Shipper:
        return Shipper(run_directory, lambda _: MlflowTracker(f"sqlite:///{database}", "llama-dist"))

    def shipped() -> str:
        assert shipper().run() == ExitCode.DONE
        return str(json.loads((run_directory.metrics / "mlflow_run.json").read_text())["run_id"])

    spool_steps(run_directory, 1, range(1, 8), make_step)
    old = shipped()
    late = shipper()  # of the launch before, still at its last flush
    run_directory.metrics.rename(set_aside_path(run_directory.metrics, 2))
    values = read_yaml(run_directory.config)
    values["optimizer"]["learning_rate"] = 0.01
    run_directory.attempt(2).mkdir()
    for path in (run_directory.config, run_directory.attempt_config(2)):
        write_yaml(path, values)
    time.sleep(0.002)
    run_directory.metrics.mkdir()
    spool_steps(run_directory, 2, range(1, 5), lambda step: make_step(step, loss=100.0))
    set_state("done")
    assert late.run() == ExitCode.DONE
    new = shipped()
    assert new != old
    losses = {run_id: [one.value for one in client.get_metric_history(run_id, "loss")] for run_id in (old, new)}
    assert losses == {old: [make_step(step).loss for step in range(1, 8)], new: [100.0] * 4}
    run = client.get_run(new)
    assert run.data.params["optimizer.learning_rate"] == "0.01"
    assert run.data.tags["llama_dist.attempts"] == "1"
    assert not [tag for tag in run.data.tags if tag.endswith((".rewind", ".changes"))]
    assert client.get_run(old).info.status == "FAILED"
    (run_directory.metrics / "mlflow_run.json").unlink()
    assert shipped() == new


def test_a_second_launch_sets_running_again(run_directory, database, make_step, set_state):
    client = MlflowClient(tracking_uri=f"sqlite:///{database}")
    seen = []

    def ship(*polls: Callable[[], None]) -> None:
        remaining = list(polls)

        def wait(_: float) -> None:
            seen.append(the_run(client).info.status)
            remaining.pop(0)()

        Shipper(run_directory, lambda _: MlflowTracker(f"sqlite:///{database}", "llama-dist"), wait=wait).run()
        seen.append(the_run(client).info.status)

    spool_steps(run_directory, 1, range(1, 3), make_step)
    set_state("running")
    ship(lambda: set_state("backing_off"), lambda: set_state("failed"))
    set_state("running", attempt=2)
    ship(lambda: set_state("done"))
    assert seen == ["RUNNING", "RUNNING", "FAILED", "RUNNING", "FINISHED"]


def test_a_bad_tracking_address_is_logged_and_a_mended_one_back_fills(
    run_directory, database, make_step, set_state, start_shipper, monkeypatch
):
    values = read_yaml(run_directory.config)
    values["metrics"]["tracking_uri"] = "gopher://user:${TRACKER_PASSWORD}@nowhere"
    write_yaml(run_directory.attempt_config(1), values)
    set_state("running")
    spool_steps(run_directory, 1, range(1, 4), make_step)
    monkeypatch.setenv("TRACKER_PASSWORD", "hunter2")
    process = start_shipper()
    assert process.stderr is not None
    line = process.stderr.readline()
    assert "gopher" in line and "next try in 1 s" in line and "hunter2" not in line
    values["metrics"]["tracking_uri"] = f"sqlite:///{database}"
    run_directory.attempt(2).mkdir()
    write_yaml(run_directory.attempt_config(2), values)
    set_state("done")
    assert process.wait(timeout=PROCESS_LIMIT_SECONDS) == 0
    client = MlflowClient(tracking_uri=f"sqlite:///{database}")
    assert_each_once(client, the_run(client).info.run_id, range(1, 4))


class UnreliableNetwork:
    """WSGI middleware before MLflow's own server: fails requests before or after they took effect."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self.num_failures_before = 0
        self.num_failures_after = 0
        self.num_requests = 0

    def __call__(self, environ: Any, start_response: Any) -> Any:
        self.num_requests += 1
        if self.num_failures_before > 0:
            self.num_failures_before -= 1
            return self._fail(start_response)
        if self.num_failures_after > 0 and environ["PATH_INFO"].endswith("log-batch"):
            self.num_failures_after -= 1
            for _ in self.app(environ, lambda *_: lambda _: None):
                pass
            return self._fail(start_response)
        return self.app(environ, start_response)

    def _fail(self, start_response: Any) -> list[bytes]:
        start_response("500 Internal Server Error", [("Content-Type", "text/plain")])
        return [b"out of order"]


@pytest.fixture
def mlflow_server(database, tmp_path, monkeypatch) -> Iterator[tuple[str, UnreliableNetwork]]:
    """Serve MLflow's own application on a free loopback port, from a thread of this process."""
    from mlflow.server import ARTIFACT_ROOT_ENV_VAR, BACKEND_STORE_URI_ENV_VAR, app, handlers
    from werkzeug.serving import make_server

    monkeypatch.setenv(BACKEND_STORE_URI_ENV_VAR, f"sqlite:///{database}")
    monkeypatch.setenv(ARTIFACT_ROOT_ENV_VAR, str(tmp_path / "artifacts"))
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(handlers, "_tracking_store", None)
    network = UnreliableNetwork(app.wsgi_app)
    server = make_server("127.0.0.1", 0, network, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", network
    server.shutdown()
    thread.join(timeout=10)
    server.server_close()


def test_a_server_that_answers_500_before_and_after_the_fact_is_back_filled(
    run_directory, database, mlflow_server, make_step, set_state
):
    uri, network = mlflow_server
    set_state("running")
    spool_steps(run_directory, 1, range(1, 251), make_step)
    network.num_failures_before = 3
    waits = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        if (
            len(waits) == 8
        ):  # connected after 1 + 2 + 4 s: now the server keeps what it is sent, and says that it failed
            network.num_failures_after = 2
            spool_steps(run_directory, 1, range(251, 480), make_step)
        if len(waits) == 12:  # after back-offs of 1 and 2 s, and one poll
            set_state("done")

    exit_code = Shipper(run_directory, lambda _: MlflowTracker(uri, "llama-dist"), wait=wait).run()
    assert exit_code == ExitCode.DONE
    assert waits == [1] * 12
    client = MlflowClient(tracking_uri=f"sqlite:///{database}")
    run = the_run(client)
    assert_each_once(client, run.info.run_id, range(1, 480))
    assert run.info.status == "FINISHED"


def test_two_runs_that_create_the_default_store_at_once_both_arrive(
    tmp_path, build_run_directory, make_step, set_state, run_directory
):
    directories = [run_directory, build_run_directory(run_directory.path.parent / "other")]
    set_state("done")
    shutil.copy(run_directory.supervisor, directories[1].supervisor)
    for directory in directories:
        spool_steps(directory, 1, range(1, 4), make_step)
    command = [sys.executable, "-m", "llama_dist.metrics.ship", "--run-directory"]
    processes = [subprocess.Popen([*command, str(directory.path)], env=os.environ) for directory in directories]
    assert [process.wait(timeout=PROCESS_LIMIT_SECONDS) for process in processes] == [0, 0]
    store = run_directory.path.parent / "mlflow.db"
    assert stat.S_IMODE(store.stat().st_mode) == 0o600
    client = MlflowClient(tracking_uri=f"sqlite:///{store}")
    (experiment,) = [one for one in client.search_experiments() if one.name == "llama-dist"]
    assert experiment.artifact_location.endswith("runs/mlflow-artifacts")
    runs = client.search_runs([experiment.experiment_id])
    assert {run.info.run_name for run in runs} == {"tiny", "other"}
    for run in runs:
        assert_each_once(client, run.info.run_id, range(1, 4))
