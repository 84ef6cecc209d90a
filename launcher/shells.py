"""The argument list that runs a program on a host, its stdin and stdout attached to ours. Pure: starts nothing.

Closing the stdin of what is started is how the program on the other side learns that we are gone.
"""

import math
import shlex
from collections.abc import Sequence
from pathlib import Path

_ALIVE_INTERVAL_SECONDS = 5
_ALIVE_COUNT = 3  # ssh ends a connection that was silent for 15 s


def local_command(argv: Sequence[str]) -> tuple[str, ...]:
    """Return the command that runs `argv` on this machine."""
    return tuple(argv)


def ssh_command(
    host: str, argv: Sequence[str], ssh_config: str | Path | None, connect_timeout_seconds: float
) -> tuple[str, ...]:
    """Return the command that runs `argv` on `host` by OpenSSH.

    It asks no password (BatchMode) and leaves the checking of host keys to the user's own setting. It becomes no
    master that other connections hang on, but goes through one that the user has opened: where a log-in takes a second
    factor, that is the only way. The far side's login shell gets one string, in which every value is quoted.
    """
    options = (
        "BatchMode=yes",
        f"ConnectTimeout={max(1, math.ceil(connect_timeout_seconds))}",
        f"ServerAliveInterval={_ALIVE_INTERVAL_SECONDS}",
        f"ServerAliveCountMax={_ALIVE_COUNT}",
        "ControlMaster=no",
        "ClearAllForwardings=yes",  # a forwarded port can be had by one of many connections only
        "RemoteCommand=none",  # ssh refuses a command beside one of the user's configuration
        "PermitLocalCommand=no",
    )
    config = ("-F", str(ssh_config)) if ssh_config is not None else ()
    return ("ssh", *config, *(part for option in options for part in ("-o", option)), "-T", "--", host, quoted(argv))


def srun_command(hosts: Sequence[str], argv: Sequence[str]) -> tuple[str, ...]:
    """Return the command that runs `argv` once on each of `hosts`, inside the Slurm allocation of the environment.

    The step shares all resources with the job's other steps, and a host that fails does not end the others. With
    several hosts, each gets the whole of stdin, and the lines of stdout come as they are, unmarked.
    """
    return (
        "srun",
        f"--nodelist={','.join(hosts)}",
        f"--nodes={len(hosts)}",
        f"--ntasks={len(hosts)}",
        "--ntasks-per-node=1",
        "--overlap",
        "--export=ALL",  # a job that was submitted without its caller's environment passes none on by itself
        "--cpu-bind=none",  # the ranks share the node's cores among themselves
        "--kill-on-bad-exit=0",
        "--no-kill",
        "--unbuffered",
        *argv,
    )


def quoted(argv: Sequence[str]) -> str:
    """Return `argv` as one line from which a POSIX shell makes the same list again."""
    return shlex.join(argv)
