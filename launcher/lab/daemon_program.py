"""Start helper of a lab's daemons: writes down who it is, then becomes the command after `--`.

    python -I -S daemon_program.py RECORD.json LOG -- PROGRAM ARGUMENTS...

The record is there before the daemon is, so that a lab whose building was killed can still be taken down. The daemon
belongs to a session of its own and outlives the process that asked for it. Ends with 0 once the daemon's program runs.
Standard library only, run by path, so that it costs some 20 ms.
"""

import json
import os
import sys
from pathlib import Path


def main(arguments: list[str]) -> int:
    """Fork; the parent waits until the child has become the daemon."""
    separator = arguments.index("--")
    (record, log), command = arguments[:separator], arguments[separator + 1 :]
    reading, writing = os.pipe()  # closed by a successful exec, as all descriptors of Python are
    if os.fork() == 0:
        os.close(reading)
        try:
            _become_daemon(Path(record), Path(log), command)
        except OSError as error:
            os.write(writing, f"{command[0]}: {error}".encode())
        os._exit(1)
    os.close(writing)
    with os.fdopen(reading, encoding="utf-8") as pipe:
        fault = pipe.read()
    print(fault, file=sys.stderr, end="")
    return 1 if fault else 0


def _become_daemon(record: Path, log: Path, command: list[str]) -> None:
    os.setsid()
    values = {"pid": os.getpid(), "create_time": _create_time()}
    beside = record.with_suffix(".tmp")
    beside.write_text(json.dumps(values), encoding="utf-8")
    beside.replace(record)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.execv(command[0], command)  # noqa: S606 - an argument list of the lab's own


def _create_time() -> float:
    """Return this process's start as psutil computes it: seconds since the epoch, from the time of boot."""
    after_name = Path("/proc/self/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    boot = next(
        int(line.split()[1])
        for line in Path("/proc/stat").read_text(encoding="ascii").splitlines()
        if line.startswith("btime ")
    )
    return boot + int(after_name[19]) / os.sysconf("SC_CLK_TCK")  # field 22 of proc(5), `starttime`


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
