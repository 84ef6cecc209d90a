"""What a lab reports to a person."""

from llama_dist.config import ReportedError
from llama_dist.exit_codes import ExitCode


class LabError(ReportedError):
    """The lab cannot be built, found or changed as asked."""

    exit_code = ExitCode.BAD_INPUT
