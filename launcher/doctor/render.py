"""The report as a table for a terminal. Computes nothing."""

import textwrap
from collections.abc import Sequence
from dataclasses import replace

from launcher.doctor.result import CheckResult, DoctorReport, join_hosts

_HEADER = ("check", "verdict", "node")
_MARKS = {"ok": "ok", "warning": "warning", "failed": "FAILED", "skipped": "skipped"}
_WIDTH = 120
_MIN_TEXT_WIDTH = 40


def render_report(report: DoctorReport) -> str:
    """Return one row a finding, what to do below it, and a last line that sums up."""
    findings = _merged(report.results)
    rows = [(result.check, _MARKS[result.verdict], result.host or "all") for result in findings]
    widths = [max(len(row[column]) for row in (_HEADER, *rows)) for column in range(len(_HEADER))]
    indent = "  ".join(" " * width for width in widths) + "  "
    lines = [f"{_padded(_HEADER, widths)}  finding"]
    for row, result in zip(rows, findings, strict=True):
        lines += _wrapped(f"{_padded(row, widths)}  ", indent, result)
    return "\n".join([*lines, "", _summary(report)])


def _merged(results: Sequence[CheckResult]) -> list[CheckResult]:
    """Make one row of the same finding on many nodes."""
    hosts_of: dict[CheckResult, list[str | None]] = {}
    for result in results:
        hosts_of.setdefault(replace(result, host=None), []).append(result.host)
    return [_merge(finding, hosts) for finding, hosts in hosts_of.items()]


def _merge(finding: CheckResult, hosts: Sequence[str | None]) -> CheckResult:
    names = [host for host in hosts if host is not None]
    if len(names) < 2:
        return replace(finding, host=hosts[0])
    return replace(finding, host=f"{len(names)} nodes", text=f"{join_hosts(names)}: {finding.text}")


def _wrapped(start: str, indent: str, result: CheckResult) -> list[str]:
    width = max(_WIDTH, len(indent) + _MIN_TEXT_WIDTH)
    lines = textwrap.wrap(start + _printable(result.text), width, subsequent_indent=indent, break_on_hyphens=False)
    if result.advice:
        lines += textwrap.wrap(f"{indent}-> {result.advice}", width, subsequent_indent=f"{indent}   ")
    return lines


def _printable(text: str) -> str:
    """What a node says may hold what a terminal would obey."""
    return "".join(character if character.isprintable() else "?" for character in text)


def _summary(report: DoctorReport) -> str:
    counts = {verdict: sum(result.verdict == verdict for result in report.results) for verdict in _MARKS}
    what = f"{counts['failed']} to be mended, {counts['warning']} warning(s)"
    found = what if report.failures else f"fit for a launch, {counts['warning']} warning(s)"
    skipped = f", {counts['skipped']} skipped" if counts["skipped"] else ""
    return f"{len(report.hosts)} node(s) in {report.seconds:.1f} s: {found}{skipped}"


def _padded(row: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
