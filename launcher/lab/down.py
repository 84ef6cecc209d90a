"""Removes a lab, whole, half built or left over: processes, links, namespaces, mounts, files."""

import ctypes
import os
from pathlib import Path

from launcher.lab.daemons import end_recorded_daemons
from launcher.lab.lab_error import LabError
from launcher.lab.layout import DEFAULT_NAME, check_name, lab_directory
from launcher.lab.network import found_host_files, found_namespaces, remove_network
from launcher.lab.node_processes import end_processes_in
from launcher.lab.programs import check_root
from launcher.lab.state import release_lab

_DETACH = 2  # MNT_DETACH of linux/fs.h: also where a process still has a file of it open


def down(name: str = DEFAULT_NAME) -> bool:
    """Remove all that a lab of that name has; answers whether there was anything. Raises LabError if some of it stays.

    Its record is not needed: names follow from the lab's name, and daemons wrote themselves down before they began.
    """
    check_name(name)
    check_root()
    directory = lab_directory(name)
    if not directory.exists() and not found_namespaces(name) and not found_host_files(name):
        return False  # a link of that name alone would be another's
    for namespace in found_namespaces(name):
        end_processes_in(namespace)
    end_recorded_daemons(directory)
    remove_network(name)
    for mount_point in mounts_below(directory, Path("/proc/self/mountinfo").read_text(encoding="utf-8")):
        _unmount(mount_point)
    release_lab(name)
    return True


def mounts_below(directory: Path, mount_info: str) -> list[str]:
    """Return the mount points below a directory, the innermost first. `mount_info`: of proc(5), blanks as `\\040`."""
    points = [line.split()[4].replace("\\040", " ") for line in mount_info.splitlines()]
    return [point for point in reversed(points) if point.startswith(f"{directory}/")]


def _unmount(point: str) -> None:
    """Detach a mount, by the system call: `umount` would leave files of its own in /run/mount."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.umount2(os.fsencode(point), _DETACH) != 0:
        raise LabError(f"lab: unmounting {point}: {os.strerror(ctypes.get_errno())}")
