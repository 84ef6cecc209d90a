"""Everything that defines a run, apart from the machines: one record per part of the trainer."""

import re
from typing import Annotated, Literal, Self
from urllib.parse import unquote

from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from data_pipeline.config import BatchConfig, DataConfig, SourceConfig, StrictModel
from llama_dist.config.model import ModelConfig

Count = Annotated[int, Field(ge=1)]
NonNegative = Annotated[int, Field(ge=0)]
Seconds = Annotated[float, Field(gt=0)]
Ratio = Annotated[float, Field(ge=0, le=1)]

DEFAULT_SET_NAME = "held_out"
"""Name of the evaluation set that every run has."""

_REFERENCE = re.compile(r"\$\{\w+\}")
_USER_AND_REFERENCE = re.compile(r"([^:@/?]*:)?\$\{\w+\}")
_SECRET_KEY = re.compile(r"passw(or)?d|token|secret|key", re.IGNORECASE)


class OptimizerConfig(StrictModel):
    """AdamW (arXiv 1711.05101). Weights of two or more dimensions decay; norms do not."""

    learning_rate: Annotated[float, Field(gt=0)] = 3e-4
    """Peak learning rate, reached at the end of the warm-up."""

    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Decay of the first moment, per step."""

    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.95
    """Decay of the second moment, per step."""

    epsilon: Annotated[float, Field(gt=0)] = 1e-8
    """Added to the root of the second moment."""

    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    """Decoupled weight decay, times the learning rate per step."""

    gradient_clip_norm: Annotated[float, Field(ge=0)] = 1.0
    """Largest L2 norm of the whole gradient; 0 clips nothing."""


class ScheduleConfig(StrictModel):
    """Learning rate as a function of the step alone, so that a resume needs no state."""

    kind: Literal["cosine", "linear", "wsd"] = "cosine"
    """Shape after the warm-up; `wsd` is warm-up, stable, decay (arXiv 2404.06395)."""

    warmup_steps: NonNegative = 0
    """Optimizer steps of linear rise to the peak."""

    decay_steps: Count | None = None
    """Optimizer steps of the final decay; needed for `wsd` alone."""

    final_learning_rate_ratio: Ratio = 0.1
    """Learning rate of the last step, as a share of the peak."""


class ParallelConfig(StrictModel):
    """How the model is cut over the ranks. Data parallelism takes what the pipeline leaves."""

    zero_stage: Literal[0, 1, 2, 3] = 1
    """ZeRO stage (arXiv 1910.02054): 1 cuts optimizer state, 2 also gradients, 3 also weights."""

    pipeline_stages: Count = 1
    """Number of pipeline stages; the layers are cut so that the FLOPs of the stages are even."""

    layers_per_stage: list[Count] | None = None
    """Transformer blocks of each pipeline stage, first to last, in place of the even cut."""

    offload_optimizer: bool = False
    """Whether master weights and moments live in host memory, where the optimizer then steps (ZeRO-Offload,
    arXiv 2101.06840). Needs ZeRO 1 to 3."""


class TrainConfig(StrictModel):
    """Length, arithmetic and memory choices of the training loop."""

    num_steps: Count
    """Optimizer steps of the whole run."""

    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Seed of the initial weights."""

    precision: Literal["fp32", "bf16", "fp16"] = "bf16"
    """Arithmetic of forward and backward. Master weights, moments and accumulation are fp32 in each."""

    activation_checkpointing: bool = False
    """Whether blocks are computed again in the backward pass instead of kept in memory."""

    initial_loss_scale_power: Annotated[int, Field(ge=0, le=32)] = 16
    """fp16 alone: the first loss scale is 2 to this power; it halves at an overflow."""

    loss_scale_window_steps: Count = 1000
    """fp16 alone: optimizer steps without an overflow after which the loss scale doubles."""


