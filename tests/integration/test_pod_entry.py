"""The container entry of the Kubernetes manifest, run as the manifest gives it: two pods, the real trainer.

A pod is a node of a lab, whose hosts file gets the names that the job's headless service would give. What differs from
a cluster: the files of the ConfigMap lie in a directory of the test, and the image is this machine.
"""

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from cluster_in_a_box import lab_for_tests
from run_evidence import losses

from launcher.kubernetes_pod import CONFIG_DIRECTORY
from launcher.lab.inside import command_inside
from launcher.status import read_status
from llama_dist.config import RunDirectory

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

LONG = 900.0  # on a busy machine, where a step may take as long as a run on an idle one
SECRETS = {"join/key": "a secret of the cluster"}


@dataclass
class Pods:
    """The pods of a manifest's job, on the nodes of a lab."""

    lab: Any
    manifest: list[dict[str, Any]]
    config_directory: Path
    started: list[subprocess.Popen] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.objects = {one["kind"]: one for one in self.manifest}
        self.job = self.objects["Job"]["metadata"]["name"]
        (self.container,) = self.objects["Job"]["spec"]["template"]["spec"]["containers"]
        self.config_directory.mkdir(exist_ok=True)
        for name, text in self.objects["ConfigMap"]["data"].items():
            (self.config_directory / name).write_text(text)
        service = self.objects["Service"]["metadata"]["name"]
        lines = [f"{node.address} {self.job}-{index}.{service}" for index, node in enumerate(self.lab.nodes)]
        for node in self.lab.nodes:
            with Path(f"/etc/netns/{node.namespace}/hosts").open("a") as hosts:
                hosts.write("\n".join(lines) + "\n")

    def environment(self, index: int) -> dict[str, str]:
        """What the image has, what the manifest sets, and what Kubernetes sets in a pod of an Indexed Job."""
        found = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HOME": "/root"}
        found |= {"JOB_COMPLETION_INDEX": str(index), "CUDA_VISIBLE_DEVICES": ""}
        for one in self.container["env"]:
            source = one.get("valueFrom", {})
            if secret := source.get("secretKeyRef"):
                found[one["name"]] = SECRETS[f"{secret['name']}/{secret['key']}"]
            elif source:
                assert source == {"fieldRef": {"fieldPath": "metadata.name"}}
                found[one["name"]] = f"{self.job}-{index}-abcde"
            else:
                found[one["name"]] = one["value"]
        return found

    def run_in(self, index: int, command: list[str], **options: Any) -> subprocess.Popen:
        mapped = [word.replace(CONFIG_DIRECTORY, str(self.config_directory)) for word in command]
        process = subprocess.Popen(
            command_inside(self.lab.nodes[index], mapped),
            cwd=self.container["workingDir"],
            env=self.environment(index),
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            **options,
        )
        self.started.append(process)
        return process

    def start(self) -> list[subprocess.Popen]:
        return [self.run_in(index, self.container["command"]) for index in range(len(self.lab.nodes))]

    def probe(self, index: int) -> int:
        process = self.run_in(index, self.container["livenessProbe"]["exec"]["command"])
        process.communicate(timeout=60)
        return process.returncode

    def codes(self, processes: list[subprocess.Popen]) -> tuple[list[int], str]:
        outputs = [process.communicate(timeout=LONG)[0] for process in processes]
        return [process.returncode for process in processes], "\n".join(outputs)


@pytest.fixture
def pods(llama_dist, write_run, tmp_path):
    """Two pods of a pipeline over both, from the manifest that `launch` prints."""
    train, supervision = {"num_steps": 500, "precision": "fp32"}, {"hang_timeout_min_seconds": None}
    run_file = write_run("podded", parallel={"pipeline_stages": 2}, train=train, supervision=supervision)
    kubernetes = {"image": "registry/llama-dist:1", "claim": "disk", "mount_path": str(tmp_path), "num_nodes": 2}
    cluster_file = tmp_path / "cluster.yaml"
    cluster = {"backend": "kubernetes", "kubernetes": kubernetes | {"join_key_secret": "join/key"}}
    cluster_file.write_text(yaml.safe_dump(cluster | {"node_timeout_seconds": 60.0}))
    printed = llama_dist("launch", run_file, "--cluster", cluster_file)
    assert printed.returncode == 0, printed.stderr
    with lab_for_tests("p", num_nodes=2) as lab:
        pods = Pods(lab, list(yaml.safe_load_all(printed.stdout)), tmp_path / "etc")
        yield pods
        for process in pods.started:
            process.kill()
            process.wait(10)


def wait_for_step(run: RunDirectory, step: int, processes: list[subprocess.Popen]) -> None:
    deadline = time.monotonic() + LONG
    while not any(rank.step >= step for rank in read_status(run).ranks):
        assert time.monotonic() < deadline and all(process.poll() is None for process in processes)
        time.sleep(0.05)


def test_pods_train_answer_their_probe_stop_together_and_go_on(pods, tmp_path):
    run = RunDirectory(tmp_path / "runs" / "podded")
    assert pods.probe(0) == 1, "nothing runs yet"
    first = pods.start()
    wait_for_step(run, 5, first)
    assert [pods.probe(index) for index in range(2)] == [0, 0]
    secret = SECRETS["join/key"].encode()
    assert not any(secret in path.read_bytes() for path in run.path.rglob("*") if path.is_file())
    first[1].send_signal(signal.SIGTERM)  # an eviction of the pod that does not supervise
    codes, output = pods.codes(first)
    assert codes == [143, 143], output
    saved = read_status(run).newest_checkpoint_step
    assert saved is not None and saved >= 5

    config = yaml.safe_load((pods.config_directory / "run.yaml").read_text())
    config["train"]["num_steps"] = saved + 5
    (pods.config_directory / "run.yaml").write_text(yaml.safe_dump(config))
    codes, output = pods.codes(pods.start())
    assert codes == [0, 0], output
    assert sorted(losses(run)) == list(range(1, saved + 6))


def test_a_pod_whose_secret_is_another_never_joins(pods, monkeypatch):
    """It is not let in, and the supervisor that misses it ends with a code that has the pods started again."""
    cluster_file, run_file = (pods.config_directory / name for name in ("cluster.yaml", "run.yaml"))
    cluster = yaml.safe_load(cluster_file.read_text()) | {"connect_timeout_seconds": 3.0}
    cluster_file.write_text(yaml.safe_dump(cluster))
    config = yaml.safe_load(run_file.read_text())
    config["supervision"]["wait_for_nodes_minutes"] = 0.05
    run_file.write_text(yaml.safe_dump(config))
    true_one = pods.run_in(0, pods.container["command"])
    monkeypatch.setitem(SECRETS, "join/key", "guessed")
    guessing = pods.run_in(1, pods.container["command"])
    output, _ = true_one.communicate(timeout=LONG)
    assert true_one.returncode == 75, output
    assert "1 node(s) can be used, the run needs 2" in output
    assert guessing.poll() is None
