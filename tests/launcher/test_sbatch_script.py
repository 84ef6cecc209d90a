import itertools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from data_pipeline.config import ConfigError, parse_config
from launcher.sbatch_script import Submission, render_sbatch_script
from llama_dist.config import ClusterConfig

HOSTILE = [
    "with space",
    "it's",
    'double"quote',
    "$(touch canary)",
    "`touch canary`",
    "${HOME}",
    "a;touch canary;",
    "a&&touch canary",
    "a|touch canary",
    "a>canary",
    "*?[a]~!",
    "-oProxyCommand=touch canary",
    "--wrap=touch canary",
    "#comment",
    "ünï✓",
]


def cluster(**values) -> ClusterConfig:
    return parse_config(ClusterConfig, {"backend": "slurm"} | values, where="test")


def submission(directory: Path, **values) -> Submission:
    plain = {
        "run_name": "run",
        "run_directory": directory / "runs" / "run",
        "request_file": directory / "runs" / "run" / "request.json",
        "working_directory": directory,
        "python": sys.executable,
        "environment": {"PATH": "/usr/bin:/bin"},
    }
    return Submission(**plain | values)


def run_script(script: str, directory: Path) -> subprocess.CompletedProcess[str]:
    file = directory / "script.sh"
    file.write_text(script)
    environment = {"PATH": os.environ["PATH"], "HOME": str(directory)}
    return subprocess.run(
        ["bash", str(file)], cwd=directory, env=environment, capture_output=True, text=True, check=False, timeout=60
    )


def fake_python(directory: Path) -> Path:
    """Write a program that says with which arguments and environment it was started."""
    directory.mkdir(parents=True, exist_ok=True)
    program = directory / "python"
    program.write_text(
        f"#!{sys.executable}\nimport json, os, sys\n"
        "print(json.dumps({'arguments': sys.argv[1:], 'value': os.environ.get('VALUE'), 'pid': os.getppid()}))\n"
    )
    program.chmod(0o755)
    return program


def directives(script: str) -> list[str]:
    return [line.removeprefix("#SBATCH ") for line in script.splitlines() if line.startswith("#SBATCH ")]


def test_the_script_says_what_the_config_asks_for(tmp_path):
    slurm = {
        "num_nodes": 4,
        "partition": "gpu,spare",
        "account": "lab",
        "qos": "high",
        "time_limit_minutes": 1440,
        "gpus_per_node": 8,
        "extra_options": ["--constraint=[rack1|rack2]", "--exclude=n[1-3]", "--contiguous"],
    }
    script = render_sbatch_script(cluster(slurm=slurm), submission(tmp_path))
    assert directives(script) == [
        "--job-name=run",
        "--nodes=4",
        "--ntasks-per-node=1",
        "--partition=gpu,spare",
        "--account=lab",
        "--qos=high",
        "--time=1440",
        "--gpus-per-node=8",
        "--exclusive",
        "--signal=B:TERM@120",
        "--requeue",
        "--open-mode=append",
        "--no-kill",
        "--export=NIL",
        f"--chdir={tmp_path}",
        f"--output={tmp_path}/runs/run/slurm-%j.out",
        "--constraint=[rack1|rack2]",
        "--exclude=n[1-3]",
        "--contiguous",
    ]
    assert script.startswith("#!/bin/sh\n")
    assert script.splitlines()[-1] == f"exec {sys.executable} -m launcher.submitted {tmp_path}/runs/run/request.json"


@pytest.mark.parametrize(
    ("values", "option"),
    [
        ({}, "--nodes=1"),
        ({"nodes": {"min": 2, "max": 8}}, "--nodes=2-8"),
        ({"nodes": {"min": 2, "max": 8}, "spare_nodes": 1}, "--nodes=3-9"),
        ({"spare_nodes": 2}, "--nodes=3"),
        ({"nodes": {"min": 2, "max": 8}, "slurm": {"num_nodes": 5}}, "--nodes=5"),
        ({"slurm": {"requeue": False}}, "--no-requeue"),
        ({"slurm": {"cpus_per_node": 32}}, "--cpus-per-task=32"),
        ({"slurm": {"signal_before_limit_seconds": 300}}, "--signal=B:TERM@300"),
    ],
)
def test_each_choice_is_one_option(tmp_path, values, option):
    assert option in directives(render_sbatch_script(cluster(**values), submission(tmp_path)))


@pytest.mark.parametrize("text", HOSTILE)
def test_paths_and_values_reach_the_program_as_they_are_and_execute_nothing(tmp_path, text):
    directory = tmp_path / text
    program = fake_python(directory / "bin")
    request = directory / "request.json"
    job = submission(
        tmp_path, run_directory=directory, request_file=request, python=str(program), environment={"VALUE": text}
    )
    done = run_script(render_sbatch_script(cluster(), job), tmp_path)
    assert done.returncode == 0 and done.stderr == ""
    told = json.loads(done.stdout)
    assert told["arguments"] == ["-m", "launcher.submitted", str(request)]
    assert told["value"] == text
    assert told["pid"] == os.getpid()  # exec: no shell stays in between, which would take the signals
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["script.sh", Path(text).parts[0]])


