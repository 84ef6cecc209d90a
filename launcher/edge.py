"""The process edge: what becomes of an error, and of which exit code. Nothing else catches broadly."""

import sys
import traceback
from collections.abc import Callable

_INTERRUPTED = 130  # 128 + SIGINT, as shells report it
_OUR_BUG = 70  # llama_dist.exit_codes.ExitCode.OUR_BUG; not imported, so that the edge stands before anything else


def run_at_edge(work: Callable[[], int]) -> None:
    """Exit with the code of `work`. A reported error is one message; anything else is a traceback and 70."""
    try:
        code = work()
    except KeyboardInterrupt:
        code = _INTERRUPTED
    except Exception as error:  # noqa: BLE001 - the process edge
        code = _tell(error)
    sys.exit(code)


def _tell(error: Exception) -> int:
    from llama_dist.config import ReportedError  # noqa: PLC0415 - pydantic takes longer than `--help` may

    if isinstance(error, ReportedError):
        print(f"llama-dist: {error}", file=sys.stderr)
        return int(error.exit_code)
    traceback.print_exception(error)
    return _OUR_BUG
