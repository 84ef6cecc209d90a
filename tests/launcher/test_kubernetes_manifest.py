import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from fake_run import run_values

from cluster.scheduler import read_started
from data_pipeline.config import ConfigError, parse_config
from data_pipeline.config.yaml_file import parse_yaml
from launcher.kubernetes_manifest import manifest_documents, render_kubernetes_manifest
from launcher.kubernetes_names import object_name
from launcher.node_probe import find_fault, host_of
from llama_dist.config import ClusterConfig, RunConfig, parse_run_config

PLAIN = {"image": "registry.example:5000/llama-dist@sha256:0a1b", "claim": "shared-runs", "num_nodes": 4}
FULL = PLAIN | {
    "namespace": "training",
    "gpus_per_pod": 8,
    "cpu": "64",
    "memory": "512Gi",
    "mount_path": "/mnt/shared",
    "service_account": "trainer",
    "secret_environment": {"MLFLOW_TRACKING_TOKEN": "mlflow/token"},
    "join_key_secret": "llama-dist/join.key",
}
# podFailurePolicy is stable from 1.31 on; before 1.29 its schema needed a list that the API did not.
VERSIONS = ["1.29", "1.31", kubernetes_validate.latest_version()]


def run_config(**changes) -> RunConfig:
    values = run_values(Path("/made/up")) | {"name": "tiny", "runs_directory": "runs"} | changes
    return parse_run_config(values, where="test")


def cluster(kubernetes: dict[str, Any], **values) -> ClusterConfig:
    values = {"backend": "kubernetes", "kubernetes": kubernetes} | values
    return parse_config(ClusterConfig, values, where="test")


def documents(kubernetes: dict[str, Any], config: RunConfig | None = None, **values) -> dict[str, dict[str, Any]]:
    """Render, and read back as another program would."""
    text = render_kubernetes_manifest(config or run_config(), cluster(kubernetes, **values))
    return {document["kind"]: document for document in yaml.safe_load_all(text)}


def pod_of(job: dict[str, Any]) -> dict[str, Any]:
    return job["spec"]["template"]["spec"]


def container_of(job: dict[str, Any]) -> dict[str, Any]:
    (container,) = pod_of(job)["containers"]
    return container


def inner_job(jobset: dict[str, Any]) -> dict[str, Any]:
    (replicated,) = jobset["spec"]["replicatedJobs"]
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "inner"}, **replicated["template"]}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("kubernetes", [PLAIN, FULL], ids=["plain", "full"])
def test_the_objects_follow_the_published_schemas(kubernetes, version):
    rendered = documents(kubernetes)
    assert list(rendered) == ["ConfigMap", "Service", "Job"]
    for document in rendered.values():
        kubernetes_validate.validate(document, version, strict=True)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_job_inside_a_jobset_follows_the_published_schema(version):
    rendered = documents(FULL | {"jobset": True})
    assert list(rendered) == ["ConfigMap", "JobSet"]
    kubernetes_validate.validate(rendered["ConfigMap"], version, strict=True)
    kubernetes_validate.validate(inner_job(rendered["JobSet"]), version, strict=True)


def test_the_schemas_would_catch_a_slip():
    job = documents(PLAIN)["Job"]
    job["spec"]["completionsMode"] = "Indexed"
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(job, VERSIONS[-1], strict=True)


def test_the_outer_form_of_a_jobset():
    """JobSet is no part of Kubernetes, and no package ships its schema: API jobset.x-k8s.io/v1alpha2."""
    jobset = documents(PLAIN | {"jobset": True})["JobSet"]
    assert jobset["apiVersion"] == "jobset.x-k8s.io/v1alpha2"
    assert set(jobset) == {"apiVersion", "kind", "metadata", "spec"}
    assert set(jobset["spec"]) == {"network", "replicatedJobs"}
    name = jobset["metadata"]["name"]
    assert jobset["spec"]["network"] == {
        "enableDNSHostnames": True,
        "subdomain": name,
        "publishNotReadyAddresses": True,
    }
    (replicated,) = jobset["spec"]["replicatedJobs"]
    assert {key: replicated[key] for key in ("name", "replicas")} == {"name": "nodes", "replicas": 1}
    assert set(replicated["template"]) == {"spec"}


