"""The faults as they are done to a lab and its run, what is said of each, and how each is mended. Waits for nothing."""

import contextlib
import os
import re
import signal
from typing import Protocol

from launcher.lab.faults import cut, kill, mend
from launcher.lab.layout import Lab
from launcher.records import process_is_alive
from launcher.rehearsal.faults import Fault
from launcher.rehearsal.progress import Progress
from launcher.rehearsal.small_disk import SmallDisk


class Injection(Protocol):
    """One fault, aimed."""

    @property
    def where(self) -> str:
        """Whom it hits."""
        ...

    @property
    def host(self) -> str:
        """The host that the supervisor will hold it against; empty where it is none's."""
        ...

    def inject(self) -> None:
        """Do it. Raises StuckError where the target is gone, LabError where the lab cannot."""
        ...

    def read_notice(self) -> str:
        """Return what the run says of it, one line; empty so far."""
        ...

    def is_named_in(self, notice: str) -> bool:
        """Whether that names the one who was hit."""
        ...

    def mend(self) -> None:
        """Undo it, if there is something left to undo."""
        ...


class RankInjection:
    """A signal to the recorded process of one rank."""

    def __init__(self, fault: Fault, progress: Progress, attempt: int, rank: int, host: str) -> None:
        self._progress, self._attempt, self._rank, self._host = progress, attempt, rank, host
        self._signal = signal.SIGSTOP if fault == Fault.HANG else signal.SIGKILL
        self._beat = progress.live_rank(attempt, rank)

    @property
    def where(self) -> str:
        """The rank and its host."""
        return f"rank {self._rank} on {self._host}"

    @property
    def host(self) -> str:
        """The rank's."""
        return self._host

    def inject(self) -> None:
        """Send the signal, if it still is that process."""
        self._beat = self._progress.live_rank(self._attempt, self._rank)
        os.kill(self._beat.pid, self._signal)

    def read_notice(self) -> str:
        """Return the verdict on a hang, or the reason of the attempt's end."""
        hang = self._progress.hang_of(self._attempt)
        return _line(hang["sentence"]) if hang and "sentence" in hang else _reason(self._progress, self._attempt)

    def is_named_in(self, notice: str) -> bool:
        """Whether the sentence is about this rank alone."""
        return notice.startswith(f"rank {self._rank} ")

    def mend(self) -> None:
        """Let a stopped process go on: whoever ended the attempt has killed it, most likely."""
        if process_is_alive(self._beat.pid, self._beat.create_time):
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._beat.pid, signal.SIGCONT)


class NodeInjection:
    """A host that dies, or is cut off."""

    def __init__(self, fault: Fault, lab: Lab, progress: Progress, attempt: int, host: str) -> None:
        self._lab, self._progress, self._attempt, self._host = lab, progress, attempt, host
        self._is_death = fault == Fault.KILL_NODE
        self._is_broken = False

    @property
    def where(self) -> str:
        """The host."""
        return self._host

    @property
    def host(self) -> str:
        """The host."""
        return self._host

    def inject(self) -> None:
        """Kill the host, or cut it off."""
        self._is_broken = True
        if self._is_death:
            kill(self._lab, self._host)
        else:
            cut(self._lab, self._host)

    def read_notice(self) -> str:
        """Return the reason of the attempt's end."""
        return _reason(self._progress, self._attempt)

    def is_named_in(self, notice: str) -> bool:
        """Whether the host is in it."""
        return re.search(rf"\b{re.escape(self._host)}\b", notice) is not None

    def mend(self) -> None:
        """Bring the host back."""
        if self._is_broken:
            mend(self._lab, self._host)
            self._is_broken = False


class DiskInjection:
    """The disk of the checkpoints is full."""

    def __init__(self, disk: SmallDisk, progress: Progress, attempt: int) -> None:
        self._disk, self._progress, self._attempt = disk, progress, attempt
        self._alerts_before = progress.alerts_of(attempt)

    @property
    def where(self) -> str:
        """The disk."""
        return "checkpoints' disk"

    @property
    def host(self) -> str:
        """No host's fault."""
        return ""

    def inject(self) -> None:
        """Fill it up."""
        self._disk.fill()

    def read_notice(self) -> str:
        """Keep the disk full, since a save that was under way may have freed something; answer a new alert."""
        new = [line for line in self._progress.alerts_of(self._attempt) if line not in self._alerts_before]
        if new:
            return _line(new[-1].replace(f"{self._progress.run.path}/", ""))
        self._disk.fill()
        return _reason(self._progress, self._attempt)

    def is_named_in(self, notice: str) -> bool:
        """Whether it says that there is no space."""
        return notice.startswith("ALERT") and "No space left" in notice

    def mend(self) -> None:
        """Free what was filled."""
        self._disk.free()


def _reason(progress: Progress, attempt: int) -> str:
    return _line((progress.end_of(attempt) or {}).get("reason", ""))


def _line(text: object) -> str:
    """Return it as one line."""
    return " ".join(str(text).split())
