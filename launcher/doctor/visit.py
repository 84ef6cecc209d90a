"""The doctor as others call it: the whole examination, and the quick part that a launch does first."""

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from data_pipeline.config import read_yaml
from launcher.doctor.budget import Budget
from launcher.doctor.examine import Examination
from launcher.doctor.probe_pool import Asker, ProbePool
from launcher.doctor.result import DoctorReport
from launcher.doctor.subject import Subject, hosts_of, num_nodes_of, probe_command
from launcher.doctor.this_machine import this_machine
from llama_dist.config import load_cluster_config, load_run_config

_WHOLE_SECONDS = 55.0  # an examination takes less than a minute, whatever the nodes do


@dataclass(frozen=True)
class DoctorRequest:
    """What the user asked for."""

    run_file: Path | None = None
    cluster_file: Path | None = None
    overrides: tuple[str, ...] = ()


def read_subject(request: DoctorRequest) -> Subject:
    """Read the files. Raises ConfigError."""
    cluster = load_cluster_config(request.cluster_file, request.overrides)
    config = None if request.run_file is None else load_run_config(request.run_file, request.overrides)
    hosts = hosts_of(cluster)
    return Subject(cluster, hosts, config, tuple(_files(request)), num_nodes_of(cluster, hosts))


def _files(request: DoctorRequest) -> Iterator[Path]:
    """Yield the files that the config comes from."""
    if request.run_file is not None:
        yield request.run_file
        model = read_yaml(request.run_file).get("model")
        if isinstance(model, str):
            yield request.run_file.parent / model
    if request.cluster_file is not None:
        yield request.cluster_file


def examine(subject: Subject) -> DoctorReport:
    """Do every check. Starts one probe per node, and ends them all before it returns."""
    return _visit(subject, with_links=True)


def quick_checks(subject: Subject) -> DoctorReport:
    """Do every check but the all-reduce, which takes seconds."""
    if subject.cluster.backend in ("local", "started") and subject.cluster.python in (None, sys.executable):
        with this_machine() as nodes:
            return _examine(subject, nodes, with_links=False)
    return _visit(subject, with_links=False)


def _visit(subject: Subject, *, with_links: bool) -> DoctorReport:
    with ProbePool({host: probe_command(subject.cluster, host) for host in subject.hosts}) as pool:
        return _examine(subject, pool, with_links=with_links)


def _examine(subject: Subject, nodes: Asker, *, with_links: bool) -> DoctorReport:
    begin = time.monotonic()
    examination = Examination(subject, Budget(nodes, _WHOLE_SECONDS))
    examination.look()
    if with_links:
        examination.measure_links()
    return DoctorReport(subject.hosts, tuple(examination.results), time.monotonic() - begin)
