"""A run whose data exists in name only, and its supervisor over fake workers in a process of its own."""

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent.parent

LAUNCH_PROGRAM = """
import os, sys
from pathlib import Path
from launcher.begin import begin
from launcher.console import Console
from launcher.edge import run_at_edge
from launcher.launch import LaunchRequest, check_launch

request = LaunchRequest(
    Path(sys.argv[1]), overrides=tuple(sys.argv[3:]), fresh=sys.argv[2] == "fresh", worker_module="fake_worker"
)
run_at_edge(lambda: begin(check_launch(request, os.environ), Console(), os.environ))
"""


@dataclass
class FakeRun:
    """A run file with its directory; `start` supervises it."""

    path: Path
    num_processes: int = 2
    environment: dict[str, str] = field(default_factory=dict)
    within: list[str] = field(default_factory=lambda: [sys.executable])
    """What runs the program of the launch; another may put `srun`, `mpirun` or a lab's node before it."""

    started: list[subprocess.Popen] = field(default_factory=list)

    @property
    def run_file(self) -> Path:
        return self.path / "run.yaml"

    @property
    def run_directory(self) -> Path:
        return self.path / "runs" / "fake"

    def script(self, *attempts: dict) -> None:
        (self.path / "script.json").write_text(json.dumps(attempts))

    def start(self, *overrides: str, fresh: bool = False) -> subprocess.Popen:
        processes = f"cluster.num_processes_per_node={self.num_processes}"
        program = self.path / "launch.py"
        program.write_text(LAUNCH_PROGRAM)
        command = [*self.within, str(program), str(self.run_file), "fresh" if fresh else "go", processes]
        environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{HERE}", "CUDA_VISIBLE_DEVICES": ""}
        process = subprocess.Popen(
            [*command, *overrides],
            cwd=self.path,
            env=environment | self.environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self.started.append(process)
        return process

    def launch(self, *overrides: str, fresh: bool = False, timeout: float = 180) -> tuple[int, str]:
        process = self.start(*overrides, fresh=fresh)
        output, _ = process.communicate(timeout=timeout)
        return process.returncode, output

    def json(self, path: str) -> dict:
        return json.loads((self.run_directory / path).read_text())

    def wait_for(self, path: str, *, seconds: float = 90, **expected) -> dict:
        """Wait until the JSON file holds these values."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            try:
                values = self.json(path)
            except (OSError, ValueError):
                values = {}
            if values and all(values.get(key) == value for key, value in expected.items()):
                return values
            time.sleep(0.02)
        raise AssertionError(f"{path} never held {expected}: {values}")


def write_fake_data(directory: Path) -> None:
    """As much of a dataset as a launcher looks at."""
    (directory / "data" / "shards").mkdir(parents=True)
    (directory / "data" / "shards.arrow").write_bytes(b"index")
    (directory / "data" / "manifest.json").write_text(json.dumps({"fingerprint": "f" * 32}))


def run_values(directory: Path) -> dict:
    return {
        "name": "fake",
        "runs_directory": str(directory / "runs"),
        "model": {
            "vocabulary_size": 64,
            "hidden_size": 16,
            "num_layers": 2,
            "num_heads": 2,
            "feed_forward_size": 32,
        },
        "data": {"sources": [{"path": str(directory / "data")}], "sequence_length_tokens": 16},
        "batch": {"global_batch_sequences": 4},
        "train": {"num_steps": 20, "precision": "fp32"},
        "metrics": {"mlflow": False},
        "supervision": {"first_backoff_seconds": 0.05, "max_backoff_seconds": 0.2},
    }