@pytest.mark.parametrize("text", ["a\nb", "a\r#SBATCH --wrap=x", "\x1b[31m", "a\0b", "a\u2028b", "a\udcffb"])
@pytest.mark.parametrize(
    "field", ["run_name", "run_directory", "request_file", "working_directory", "python", "environment"]
)
def test_nothing_can_begin_a_new_line(tmp_path, field, text):
    value = {"environment": {"VALUE": text}, "run_name": text, "python": f"/bin/{text}"}.get(field, tmp_path / text)
    with pytest.raises(ConfigError, match="unprintable") as raised:
        render_sbatch_script(cluster(), submission(tmp_path, **{field: value}))
    assert str(raised.value).isprintable()


@pytest.mark.parametrize("name", ["", "A B", "A=B", "BASH_FUNC_x%%", "A;touch canary", "1A", "Ä", "A\n"])
def test_a_variable_that_no_shell_can_set_is_refused(tmp_path, name):
    with pytest.raises(ConfigError, match="environment variable"):
        render_sbatch_script(cluster(), submission(tmp_path, environment={name: "x"}))


@pytest.mark.parametrize("path", [Path("runs/run"), Path("/runs/%u"), Path("/runs/a\\b")])
@pytest.mark.parametrize("field", ["run_directory", "working_directory"])
def test_a_path_that_slurm_would_read_otherwise_is_refused(tmp_path, field, path):
    with pytest.raises(ConfigError, match="Slurm needs an absolute path"):
        render_sbatch_script(cluster(), submission(tmp_path, **{field: path}))


@pytest.mark.parametrize(
    "values",
    [
        *({"partition": text} for text in ("a b", "-a", "a\nb", "a;b", "$(x)", "", "a#b", "a'b")),
        {"account": "--wrap"},
        {"qos": "a\n#SBATCH --uid=0"},
        {"time_limit_minutes": 2, "signal_before_limit_seconds": 120},
        {"signal_before_limit_seconds": 65536},
        {"num_nodes": 0},
        {"time_limit_minutes": "1-00:00:00"},
        *({"extra_options": [option]} for option in ("--a b=c", "-N4", "x", "--", "--mem=1 --wrap=x", "--mem=a\nb")),
        *({"extra_options": [option]} for option in ("--comment=a#b", "--comment='a'", "--mem=", "--Mem=1", "--mem=ü")),
        *(
            {"extra_options": [option]}
            for option in ("--wrap=x", "--wra=x", "--array=0-3", "--export=ALL", "--exp=ALL")
        ),
        *(
            {"extra_options": [option]}
            for option in ("--exp=ALL", "--output=/x", "--out=x", "--nodes=3", "--gpus=8", "--n=2")
        ),
        *({"extra_options": [option]} for option in ("--test-only", "--export-file=/x", "--no-requeue", "--ntasks=4")),
    ],
    ids=str,
)
def test_values_that_sbatch_would_read_otherwise_are_refused_with_the_config(values):
    with pytest.raises(ConfigError, match=r"slurm"):
        cluster(slurm=values)


@pytest.mark.parametrize("option", ["--mem=0", "--nodelist=n[1-4]", "--gres=gpu:h100:8", "--hint=nomultithread"])
def test_other_options_pass(tmp_path, option):
    assert (
        directives(render_sbatch_script(cluster(slurm={"extra_options": [option]}), submission(tmp_path)))[-1] == option
    )


def test_all_bad_options_are_told_at_once():
    with pytest.raises(ConfigError) as raised:
        cluster(slurm={"extra_options": ["--wrap=x", "-N4", "--mem=0", "--array=1"]})
    assert all(name in str(raised.value) for name in ("--wrap", "-N4", "--array"))


@pytest.mark.skipif(shutil.which("sbatch") is None, reason="Slurm is not installed")
def test_sbatch_itself_reads_what_was_meant(tmp_path):
    """`sbatch -vvv` lists what it found in a script, also where no controller answers."""
    conf = tmp_path / "slurm.conf"
    conf.write_text(
        "ClusterName=t\nSlurmctldHost=localhost(127.0.0.1)\nSlurmctldPort=1\nMessageTimeout=1\nNodeName=n1\n"
    )
    directory = tmp_path / 'it\'s "a" $(touch canary) #1'
    directory.mkdir()
    file = tmp_path / "script.sh"
    slurm = {"partition": "gpu", "time_limit_minutes": 60, "extra_options": ["--constraint=[a|b]"]}
    script = render_sbatch_script(cluster(slurm=slurm), submission(directory, run_directory=directory))
    file.write_text(script)
    sbatch = subprocess.Popen(
        ["sbatch", "-vvv", "--test-only", str(file)],
        cwd=tmp_path,
        env=os.environ | {"SLURM_CONF": str(conf)},
        stderr=subprocess.PIPE,
        text=True,
    )
    with sbatch:
        told = list(itertools.takewhile(lambda line: "end of defined options" not in line, sbatch.stderr))
        sbatch.kill()  # it would look for a controller for 10 s
    found = [line.partition('argument "')[2].strip().removesuffix('"') for line in told if 'argument "' in line]
    assert f"--output={directory}/slurm-%j.out" in found
    assert f"--chdir={directory}" in found
    assert {"--job-name=run", "--time=60", "--signal=B:TERM@120", "--constraint=[a|b]", "--export=NIL"} <= set(found)
    assert len(found) == len(directives(script))
    assert not (tmp_path / "canary").exists()