def test_one_pod_a_node_with_names_before_they_are_ready():
    rendered = documents(FULL)
    job, service = rendered["Job"]["spec"], rendered["Service"]
    assert (job["completionMode"], job["completions"], job["parallelism"]) == ("Indexed", 4, 4)
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["publishNotReadyAddresses"] is True
    assert service["spec"]["selector"].items() <= job["template"]["metadata"]["labels"].items()
    assert pod_of(rendered["Job"])["subdomain"] == service["metadata"]["name"]
    assert {document["metadata"]["namespace"] for document in rendered.values()} == {"training"}


def test_the_exit_codes_mean_to_kubernetes_what_they_mean_to_us():
    rules = documents(PLAIN)["Job"]["spec"]["podFailurePolicy"]["rules"]
    codes = {tuple(rule["onExitCodes"]["values"]): rule["action"] for rule in rules if "onExitCodes" in rule}
    assert codes == {(70, 74, 78): "FailJob", (143,): "Ignore", (75,): "Count"}
    assert [rule["action"] for rule in rules if "onPodConditions" in rule] == ["Ignore"]
    pod = pod_of(documents(PLAIN)["Job"])
    assert pod["restartPolicy"] == "Never"  # what a podFailurePolicy needs
    assert {rule["onExitCodes"]["containerName"] for rule in rules if "onExitCodes" in rule} == {
        pod["containers"][0]["name"]
    }


def test_a_pod_has_the_time_to_save():
    config = run_config(supervision={"stop_grace_seconds": 90.5})
    assert pod_of(documents(PLAIN, config)["Job"])["terminationGracePeriodSeconds"] == 121


def test_a_pod_has_its_devices_its_memory_and_the_shared_disk():
    job = documents(FULL)["Job"]
    asked = {"cpu": "64", "memory": "512Gi", "nvidia.com/gpu": "8"}
    assert container_of(job)["resources"] == {"requests": asked, "limits": asked}
    volumes = {volume.pop("name"): volume for volume in pod_of(job)["volumes"]}
    assert volumes["shm"] == {"emptyDir": {"medium": "Memory"}}
    assert volumes["shared"] == {"persistentVolumeClaim": {"claimName": "shared-runs"}}
    mounts = {mount["name"]: mount["mountPath"] for mount in container_of(job)["volumeMounts"]}
    assert mounts == {"shared": "/mnt/shared", "config": "/etc/llama-dist", "shm": "/dev/shm"}
    assert pod_of(job)["serviceAccountName"] == "trainer"
    assert container_of(documents(PLAIN)["Job"])["resources"] == {}


def test_secrets_stand_in_the_manifest_by_the_name_of_their_place_alone():
    variables = {each["name"]: each for each in container_of(documents(FULL)["Job"])["env"]}
    assert variables["MLFLOW_TRACKING_TOKEN"]["valueFrom"] == {"secretKeyRef": {"name": "mlflow", "key": "token"}}
    assert variables["LLAMA_DIST_JOIN_KEY"]["valueFrom"] == {"secretKeyRef": {"name": "llama-dist", "key": "join.key"}}
    assert variables["LLAMA_DIST_POD_NAME"]["valueFrom"] == {"fieldRef": {"fieldPath": "metadata.name"}}


