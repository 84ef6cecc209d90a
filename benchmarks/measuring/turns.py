"""Competitors take turns in one run, so that a noisy machine slows all of them; prints one markdown table."""

import os
import platform
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PEERS_PYTHON = ROOT / ".venv-peers" / "bin" / "python"


def run_beside_peers() -> None:
    """Start this program again in the peers' environment, where both they and our package can be imported."""
    if Path(sys.prefix).resolve() == PEERS_PYTHON.parents[1].resolve():
        return
    if not PEERS_PYTHON.exists():
        raise SystemExit(f"{PEERS_PYTHON} is missing: run `make bench`, which installs the peers")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    os.execve(PEERS_PYTHON, [str(PEERS_PYTHON), *sys.argv], environment)  # noqa: S606 - this program itself


def take_turns(
    competitors: dict[str, Callable[[], float]], *, num_rounds: int, skip_slow_after: int = 0
) -> dict[str, list[float]]:
    """Call each competitor once a round; each answers its own measure. One that fails is told and left out."""
    results: dict[str, list[float]] = {name: [] for name in competitors}
    for number in range(num_rounds):
        for name, competitor in competitors.items():
            if len(results[name]) < number:
                continue
            try:
                results[name].append(competitor())
            except Exception as error:  # noqa: BLE001 - a peer that does not work here must not end the others' run
                print(f"{name}: {type(error).__name__}: {error}", file=sys.stderr)
    return results


def median(values: Sequence[float]) -> float | None:
    """Return the median, or None where nothing was measured."""
    return statistics.median(values) if values else None


def shown(value: float | None, digits: int = 3) -> str:
    """Return a number with `digits` significant digits, or a dash."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.{digits}g}"


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a markdown table."""
    print("| " + " | ".join(columns) + " |\n|" + "---|" * len(columns))
    for row in rows:
        print("| " + " | ".join(row) + " |")
    print(flush=True)


def print_machine() -> None:
    """Print what the numbers were measured on."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    load = os.getloadavg()[0]
    print(
        f"\n{len(os.sched_getaffinity(0))} cores ({model}), Python {platform.python_version()}, {platform.system()} "
        f"{platform.release()}, load {load:.1f} at the start. Medians; only ratios of one run mean something.\n"
    )
