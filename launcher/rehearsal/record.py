"""What a rehearsal found: the record that stays with the run, the verdict that follows, and its table. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from launcher.rehearsal.evidence import Evidence
from launcher.rehearsal.faults import Fault
from launcher.verdict import Topology

_ABSENT = "-"
_TITLES = ("fault", "where", "noticed", "next step", "verdict")
_MOST_SAID = 116  # characters below the table's row; the record has the whole line


@dataclass(frozen=True)
class FaultResult:
    """What became of one fault."""

    fault: Fault
    where: str
    """Whom it hit, for example `rank 1 on node2`; empty where it was not tried."""

    step: int
    """Newest step when it was injected."""

    said: str = ""
    """What the supervisor, or the run, said of it: one line."""

    noticed_seconds: float | None = None
    """From the injection until that was said."""

    new_step_seconds: float | None = None
    """From the injection until a step was done that had not been done before it was noticed."""

    aftermath: str = ""
    """What else came of it, for example `grown again to 3 nodes in 21 s`."""

    problem: str = ""
    """Why the run did not recover from it; empty where it did."""

    @property
    def has_recovered(self) -> bool:
        """The verdict."""
        return not self.problem


@dataclass(frozen=True)
class Rehearsal:
    """The record of one rehearsal: `verdict.json`."""

    run: str
    date: str
    """When it began, ISO 8601, UTC."""

    code: Mapping[str, Any]
    config_hash: str
    """SHA-256 of the user's resolved config."""

    num_nodes: int
    topology: Topology
    """At full size."""

    changes: tuple[str, ...]
    """What differed from the user's config so that it fits the lab."""

    results: tuple[FaultResult, ...]
    stop_problem: str
    """Why the run did not end well when it was asked to; empty where it did."""

    evidence: Evidence

    @property
    def result(self) -> Literal["recovered", "not recovered"]:
        """The verdict."""
        has_recovered = all(one.has_recovered for one in self.results)
        return "recovered" if has_recovered and not self.stop_problem and self.evidence.is_clean else "not recovered"

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        results = [asdict(one) | {"recovered": one.has_recovered} for one in self.results]
        evidence = asdict(self.evidence) | {"clean": self.evidence.is_clean}
        return {"verdict": self.result, **asdict(self), "results": results, "evidence": evidence}


def render_rehearsal(rehearsal: Rehearsal) -> str:
    """Return the table, and the verdict as its last line."""
    head = f"run `{rehearsal.run}` on {rehearsal.num_nodes} node(s) of a lab: {rehearsal.topology}"
    changed = [f"  changed to fit: {change}" for change in rehearsal.changes]
    titles, *rows = _aligned([_TITLES, *(_row(one) for one in rehearsal.results)])
    told = [line for row, one in zip(rows, rehearsal.results, strict=True) for line in (row, *_said(one))]
    return "\n".join([head, *changed, titles, *told, *_checks(rehearsal), f"verdict: {rehearsal.result.upper()}"])


def _row(result: FaultResult) -> tuple[str, ...]:
    verdict = "recovered" if result.has_recovered else f"NOT: {result.problem}"
    if result.aftermath:
        verdict += f"; {result.aftermath}"
    return (
        result.fault.value,
        result.where or _ABSENT,
        _seconds(result.noticed_seconds),
        _seconds(result.new_step_seconds),
        verdict,
    )


def _said(result: FaultResult) -> list[str]:
    if not result.said:
        return []
    return [f"    {result.said[:_MOST_SAID].rstrip()}{' ...' if len(result.said) > _MOST_SAID else ''}"]


def _seconds(seconds: float | None) -> str:
    return _ABSENT if seconds is None else f"{seconds:.1f} s"


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]


def _checks(rehearsal: Rehearsal) -> list[str]:
    evidence = rehearsal.evidence
    rows = [
        ("stop", rehearsal.stop_problem, "ended by itself when asked, and saved"),
        ("samples", _at_step("wrong", evidence.first_step_with_wrong_samples), _each_once(evidence)),
        ("losses", _loss_problem(evidence), _loss_text(evidence)),
    ]
    return [f"  {name:<8} {'FAIL' if problem else 'ok  '}  {problem or good}" for name, problem, good in rows]


def _each_once(evidence: Evidence) -> str:
    return f"each of all {evidence.num_steps} steps once"


def _loss_problem(evidence: Evidence) -> str:
    missing, other = evidence.first_step_without_loss, evidence.first_step_with_other_loss
    told = [
        _at_step("missing", missing),
        _at_step(f"repeated with a difference of {evidence.largest_difference:.1e} of the value, first", other),
    ]
    return "; ".join(text for text in told if text)


def _loss_text(evidence: Evidence) -> str:
    alike, elsewhere = evidence.num_repeated_alike, evidence.num_repeated_elsewhere
    return (
        f"{alike + elsewhere} step(s) done again: {alike} on the same topology, equal bit for bit; {elsewhere} on "
        f"another, within {evidence.largest_difference:.1e} of the value, allowed {evidence.tolerance:.0e}"
    )


def _at_step(what: str, step: int | None) -> str:
    return "" if step is None else f"{what} in step {step}"
