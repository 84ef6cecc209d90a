"""The node's probe as a program: what it answers is what is there, and it leaves nothing behind."""

import json
import os
import select
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from cluster.gpu_health import parse_gpu_health, survey_gpus
from cluster.interfaces import address_towards, interface_of
from cluster.probe.serve import ANSWER_MARK
from cluster.software import OUR_PACKAGES, hash_sources

MARKER = ".llama-dist-doctor-" + "0" * 32


class Probe:
    """One running probe."""

    def __init__(self, environment=None):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "cluster.probe"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | (environment or {}),
        )

    def send(self, ask, **fields):
        self.process.stdin.write(json.dumps({"id": 7, "ask": ask, **fields}).encode() + b"\n")
        self.process.stdin.flush()

    def ask(self, ask, **fields):
        self.send(ask, **fields)
        values = json.loads(self.process.stdout.readline())
        assert values.pop(ANSWER_MARK) == 1 and values.pop("id") == 7
        return values

    def end(self):
        self.process.stdin.close()
        assert self.process.wait(20) == 0


@pytest.fixture
def probe():
    one = Probe()
    yield one
    one.process.kill()
    one.process.wait()


def test_it_says_which_program_this_is_and_what_the_machine_has(probe):
    software = probe.ask("hello")["answer"]["software"]
    assert software["python"] == ".".join(str(part) for part in sys.version_info[:3])
    assert software["executable"] == sys.executable
    assert software["packages"]["torch"] is not None
    assert software["code_hash"] == hash_sources(Path(software["code_directory"]))
    hardware = probe.ask("hardware")["answer"]
    assert 0 < hardware["available_bytes"] <= hardware["memory_bytes"]


def test_what_it_cannot_answer_is_a_fault_and_the_next_question_is_answered(probe):
    assert "`nonsense` is not among" in probe.ask("nonsense")["fault"]
    assert "field `port`" in probe.ask("listen", port="x", token="t")["fault"]
    probe.process.stdin.write(b"no json\n[]\n")
    probe.process.stdin.flush()
    for _ in range(2):
        assert "fault" in json.loads(probe.process.stdout.readline())
    assert "time" in probe.ask("clock")["answer"]


def test_it_does_not_load_torch_until_links_are_measured():
    program = "import sys, cluster.probe.serve; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_it_ends_when_its_stdin_does_even_while_it_waits_for_a_peer(probe, tmp_path):
    probe.send("read_markers", directory=str(tmp_path), names=[MARKER], wait_seconds=600.0)
    assert not select.select([probe.process.stdout], [], [], 0.2)[0]
    probe.end()


def test_its_markers_are_seen_once_written_and_gone_with_it(probe, tmp_path):
    where = {"directory": str(tmp_path)}
    looked = {"names": [MARKER], "wait_seconds": 0.0, **where}
    assert probe.ask("read_markers", **looked)["answer"]["found"] == []
    probe.ask("write_marker", name=MARKER, **where)
    assert probe.ask("read_markers", **looked)["answer"]["found"] == [MARKER]
    probe.end()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["../x", "x", MARKER + "/../x", ""])
def test_it_writes_no_file_of_another_name(probe, tmp_path, name):
    assert "no name of a marker" in probe.ask("write_marker", directory=str(tmp_path), name=name)["fault"]
    assert list(tmp_path.iterdir()) == []


def test_a_foreign_file_of_a_markers_name_is_no_marker_and_is_left_alone(probe, tmp_path):
    (tmp_path / MARKER).write_text("foreign")
    where = {"directory": str(tmp_path)}
    assert probe.ask("read_markers", names=[MARKER], wait_seconds=0.0, **where)["answer"]["found"] == []
    assert "File exists" in probe.ask("write_marker", name=MARKER, **where)["fault"]
    probe.end()
    assert (tmp_path / MARKER).read_text() == "foreign"


