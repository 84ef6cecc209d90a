"""Looks after one running attempt: on a stall it takes the stacks, writes the evidence down and answers the sentence.

It ends nothing: the supervisor does, and what follows is the policy's.
"""

import contextlib
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

from launcher.backend import RankBeat, RunningAttempt
from launcher.hang_verdict import Verdict, judge
from launcher.hang_watch import HangWatch, Stall
from launcher.records import write_json

STACKS_NAME = "hang_stacks.txt"

_LOOK_SECONDS = 0.5
_STACKS_SECONDS = 1.5  # with the time between looks, what the watch comes sooner for


class HangGuard:
    """Guards `attempt`; `directory` is the attempt's. Gives one verdict at most."""

    def __init__(
        self, watch: HangWatch, attempt: RunningAttempt, directory: Path, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._watch, self._attempt, self._directory, self._clock = watch, attempt, directory, clock
        self._next_look = float("-inf")
        self._is_done = False

    def look(self) -> Verdict | None:
        """Answer the verdict, once; None before and after. Cheap enough for every poll."""
        now = self._clock()
        if self._is_done or now < self._next_look:
            return None
        self._next_look = now + _LOOK_SECONDS
        if not self._attempt.is_heard() or self._watch.observe(self._attempt.beats(), now) is None:
            return None
        stacks = self._attempt.stacks(_STACKS_SECONDS)
        beats = self._attempt.beats()
        stall = self._watch.observe(beats, self._clock())
        if stall is None:  # it went on just now
            return None
        self._is_done = True
        verdict = judge(stall, beats, stacks)
        with contextlib.suppress(OSError):  # a full disk may be why it hangs
            self._write(verdict, stall, beats, stacks)
        return verdict

    def _write(self, verdict: Verdict, stall: Stall, beats: Mapping[int, RankBeat], stacks: Mapping[int, str]) -> None:
        values = {
            "sentence": verdict.sentence,
            "ranks": verdict.ranks,
            "clue": verdict.clue,
            "time": time.time(),
            "seconds": stall.seconds,
            "beats": {rank: asdict(beat) for rank, beat in beats.items()},
        }
        write_json(self._directory / "hang.json", values)
        descriptor = os.open(self._directory / STACKS_NAME, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            for rank, text in sorted(stacks.items()):
                host = beats[rank].host if rank in beats else "?"
                file.write(f"=== rank {rank} on {host}\n{text.rstrip()}\n\n")
