"""The process edge of a rank: arguments in, exit code and exit record out. The work is `main.py`'s."""

import argparse
import contextlib
import os
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path

from data_pipeline.config import ReportedError
from llama_dist.config import RunDirectory
from llama_dist.exit_codes import ExitCode
from llama_dist.runtime.exit_record import write_exit_record
from llama_dist.runtime.heartbeat import Heartbeat
from llama_dist.runtime.stacks import dump_stacks_on_signal
from llama_dist.runtime.stop import StopAskedError, StopRequest
from llama_dist.runtime.world import World
from llama_dist.train.attempt import Attempt


def main() -> None:
    """Train, and leave with the exit code that says how it went."""
    os.umask(0o077)  # what a run writes is its owner's alone
    # Nothing in a rank talks to MLflow, but DeepSpeed's autotuner imports it where it is installed: 2 s and 100 MB
    # a rank. With this its import fails, which DeepSpeed takes as "not installed".
    sys.modules["mlflow"] = None  # type: ignore[assignment]
    attempt = _parse_arguments()
    heartbeat = Heartbeat(attempt.run.heartbeat(attempt.world.rank), attempt.number, attempt.fence)
    # Before the imports that take seconds: a start that hangs is to be seen, and to say where.
    heartbeat.beat(0, "starting")
    dump_stacks_on_signal(attempt.run.stacks(attempt.number, attempt.world.rank))
    end = _run(attempt, heartbeat)
    if not attempt.fence.is_closed():
        with contextlib.suppress(OSError):  # on a full disk the exit code alone must do
            write_exit_record(
                attempt.run.exit_record(attempt.number, attempt.world.rank),
                rank=attempt.world.rank,
                exit_code=end.exit_code,
                reason=end.reason,
                step=heartbeat.step,
                error=end.error,
            )
    sys.stdout.flush()
    sys.stderr.flush()
    # After a lost peer the interpreter's own end can wait for it in the communication library: leave at once.
    os._exit(end.exit_code)


@dataclass(frozen=True)
class _End:
    exit_code: int
    reason: str

    error: str = ""
    """Class of the error that ended it."""


def _run(attempt: Attempt, heartbeat: Heartbeat) -> _End:
    try:
        from llama_dist.train.main import train  # noqa: PLC0415 - imports DeepSpeed

        left_because = train(attempt, heartbeat, StopRequest().install())
    except StopAskedError:
        return _End(ExitCode.STOPPED, "asked to stop before the first step: there was nothing to save")
    except ReportedError as error:
        print(f"rank {attempt.world.rank}: {error}", file=sys.stderr)
        return _End(error.exit_code, str(error), type(error).__name__)
    except Exception as error:  # noqa: BLE001 - the process edge: every error becomes a record and an exit code
        text = traceback.format_exc()
        print(f"rank {attempt.world.rank}, {heartbeat.where()}:\n{text}", file=sys.stderr)
        return _End(ExitCode.OUR_BUG, text, type(error).__name__)
    return _End(ExitCode.STOPPED, left_because) if left_because else _End(ExitCode.DONE, "reached the last step")


def _parse_arguments() -> Attempt:
    parser = argparse.ArgumentParser(prog="python -m llama_dist.train", description=__doc__)
    parser.add_argument("--run-directory", type=Path, required=True)
    parser.add_argument("--attempt", type=int, required=True)
    arguments = parser.parse_args()
    return Attempt(RunDirectory(arguments.run_directory), arguments.attempt, World.from_environment())


if __name__ == "__main__":
    main()
