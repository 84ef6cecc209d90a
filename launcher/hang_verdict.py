"""Says in one sentence which rank an attempt hangs on, and what the others wait in. Pure: it has beats and stacks.

The clues, from the surest to the weakest: a process that cannot run; a rank that was never seen, or stands while others
go on; one that gave no stacks; one that is in no collective while others are; one that stands elsewhere than most; one
that is behind. If none tells ranks apart, the sentence says so.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from launcher.backend import RankBeat
from launcher.hang_watch import STARTING_PHASES, STEP_PHASES, Stall, has_ended
from launcher.rank_list import name_ranks
from launcher.stack_text import Standing, read_standing
from launcher.stacks import NO_ANSWER

Clue = Literal["stopped", "ended", "disk", "unseen", "silent", "outside", "elsewhere", "behind", "late", "none"]

_TRUE_OF_ALL: tuple[Clue, ...] = ("stopped", "ended", "disk", "unseen")
"""Clues that explain a stall also where they hold for every rank."""

# In the order of the loop: what a rank writes down between the end of one step and the end of the next.
_ORDER_IN_STEP = (
    *("starting", "build", "resume", "evaluate", "save", "read", "first step", "train"),
    *("finish the save", "copy to the store", "stopped", "done"),
)
_MAX_GROUPS_TOLD = 3
_SKEW_SECONDS = 2.0  # between the ways of two ranks' beats to the supervisor


@dataclass(frozen=True)
class Verdict:
    """Which ranks the attempt hangs on (none, if no rank stands out), by which clue, and the sentence for people."""

    ranks: tuple[int, ...]
    clue: Clue
    sentence: str


def judge(stall: Stall, beats: Mapping[int, RankBeat], stacks: Mapping[int, str]) -> Verdict:
    """Judge a stall from the beats and the stacks that were taken after it was seen."""
    evidence = _Evidence(stall, beats, stacks)
    ranks, clue = evidence.culprits()
    return Verdict(ranks, clue, evidence.sentence(ranks, clue))


class _Evidence:
    def __init__(self, stall: Stall, beats: Mapping[int, RankBeat], stacks: Mapping[int, str]) -> None:
        self._stall, self._beats, self._stacks = stall, beats, stacks
        self._all = tuple(rank for rank in sorted(stall.seconds) if not has_ended(beats.get(rank)))
        self._standings: dict[int, Standing] = {
            rank: standing for rank, text in stacks.items() if (standing := read_standing(text))
        }

    def culprits(self) -> tuple[tuple[int, ...], Clue]:
        """Return the ranks that the first clue tells apart from the others."""
        clues: tuple[tuple[Clue, Callable[[], Collection[int]]], ...] = (
            ("stopped", lambda: self._in_state("T")),
            ("ended", lambda: [*self._in_state("Z"), *self._in_state("")]),
            ("disk", lambda: [rank for rank in self._in_state("D") if not self._answered(rank)]),
            ("unseen", lambda: [rank for rank in self._all if rank not in self._beats]),
            ("late", self._late),
            ("silent", self._silent),
            ("outside", self._outside_collectives),
            ("elsewhere", self._elsewhere),
            ("behind", self._behind),
        )
        for clue, find in clues:
            ranks = tuple(sorted(find()))
            if ranks and (len(ranks) < len(self._all) or clue in _TRUE_OF_ALL):
                return ranks, clue
        return (self._all, "late") if len(self._all) == 1 else ((), "none")

    def sentence(self, ranks: tuple[int, ...], clue: Clue) -> str:
        """Return the one sentence."""
        if clue == "none":
            return f"no rank stands out: {name_ranks(self._hosts(self._all))} stand still {self._where(self._all)}" + (
                self._told_waits(self._all, "; ", of="")
            )
        verb = "hangs" if len(ranks) == 1 else "hang"
        others = [rank for rank in self._all if rank not in ranks]
        because = self._because(ranks, clue)
        text = f"{name_ranks(self._hosts(ranks))} {verb} {self._where(ranks)}{because and f': {because}'}"
        if not self._stall.is_whole and clue == "late":
            text += "; the others go on"
        return text + self._told_waits(others, "; ", of="other ")

    def _in_state(self, state: str) -> list[int]:
        return [rank for rank in self._all if rank in self._beats and self._beats[rank].process_state == state]

    def _answered(self, rank: int) -> bool:
        return rank in self._standings and not self._stacks[rank].startswith(NO_ANSWER)

    def _late(self) -> Collection[int]:
        """The ranks that stand, where one of the others goes on: ranks that wait for each other stop almost at once."""
        seconds, ranks = self._stall.seconds, self._stall.ranks
        going_on = min(seconds[rank] for rank in ranks) - _SKEW_SECONDS
        return ranks if any(seconds[rank] < going_on for rank in self._all if rank not in ranks) else ()

    def _silent(self) -> list[int]:
        """Ranks that gave no stacks while others did."""
        return [rank for rank in self._all if rank not in self._standings] if self._standings else []

    def _outside_collectives(self) -> list[int]:
        outside = [rank for rank, standing in self._standings.items() if standing.collective is None]
        return outside if len(outside) < len(self._standings) else []

    def _elsewhere(self) -> list[int]:
        """Ranks that stand elsewhere than most: with NCCL a rank waits for its GPU, and no call shows for what.

        Where all are in collectives it says nothing: pipeline stages wait in different ones.
        """
        places = Counter(str(standing) for standing in self._standings.values())
        if not places or any(standing.collective for standing in self._standings.values()):
            return []
        place, count = places.most_common(1)[0]
        is_most = 2 * count > len(self._all)
        return [rank for rank, standing in self._standings.items() if is_most and str(standing) != place]

    def _behind(self) -> list[int]:
        """Ranks that have done least. Micro-batches count where no stacks say more: pipeline stages differ in them."""
        progress = {
            rank: _progress(beat, bool(self._standings)) for rank, beat in self._beats.items() if rank in self._all
        }
        least = min(progress.values(), default=())
        return [rank for rank, value in progress.items() if value == least]

    def _because(self, ranks: tuple[int, ...], clue: Clue) -> str:
        rank, is_one = ranks[0], len(ranks) == 1
        it, it_is = ("it", "it is") if is_one else ("they", "they are")
        beat, standing = self._beats.get(rank), self._standings.get(rank)
        at = f"in {standing}" if standing else ""
        seen_at = f", {at}" if at else ""
        state = beat.process_state if beat else ""
        texts: dict[Clue, str] = {
            "stopped": f"{it_is} stopped by a signal (state T){seen_at}",
            "ended": f"{it} ended without a word",
            "disk": f"{it_is} held up by a disk or a network file system (state D){seen_at}",
            "unseen": f"{it} gave no sign of life in this attempt",
            "silent": f"{it} gave no answer (state {state})",
            "late": f"{it_is} {at}" if at else "",
            "behind": f"{it_is} behind the others{seen_at}",
        }
        return texts.get(clue, f"{it_is} {at}")

    def _where(self, ranks: Iterable[int]) -> str:
        """Return for example `in phase train of step 57 for 31 s`, of the rank that is furthest behind."""
        ranks = list(ranks)
        seconds = f"for {max(self._stall.seconds[rank] for rank in ranks):.0f} s"
        seen = [self._beats[rank] for rank in ranks if rank in self._beats]
        if not seen:
            return seconds
        beat = min(seen, key=lambda one: _progress(one, has_stacks=False))
        of_step = f" of step {beat.step + 1}" if beat.phase in STEP_PHASES | {"first step"} else f" at step {beat.step}"
        if beat.phase in STARTING_PHASES - {"first step"}:
            of_step = ""
        micro_batch = f", micro-batch {beat.micro_batch}," if beat.micro_batch else ""
        return f"in phase {beat.phase}{of_step}{micro_batch} {seconds}"

    def _told_waits(self, ranks: Iterable[int], before: str, of: str) -> str:
        """Return for example `; 3 other ranks wait in all_reduce (llama_dist/train/decision.py:140)`."""
        waits = Counter(
            str(self._standings[rank])
            for rank in ranks
            if rank in self._standings and self._standings[rank].collective is not None
        )
        groups = [
            f"{count} {of}rank{'s wait' if count > 1 else ' waits'} in {place}"
            for place, count in waits.most_common(_MAX_GROUPS_TOLD)
        ]
        return before + ", ".join(groups) if groups else ""

    def _hosts(self, ranks: Iterable[int]) -> dict[int, str]:
        return {rank: self._beats[rank].host if rank in self._beats else "" for rank in ranks}


def _progress(beat: RankBeat, has_stacks: bool) -> tuple[int, int, int]:
    order = _ORDER_IN_STEP.index(beat.phase) if beat.phase in _ORDER_IN_STEP else len(_ORDER_IN_STEP)
    return beat.step, order, 0 if has_stacks else beat.micro_batch
