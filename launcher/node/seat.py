"""One agent a node and run: a lock in the run directory, and the file by which a probe sees that the agent lives."""

import fcntl
import os
import time
from pathlib import Path

from launcher.errors import RunDirectoryError
from launcher.records import write_json
from llama_dist.config import RunDirectory

NONCE_NAME = "nonce"


class SeatTakenError(Exception):
    """An older agent of this node has not ended yet."""


class Seat:
    """The right to run ranks of a run on a node, until `leave` or the end of the process."""

    def __init__(self, descriptor: int, sign_of_life: Path) -> None:
        self._descriptor, self._sign_of_life = descriptor, sign_of_life

    @classmethod
    def take(cls, run: RunDirectory, host: str, nonce: str) -> "Seat":
        """Take the seat. Raises SeatTakenError while another holds it, RunDirectoryError where the directory is none.

        `nonce` is what the supervisor wrote to a file of the run directory: only who reads it there shares the disk.
        """
        _check_shared(run, nonce)
        descriptor = os.open(run.nodes / f"{host}.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            raise SeatTakenError(f"an agent of {host} from before still ends its ranks") from None
        seat = cls(descriptor, run.nodes / f"{host}.json")
        seat.stay()
        return seat

    def stay(self) -> None:
        """Give a sign of life; a disk that fails shows elsewhere."""
        try:
            write_json(self._sign_of_life, {"pid": os.getpid(), "time": time.time()})
        except OSError:
            return

    def leave(self) -> None:
        """Let another have it."""
        os.close(self._descriptor)


def _check_shared(run: RunDirectory, nonce: str) -> None:
    try:
        found = (run.nodes / NONCE_NAME).read_text(encoding="ascii")
    except OSError as error:
        raise RunDirectoryError(
            f"{run.nodes / NONCE_NAME}: {error.strerror}: the run directory must be on a disk that all nodes share: "
            "set runs_directory to one"
        ) from None
    if found != nonce:
        raise RunDirectoryError(
            f"{run.path}: another directory than the supervisor's, by its nonce: it must be on a disk that all nodes "
            "share: set runs_directory to one"
        )