def make_dataset(path, fingerprint="f" * 32):
    (path / "shards").mkdir(parents=True)
    (path / "shards" / "a.arrow").write_bytes(b"12345")
    (path / "shards" / "b.arrow").write_bytes(b"678")
    (path / "shards.arrow").write_bytes(b"index")
    (path / "manifest.json").write_text(json.dumps({"fingerprint": fingerprint}))


def test_a_dataset_is_described_by_its_fingerprint_and_its_files(probe, tmp_path):
    def seen():
        answer = probe.ask("storage", places=[], counted=[], datasets=[str(tmp_path / "d")], files=[])["answer"]
        return answer["datasets"][str(tmp_path / "d")]

    assert "No such file" in seen()["fault"]
    make_dataset(tmp_path / "d")
    whole = seen()
    assert (whole["fingerprint"], whole["num_shards"], whole["num_bytes"]) == ("f" * 32, 2, 8)
    (tmp_path / "d" / "shards" / "b.arrow").unlink()
    assert (seen()["num_shards"], seen()["num_bytes"]) == (1, 5)
    (tmp_path / "d" / "manifest.json").write_text('{"fingerprint": ')
    assert "is not JSON" in seen()["fault"]
    (tmp_path / "d" / "manifest.json").write_text("[]")
    assert "no fingerprint" in seen()["fault"]


def test_a_place_that_is_not_there_yet_is_judged_by_its_nearest_parent(probe, tmp_path):
    (tmp_path / "here").write_bytes(b"x" * 1000)
    path = str(tmp_path / "not" / "yet")
    places = probe.ask("storage", places=[path, str(tmp_path)], counted=[str(tmp_path)], datasets=[], files=[])[
        "answer"
    ]["places"]
    assert places[path]["existing"] == str(tmp_path)
    assert places[path]["used_bytes"] == 0 and places[str(tmp_path)]["used_bytes"] == 1000
    disk = os.statvfs(tmp_path)
    assert places[path]["free_bytes"] == pytest.approx(disk.f_bavail * disk.f_frsize, rel=0.2)


def test_a_listening_probe_is_reached_by_its_token_alone(probe):
    port = probe.ask("listen", port=0, token="right")["answer"]["port"]
    other = Probe()
    try:

        def reach(token, port):
            targets = {"targets": [["127.0.0.1", port, token]], "timeout_seconds": 5.0}
            return other.ask("reach", **targets)["answer"]["faults"]

        assert reach("right", port) == {}
        assert "something else" in reach("wrong", port)["127.0.0.1"]
        probe.ask("close_listener")
        assert "refused" in reach("right", port)["127.0.0.1"]
        unknown = other.ask("reach", targets=[["no-such-host.invalid", 1, "t"]], timeout_seconds=5.0)["answer"]
        assert "name is not known" in unknown["faults"]["no-such-host.invalid"]
    finally:
        other.end()


def test_a_taken_port_is_a_fault(probe):
    with socket.create_server(("", 0)) as server:
        taken = server.getsockname()[1]
        assert "in use" in probe.ask("listen", port=taken, token="t")["fault"]


