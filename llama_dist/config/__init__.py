"""The configuration of a run: typed models, the rules between them, files and overrides. No torch."""

from data_pipeline.config import BatchConfig, ConfigError, DataConfig, ReportedError, SourceConfig, write_yaml
from llama_dist.config.cluster import ClusterConfig
from llama_dist.config.cluster_kubernetes import KubernetesConfig
from llama_dist.config.cluster_slurm import SlurmConfig
from llama_dist.config.load import dump_config, load_cluster_config, load_run_config, parse_run_config
from llama_dist.config.model import ModelConfig
from llama_dist.config.rules import RULES, Rule, check_rules
from llama_dist.config.run import (
    DEFAULT_SET_NAME,
    CheckpointConfig,
    EvaluationConfig,
    EvaluationSetConfig,
    MetricsConfig,
    OptimizerConfig,
    ParallelConfig,
    RunConfig,
    ScheduleConfig,
    SupervisionConfig,
    TrainConfig,
)
from llama_dist.config.run_directory import RunDirectory, set_aside_attempt, set_aside_path

__all__ = [
    "DEFAULT_SET_NAME",
    "RULES",
    "BatchConfig",
    "CheckpointConfig",
    "ClusterConfig",
    "ConfigError",
    "DataConfig",
    "EvaluationConfig",
    "EvaluationSetConfig",
    "KubernetesConfig",
    "MetricsConfig",
    "ModelConfig",
    "OptimizerConfig",
    "ParallelConfig",
    "ReportedError",
    "Rule",
    "RunConfig",
    "RunDirectory",
    "ScheduleConfig",
    "SlurmConfig",
    "SourceConfig",
    "SupervisionConfig",
    "TrainConfig",
    "check_rules",
    "dump_config",
    "load_cluster_config",
    "load_run_config",
    "parse_run_config",
    "set_aside_attempt",
    "set_aside_path",
    "write_yaml",
]
