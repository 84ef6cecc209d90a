"""The commands as a user types them, each in a process of its own: exit code, stdout, stderr."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent.parent


def llama_dist(*arguments, cwd):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "", "NO_COLOR": "1"}
    command = [sys.executable, "-m", "launcher", *map(str, arguments)]
    return subprocess.run(command, check=False, cwd=cwd, env=environment, capture_output=True, text=True, timeout=60)


def python(program):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", program]
    return subprocess.run(command, check=False, env=environment, capture_output=True, text=True, timeout=60)


def test_help_imports_nothing_heavy(tmp_path):
    program = (
        "import sys\n"
        "from launcher.cli import app\n"
        "app(['--help'], standalone_mode=False)\n"
        "heavy = {'torch', 'deepspeed', 'mlflow', 'numpy', 'pyarrow', 'pydantic', 'datasets', 'sentencepiece'}\n"
        "sys.exit(f'imported {sorted(heavy & set(sys.modules))}' if heavy & set(sys.modules) else 0)\n"
    )
    done = python(program)
    assert done.returncode == 0, done.stderr


def test_a_plan_never_imports_torch(fake_run):
    program = (
        "import sys\n"
        "from launcher.cli import app\n"
        f"app(['plan', {str(fake_run.run_file)!r}], standalone_mode=False)\n"
        "import launcher.detach, launcher.render, launcher.stop\n"
        "heavy = {'torch', 'deepspeed', 'mlflow'}\n"
        "sys.exit(f'imported {sorted(heavy & set(sys.modules))}' if heavy & set(sys.modules) else 0)\n"
    )
    done = python(program)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("verb", ["plan", "launch", "status", "stop", "demo"])
def test_every_verb_of_the_launcher_has_help_with_an_example(verb, tmp_path):
    done = llama_dist(verb, "--help", cwd=tmp_path)
    assert done.returncode == 0
    assert f"Example: llama-dist {verb}" in done.stdout


def test_a_dry_run_prints_the_plan_and_creates_nothing(fake_run):
    before = sorted(fake_run.path.rglob("*"))
    done = llama_dist("launch", fake_run.run_file, "--dry-run", "--json", cwd=fake_run.path)
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert plan["world_size"] == 1
    assert plan["worker_command"][1:4] == ["-P", "-m", "llama_dist.train"]
    assert llama_dist("plan", fake_run.run_file, "--json", cwd=fake_run.path).stdout == done.stdout
    assert sorted(fake_run.path.rglob("*")) == before


def test_wrong_use_ends_with_2_and_says_why(tmp_path):
    done = llama_dist("plan", cwd=tmp_path)
    assert done.returncode == 2
    assert "RUN.yaml" in done.stderr


def test_a_reported_error_is_one_message_without_a_traceback(fake_run):
    done = llama_dist("plan", fake_run.run_file, "--set", "train.num_stepz=3", cwd=fake_run.path)
    assert done.returncode == 78
    assert "did you mean `num_steps`?" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_an_unexpected_error_is_a_traceback_and_70():
    program = "from launcher.edge import run_at_edge\nrun_at_edge(lambda: 1 // 0)\n"
    done = python(program)
    assert done.returncode == 70
    assert "ZeroDivisionError" in done.stderr


def test_ctrl_c_before_a_run_begins_ends_with_130_and_one_line(fake_run):
    program = f"""
import sys
import launcher.execute
from launcher.cli import main
def interrupt(*_):
    raise KeyboardInterrupt
launcher.execute.check_before_launch = interrupt
sys.argv = ["llama-dist", "launch", {str(fake_run.run_file)!r}]
main()
"""
    done = python(program)
    assert done.returncode == 130, done.stderr
    assert done.stdout + done.stderr == "llama-dist: interrupted before the run began\n"


@pytest.mark.parametrize("fault", ["directory", "manifest"])
def test_missing_data_is_told_before_anything_is_written(fake_run, fault):
    (fake_run.path / "data" / "manifest.json").unlink()
    if fault == "directory":
        shutil.rmtree(fake_run.path / "data")
    done = llama_dist("launch", fake_run.run_file, cwd=fake_run.path)
    assert done.returncode == 78
    assert str(fake_run.path / "data") in done.stderr
    assert "llama-dist data prepare" in done.stderr
    assert not (fake_run.path / "runs").exists()


HOSTILE = ["$(touch canary)", "`touch canary`", "x; touch canary", "a b", "-x", "../../escaped", "x\ny", ""]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_run_name_is_refused_and_nothing_runs_in_a_shell(fake_run, name):
    values = yaml.safe_load(fake_run.run_file.read_text()) | {"name": name}
    fake_run.run_file.write_text(yaml.safe_dump(values))
    before = sorted(fake_run.path.parent.rglob("*"))
    done = llama_dist("launch", fake_run.run_file, "--detach", cwd=fake_run.path)
    assert done.returncode == 78
    assert "name" in done.stderr
    assert sorted(fake_run.path.parent.rglob("*")) == before


def test_hostile_paths_stay_single_arguments(fake_run):
    data = fake_run.path / "$(touch canary) data;x"
    (fake_run.path / "data").rename(data)
    runs = fake_run.path / "runs $(touch canary)"
    override = ["--set", f"data.sources.0.path={data}", "--set", f"runs_directory='{runs}'"]
    done = llama_dist("plan", fake_run.run_file, *override, "--json", cwd=fake_run.path)
    assert done.returncode == 0, done.stderr
    assert str(runs / "fake") in json.loads(done.stdout)["worker_command"]
    assert not list(fake_run.path.rglob("canary"))


def test_status_and_stop_of_an_unknown_run_say_where_they_looked(tmp_path):
    for verb in ("status", "stop"):
        done = llama_dist(verb, "nowhere", cwd=tmp_path)
        assert done.returncode == 78
        assert "runs/nowhere" in done.stderr


def test_the_cluster_files_of_the_repository_plan(fake_run):
    for name, world_size in (("local", 1), ("local-2", 2), ("local-4", 4)):
        cluster = ROOT / "configs" / "cluster" / f"{name}.yaml"
        done = llama_dist("plan", fake_run.run_file, "--cluster", cluster, "--json", cwd=fake_run.path)
        assert json.loads(done.stdout)["world_size"] == world_size
