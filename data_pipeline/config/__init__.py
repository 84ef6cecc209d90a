"""Configuration of the data pipeline, and the strict base that every config of the project shares."""

from data_pipeline.config.augmentation import AugmentationConfig, FillInTheMiddleConfig, SubwordSamplingConfig
from data_pipeline.config.base import ConfigError, ReportedError, StrictModel, parse_config
from data_pipeline.config.dataset import BatchConfig, CacheConfig, DataConfig, SampleRange, SourceConfig, StageConfig
from data_pipeline.config.preparation import PreparationConfig, ReadingConfig
from data_pipeline.config.tokenizer import TokenizerTrainingConfig
from data_pipeline.config.transforms import TransformConfig, TransformsFile
from data_pipeline.config.yaml_file import read_yaml, write_yaml

__all__ = [
    "AugmentationConfig",
    "BatchConfig",
    "CacheConfig",
    "ConfigError",
    "DataConfig",
    "FillInTheMiddleConfig",
    "PreparationConfig",
    "ReadingConfig",
    "ReportedError",
    "SampleRange",
    "SourceConfig",
    "StageConfig",
    "StrictModel",
    "SubwordSamplingConfig",
    "TokenizerTrainingConfig",
    "TransformConfig",
    "TransformsFile",
    "parse_config",
    "read_yaml",
    "write_yaml",
]