class EvaluationSetConfig(StrictModel):
    """One more text to measure the loss on: fixed sequences, cut or packed as `data` says."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    """Name of the set in the metrics: letters, digits, dot, dash, underscore."""

    sources: list[SourceConfig] = Field(default_factory=list)
    """Prepared datasets, written with the run's tokenizer; by default those of `data.sources` that have a
    weight from the start, so that a source added in mid-run leaves the value comparable."""

    split: Literal["validation", "train"] = "validation"
    """Which documents: those held out, or those trained on, in the first stage's order of `data.shuffle_seed`."""

    num_sequences: Count = 64
    """Sequences of one evaluation, over all ranks: the first ones of the split."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.sources and not any(source.weight for source in self.sources):
            raise PydanticCustomError("weights", f"every source of set `{self.name}` has weight 0: give one a weight")
        return self


class EvaluationConfig(StrictModel):
    """Loss on held-out text: always the same sequences, so that values compare over the whole run."""

    interval_steps: NonNegative = 0
    """Optimizer steps between evaluations; 0 never evaluates. The last step always is, unless 0."""

    num_sequences: Count = 64
    """Held-out sequences of one evaluation, over all ranks: the first ones of the held-out split of the sources
    that have a weight from the start."""

    sets: list[EvaluationSetConfig] = Field(default_factory=list)
    """Further texts to measure the loss on at the same steps, each recorded as `held_out_loss/NAME`."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        names = [one.name for one in self.sets]
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise PydanticCustomError("sets", f"two sets are named {', '.join(repeated)}: give each a name of its own")
        if DEFAULT_SET_NAME in names:
            raise PydanticCustomError("sets", f"`{DEFAULT_SET_NAME}` is the set that every run has: use another name")
        return self


def _refuse_password(uri: str) -> str:
    """A config is copied into the run directory and every checkpoint, where a password has no business."""
    if _holds_secret(uri):
        raise PydanticCustomError(
            "secret",
            "holds a password, or what may be one (before an @, or as a password, token, secret or key after the ?): "
            "put it into an environment variable and write ${NAME} in its place",
        )
    return uri


def _holds_secret(uri: str) -> bool:
    """Whether anything before the last `@` or in a query is a secret. A user without a password may be a token."""
    _, _, place = uri.partition("://")
    user, at, _ = place.rpartition("@")
    if at and not place.startswith("/") and not _USER_AND_REFERENCE.fullmatch(user):
        return True
    _, _, query = uri.partition("?")
    pairs = (pair.partition("=") for pair in re.split("[&;]", query))
    secrets = (value for key, _, value in pairs if value and _SECRET_KEY.search(unquote(key)))
    return not all(_REFERENCE.fullmatch(value) for value in secrets)


class CheckpointConfig(StrictModel):
    """When checkpoints are written, where, and which are kept. The last step and a stop are saved in any case."""

    interval_steps: Count = 1000
    """Optimizer steps between checkpoints."""

    interval_minutes: Annotated[float, Field(gt=0)] | None = None
    """Minutes after which a checkpoint is written whatever the steps; it is kept until the next one is written."""

    keep_last: Count = 3
    """Newest checkpoints kept; the last one that was read and found whole is never removed."""

    keep_every_steps: Count | None = None
    """Checkpoints of the multiples of this many steps are kept for good."""

    keep_best: NonNegative = 0
    """Checkpoints with the lowest held-out loss that are kept beside the others; it must be measured at their steps."""

    asynchronous: bool = True
    """Whether training goes on while a checkpoint is written. Takes host memory for one copy of the state."""

    directory: str | None = None
    """Directory for the checkpoints of all runs, each in one of its own; by default they lie in the run directory."""

    shared: bool = True
    """Whether every node sees the same `directory`. If not, each keeps what its ranks write, and a start copies
    between the nodes what its ranks need."""

    upload: Annotated[str, AfterValidator(_refuse_password)] | None = None
    """fsspec URL under which every checkpoint is copied once it is written; then the local one may be removed, and a
    run whose disk was lost goes on from there."""


