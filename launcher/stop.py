"""The `stop` verb: asks a live supervisor to let its ranks save and end, and waits until it has."""

import contextlib
import time

import psutil

from launcher.console import Console
from launcher.records import SupervisorRecord, process_is_alive, read_supervisor
from launcher.run_lock import live_supervisor_pid
from launcher.status import read_status
from llama_dist.config import ConfigError, RunDirectory, load_run_config

_POLL_SECONDS = 0.1
_SUPERVISOR_SECONDS = 100.0  # beyond the ranks' grace: 30 s of the agent's own, 60 s of the shipper's last flush


def stop_run(run: RunDirectory, console: Console) -> None:
    """Stop the run if it is live on this host; returns when its supervisor has ended. Raises ConfigError elsewhere."""
    record = read_supervisor(run.supervisor)
    pid = live_supervisor_pid(run)
    status = read_status(run)
    if record is None or pid is None:
        if status.supervisor_pid is not None and record is not None:
            raise ConfigError(f"run `{run.name}` is supervised on host {record.host}: stop it there")
        console.say(f"run `{run.name}` is not live ({status.state}): nothing to stop")
        return
    grace = (
        load_run_config(run.attempt_config(status.attempt)).supervision.stop_grace_seconds if status.attempt else 0.0
    )
    with contextlib.suppress(psutil.NoSuchProcess):  # it may end by itself just now
        psutil.Process(pid).terminate()
    console.say(f"run `{run.name}`: asked supervisor {pid} to stop; its ranks may save for {grace:.0f} s")
    if not _wait_for_end(record, grace + _SUPERVISOR_SECONDS):
        with contextlib.suppress(psutil.NoSuchProcess):
            psutil.Process(pid).kill()  # its ranks are tied to it and end with it
        _wait_for_end(record, _SUPERVISOR_SECONDS)
        console.say(f"supervisor {pid} did not end and was killed, with its ranks")
    ended = read_status(run)
    console.say(f"run `{run.name}`: {ended.state}: {ended.reason}")


def _wait_for_end(record: SupervisorRecord, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while process_is_alive(record.pid, record.create_time):
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_SECONDS)
    return True
