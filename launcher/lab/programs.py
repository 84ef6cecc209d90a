"""Runs the machine's own tools, step by step, and says which step failed and which Debian package is missing."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence

from launcher.lab.lab_error import LabError

# sbin is not in every user's path, and sshd insists on being started by its whole one.
SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_STEP_SECONDS = 60.0

_PACKAGES = {
    "ip": "iproute2",
    "tc": "iproute2",
    "nsenter": "util-linux",
    "unshare": "util-linux",
    "hostname": "hostname",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
    "sshd": "openssh-server",
    "munged": "munge",
    "slurmctld": "slurm-wlm",
    "slurmd": "slurm-wlm",
    "sinfo": "slurm-wlm",
}
_SLURM_PROGRAMS = ("munged", "slurmctld", "slurmd", "sinfo")


def check_machine(*, with_slurm: bool) -> None:
    """Raise LabError unless this is Linux, the user is root and every program is there."""
    check_root()
    needed = [name for name in _PACKAGES if with_slurm or name not in _SLURM_PROGRAMS]
    missing = [name for name in needed if shutil.which(name, path=SEARCH_PATH) is None]
    if missing:
        packages = sorted({_PACKAGES[name] for name in missing})
        raise LabError(
            f"a lab needs the programs {', '.join(missing)}: install them with `apt-get install {' '.join(packages)}`"
        )


def check_root() -> None:
    """Raise LabError unless this process may make network namespaces."""
    if sys.platform != "linux":
        raise LabError(f"a lab is made of Linux network namespaces, and this is {sys.platform}: run it on Linux")
    if os.geteuid() != 0:
        raise LabError(f"a lab needs root, to make network namespaces, and this is user {os.geteuid()}: use sudo")


def program(name: str) -> str:
    """Return a program's whole path. Raises LabError that names its package."""
    path = shutil.which(name, path=SEARCH_PATH)
    if path is None:
        raise LabError(f"the program `{name}` is missing: install it with `apt-get install {_PACKAGES[name]}`")
    return path


def run_step(step: str, command: Sequence[str], *, environment: Mapping[str, str] | None = None) -> str:
    """Run one command to its end and return what it printed. Raises LabError that names the step."""
    argv = [program(command[0]), *command[1:]]
    try:
        done = subprocess.run(
            argv,
            check=False,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_STEP_SECONDS,
            env={"PATH": SEARCH_PATH, "LC_ALL": "C", **(environment or {})},
        )
    except subprocess.TimeoutExpired:
        raise LabError(f"lab: {step}: `{' '.join(command)}` did not end within {_STEP_SECONDS:.0f} s") from None
    if done.returncode:
        said = (done.stderr or done.stdout).strip()
        raise LabError(f"lab: {step}: `{' '.join(command)}` ended with {done.returncode}: {said}")
    return done.stdout
