"""Asks the nodes, check by check, and collects the verdicts: their order, and the time that each may take."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from cluster.probe.storage import hash_file
from cluster.software import read_software_facts
from launcher.doctor.all_reduce import measure_all_pairs
from launcher.doctor.budget import Budget, TimeUpError
from launcher.doctor.directory_markers import leave_markers
from launcher.doctor.machine_checks import (
    CLOCK,
    GPU_ERRORS,
    GPUS,
    IDLE,
    MEMORY,
    ClockReading,
    check_clocks,
    check_gpu_errors,
    check_gpus,
    check_idle,
    check_memory,
)
from launcher.doctor.network_checks import ALL_REDUCE, PORTS, Unreached, check_all_reduce, check_ports
from launcher.doctor.node_facts import (
    AnswerError,
    Hardware,
    Place,
    Storage,
    read_hardware,
    read_hello,
    read_storage,
)
from launcher.doctor.port_calls import call_all_ports
from launcher.doctor.probe_pool import Answer, ask_all
from launcher.doctor.reach_checks import REACHABLE, check_machines, check_reachable
from launcher.doctor.result import CheckResult
from launcher.doctor.software_checks import CONFIG, check_code, check_config, check_packages
from launcher.doctor.storage_checks import (
    CHECKPOINT_DIRECTORY,
    DATASET,
    DISK,
    RUN_DIRECTORY,
    check_datasets,
    check_disk,
    check_shared,
)
from launcher.doctor.subject import Subject, decisive_files, disk_need, memory_need

T = TypeVar("T")

_GREETING_SHARE = 0.7  # of all the time, at most: one dead node must not leave the others unexamined
_START_SECONDS = 10.0  # of Python on a node, once the connection stands: cold network file systems take their time
_FACTS_SECONDS = 25.0  # `nvidia-smi` loads the driver at first
_CLOCK_SECONDS = 3.0
_NUM_CLOCK_READINGS = 5
_NO_RUN = "no run file given"
_NO_NODES = "nobody says how many nodes the run has: ask inside the job that started them"


class Examination:
    """One visit to all nodes. A node that is lost on the way is told, and left out of what follows."""

    def __init__(self, subject: Subject, nodes: Budget) -> None:
        self.results: list[CheckResult] = []
        self._subject, self._nodes = subject, nodes
        self._hardware: dict[str, Hardware] = {}
        self._refused: dict[str, str] = {}
        self._unreached: tuple[Unreached, ...] = ()

    @property
    def hosts(self) -> list[str]:
        """Those that answer, in the order of their ranks."""
        bad = self._nodes.lost.keys() | self._refused.keys()
        return [host for host in self._subject.hosts if host not in bad]

    def look(self) -> None:
        """Do all checks but the all-reduce."""
        self._greet()
        for checks, look in (
            ((CLOCK,), self._read_clocks),
            ((GPUS, GPU_ERRORS, IDLE, MEMORY), self._look_at_machines),
            ((CONFIG, DATASET, DISK), self._look_at_storage),
            ((RUN_DIRECTORY, CHECKPOINT_DIRECTORY), self._look_for_shared_directories),
            ((PORTS,), self._try_ports),
        ):
            answering = self.hosts
            if answering:
                self._do_in_time(checks, look)
            self._tell_lost([host for host in answering if host not in self.hosts])

    def measure_links(self) -> None:
        """Do the all-reduce of each pair of nodes that reach each other."""
        hosts = self.hosts
        if len(hosts) < 2:
            text = "one node: there is no link to measure" if hosts else "no node answered"
            self.results.append(CheckResult(ALL_REDUCE, None, "skipped", text))
            return
        self._do_in_time((ALL_REDUCE,), self._reduce_all_pairs)

    def _do_in_time(self, checks: Sequence[str], look: Callable[[], None]) -> None:
        """Do some checks; those that time does not suffice for are told as skipped."""
        try:
            look()
        except TimeUpError as error:
            told = {result.check for result in self.results}
            advice = "mend what took the time, or lower cluster.connect_timeout_seconds, and look again"
            skipped = [check for check in checks if check not in told]
            self.results += [CheckResult(check, None, "skipped", str(error), advice) for check in skipped]

    def _reduce_all_pairs(self) -> None:
        hosts, hardware = self.hosts, self._hardware
        backend = "nccl" if all(host in hardware and hardware[host].gpus.gpus for host in hosts) else "gloo"
        cut = {frozenset((one.source, one.target)) for one in self._unreached}
        speeds = measure_all_pairs(self._nodes, hosts, backend, cut)
        self.results += check_all_reduce(backend, speeds.pairs, speeds.host_faults, speeds.num_left_out)

    def _greet(self) -> None:
        begin = time.monotonic()
        wait = self._subject.cluster.connect_timeout_seconds + _START_SECONDS
        wait = min(wait, _GREETING_SHARE * self._nodes.seconds_left)
        hellos = self._read({"ask": "hello"}, wait, read_hello)
        seconds = time.monotonic() - begin
        self.results += check_reachable(self._subject.hosts, self._nodes.lost, self._refused, seconds)
        if hellos:
            software = {host: hello.software for host, hello in hellos.items()}
            self.results += check_machines(hellos)
            self.results += check_code(read_software_facts(), software)
            self.results += check_packages(software)

    @property
    def _why_no_need(self) -> str:
        """Why the run's need of memory or disk is not known; empty where it can be told."""
        if self._subject.config is None:
            return _NO_RUN
        return _NO_NODES if self._subject.num_nodes is None else ""

    def _read_clocks(self) -> None:
        readings: dict[str, list[ClockReading]] = {host: [] for host in self.hosts}
        for _ in range(_NUM_CLOCK_READINGS):
            for host, answer in self._ask_all({"ask": "clock"}, _CLOCK_SECONDS).items():
                node_time = (answer.values or {}).get("time")
                if isinstance(node_time, float):
                    readings[host].append(ClockReading(answer.sent_at, answer.received_at, node_time))
        self.results += check_clocks(readings)

    def _look_at_machines(self) -> None:
        self._hardware = hardware = self._read({"ask": "hardware"}, _FACTS_SECONDS, read_hardware)
        if not hardware:
            return
        self.results += check_gpus(hardware, self._subject.cluster.num_processes_per_node)
        self.results += check_gpu_errors(hardware)
        self.results += check_idle(hardware)
        need = memory_need(self._subject, min(len(node.gpus.gpus) for node in hardware.values()))
        if need is None:
            why = "`llama-dist plan` refuses this topology"
            self.results.append(CheckResult(MEMORY, None, "skipped", self._why_no_need or why))
        else:
            self.results += check_memory(hardware, need)

    def _look_at_storage(self) -> None:
        subject, need = self._subject, disk_need(self._subject)
        decisive = decisive_files(subject)
        files = {str(path.absolute()): hash_file(path) for path in (*subject.files, *decisive)}
        places = [need.path] if need else []
        request = {
            "ask": "storage",
            "places": places,
            "counted": places if need and need.is_own else [],
            "datasets": subject.datasets,
            "files": list(files),
        }
        seen: dict[str, Storage] = self._read(request, _FACTS_SECONDS, read_storage)
        config = {host: one.files for host, one in seen.items()}
        self.results += check_config(files, [str(path) for path in decisive], config)
        self.results += check_datasets({host: one.datasets for host, one in seen.items()}, subject.num_remote_sources)
        if need is None:
            self.results.append(CheckResult(DISK, None, "skipped", self._why_no_need))
            return
        unknown = Place("the node did not say")
        self.results += check_disk({host: one.places.get(need.path, unknown) for host, one in seen.items()}, need)

    def _look_for_shared_directories(self) -> None:
        run, config, hosts = self._subject.run, self._subject.config, self.hosts
        if run is None or config is None:
            self.results.append(CheckResult(RUN_DIRECTORY, None, "skipped", _NO_RUN))
            return
        seen = leave_markers(self._nodes, hosts, run.path)
        self.results += check_shared(RUN_DIRECTORY, hosts, seen, must_be_shared=True)
        if config.checkpoint.directory is not None:
            seen = leave_markers(self._nodes, hosts, Path(config.checkpoint.directory).absolute())
            shared = config.checkpoint.shared
            self.results += check_shared(CHECKPOINT_DIRECTORY, hosts, seen, must_be_shared=shared)

    def _try_ports(self) -> None:
        hosts, port = self.hosts, self._subject.cluster.rendezvous_port
        calls = call_all_ports(self._nodes, hosts, port)
        self._unreached = calls.unreached
        self.results += check_ports(hosts, port, calls.listen_faults, calls.unreached)

    def _tell_lost(self, hosts: list[str]) -> None:
        """Tell of nodes that answered at first and do so no more."""
        for host in hosts:
            reason = self._refused.get(host) or str(self._nodes.lost.get(host))
            text = f"answered at first, then no more: {reason}"
            advice = "look at the node: it may hang, or have lost its network"
            self.results.append(CheckResult(REACHABLE, host, "failed", text, advice))

    def _ask_all(self, request: Mapping[str, Any], seconds: float) -> dict[str, Answer]:
        return ask_all(self._nodes, self.hosts, request, seconds)

    def _read(
        self, request: Mapping[str, Any], seconds: float, reader: Callable[[Mapping[str, Any]], T]
    ) -> dict[str, T]:
        """Ask all nodes and read what comes; a node whose answer makes no sense is set aside."""
        read = {}
        for host, answer in self._ask_all(request, seconds).items():
            if host in self._nodes.lost:
                continue
            try:
                if answer.values is None:
                    raise AnswerError(answer.fault)
                read[host] = reader(answer.values)
            except AnswerError as error:
                self._refused[host] = str(error)
        return read
