"""How many processes this machine's kernel has ended for want of memory since it was booted."""

from pathlib import Path

_VMSTAT = Path("/proc/vmstat")


def count_oom_kills(vmstat: Path = _VMSTAT) -> int:
    """Read the kernel's counter, which counts those of a container's limit as well; 0 where it has none."""
    try:
        lines = vmstat.read_text(encoding="ascii").splitlines()
    except (OSError, ValueError):
        return 0
    counts = (line.split()[1] for line in lines if line.startswith("oom_kill "))
    return int(next(counts, "0"))
