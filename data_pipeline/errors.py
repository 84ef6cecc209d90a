"""The errors of the data pipeline: the input's fault, the disk's fault, a lost worker.

Each message names the file, the place in it, the value seen and the value needed. Knows no exit but the code.
"""

from data_pipeline.config import ReportedError


class DataError(ReportedError):
    """Text, a tokenizer or a prepared dataset that cannot be used as it is. Trying again cannot help."""

    exit_code = 78


class StorageError(ReportedError):
    """A disk that refused a write: full, read-only, gone."""

    exit_code = 74


class WorkerLostError(ReportedError):
    """A worker process ended without an answer, most often for want of memory. Trying again may help."""

    exit_code = 75
