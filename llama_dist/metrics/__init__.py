"""What is recorded of a run, where it is kept and shown. MLflow is reached from a process of its own (`ship.py`)."""

from llama_dist.metrics.console import StepLine, format_count, format_duration
from llama_dist.metrics.meter import Meter, peak_resident_bytes
from llama_dist.metrics.record import SpoolRecord, StepMetrics
from llama_dist.metrics.spool import Spool, SpoolReader, effective_steps, read_spool, spool_path

__all__ = [
    "Meter",
    "Spool",
    "SpoolReader",
    "SpoolRecord",
    "StepLine",
    "StepMetrics",
    "effective_steps",
    "format_count",
    "format_duration",
    "peak_resident_bytes",
    "read_spool",
    "spool_path",
]
