"""What an attempt says of the code that it ran; the work tree is a real one."""

import json
import stat
import subprocess

import pytest

from cluster.facts import Gpu, MachineFacts
from launcher.attempt_files import write_hosts
from launcher.code_record import installed_packages, write_code
from llama_dist.config import RunDirectory


def git(directory, *arguments):
    identity = ("-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "commit.gpgsign=false")
    subprocess.run(["git", "-C", str(directory), *identity, *arguments], check=True, capture_output=True)


@pytest.fixture
def source(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    git(source, "init", "-q")
    (source / "a.py").write_text("x = 1\n")
    git(source, "add", "a.py")
    git(source, "commit", "-q", "-m", "one")
    return source


@pytest.fixture
def attempt(tmp_path):
    directory = tmp_path / "attempt"
    directory.mkdir()
    return directory


def test_a_clean_tree_has_its_revision_and_no_diff(source, attempt):
    write_code(attempt, source)
    code = json.loads((attempt / "code.json").read_text())
    assert len(code["git_revision"]) == 40 and code["git_dirty"] is False
    assert not (attempt / "code.diff").exists()


def test_changes_are_kept_as_a_diff_that_applies_for_the_owner_alone(source, attempt):
    (source / "a.py").write_text("x = 2\n")
    git(source, "add", "a.py")
    (source / "a.py").write_text("x = 2\ny = 3\n")
    write_code(attempt, source)
    diff = attempt / "code.diff"
    assert stat.S_IMODE(diff.stat().st_mode) == 0o600
    git(source, "reset", "-q", "--hard")
    git(source, "apply", str(diff))
    assert (source / "a.py").read_text() == "x = 2\ny = 3\n"


def test_a_huge_diff_is_cut_and_says_so(source, attempt):
    (source / "a.py").write_text("line\n" * 1_000_000)
    write_code(attempt, source)
    content = (attempt / "code.diff").read_bytes()
    assert len(content) < (1 << 20) + 100 and content.endswith(b"larger than 1 MiB]\n")


def test_programs_that_the_work_tree_names_for_diffs_are_not_started(source, attempt, tmp_path):
    canary, program = tmp_path / "canary", tmp_path / "program"
    program.write_text(f"#!/bin/sh\ntouch {canary}\ncat\n")
    program.chmod(0o755)
    for setting in ("diff.external", "diff.x.textconv", "diff.x.command", "core.fsmonitor"):
        git(source, "config", setting, str(program))
    (source / ".gitattributes").write_text("*.py diff=x\n")
    (source / "a.py").write_text("x = 2\n")
    write_code(attempt, source)
    assert b"+x = 2" in (attempt / "code.diff").read_bytes()
    assert not canary.exists()


def test_a_directory_that_is_no_work_tree_has_versions_alone(tmp_path, attempt):
    write_code(attempt, tmp_path)
    code = json.loads((attempt / "code.json").read_text())
    assert code["git_revision"] is None and code["packages"]["torch"]


def test_everything_installed_is_listed_with_its_version():
    import psutil
    import torch

    packages = installed_packages()
    assert packages["torch"] == torch.__version__ and packages["psutil"] == psutil.__version__
    assert packages["llama-dist"] and len(packages) > 20


def test_hosts_are_recorded_in_the_order_of_their_ranks(tmp_path):
    run = RunDirectory(tmp_path)
    run.attempt(3).mkdir(parents=True)
    machines = [MachineFacts("b", 2, 1 << 34, ()), MachineFacts("a", 4, 1 << 35, (Gpu(0, "H100", 1 << 36),))]
    write_hosts(run, 3, machines)
    hosts = json.loads((run.attempt(3) / "hosts.json").read_text())["hosts"]
    assert [host["host"] for host in hosts] == ["b", "a"] and hosts[1]["gpus"][0]["name"] == "H100"
