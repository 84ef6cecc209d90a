"""What the processes of one `srun` learn of a launch that their first one could not begin: Slurm ends none for another.

A pod's and mpirun's end with the first one anyway. Waits for nothing.
"""

import contextlib
import socket
from collections.abc import Iterator, Mapping

from launcher.errors import LeaseLostError, RunRefusedError
from launcher.records import read_json, write_json
from llama_dist.config import ReportedError, RunDirectory
from llama_dist.exit_codes import ExitCode

REFUSAL_NAME = "refused.json"


def start_of(environment: Mapping[str, str]) -> str:
    """What is alike in all processes of one start and in no other; empty where the scheduler gives no such thing."""
    if not environment.get("SLURM_STEP_ID"):
        return ""
    names = ("SLURM_JOB_ID", "SLURM_RESTART_COUNT", "SLURM_STEP_ID")  # a job that is queued again counts its steps anew
    return "/".join(environment.get(name, "") for name in names)


@contextlib.contextmanager
def refusal_told(run: RunDirectory, start: str) -> Iterator[None]:
    """Write down, for the others of this start, with which code the block ends where it raises an error.

    The run may be another launch's, and live: nothing else of it is touched.
    """
    path = run.nodes / REFUSAL_NAME
    try:
        yield
    except LeaseLostError:
        raise  # the agents have joined, and were let go
    except Exception as error:
        code = error.exit_code if isinstance(error, ReportedError) else ExitCode.OUR_BUG
        if start:
            with contextlib.suppress(OSError):  # the disk may be the reason
                run.path.mkdir(mode=0o700, parents=True, exist_ok=True)
                run.nodes.mkdir(mode=0o700, exist_ok=True)
                write_json(path, {"start": start, "exit_code": int(code), "host": socket.gethostname()})
        raise


def raise_if_refused(run: RunDirectory, start: str) -> None:
    """Raise RunRefusedError, with its code, where the first process of this start has told an end."""
    told = read_json(run.nodes / REFUSAL_NAME) or {}
    if not start or told.get("start") != start:
        return
    code = told.get("exit_code")
    known = {int(one): one for one in ExitCode}
    raise RunRefusedError(
        f"run `{run.name}` was not started by the first process of this job, on host {told.get('host')!a}: see its "
        "output",
        known.get(code, ExitCode.RETRY) if isinstance(code, int) else ExitCode.RETRY,
    )
