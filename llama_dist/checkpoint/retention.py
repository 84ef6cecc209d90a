"""Which checkpoints are kept, and why; the others are removed. The newest good one never is.

`reasons_to_keep` is the whole policy, and pure. Removing is one rename, so that no half checkpoint is ever left.
"""

import contextlib
import shutil
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from llama_dist.checkpoint.disk import sync_directory
from llama_dist.checkpoint.manifest import (
    MANIFEST_NAME,
    CheckpointError,
    Manifest,
    SaveKind,
    list_steps,
    read_manifest,
    step_directory,
)
from llama_dist.config import CheckpointConfig
from llama_dist.runtime.fence import NO_FENCE, Fence

_REMOVING = ".removing_"


@dataclass(frozen=True)
class Facts:
    """What decides whether a checkpoint is kept."""

    step: int
    kind: SaveKind
    held_out_loss: float | None = None
    is_uploaded: bool = False


def reasons_to_keep(
    checkpoints: Sequence[Facts],
    policy: CheckpointConfig,
    newest_good_step: int,
    *,
    verified_step: int | None = None,
    damaged_steps: Collection[int] = (),
) -> dict[int, tuple[str, ...]]:
    """Return why each step is kept; one without a reason may be removed.

    `verified_step` was read and found good, which `newest_good_step` may only have been written. Those after
    `newest_good_step` are damaged and were passed over, as are `damaged_steps`: they are left alone, and count for
    nothing.
    """
    undamaged = [one for one in checkpoints if one.step <= newest_good_step and one.step not in damaged_steps]
    judged = sorted(undamaged, key=lambda one: one.step)
    lasting = [one.step for one in judged if one.kind != "clock"]
    measured = sorted((one.held_out_loss, one.step) for one in judged if one.held_out_loss is not None)
    best = {step for _, step in measured[: policy.keep_best]}

    def reasons(one: Facts) -> tuple[str, ...]:
        if one.step > newest_good_step:
            return ("later than the newest good one",)
        if one.step in damaged_steps:
            return ("damaged",)
        every = policy.keep_every_steps
        found = {
            "newest good": one.step == newest_good_step,
            "last verified": one.step == verified_step != newest_good_step,
            f"among the last {policy.keep_last}": one.step in lasting[-policy.keep_last :],
            f"every {every} steps": every is not None and one.step % every == 0,
            f"among the best {policy.keep_best}": one.step in best,
            "not uploaded yet": policy.upload is not None and not one.is_uploaded,
        }
        return tuple(reason for reason, holds in found.items() if holds)

    return {one.step: reasons(one) for one in checkpoints}


class Retention:
    """Removes what the policy does not keep. One process for each disk; a manifest is read once."""

    def __init__(
        self,
        checkpoints: Path,
        policy: CheckpointConfig,
        is_uploaded: Callable[[Path], bool],
        fence: Fence = NO_FENCE,
    ) -> None:
        self._checkpoints, self._policy, self._is_uploaded, self._fence = checkpoints, policy, is_uploaded, fence
        self._known: dict[tuple[int, int], Facts] = {}
        self._verified_step: int | None = None
        self._damaged_steps: set[int] = set()

    def pass_over(self, steps: Collection[int]) -> None:
        """Count these for nothing: they were found damaged."""
        self._damaged_steps |= set(steps)

    def note_verified(self, step: int) -> None:
        """Keep this one, whatever is written after it, until another was verified."""
        self._verified_step = step

    def note_written(self, manifest: Manifest) -> None:
        """Take what decides from the manifest at hand: a large one takes seconds to read."""
        self._damaged_steps.discard(manifest.step)
        with contextlib.suppress(OSError):
            self._known[self._key(manifest.step)] = Facts(manifest.step, manifest.kind, manifest.held_out_loss)

    def is_damaged(self, step: int) -> bool:
        """Whether it was passed over."""
        return step in self._damaged_steps

    def reasons(self, newest_good_step: int) -> dict[int, tuple[str, ...]]:
        """Return why each checkpoint is kept, none if it is not; one with a damaged manifest is not among them."""
        facts = [one for step in list_steps(self._checkpoints) if (one := self._facts(step))]
        return reasons_to_keep(
            facts,
            self._policy,
            newest_good_step,
            verified_step=self._verified_step,
            damaged_steps=self._damaged_steps,
        )

    def remove_superseded(self, newest_good_step: int) -> list[int]:
        """Remove what is not kept; answers the steps. `newest_good_step` was just written, or verified.

        Raises FencedError in an old attempt, whose checkpoints a newer one may need.
        """
        self._fence.check()
        finish_removals(self._checkpoints)
        superseded = [step for step, reasons in self.reasons(newest_good_step).items() if not reasons]
        for step in superseded:
            self._fence.check()
            remove_checkpoint(self._checkpoints, step)
        return superseded

    def _facts(self, step: int) -> Facts | None:
        directory = step_directory(self._checkpoints, step)
        try:
            key = self._key(step)
            if key not in self._known:
                manifest = read_manifest(directory)
                self._known[key] = Facts(step, manifest.kind, manifest.held_out_loss)
        except (CheckpointError, OSError):
            return None
        known = self._known[key]
        return Facts(step, known.kind, known.held_out_loss, self._is_uploaded(directory))

    def _key(self, step: int) -> tuple[int, int]:
        # The time tells a checkpoint from one of the same step that the run wrote when it was here again.
        return step, (step_directory(self._checkpoints, step) / MANIFEST_NAME).stat().st_mtime_ns


def remove_checkpoint(checkpoints: Path, step: int) -> None:
    """Take the checkpoint away by one rename, then remove its files. One that is gone already is no error."""
    aside = checkpoints / f"{_REMOVING}{step:08d}"
    shutil.rmtree(aside, ignore_errors=True)
    try:
        step_directory(checkpoints, step).rename(aside)
    except FileNotFoundError:
        return  # another process removed it
    sync_directory(checkpoints)
    shutil.rmtree(aside, ignore_errors=True)


def finish_removals(checkpoints: Path) -> None:
    """Remove the files of checkpoints that a kill left half removed."""
    for leftover in checkpoints.glob(f"{_REMOVING}*"):
        shutil.rmtree(leftover, ignore_errors=True)
