"""Starts a launch in a session of its own, and returns once its supervisor is up. Supervises nothing."""

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from launcher.agent_log import read_tail
from launcher.backends import backend_of
from launcher.console import Console
from launcher.edge import run_at_edge
from launcher.execute import check_new, create_run_directory, disk_faults_told, execute, hold_run
from launcher.launch import Launch, LaunchRequest, check_launch
from launcher.records import read_supervisor
from launcher.stored_request import request_from_json, request_to_json

_POLL_SECONDS = 0.05


def launch_detached(launch: Launch, console: Console) -> int:
    """Execute the launch in the background; answers 0 once it is up, else the code it ended with.

    What can be refused is refused here first, where the user sees it. Raises ReportedError.
    """
    with contextlib.closing(backend_of(launch)) as backend:
        is_new = check_new(launch, backend)
        create_run_directory(launch.run)
        with hold_run(launch, backend, console, is_new=is_new):
            launch.find_changes()
            backend.check()
    log = launch.run.path / "launch.log"
    with disk_faults_told(launch.run):
        start = log.stat().st_size if log.exists() else 0
        process = _start(launch.request, log)
    while (code := process.poll()) is None:
        record = read_supervisor(launch.run.supervisor)
        if record and record.pid == process.pid and record.state != "starting":
            console.say(f"run `{launch.run.name}`: supervisor {process.pid} runs in the background; output in {log}")
            console.say(f"see it with `llama-dist status {launch.run.path}`")
            return 0
        time.sleep(_POLL_SECONDS)
    console.write(read_tail(log, log.stat().st_size - start))
    return code


def _start(request: LaunchRequest, log: Path) -> subprocess.Popen[bytes]:
    """Start this file as a program. The request goes through a pipe: an override may hold a secret, argv is public."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "launcher.detach"],
            stdin=subprocess.PIPE,
            stdout=descriptor,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    finally:
        os.close(descriptor)
    assert process.stdin is not None
    with process.stdin as pipe:
        pipe.write(json.dumps(request_to_json(request)).encode())
    return process


def _execute_from_stdin() -> int:
    return execute(check_launch(request_from_json(json.loads(sys.stdin.read())), os.environ), Console())


if __name__ == "__main__":
    run_at_edge(_execute_from_stdin)
