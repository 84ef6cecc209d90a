"""The error of a text that cannot be generated as asked."""

from data_pipeline.config import ReportedError


class GenerationError(ReportedError):
    """A prompt, an option or a checkpoint that generation cannot work with. Trying again cannot help."""

    exit_code = 78
