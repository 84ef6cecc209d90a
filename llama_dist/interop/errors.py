"""The error of a model that cannot be taken over or handed on as it is."""

from data_pipeline.config import ReportedError


class ExchangeError(ReportedError):
    """A source, a target or a model that does not fit. Nothing was written; trying again cannot help."""

    exit_code = 78
