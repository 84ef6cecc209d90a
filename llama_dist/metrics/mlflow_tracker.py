"""Ships to MLflow: the one file that imports it. Loaded by `ship.py` alone, since the import takes a second."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TypeVar

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException

from llama_dist.metrics.record import NAMED_LOSS_PREFIX
from llama_dist.metrics.tracker import METRIC_KEYS, MetricPoint, RunIdentity, RunStatus, StepSet

# MLflow refuses larger batches (mlflow.utils.validation).
_MAX_METRICS_PER_BATCH = 1000
_MAX_PARAMS_AND_TAGS_PER_BATCH = 100
_MAX_PARAM_CHARACTERS = 6000
_MAX_TAG_CHARACTERS = 5000
_MAX_KEY_CHARACTERS = 250

_KEY_TAG = "llama_dist.run_key"
_DIRECTORY_TAG = "llama_dist.run_directory"

Item = TypeVar("Item")


class MlflowTracker:
    """One run in one MLflow store. Raises whatever MLflow raises."""

    def __init__(self, tracking_uri: str, experiment: str, artifact_location: str | None = None) -> None:
        self._client = MlflowClient(tracking_uri=tracking_uri)
        self._experiment = experiment
        self._artifact_location = artifact_location
        self._run_id = ""

    def open_run(self, identity: RunIdentity, known_times: Collection[tuple[int, int]]) -> str:
        """Find the run by its id, its key or its directory, else create it."""
        run = self._by_id(identity) or self._by_search(identity, known_times) or self._create(identity)
        self._run_id = str(run.info.run_id)
        if run.info.lifecycle_stage != "active":
            raise RuntimeError(
                f"MLflow run {self._run_id} was deleted: bring it back with `mlflow runs restore --run-id "
                f"{self._run_id}`, or remove metrics/mlflow_run.json in the run directory for a new one"
            )
        self.set_tags({_KEY_TAG: identity.key, _DIRECTORY_TAG: identity.directory})
        return self._run_id

    def set_params(self, params: Mapping[str, str]) -> None:
        """Log what is missing: MLflow refuses to change a parameter, and a crash may have left half of them."""
        present = self._client.get_run(self._run_id).data.params
        missing = [
            Param(key[:_MAX_KEY_CHARACTERS], value[:_MAX_PARAM_CHARACTERS])
            for key, value in params.items()
            if key[:_MAX_KEY_CHARACTERS] not in present
        ]
        for batch in _batches(missing, _MAX_PARAMS_AND_TAGS_PER_BATCH):
            self._client.log_batch(self._run_id, params=batch)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags, cut to what MLflow takes."""
        all_tags = [RunTag(key[:_MAX_KEY_CHARACTERS], value[:_MAX_TAG_CHARACTERS]) for key, value in tags.items()]
        for batch in _batches(all_tags, _MAX_PARAMS_AND_TAGS_PER_BATCH):
            self._client.log_batch(self._run_id, tags=batch)

    def shipped_steps(self) -> dict[str, StepSet]:
        """Read the run's history; MLflow answers all of a key at once."""
        shipped = {}
        present = self._client.get_run(self._run_id).data.metrics
        for key in (key for key in present if key in METRIC_KEYS or key.startswith(NAMED_LOSS_PREFIX)):
            shipped[key] = StepSet()
            for metric in self._client.get_metric_history(self._run_id, key):
                shipped[key].add(metric.step)
        return shipped

    def log(self, points: Sequence[MetricPoint]) -> None:
        """Log in batches of what MLflow takes."""
        for batch in _batches(points, _MAX_METRICS_PER_BATCH):
            metrics = [Metric(point.key, point.value, point.timestamp_ms, point.step) for point in batch]
            self._client.log_batch(self._run_id, metrics=metrics)

    def set_status(self, status: RunStatus) -> None:
        """Set the status, with an end time where the run is over."""
        if status == "RUNNING":
            self._client.update_run(self._run_id, status=status)
        else:
            self._client.set_terminated(self._run_id, status=status)

    def _by_id(self, identity: RunIdentity) -> Run | None:
        """Return the run of the known id; None where this store never heard of it, as after a move to another."""
        if identity.run_id is None:
            return None
        try:
            run = self._client.get_run(identity.run_id)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise
        return run if run.data.tags.get(_KEY_TAG, identity.key) == identity.key else None

    def _by_search(self, identity: RunIdentity, known_times: Collection[tuple[int, int]]) -> Run | None:
        experiment_ids = [self._experiment_id()]
        found = self._client.search_runs(experiment_ids, f"tags.`{_KEY_TAG}` = '{identity.key}'", max_results=1)
        if found:
            return found[0]
        if not known_times or "'" in identity.directory:
            return None
        candidates = self._client.search_runs(experiment_ids, f"tags.`{_DIRECTORY_TAG}` = '{identity.directory}'")
        return next((run for run in candidates if self._holds_any(run, known_times)), None)

    def _holds_any(self, run: Run, known_times: Collection[tuple[int, int]]) -> bool:
        history = self._client.get_metric_history(run.info.run_id, "step_seconds")
        return any((metric.step, metric.timestamp) in known_times for metric in history)

    def _create(self, identity: RunIdentity) -> Run:
        tags = {_KEY_TAG: identity.key, _DIRECTORY_TAG: identity.directory[:_MAX_TAG_CHARACTERS]}
        return self._client.create_run(self._experiment_id(), tags=tags, run_name=identity.name)

    def _experiment_id(self) -> str:
        experiment = self._client.get_experiment_by_name(self._experiment)
        if experiment is not None:
            return str(experiment.experiment_id)
        return self._client.create_experiment(self._experiment, artifact_location=self._artifact_location)


def _batches(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    return (items[start : start + size] for start in range(0, len(items), size))
