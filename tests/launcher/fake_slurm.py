"""Programs on PATH that stand for Slurm's: `sbatch` takes every job, `squeue` knows those that a test names."""

import os


class FakeSlurm:
    """Answers as one Slurm for as long as the test runs."""

    def __init__(self, directory, monkeypatch):
        self.path = directory / "programs"
        self.path.mkdir()
        monkeypatch.setenv("PATH", f"{self.path}{os.pathsep}{os.environ['PATH']}")
        self.answer("sbatch", "echo 17")
        self.answer("scancel", f'echo "$@" >> {self.path}/cancelled; rm -f {self.path}/queue')
        self.answer(
            "squeue",
            f"[ -e {self.path}/queue ] && exec cat {self.path}/queue",
            "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1",
        )

    def answer(self, program: str, *lines: str) -> None:
        """Let the program be this script of a shell."""
        path = self.path / program
        path.write_text("\n".join(["#!/bin/sh", *lines, ""]))
        path.chmod(0o755)

    def queue(self, state: str) -> None:
        """Let `squeue` say so of every job."""
        (self.path / "queue").write_text(f"{state}\n")

    @property
    def cancelled(self) -> list[str]:
        """The arguments of each `scancel`."""
        path = self.path / "cancelled"
        return path.read_text().splitlines() if path.exists() else []