def test_what_a_library_prints_on_stdout_is_not_among_the_answers():
    program = (
        "import os\n"
        "import cluster.probe.answers as answers\n"
        "answers.read_software_facts = lambda: os.write(1, b'noise on descriptor 1\\n')\n"
        "from cluster.probe.serve import serve_standard_streams\n"
        "serve_standard_streams()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdin.write(b'{"id": 1, "ask": "hello"}\n')
    process.stdin.flush()
    assert ANSWER_MARK in json.loads(process.stdout.readline())
    _, errors = process.communicate(timeout=30)
    assert b"noise" in errors


def test_the_hash_of_the_sources_follows_names_and_contents_and_nothing_else(tmp_path):
    for package in OUR_PACKAGES:
        (tmp_path / package / "__pycache__").mkdir(parents=True)
        (tmp_path / package / "a.py").write_text(package)
    seen = {hash_sources(tmp_path)}
    (tmp_path / "launcher" / "__pycache__" / "a.pyc").write_bytes(b"compiled")
    (tmp_path / "launcher" / "a.py.swp").write_bytes(b"an editor's")
    assert hash_sources(tmp_path) in seen
    (tmp_path / "launcher" / "a.py").write_text("other")
    seen.add(hash_sources(tmp_path))
    (tmp_path / "launcher" / "a.py").rename(tmp_path / "launcher" / "b.py")
    seen.add(hash_sources(tmp_path))
    assert len(seen) == 3


SMI_LINES = """\
0, NVIDIA H100 80GB HBM3, 81559, 4, 0, 0
1, NVIDIA H100 80GB HBM3, 81559, 70123, 99, 3
2, NVIDIA GeForce RTX 4090, 24564, 1, 0, [N/A]
3, [Unknown Error], [Unknown Error], [Unknown Error], [N/A], [N/A]
"""


def test_the_answer_of_nvidia_smi_is_read_line_by_line():
    gpus, failing = parse_gpu_health(SMI_LINES)
    assert [(gpu.index, gpu.used_bytes >> 20, gpu.num_uncorrected_errors) for gpu in gpus] == [
        (0, 4, 0),
        (1, 70123, 3),
        (2, 1, None),
    ]
    assert len(failing) == 1 and "Unknown Error" in failing[0]


@pytest.mark.parametrize(
    ("script", "num_gpus", "fault"),
    [
        ("printf '0, A, 100, 1, 0, 0\\n1, A, 100, 1, 0, 0\\n'", 2, None),
        ("echo 'NVIDIA-SMI has failed because it could not communicate with the driver'; exit 9", 0, "ended with 9"),
        ("printf '0, A, 100, 1, 0, 0\\n1, A, [Unknown Error], 1, 0, 0\\n'", 1, "no numbers"),
    ],
)
def test_a_driver_that_fails_is_told_apart_from_a_machine_without_gpus(tmp_path, script, num_gpus, fault):
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    survey = survey_gpus({"PATH": f"{tmp_path}:/usr/bin:/bin"})
    assert survey.has_driver_tool and len(survey.gpus) == num_gpus
    assert (survey.fault is None) if fault is None else (fault in survey.fault)
    assert len(survey_gpus({"PATH": f"{tmp_path}:/usr/bin:/bin", "CUDA_VISIBLE_DEVICES": ""}).gpus) == 0
    assert not survey_gpus({"PATH": "/nowhere"}).has_driver_tool


def test_the_interface_towards_this_machine_is_the_loopback():
    assert interface_of(address_towards("127.0.0.1")) == "lo"
    assert interface_of("203.0.113.1") is None and interface_of("UNKNOWN") is None and interface_of("") is None


def test_every_address_leads_to_its_interface():
    """An interface may have several; the machine's own are as psutil lists them."""
    for name, addresses in psutil.net_if_addrs().items():
        for one in addresses:
            if one.family in (socket.AF_INET, socket.AF_INET6):
                assert interface_of(one.address.partition("%")[0]) == name.partition(":")[0]


def test_a_second_address_of_an_interface_is_found():
    """In a network of its own, which only root or a user namespace gives."""
    program = "from cluster.interfaces import interface_of; print(interface_of('10.9.9.2'), interface_of('10.9.9.3'))"
    add = "ip link set lo up && ip addr add 10.9.9.2/24 dev lo && ip addr add 10.9.9.3/24 dev lo label lo:x"

    def in_own_network(*command):
        inside = ["sh", "-c", f'{add} && exec "$@"', "sh", *command]
        unshare = ["unshare", "--map-root-user", "--net"]
        return subprocess.run([*unshare, *inside], check=False, capture_output=True, text=True, timeout=60)

    if (probe := in_own_network("true")).returncode:
        pytest.skip(f"this machine allows no network of its own: {probe.stderr.strip()}")
    done = in_own_network(sys.executable, "-c", program)
    assert (done.returncode, done.stdout.split()) == (0, ["lo", "lo"]), done.stderr
