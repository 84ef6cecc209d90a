"""How much memory this process may still take: what the machine has left, and what its control groups allow.

A job of Slurm or a container is ended by its own limit, however much the machine has left. Measures, sets nothing.
"""

from collections.abc import Iterator
from pathlib import Path

import psutil

# Files of version 2 and of version 1: limit, use, and the fields of memory.stat for file pages, which the kernel gives
# up where memory is needed. The use counts them: without that a job that has read its data has nothing left.
_VERSION_2 = ("memory.max", "memory.current", ("inactive_file", "active_file"))
_VERSION_1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", ("total_inactive_file", "total_active_file"))


def available_bytes() -> int:
    """Bytes that may be taken before the machine, or a limit on this process, refuses."""
    groups = allowed_by_groups(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup"))
    return min([psutil.virtual_memory().available, *groups])


def allowed_by_groups(membership: Path, mount: Path) -> Iterator[int]:
    """Yield what each control group with a limit leaves, those that hold the process's own among them.

    `membership` is the process's list of its groups, `mount` where their files are; what is not there limits nothing.
    """
    try:
        lines = membership.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        root = mount / "memory" if controllers else mount
        # A container sees its own group as the root, or the path that the host knows, which is not there.
        for group in (root / path.lstrip("/"), *(root / path.lstrip("/")).parents):
            if (left := _left(group, *(_VERSION_1 if controllers else _VERSION_2))) is not None:
                yield left
            if group == root:
                break


def _left(group: Path, limit_name: str, use_name: str, file_fields: tuple[str, ...]) -> int | None:
    try:
        limit, use = (int((group / name).read_text(encoding="ascii")) for name in (limit_name, use_name))
        pairs = (line.split() for line in (group / "memory.stat").read_text(encoding="ascii").splitlines())
        num_file_bytes = sum(int(value) for field, value in pairs if field in file_fields)
    except (OSError, ValueError):  # no such group here, or "max": no limit
        return None
    return max(0, limit - use + num_file_bytes)
