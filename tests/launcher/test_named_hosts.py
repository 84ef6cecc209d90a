import subprocess

from launcher.backend import AttemptSpec, NodeSpec
from launcher.local_backend import LocalAttempt
from llama_dist.config import RunDirectory
from llama_dist.runtime.heartbeat import Heartbeat


def test_ranks_are_heard_on_a_host_that_the_run_knows_by_an_address_or_a_pods_name(tmp_path):
    """A rank writes down the host's own name; without its signs of life a hang would not be seen."""
    run = RunDirectory(tmp_path)
    run.heartbeats.mkdir()
    Heartbeat(run.heartbeat(0), 1).beat(5, "train")
    node = NodeSpec("tiny-0.tiny", ["true"], {}, [0])
    with subprocess.Popen(["true"]) as agent:
        attempt = LocalAttempt(agent, tmp_path / "agent.log", AttemptSpec(run, 1, [node], 1), node)
        (beat,) = attempt.beats().values()
    assert (beat.host, beat.step) == ("tiny-0.tiny", 5) and beat.process_state not in ("", "Z")