class MetricsConfig(StrictModel):
    """What is recorded of a run. None of it can slow or end the training."""

    mlflow: bool = True
    """Whether the metrics are shipped to MLflow, beside the spool that is always written."""

    tracking_uri: Annotated[str, AfterValidator(_refuse_password)] | None = None
    """MLflow server or database URI; by default `mlflow.db` (sqlite) beside the runs. A password goes in as `${NAME}`:
    the value of an environment variable, which no file of the run then holds."""

    experiment: str = "llama-dist"
    """MLflow experiment that the run belongs to."""

    audit_samples: bool = False
    """Whether each rank logs the ids of the samples it trains on, under `metrics/audit/`."""


class SupervisionConfig(StrictModel):
    """What the launcher does when an attempt ends before its last step."""

    max_attempts_without_progress: Count = 3
    """Attempts in a row that may end without a newer checkpoint; then the run stops with the reason."""

    max_attempts: Count | None = None
    """Attempts of one launch, with and without progress; then the run ends. Null sets no limit."""

    first_backoff_seconds: Seconds = 0.5
    """Wait before the first new attempt; doubles with each further one without progress."""

    max_backoff_seconds: Seconds = 300.0
    """Longest wait between attempts."""

    lease_seconds: Annotated[float, Field(ge=1)] = 60.0
    """How long the supervisor's lease on the run outlives its last renewal. After this a launch on another host takes
    the run over; a supervisor that cannot reach the run's directory for 80 % of it ends its ranks and itself."""

    wait_for_nodes_minutes: Seconds = 30.0
    """How long a run with too few nodes waits for some to come back; then it ends with exit code 75."""

    process_group_timeout_seconds: Seconds = 600.0
    """Longest wait of one rank for the others in a collective; then the attempt fails by name."""

    hang_timeout_min_seconds: Seconds | None = 10.0
    """How long training may stand still before the attempt is taken for hung, or three median steps if that is longer;
    null never judges a step. It counts from the fifth step of an attempt on: the first ones have
    `start_timeout_seconds`."""

    start_timeout_seconds: Seconds | None = 1800.0
    """How long an attempt may stand still while it starts, loads a checkpoint and compiles in its first steps; null
    waits for ever."""

    slow_phase_timeout_seconds: Seconds | None = 1800.0
    """How long an attempt may stand still while it evaluates or saves; null waits for ever."""

    stop_grace_seconds: Seconds = 120.0
    """How long a stopped run may take to save before its ranks are ended."""

    wall_clock_limit_minutes: Annotated[float, Field(gt=0)] | None = None
    """Minutes after its start by which an attempt has saved and ended, for schedulers that end it then."""

    compare_replicas_interval_steps: NonNegative = 0
    """Optimizer steps between comparisons of the replicas' weights, which find silent corruption; every save is
    compared too. 0 never compares."""


class RunConfig(StrictModel):
    """A whole run. `model` may name a file of `configs/model/` instead of holding the fields."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
    """Name of the run and of its directory: letters, digits, dot, dash, underscore."""

    runs_directory: str = "runs"
    """Directory that holds the run directories. Relative paths start at the working directory."""

    model: ModelConfig
    """The model, or the path of its file, relative to the run file."""

    data: DataConfig
    """Sources and order of the training data."""

    batch: BatchConfig
    """Sequences per optimizer step and per forward pass."""

    train: TrainConfig
    """Length, precision and memory choices."""

    optimizer: OptimizerConfig = OptimizerConfig()
    """AdamW and clipping."""

    schedule: ScheduleConfig = ScheduleConfig()
    """Learning rate over the steps."""

    parallel: ParallelConfig = ParallelConfig()
    """ZeRO stage and pipeline."""

    evaluation: EvaluationConfig = EvaluationConfig()
    """Held-out loss."""

    checkpoint: CheckpointConfig = CheckpointConfig()
    """When to save, what to keep."""

    metrics: MetricsConfig = MetricsConfig()
    """Spool, MLflow, audit."""

    supervision: SupervisionConfig = SupervisionConfig()
    """Restarts, time-outs, grace."""
