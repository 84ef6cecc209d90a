"""Prints what launching costs: to the first step beside bare torchrun, a plan of 2,048 nodes, 64 hosts, a lost rank.

Each ratio is of measures that took turns in one run. The runs are real ones, of a tiny model on the CPU.
"""

import os
import statistics
import tempfile
from pathlib import Path

from measuring.fan_out import seconds_to_reach
from measuring.launches import TinyRuns, seconds_to_plan
from measuring.turns import print_machine, print_table, take_turns

NUM_ROUNDS = 5
NUM_HOSTS = 64
NUM_NODES = 2048


def main() -> None:
    """Measure each in turn and print the table."""
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    print_machine()
    with tempfile.TemporaryDirectory() as folder:
        runs = TinyRuns(Path(folder))
        runs.bare_torchrun()  # compiles DeepSpeed's communication op at first use
        rows = [*first_step_rows(runs), *plan_rows(Path(folder)), *fan_out_rows(), *recovery_rows(runs)]
    print_table(["what", "seconds", "beside", "asked for"], rows)


def first_step_rows(runs: TinyRuns) -> list[list[str]]:
    """From the start of the process to the first step's line in the metrics."""
    found = take_turns({"bare": runs.bare_torchrun, "launch": runs.launch}, num_rounds=NUM_ROUNDS)
    bare, launch = statistics.median(found["bare"]), statistics.median(found["launch"])
    told = f"{bare:.2f} s of bare torchrun: {launch / bare:.2f} x, {launch - bare:+.2f} s"
    return [["launch to the first step, 2 ranks", f"{launch:.2f}", told, "<= 1.05 x + 0.5 s"]]


def plan_rows(folder: Path) -> list[list[str]]:
    """Everything that `launch --dry-run` does, with the start of Python."""
    found = [seconds_to_plan(folder, NUM_NODES) for _ in range(3)]
    small = [seconds_to_plan(folder, 1) for _ in range(3)]
    told = f"{statistics.median(small):.2f} s for one node"
    seconds = f"{statistics.median(found):.2f}"
    return [[f"`launch --dry-run` for {NUM_NODES:,} nodes of 8 ranks", seconds, told, "<= 2 s"]]


def fan_out_rows() -> list[list[str]]:
    """Hosts that need a second to answer, as a log-in and a start of Python there do."""
    found = take_turns({"one": lambda: seconds_to_reach(1), "all": lambda: seconds_to_reach(NUM_HOSTS)}, num_rounds=3)
    one, many = statistics.median(found["one"]), statistics.median(found["all"])
    told = f"{one:.2f} s for one: {many / one:.2f} x"
    return [[f"{NUM_HOSTS} hosts reached by ssh, each answers after 1 s", f"{many:.2f}", told, "<= 3 x"]]


def recovery_rows(runs: TinyRuns) -> list[list[str]]:
    """A rank of two is killed by SIGKILL; from then on."""
    found = [runs.recovery() for _ in range(3)]
    noticed, torn_down, recovered, cold = (statistics.median(values) for values in zip(*found, strict=True))
    return [
        ["killed rank noticed", f"{noticed:.2f}", "", "<= 2 s"],
        ["all ranks of its attempt gone", f"{torn_down:.2f}", "", "<= 5 s"],
        [
            "first step of the next attempt done",
            f"{recovered:.2f}",
            f"{cold:.2f} s of the cold start before: {recovered / cold:.2f} x",
            "<= 1.2 x",
        ],
    ]


if __name__ == "__main__":
    main()
