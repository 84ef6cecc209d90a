"""What the launcher reports to a person besides ConfigError."""

from llama_dist.config import ReportedError
from llama_dist.exit_codes import ExitCode


class LiveRunError(ReportedError):
    """The run is being trained by another supervisor."""

    exit_code = ExitCode.BAD_INPUT


class LeaseLostError(ReportedError):
    """The run is, or may be, another supervisor's by now: nothing of it may be written any more."""

    exit_code = ExitCode.RETRY


class RunDirectoryError(ReportedError):
    """The run directory cannot be written or read."""

    exit_code = ExitCode.STORAGE


class TooFewNodesError(ReportedError):
    """Fewer nodes answer than an attempt needs. They may come back."""

    exit_code = ExitCode.RETRY


class NoSupervisorError(ReportedError):
    """A node's agent found no supervisor of its run. A later one may be there."""

    exit_code = ExitCode.RETRY


class SubmissionError(ReportedError):
    """A scheduler did not take the job."""

    exit_code = ExitCode.BAD_INPUT


class RunRefusedError(ReportedError):
    """The process of a job that was to supervise has ended without beginning; the others end with its code."""

    def __init__(self, message: str, exit_code: ExitCode) -> None:
        super().__init__(message)
        self.exit_code = exit_code
