"""Supervision with a real torchrun and real signals; the ranks are `fake_worker.py`. Each start takes some 3 s."""

import os
import signal
import socket
import stat
import time
from pathlib import Path

import psutil
import yaml

from launcher.console import Console
from launcher.launch import LaunchRequest, check_launch
from launcher.records import process_is_alive
from launcher.run_lookup import find_run
from launcher.status import read_status
from launcher.stop import stop_run

ENDLESS = {"steps": 100_000, "save_every": 5}


def live_ranks(run, num_ranks=2):
    beats = [run.json(f"heartbeats/rank_{rank:05d}.json") for rank in range(num_ranks)]
    return [beat["pid"] for beat in beats if process_is_alive(beat["pid"], beat["create_time"])]


def wait_until(condition, seconds=10.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.02)


def wait_for_ranks(run, attempt=1):
    for rank in range(2):
        run.wait_for(f"heartbeats/rank_{rank:05d}.json", attempt=attempt, phase="train")


def test_a_killed_rank_is_named_and_the_run_goes_on_from_its_checkpoint_to_the_end(fake_run):
    fake_run.script({"steps": 20, "ranks": {"1": {"kill_at": 7}}}, {"steps": 20})
    code, output = fake_run.launch()
    assert code == 0
    assert "attempt 1: rank 1 was killed by SIGKILL at step 7; resuming from step" in output
    assert "rank 0 begins at step 0" in output  # rank 0 is shown live
    assert "rank 1 begins" not in output
    assert fake_run.json("supervisor.json")["state"] == "done"
    assert fake_run.json("attempts/0001/exit.json")["exit_code"] == 75
    second = fake_run.json("attempts/0002/exit.json")
    assert (second["exit_code"], second["checkpoint_step_after"]) == (0, 20)
    assert "rank 1 begins" in (fake_run.run_directory / "attempts/0002/logs/rank_00001.out").read_text()
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in fake_run.run_directory.rglob("*.yaml")}
    assert len(modes) == 3  # run.yaml and two attempts
    assert set(modes.values()) == {0o600}
    assert stat.S_IMODE(fake_run.run_directory.stat().st_mode) == 0o700


def test_no_rank_outlives_a_supervisor_killed_by_sigkill_and_a_new_launch_continues(fake_run):
    fake_run.script(ENDLESS, {"steps": 0})
    supervisor = fake_run.start()
    wait_for_ranks(fake_run)
    assert len(live_ranks(fake_run)) == 2
    wait_until(lambda: any(fake_run.run_directory.glob("checkpoints/step_*/manifest.json")))

    code, output = fake_run.launch()  # a second supervisor is refused while the first one lives
    assert code == 78
    assert f"run `fake` is live (supervisor pid {supervisor.pid}" in output
    assert len(live_ranks(fake_run)) == 2

    agents = psutil.Process(supervisor.pid).children()
    supervisor.kill()
    supervisor.wait(10)
    psutil.wait_procs(agents, timeout=5)
    wait_until(lambda: not live_ranks(fake_run), seconds=5)
    assert not any(agent.is_running() for agent in agents)
    assert read_status(find_run(str(fake_run.run_directory), Path())).state == "lost"

    code, output = fake_run.launch()
    assert code == 0, output
    assert "continues; newest checkpoint: step" in output


def test_stop_lets_all_ranks_save_and_leaves_the_run_stopped(fake_run, capsys):
    fake_run.script(ENDLESS)
    supervisor = fake_run.start()
    wait_for_ranks(fake_run)
    run = find_run(str(fake_run.run_directory), Path())
    stop_run(run, Console())
    assert supervisor.wait(10) == 143
    assert "stopped: asked to stop; newest checkpoint: step" in capsys.readouterr().out
    for rank in range(2):
        assert fake_run.json(f"attempts/0001/exits/rank_{rank:05d}.json")["exit_code"] == 143
    status = read_status(run)
    assert (status.state, status.exit_code, status.attempt) == ("stopped", 143, 1)
    stop_run(run, Console())
    assert "is not live (stopped): nothing to stop" in capsys.readouterr().out


def test_ctrl_c_ends_a_rank_that_hangs_when_the_grace_is_over(fake_run):
    fake_run.script({**ENDLESS, "ranks": {"1": {"hang_at": 6}}})
    supervisor = fake_run.start("supervision.stop_grace_seconds=0.5")
    fake_run.wait_for("heartbeats/rank_00001.json", phase="hang")
    supervisor.send_signal(signal.SIGINT)
    output, _ = supervisor.communicate(timeout=20)
    assert supervisor.returncode == 143, output
    assert "ending the ranks without waiting any longer" in output
    assert not live_ranks(fake_run)
    assert fake_run.json("supervisor.json")["state"] == "stopped"


def test_detach_returns_once_the_run_is_up_and_it_goes_on_alone(fake_run, monkeypatch, capsys):
    from launcher.detach import launch_detached

    fake_run.script({"steps": 3})
    here = Path(__file__).parent
    monkeypatch.setenv("PYTHONPATH", f"{here.parent.parent}{os.pathsep}{here}")
    request = LaunchRequest(fake_run.run_file, worker_module="fake_worker")
    assert launch_detached(check_launch(request, os.environ), Console()) == 0
    pid = fake_run.json("supervisor.json")["pid"]
    assert f"supervisor {pid} runs in the background" in capsys.readouterr().out
    assert os.getsid(pid) == pid
    fake_run.wait_for("supervisor.json", state="done")
    os.waitpid(pid, 0)
    assert "rank 0 begins at step 0" in (fake_run.run_directory / "launch.log").read_text()


def test_a_port_in_use_is_refused_before_anything_is_written(fake_run):
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(1)
        port = server.getsockname()[1]
        code, output = fake_run.launch(f"cluster.rendezvous_port={port}")
    assert code == 78
    assert f"rendezvous_port {port} is in use" in output
    assert not fake_run.run_directory.exists()


def test_a_run_that_exists_with_another_config_is_refused_and_keeps_its_own(fake_run):
    fake_run.run_directory.mkdir(parents=True)
    values = yaml.safe_load(fake_run.run_file.read_text())
    values["train"]["seed"] = 5
    (fake_run.run_directory / "run.yaml").write_text(yaml.safe_dump(values))
    (fake_run.run_directory / "checkpoints" / "step_00000005").mkdir(parents=True)
    code, output = fake_run.launch()
    assert code == 78
    assert "[refused] train.seed: 5 -> 0" in output
    assert not (fake_run.run_directory / "attempts").exists()
    assert yaml.safe_load((fake_run.run_directory / "run.yaml").read_text())["train"]["seed"] == 5