@pytest.mark.parametrize("jobset", [False, True])
@pytest.mark.parametrize("name", ["tiny", "My_Run.v2", "9lives", "x" * 100])
def test_each_pod_finds_itself_and_the_others_by_the_names_that_kubernetes_gives(name, jobset):
    """The host of a pod is `JOB-INDEX`, in a JobSet `JOBSET-REPLICATED-0-INDEX`, in DNS under its subdomain."""
    rendered = documents(PLAIN | {"jobset": jobset, "num_nodes": 1000}, run_config(name=name))
    job = inner_job(rendered["JobSet"]) if jobset else rendered["Job"]
    whole = rendered["JobSet" if jobset else "Job"]["metadata"]["name"]
    host = f"{whole}-nodes-0-999" if jobset else f"{whole}-999"
    values = {each["name"]: each["value"] for each in container_of(job)["env"] if "value" in each}
    started = read_started(values | {"JOB_COMPLETION_INDEX": "999"})
    assert started.hosts[started.node_index] == f"{host}.{pod_of(job)['subdomain']}"
    assert started.num_nodes == 1000
    assert len(host) <= 63
    assert host_of(values | {"JOB_COMPLETION_INDEX": "999"}) == started.hosts[999]


def test_the_pods_launch_the_same_run_with_a_backend_that_is_started_already():
    config = run_config()
    rendered = documents(FULL, config, node_timeout_seconds=20.0, nodes={"min": 2, "max": 4})
    files = rendered["ConfigMap"]["data"]
    assert parse_run_config(parse_yaml(files["run.yaml"], where="run.yaml"), where="run.yaml") == config
    inside = parse_config(ClusterConfig, parse_yaml(files["cluster.yaml"], where="c"), where="c")
    assert (inside.backend, inside.num_processes_per_node, inside.node_timeout_seconds) == ("started", 8, 20.0)
    assert inside.nodes is not None and inside.kubernetes is None
    assert container_of(rendered["Job"])["command"] == [
        *("llama-dist", "launch", "/etc/llama-dist/run.yaml", "--cluster", "/etc/llama-dist/cluster.yaml")
    ]


def test_a_probe_of_the_manifest_finds_a_live_node_a_silent_one_and_none(tmp_path):
    """The command of the manifest, run as it stands, with the variables that it sets."""
    config = run_config(runs_directory=str(tmp_path / "runs"))
    job = documents(PLAIN | {"mount_path": str(tmp_path)}, config)["Job"]
    container = container_of(job)
    python, *rest = container["livenessProbe"]["exec"]["command"]
    assert python == "python" and container["startupProbe"]["exec"] == container["livenessProbe"]["exec"]
    variables = {each["name"]: each["value"] for each in container["env"] if "value" in each}
    sign = tmp_path / "runs" / "tiny" / "nodes" / "tiny-2.tiny.json"

    def probe() -> subprocess.CompletedProcess[str]:
        environment = variables | {"JOB_COMPLETION_INDEX": "2", "PYTHONPATH": ":".join(sys.path)}
        command = [sys.executable, *rest]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)

    assert "no agent has begun here" in probe().stderr
    sign.parent.mkdir(parents=True)
    sign.write_text(json.dumps({"pid": 1, "time": time.time()}))
    assert probe().returncode == 0
    sign.write_text(json.dumps({"pid": 1, "time": time.time() - 1000}))
    silent = probe()
    assert silent.returncode == 1 and "1000 s old, at most 120 s" in silent.stderr


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"{}", b'{"time": "now"}', b'{"time": true}', b'{"time": NaN}', b'{"time": null}', b"\xff\xfe"],
)
def test_a_sign_of_life_that_cannot_be_read_is_none(tmp_path, content):
    (tmp_path / "a.json").write_bytes(content)
    assert find_fault(tmp_path, "a", 60, 1000)


@pytest.mark.parametrize("host", ["", "../a", "a/b", "/a"])
def test_a_probe_reads_no_file_elsewhere(tmp_path, host):
    (tmp_path / "a.json").write_text('{"time": 1000}')
    assert "is no host name" in find_fault(tmp_path / "nodes", host, 60, 1000)


def test_names_are_labels_and_different_for_different_runs():
    names = [
        "tiny",
        "Tiny",
        "ti.ny",
        "ti_ny",
        "ti-ny",
        "ti--ny",
        "9",
        "a" * 40,
        "a" * 41,
        "a" * 42,
        "0o17",
        "a-",
        "true",
    ]
    made = [object_name(name) for name in names]
    assert len(set(made)) == len(names)
    for name in made:
        assert len(name) <= 40 and name[0].isalpha() and name[-1].isalnum()
        assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
    assert object_name("ti-ny") == "ti-ny"


