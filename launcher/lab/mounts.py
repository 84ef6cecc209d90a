"""Mounts and unmounts by the system calls: the programs would leave files of their own in /run/mount. Needs root."""

import ctypes
import os
from pathlib import Path

from launcher.lab.lab_error import LabError

_DETACH = 2  # MNT_DETACH of linux/fs.h: also where a process still has a file of it open
_FLAGS = 2 | 4 | 8  # MS_NOSUID, MS_NODEV, MS_NOEXEC: it holds data alone


def mount_small_disk(point: Path, num_bytes: int) -> None:
    """Mount a file system in memory that holds so much, for its owner alone. Raises LabError."""
    libc = ctypes.CDLL(None, use_errno=True)
    options = f"size={num_bytes},mode=0700".encode()
    if libc.mount(b"tmpfs", os.fsencode(point), b"tmpfs", ctypes.c_ulong(_FLAGS), options) != 0:
        raise LabError(f"lab: mounting a disk of {num_bytes} bytes on {point}: {os.strerror(ctypes.get_errno())}")


def unmount_below(directory: Path) -> None:
    """Detach every mount below a directory. Raises LabError."""
    for point in mounts_below(directory, Path("/proc/self/mountinfo").read_text(encoding="utf-8")):
        _unmount(point)


def mounts_below(directory: Path, mount_info: str) -> list[str]:
    """Return the mount points below a directory, the innermost first. `mount_info`: of proc(5), blanks as `\\040`."""
    points = [line.split()[4].replace("\\040", " ") for line in mount_info.splitlines()]
    return [point for point in reversed(points) if point.startswith(f"{directory}/")]


def _unmount(point: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.umount2(os.fsencode(point), _DETACH) != 0:
        raise LabError(f"lab: unmounting {point}: {os.strerror(ctypes.get_errno())}")
