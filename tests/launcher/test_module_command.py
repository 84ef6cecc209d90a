"""Programs of a launch import this program, not what lies about where they run."""

import subprocess
import sys

import pytest
from fake_run import ROOT

from launcher.fleet.placement import agent_program
from launcher.module_command import module_command


@pytest.fixture
def strewn(tmp_path):
    """A directory with files of names that are imported."""
    for name in ("queue.py", "launcher/__init__.py", "cluster.py", "llama_dist.py"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("import pathlib; pathlib.Path('executed').touch(); raise SystemExit(9)\n")
    return tmp_path


@pytest.mark.parametrize(
    "command", [agent_program(sys.executable, host="a"), module_command(sys.executable, "llama_dist.train")]
)
def test_a_stray_file_of_the_working_directory_is_not_executed(strewn, command):
    done = subprocess.run([*command, "--help"], check=False, cwd=strewn, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert not (strewn / "executed").exists()


def test_a_program_that_was_never_installed_is_still_found_where_it_lies():
    """-S leaves out what is installed."""
    program = "from launcher.module_command import module_command; print(*module_command('python', 'launcher.node'))"
    done = subprocess.run([sys.executable, "-S", "-c", program], check=False, cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.split() == ["python", "-m", "launcher.node"], done.stderr
