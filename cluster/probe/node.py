"""Which machine this is, and what it has free. Reads only."""

import os
import socket
from pathlib import Path


def machine_identity() -> dict[str, str]:
    """Return the host's name, and what is the same only if two names lead to the same machine or container.

    A kernel has one boot id; containers of one kernel have network namespaces of their own.
    """
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    network = os.stat("/proc/self/ns/net").st_ino  # noqa: PTH116 - the link's end is no path
    return {"host": socket.gethostname(), "machine": f"{boot}/{network}"}


def available_memory_bytes() -> int:
    """Memory that a new process could get without swapping, by the kernel's estimate."""
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    line = next((line for line in lines if line.startswith("MemAvailable:")), "MemAvailable: 0 kB")
    return int(line.split()[1]) << 10