@pytest.mark.parametrize("name", ["1e5", "0o17", "0x1F", "null", "true", "12", "1_000", "1.5", "no"])
def test_a_name_that_yaml_would_take_for_something_else_stays_text(name):
    text = render_kubernetes_manifest(run_config(name=name), cluster(PLAIN))
    assert f"llama-dist/run: '{name}'" in text


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("image", text) for text in ("", "-x", "a b", "a\nb", "$(touch canary)", "a;b", "ä", "a'b", "image\n")),
        *(("claim", text) for text in ("", "A", "a_b", "-a", "a-", "a/b", "a\n", "a: b", "x" * 254, ".", "a..b")),
        *(("namespace", text) for text in ("", "A", "a.b", "a b", "x" * 64)),
        *(("mount_path", text) for text in ("", "/", "a", "/a/../b", "/a b", "/$(HOME)", "/a/", "/a\n", "/a:b", "/.")),
        *(("memory", text) for text in ("", "512GB", "-1Gi", "1 Gi", "lots", "1e400", "9" * 13)),
        *(("cpu", text) for text in ("", "all", "0x10", "1;2")),
        *(("num_nodes", number) for number in (0, -1, 10_001, "4", True)),
        ("service_account", "a b"),
        *(("secret_environment", {"TOKEN": place}) for place in ("hunter2", "a/", "/b", "a/b/c", "A/b", "a/b c", "")),
        *(("secret_environment", {name: "a/b"}) for name in ("", "A B", "A=B", "1A", "A\n", "{A}", "$(A)")),
        *(("secret_environment", {name: "a/b"}) for name in ("LLAMA_DIST_JOIN_KEY", "JOB_COMPLETION_INDEX")),
        ("join_key_secret", "hunter2"),
        ("tolerations", []),
    ],
    ids=ascii,
)
def test_a_value_that_the_manifest_cannot_hold_is_refused_with_the_config(field, value):
    with pytest.raises(ConfigError, match=rf"kubernetes\.{field}") as raised:
        cluster(PLAIN | {field: value})
    assert "hunter2" not in str(raised.value)  # what stands in the place of a secret's name may be the secret


@pytest.mark.parametrize("directory", ["/elsewhere", "../runs", "/shared/../x", "/sharedx", "runs\n", "..", "/"])
def test_a_run_directory_off_the_shared_disk_is_refused(directory):
    with pytest.raises(ConfigError, match="runs_directory"):
        documents(PLAIN, run_config(runs_directory=directory))


@pytest.mark.parametrize(
    "text", ["a b", "it's", 'a"b', "$(touch canary)", "${HOME}", "a: b", "# a", "ünï", "- a", "`x`"]
)
def test_hostile_text_of_the_run_file_stays_text(text):
    config = run_config(runs_directory=text)
    rendered = documents(PLAIN, config)
    values = parse_yaml(rendered["ConfigMap"]["data"]["run.yaml"], where="run.yaml")
    assert values["runs_directory"] == text
    command = container_of(rendered["Job"])["livenessProbe"]["exec"]["command"]
    assert command[3] == f"/shared/{text}/tiny"
    assert len(rendered) == 3


def test_a_config_that_no_config_map_holds_is_refused():
    with pytest.raises(ConfigError, match="ConfigMap"):
        documents(PLAIN, run_config(metrics={"experiment": "x" * 1_000_000}))


def test_the_section_is_needed():
    with pytest.raises(ConfigError, match=r"needs cluster\.kubernetes"):
        manifest_documents(run_config(), ClusterConfig(backend="kubernetes"))


def test_a_manifest_of_two_thousand_nodes_takes_no_longer_than_a_small_one():
    started = time.process_time()
    render_kubernetes_manifest(run_config(), cluster(PLAIN | {"num_nodes": 2048}))
    assert time.process_time() - started < 1  # some 20 ms; the rest is for a machine that is shared
