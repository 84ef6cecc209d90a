"""What `verify-resume` found: the record that stays with the run, the verdict that follows, and its table. Pure."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from launcher.resume_evidence import LossDifference

# Another topology adds in another order. Measured with 3 layers over 4 and 20 steps, ZeRO-1 on 2 ranks against ZeRO 2
# and 3, one rank and a pipeline: losses apart by 2e-7 in fp32 and 5e-5 in bf16 and fp16, states of any tensor by 3e-6,
# 6e-3 and 2e-3. More layers and ranks may take some tens of times that. A tensor that was not trained differs by 1, and
# one whose moments were forgotten at the half by 0.6, but the losses then by no more than 4e-4: the states decide.
_LOSS_TOLERANCE = {"fp32": 1e-5, "bf16": 1e-3, "fp16": 1e-3}
_STATE_TOLERANCE = {"fp32": 1e-3, "bf16": 1e-1, "fp16": 1e-1}


@dataclass(frozen=True)
class Topology:
    """How many ranks, and what they were."""

    world_size: int
    pipeline_stages: int
    zero_stage: int

    def __str__(self) -> str:
        return f"{self.world_size} rank(s), {self.pipeline_stages} pipeline stage(s), ZeRO-{self.zero_stage}"


@dataclass(frozen=True)
class Tolerance:
    """By how much a run may differ from the straight one; 0 is bit for bit."""

    loss: float = 0.0
    """Relative to the straight run's loss of the step."""

    state: float = 0.0
    """By tensor, L2 norms: of weights (`fp32`) relative to their movement in the second half, of moments (`exp_avg`,
    `exp_avg_sq`) relative to themselves."""


@dataclass(frozen=True)
class Finding:
    """One sub-run against the straight one."""

    run: str
    """`interrupted` or `moved`."""

    story: str
    """What was done to it, for a person."""

    topology: Topology
    tolerance: Tolerance
    losses: LossDifference
    first_step_with_other_samples: int | None
    checkpoints: Mapping[str, Any]
    """What `llama_dist.checkpoint.compare` says: `a` is the straight run's checkpoint."""

    @property
    def faulty_states(self) -> list[str]:
        """States that differ by more than is allowed in any tensor."""
        states = self.checkpoints["states"].items()
        if not self.tolerance.state:
            return [name for name, one in states if not one["equal"]]
        return [name for name, one in states if not one["largest_share"] <= self.tolerance.state]

    @property
    def first_step(self) -> int | None:
        """First step that differs in loss or samples; None if only the checkpoints do, or nothing."""
        steps = (self.losses.first_step, self.first_step_with_other_samples)
        return min((step for step in steps if step is not None), default=None)

    @property
    def is_equal(self) -> bool:
        """Whether everything is as it must be."""
        return self.first_step is None and not self.faulty_states and not self.checkpoints["fields"]


@dataclass(frozen=True)
class Verdict:
    """The record of one verification: `verdict.json`."""

    run: str
    date: str
    """When it began, ISO 8601, UTC."""

    code: Mapping[str, Any]
    config_hash: str
    """SHA-256 of the user's resolved config."""

    num_steps: int
    topology: Topology
    findings: tuple[Finding, ...]

    @property
    def result(self) -> Literal["equal", "different"]:
        """The verdict."""
        return "equal" if all(one.is_equal for one in self.findings) else "different"

    @property
    def first_step(self) -> int | None:
        """First step of any sub-run that differs."""
        return min((one.first_step for one in self.findings if one.first_step is not None), default=None)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        findings = [asdict(one) | {"equal": one.is_equal} for one in self.findings]
        return {
            "verdict": self.result,
            "first_step_that_differs": self.first_step,
            **asdict(self),
            "findings": findings,
        }


def tolerance_of(precision: str) -> Tolerance:
    """Return what the rounding of this precision needs where additions come in another order."""
    return Tolerance(_LOSS_TOLERANCE[precision], _STATE_TOLERANCE[precision])


def render_verdict(verdict: Verdict) -> str:
    """Return the table, and the verdict as its last line."""
    head = f"run `{verdict.run}`, {verdict.num_steps} steps on {verdict.topology}; straight, and:"
    lines = [head, *(line for finding in verdict.findings for line in _render_finding(finding))]
    where = "" if verdict.first_step is None else f": the first step that differs is {verdict.first_step}"
    return "\n".join([*lines, f"verdict: {verdict.result.upper()}{where}"])


def _render_finding(finding: Finding) -> list[str]:
    tolerance, losses, samples = finding.tolerance, finding.losses, finding.first_step_with_other_samples
    rows = [("losses", _loss_text(losses, tolerance), losses.first_step is None)]
    rows.append(("samples", "each once" if samples is None else f"others in step {samples}", samples is None))
    for name, one in finding.checkpoints["states"].items():
        text = f"bit for bit, hash {one['hash_a']}"
        if not one["equal"]:
            allowed = f", allowed {tolerance.state:.0e}" if tolerance.state else ""
            measure = "its movement since the half" if name == "fp32" else "itself"
            share = f"by {one['largest_share']:.1e} of {measure} in {one['share_tensor']}{allowed}"
            text = f"differ by {one['largest_difference']:.1e} in {one['tensor']}, {share}"
        rows.append((name, text, name not in finding.faulty_states))
    rows += [(name, f"{pair[0]} against {pair[1]}", False) for name, pair in finding.checkpoints["fields"].items()]
    return [f"  {finding.run}: {finding.story}"] + [
        f"    {name:<12}{'ok  ' if is_equal else 'FAIL'}  {text}" for name, text, is_equal in rows
    ]


def _loss_text(losses: LossDifference, tolerance: Tolerance) -> str:
    if not losses.largest and losses.first_step is None:
        return f"{losses.num_compared} equal bit for bit"
    allowed = f", allowed {tolerance.loss:.0e}" if tolerance.loss else ""
    since = "" if losses.first_step is None else f", first in step {losses.first_step}"
    return f"differ by {losses.largest:.1e} of their value{allowed}{since}"
