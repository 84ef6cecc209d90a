"""Each step reaches the tracker exactly once, whatever fails in between: shown on a tracker that fails on command."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.config import read_yaml, write_yaml
from llama_dist.config import ConfigError, parse_run_config
from llama_dist.exit_codes import ExitCode
from llama_dist.metrics import Spool, StepMetrics
from llama_dist.metrics.run_facts import without_credentials
from llama_dist.metrics.ship import MAX_BACKOFF_SECONDS, Shipper, with_environment
from llama_dist.metrics.shipment import Shipment
from llama_dist.metrics.tracker import METRIC_KEYS, StepSet


class TrackerStore:
    """What a tracker keeps, and the faults it will show: for each send, the share applied before it fails, or None."""

    def __init__(self, faults=()):
        self.points, self.params, self.tags, self.statuses, self.runs = [], {}, {}, [], {}
        self.faults = list(faults)

    def history(self, key):
        return [(point.step, point.value) for point in self.points if point.key == key]


class FlakyTracker:
    """A Tracker over a TrackerStore."""

    def __init__(self, store):
        self.store = store

    def open_run(self, identity, known_times):
        return self.store.runs.setdefault(identity.key, f"id-{len(self.store.runs)}")

    def set_params(self, params):
        self.store.params |= params

    def set_tags(self, tags):
        self.store.tags |= tags

    def shipped_steps(self):
        shipped = {key: StepSet() for key in METRIC_KEYS}
        for point in self.store.points:
            shipped.setdefault(point.key, StepSet()).add(point.step)
        return shipped

    def log(self, points):
        fault = self.store.faults.pop(0) if self.store.faults else None
        self.store.points += points if fault is None else points[: int(len(points) * fault)]
        if fault is not None:
            raise ConnectionError("500 from the tracker")

    def set_status(self, status):
        self.store.statuses.append(status)


def assert_each_once(store, steps):
    for key in (*METRIC_KEYS, "held_out_loss/code"):
        expected = [step for step in steps if not key.startswith("held_out_loss") or step % 5 == 0]
        assert Counter(step for step, _ in store.history(key)) == Counter(expected), key


def spool_steps(directory, attempt, steps, make_step):
    spool = Spool(directory.metrics, attempt)
    for step in steps:
        spool.append(make_step(step))
    spool.close()


def ship(directory, store, **options):
    return Shipper(directory, lambda _: FlakyTracker(store), wait=options.pop("wait", lambda _: None), **options).run()


@given(
    faults=st.lists(st.none() | st.sampled_from([0.0, 0.3, 0.55, 1.0]), max_size=12),
    resumes=st.lists(st.integers(0, 250), max_size=3),
)
@settings(max_examples=40, deadline=None)
def test_any_faults_and_rewinds_leave_each_step_once(tmp_path_factory, build_run_directory, faults, resumes):
    """A fault of 1.0 is the nasty one: the tracker kept all of it and answered 500."""
    directory = build_run_directory(tmp_path_factory.mktemp("run"))
    store, furthest = TrackerStore(faults), 0
    for attempt, resumed_after in enumerate([0, *resumes], start=1):
        first = min(resumed_after, furthest) + 1
        spool_steps(directory, attempt, range(first, first + 120), plain_step)
        furthest = max(furthest, first + 119)
        while True:
            try:
                Shipment(directory, FlakyTracker(store)).send_new()
                break
            except ConnectionError:
                continue
    assert_each_once(store, range(1, furthest + 1))


def test_a_rewind_is_told_and_its_steps_are_not_sent_again(run_directory, make_step, set_state):
    store = TrackerStore()
    spool_steps(run_directory, 1, range(1, 8), make_step)
    Shipment(run_directory, FlakyTracker(store)).send_new()
    spool_steps(run_directory, 2, range(5, 11), lambda step: make_step(step, loss=100.0))
    set_state("done")
    assert ship(run_directory, store) == ExitCode.DONE
    assert_each_once(store, range(1, 11))
    losses = dict(store.history("loss"))
    assert losses[7] == make_step(7).loss and losses[8] == 100.0
    assert store.tags["llama_dist.attempt_0002.rewind"] == "resumed after step 4; an earlier attempt had reached 7"


def test_of_steps_done_twice_before_anything_was_sent_the_later_counts(run_directory, make_step):
    store = TrackerStore()
    spool_steps(run_directory, 1, range(1, 8), make_step)
    spool_steps(run_directory, 2, range(5, 11), lambda step: make_step(step, loss=100.0))
    Shipment(run_directory, FlakyTracker(store)).send_new()
    assert_each_once(store, range(1, 11))
    assert dict(store.history("loss"))[5] == 100.0


@pytest.mark.parametrize(("state", "status"), [("done", "FINISHED"), ("failed", "FAILED"), ("stopped", "KILLED")])
def test_the_status_says_how_the_run_ended(run_directory, make_step, set_state, state, status):
    store = TrackerStore()
    spool_steps(run_directory, 1, [1], make_step)
    set_state(state)
    assert ship(run_directory, store) == ExitCode.DONE
    assert store.statuses == [status]


def test_a_supervisor_that_vanished_means_failed(run_directory, make_step, set_state):
    store = TrackerStore()
    spool_steps(run_directory, 1, [1], make_step)
    set_state("running", create_time=1.0)  # the pid lives, but as another process than this one
    assert ship(run_directory, store) == ExitCode.DONE
    assert store.statuses == ["FAILED"]


def test_a_supervisor_of_another_host_is_believed(run_directory, make_step, set_state):
    store = TrackerStore()
    spool_steps(run_directory, 1, [1], make_step)
    set_state("running", host="elsewhere", pid=1)
    polls = iter([lambda: None, lambda: None, lambda: set_state("done")])
    assert ship(run_directory, store, wait=lambda _: next(polls)()) == ExitCode.DONE
    assert store.statuses == ["RUNNING", "FINISHED"]


def test_a_later_launch_runs_again_and_continues_the_same_run(run_directory, make_step, set_state):
    store = TrackerStore()
    spool_steps(run_directory, 1, range(1, 4), make_step)
    set_state("failed")
    ship(run_directory, store)
    set_state("running", attempt=2)
    polls = iter([lambda: spool_steps(run_directory, 2, range(3, 7), make_step), lambda: set_state("done")])
    ship(run_directory, store, wait=lambda _: next(polls)())
    assert store.statuses == ["FAILED", "RUNNING", "FINISHED"] and len(store.runs) == 1
    assert_each_once(store, range(1, 7))


def test_nothing_connects_before_the_first_step(run_directory, make_step, set_state):
    set_state("running")
    connected = []

    def connect(_):
        connected.append(len(connected))
        return FlakyTracker(TrackerStore())

    polls = iter([lambda: None, lambda: spool_steps(run_directory, 1, [1], make_step), lambda: set_state("done")])
    seen = []

    def wait(_):
        seen.append(len(connected))
        next(polls)()

    Shipper(run_directory, connect, wait=wait).run()
    assert seen == [0, 0, 1]


def test_a_tracker_that_stays_away_is_tried_ever_more_rarely_and_the_end_is_bounded(
    run_directory, make_step, set_state, capsys
):
    spool_steps(run_directory, 1, [1], make_step)
    set_state("running")
    waits, tries = [], []

    def refuse(_):
        tries.append(sum(waits))
        raise ConnectionError("http://user:secret@tracker is away")

    def wait(seconds):
        waits.append(seconds)
        if sum(waits) == 200:
            set_state("done")

    assert Shipper(run_directory, refuse, wait=wait, flush_seconds=0).run() == ExitCode.RETRY
    assert MAX_BACKOFF_SECONDS == 60
    assert tries == [0, 1, 3, 7, 15, 31, 63, 123, 183, 200], "the run's end cuts the last wait short"
    log = capsys.readouterr().err
    assert "ConnectionError" in log and "secret" not in log and "run this command again later" in log


def test_a_tracker_that_comes_back_during_the_last_flush_gets_everything(run_directory, make_step, set_state):
    store, waits = TrackerStore(), []
    spool_steps(run_directory, 1, range(1, 4), make_step)
    set_state("running")

    def connect(_):
        if sum(waits) < 110:
            raise ConnectionError("away")
        return FlakyTracker(store)

    def wait(seconds):
        waits.append(seconds)
        if sum(waits) == 100:  # in the middle of a wait of 60 s
            set_state("done")

    assert Shipper(run_directory, connect, wait=wait).run() == ExitCode.DONE
    assert sum(waits) < 120
    assert store.statuses == ["FINISHED"]
    assert_each_once(store, range(1, 4))


def test_the_config_is_told_once_and_later_changes_as_tags(run_directory, make_step, set_state):
    store = TrackerStore()
    spool_steps(run_directory, 1, [1], make_step)
    changed = read_yaml(run_directory.config)
    changed["train"]["num_steps"] = 20
    run_directory.attempt(2).mkdir()
    write_yaml(run_directory.attempt_config(2), changed)
    set_state("done")
    ship(run_directory, store)
    assert store.params["train.num_steps"] == "10" and store.params["data.sources.1.weight"] == "2.0"
    assert store.tags["llama_dist.attempts"] == "2"
    assert store.tags["llama_dist.attempt_0002.changes"] == "train.num_steps: 10 -> 20"
    assert "llama_dist.attempt_0001.changes" not in store.tags


def test_an_address_and_a_password_in_it_are_no_parameter(run_directory, make_step, set_state):
    store = TrackerStore()
    values = read_yaml(run_directory.config)
    values["metrics"]["tracking_uri"] = "https://user:${PASSWORD}@tracker.example"
    values["data"]["sources"][0]["path"] = "s3://key:hunter2@bucket/data"
    write_yaml(run_directory.config, values)
    write_yaml(run_directory.attempt_config(1), values)
    set_state("done")
    ship(run_directory, store)
    assert "hunter2" not in repr((store.params, store.tags)) and "tracker.example" not in repr(store.params)
    assert store.params["data.sources.0.path"] == "s3://***@bucket/data"


def test_the_code_revision_is_told_even_when_it_is_written_late(run_directory, make_step):
    store = TrackerStore()
    spool_steps(run_directory, 1, [1], make_step)
    shipment = Shipment(run_directory, FlakyTracker(store))
    shipment.send_new()
    assert "llama_dist.code_revision" not in store.tags
    (run_directory.attempt(1) / "code.json").write_text('{"git_revision": "abc123", "git_dirty": true}')
    shipment.send_new()
    assert store.tags["llama_dist.code_revision"] == "abc123 with local changes"


@pytest.mark.parametrize(
    "uri",
    [
        "https://user:hunter2@tracker",
        "postgresql://:hunter2@host/db",
        "http://u:a${X}b@h",
        "https://hunter2@tracker",
        "postgresql://u:hun/ter2@h/db",
        "postgresql://u:hun?ter2@h/db",
        "postgresql://u:hun@ter2@h/db",
        "postgresql://h/db?user=a&password=hunter2",
        "postgresql://h/db?user=a&p%61ssword=hunter2",
        "mysql+pymysql://h/db?PASSWD=hunter2",
        "https://tracker/?api_key=a${X}",
        "https://tracker/?access_token=hunter2",
        "https://tracker/?x=1;client_secret=hunter2",
    ],
)
def test_a_password_in_the_tracking_address_is_refused_and_not_repeated(run_directory, uri):
    values = read_yaml(run_directory.config)
    values["metrics"]["tracking_uri"] = uri
    with pytest.raises(ConfigError, match=r"metrics.tracking_uri: holds a password") as refusal:
        parse_run_config(values, where="test")
    assert uri not in str(refusal.value)


@pytest.mark.parametrize(
    "uri",
    [
        "https://tracker.example:5000/path",
        "https://${TOKEN}@tracker",
        "https://${USER}:${PASSWORD}@tracker",
        "postgresql://h/db?user=a&password=${PASSWORD}",
        "sqlite:////home/me@work/mlflow.db",
        "file:///home/me@work",
        "${TRACKER}",
        "databricks",
    ],
)
def test_an_address_without_a_secret_is_taken(run_directory, uri):
    values = read_yaml(run_directory.config)
    values["metrics"]["tracking_uri"] = uri
    assert parse_run_config(values, where="test").metrics.tracking_uri == uri


def test_a_password_comes_from_the_environment_alone(run_directory, monkeypatch):
    values = read_yaml(run_directory.config)
    values["metrics"]["tracking_uri"] = "https://user:${TRACKER_PASSWORD}@tracker"
    uri = parse_run_config(values, where="test").metrics.tracking_uri
    assert uri is not None
    monkeypatch.setenv("TRACKER_PASSWORD", "hunter2")
    assert with_environment(uri) == "https://user:hunter2@tracker"
    monkeypatch.delenv("TRACKER_PASSWORD")
    with pytest.raises(ConfigError, match="TRACKER_PASSWORD, which is not set"):
        with_environment(uri)


def test_credentials_are_struck_out_and_other_text_is_not():
    assert without_credentials("at postgresql://a:b@c/d and me@x.org") == "at postgresql://***@c/d and me@x.org"
    assert without_credentials("at postgresql://a:b/e@c/d or") == "at postgresql://***@c/d or"
    assert without_credentials("h://c/d?user=a&password=b&x=1 or") == "h://c/d?user=a&password=***&x=1 or"
    assert without_credentials("sqlite:////home/me@work/mlflow.db") == "sqlite:////home/me@work/mlflow.db"


def plain_step(step: int) -> StepMetrics:
    plain = StepMetrics(step, step, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0)
    return plain.with_held_out({"held_out": 1.0, "code": 2.0}) if step % 5 == 0 else plain
