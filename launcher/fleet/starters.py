"""The programs that start agents which then come in by themselves (srun, mpirun): which are of use yet. Ends none."""

from collections.abc import Callable
from dataclasses import dataclass

from launcher.fleet.link import ProcessLink


@dataclass
class _Starter:
    link: ProcessLink
    has_brought: bool = False


class Starters:
    """All that run, in the order of their start. A host may have several: the last one counts."""

    def __init__(self) -> None:
        self._all: list[_Starter] = []

    def add(self, link: ProcessLink) -> None:
        """Note one that was started."""
        self._all.append(_Starter(link))

    def remove(self, link: ProcessLink) -> None:
        """Forget one."""
        self._all = [one for one in self._all if one.link is not link]

    def note_came(self, host: str) -> None:
        """Note that the host's agent has come in: it ends when it loses its supervisor, and its starter with it."""
        if starter := self._newest(host):
            starter.has_brought = True

    def links(self) -> list[ProcessLink]:
        """All that run."""
        return [one.link for one in self._all]

    def ended(self) -> list[ProcessLink]:
        """Those that have ended."""
        return [one.link for one in self._all if not one.link.is_open]

    def useless(self, is_given_up: Callable[[str], bool]) -> list[ProcessLink]:
        """Those that run, brought nobody, and whose hosts are all given up: each new try starts another."""
        waiting = [one.link for one in self._all if one.link.is_open and not one.has_brought]
        return [link for link in waiting if all(is_given_up(host) for host in link.hosts)]

    def is_newest(self, link: ProcessLink, host: str) -> bool:
        """Whether no later one was started for the host."""
        newest = self._newest(host)
        return newest is not None and newest.link is link

    def _newest(self, host: str) -> _Starter | None:
        return next((one for one in reversed(self._all) if host in one.link.hosts), None)
