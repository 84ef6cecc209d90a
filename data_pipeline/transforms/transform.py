"""What a text transform is: a pure function from a text to a text, or to the reason why its document is dropped."""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Dropped:
    """The document is left out; `reason` is one of a handful of names, under which it is counted."""

    reason: str


class Transform(Protocol):
    """One step of a chain. Holds no state of the texts it saw, so that order and number of workers cannot matter."""

    def apply(self, text: str) -> str | Dropped:
        """Return the changed text, the same object if nothing changes, or why the document is dropped."""
        ...
