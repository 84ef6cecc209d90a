"""What the doctor found: one record a finding, and the report of them all. Judges nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from llama_dist.exit_codes import ExitCode

Verdict = Literal["ok", "warning", "failed", "skipped"]


@dataclass(frozen=True)
class CheckResult:
    """One finding of one check."""

    check: str
    host: str | None
    """The node that it is about; None if it is about all of them."""

    verdict: Verdict
    text: str
    advice: str = ""
    """What to do, where there is something to do."""


@dataclass(frozen=True)
class DoctorReport:
    """All findings, in the order of the checks."""

    hosts: tuple[str, ...]
    results: tuple[CheckResult, ...]
    seconds: float

    @property
    def failures(self) -> tuple[CheckResult, ...]:
        """What must be mended before a launch."""
        return tuple(result for result in self.results if result.verdict == "failed")

    @property
    def exit_code(self) -> ExitCode:
        """DONE, or BAD_INPUT where something must be mended."""
        return ExitCode.BAD_INPUT if self.failures else ExitCode.DONE

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "hosts": list(self.hosts),
            "verdict": "failed" if self.failures else "ok",
            "seconds": round(self.seconds, 3),
            "results": [asdict(result) for result in self.results],
        }


def summed_up(check: str, hosts: Sequence[str], findings: Mapping[str, CheckResult], fine: str) -> list[CheckResult]:
    """Return the findings in the order of `hosts`; where there is none, one result that says what is fine."""
    if not findings:
        return [CheckResult(check, None, "ok", fine)]
    return [findings[host] for host in hosts if host in findings]


def join_hosts(hosts: Sequence[str], limit: int = 4) -> str:
    """Name hosts in a sentence; of many, the first ones and how many more."""
    if len(hosts) <= limit:
        return ", ".join(hosts)
    return f"{', '.join(hosts[:limit])} and {len(hosts) - limit} more"
