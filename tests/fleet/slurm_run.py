"""A fake run that goes through a lab's Slurm, and what its tests ask Slurm about it."""

import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass

from fake_run import FakeRun

from launcher.lab.layout import Lab

LONG = 150.0  # seconds for a job to begin, on a busy machine; an idle one needs 10


def wait_until(condition, seconds: float = LONG, what: str = "it never came true") -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.1)


def ask_slurm(lab: Lab, *command: str) -> str:
    done = subprocess.run(
        command, check=False, env=os.environ | lab.environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


@dataclass
class SlurmRun:
    """A fake run whose launches reach the lab's Slurm."""

    lab: Lab
    run: FakeRun
    overrides: tuple[str, ...] = ("cluster.backend=slurm", "cluster.slurm.num_nodes=3")

    def __post_init__(self) -> None:
        self.run.environment |= self.lab.environment

    def submit(self, *overrides: str) -> str:
        """Launch from the login machine; answers the job's number."""
        code, output = self.run.launch(*self.overrides, *overrides, timeout=LONG)
        assert code == 0, output
        job = re.search(r"submitted as Slurm job (\d+); output in ", output)
        assert job, output
        return job[1]

    def ask(self, *command: str) -> str:
        return ask_slurm(self.lab, *command)

    def job(self, job: str) -> dict[str, str]:
        """What Slurm says of a job."""
        return dict(re.findall(r"(\S+?)=(\S*)", self.ask("scontrol", "show", "job", job, "--oneliner")))

    def end_of(self, job: str, seconds: float = LONG) -> tuple[str, str]:
        """State and `CODE:SIGNAL` of a job, once it has ended."""
        wait_until(
            lambda: self.job(job)["JobState"] not in ("PENDING", "RUNNING", "COMPLETING"),
            seconds,
            f"job {job} did not end: {self.output(job)}",
        )
        facts = self.job(job)
        return facts["JobState"], facts["ExitCode"]

    def output(self, job: str) -> str:
        path = self.run.run_directory / f"slurm-{job}.out"
        return path.read_text() if path.exists() else ""

    def beats(self, attempt: int, num_ranks: int = 3) -> list[dict]:
        """Wait until every rank of the attempt trains."""
        paths = [f"heartbeats/rank_{rank:05d}.json" for rank in range(num_ranks)]
        return [self.run.wait_for(path, seconds=LONG, attempt=attempt, phase="train") for path in paths]

    def reason(self, attempt: int) -> str:
        return self.run.json(f"attempts/{attempt:04d}/exit.json")["reason"]

    def hosts(self, attempt: int) -> list[str]:
        return [one["host"] for one in self.run.json(f"attempts/{attempt:04d}/plan.json")["machines"]]

    def inside(self, *starter: str) -> None:
        """Let what follows be launched by this command."""
        self.run.within = [*starter, sys.executable]
