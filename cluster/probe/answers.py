"""What the probe can be asked, and the state that lasts between its requests. Each question's work has a file."""

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from cluster.facts import read_machine_facts
from cluster.gpu_health import survey_gpus
from cluster.probe.collective import PairReducer, ReduceTask
from cluster.probe.listening import Listener, Target, reach_all
from cluster.probe.markers import Markers
from cluster.probe.node import available_memory_bytes, machine_identity
from cluster.probe.storage import describe_dataset, describe_place, hash_file
from cluster.software import read_software_facts

Request = Mapping[str, Any]
T = TypeVar("T")


class ProbeError(Exception):
    """The request cannot be answered."""


class NodeProbe:
    """Answers about this node. One request at a time."""

    def __init__(self) -> None:
        self._markers = Markers()
        self._listener: Listener | None = None
        self._reducer = PairReducer()
        self._questions: dict[str, Callable[[Request], dict[str, Any]]] = {
            "hello": self._hello,
            "clock": lambda _: {"time": time.time()},
            "hardware": self._hardware,
            "storage": self._storage,
            "write_marker": self._write_marker,
            "read_markers": self._read_markers,
            "remove_markers": self._remove_markers,
            "listen": self._listen,
            "reach": self._reach,
            "close_listener": self._close_listener,
            "load_torch": lambda _: {"version": self._reducer.load()},
            "open_store": self._open_store,
            "reduce": self._reduce,
        }

    def answer(self, request: Request) -> dict[str, Any]:
        """Answer one request. Raises ProbeError, OSError and what the question's own work raises."""
        question = _value(request, "ask", str)
        if question not in self._questions:
            raise ProbeError(f"`{question}` is not among the questions of this probe: {', '.join(self._questions)}")
        return self._questions[question](request)

    def clean_up(self) -> None:
        """Remove every file that is left of this probe."""
        self._markers.remove_all()

    def _hello(self, _: Request) -> dict[str, Any]:
        return {"identity": machine_identity(), "software": asdict(read_software_facts()), "pid": os.getpid()}

    def _hardware(self, _: Request) -> dict[str, Any]:
        survey = survey_gpus(os.environ)
        machine = read_machine_facts({"PATH": ""})  # without its own query of the GPUs
        return {
            "num_cores": machine.num_cores,
            "memory_bytes": machine.memory_bytes,
            "available_bytes": min(machine.memory_bytes, available_memory_bytes()),
            "load": os.getloadavg()[0],
            "gpus": asdict(survey),
        }

    def _storage(self, request: Request) -> dict[str, Any]:
        counted = _texts(request, "counted")
        return {
            "places": {
                path: describe_place(Path(path), count_bytes=path in counted) for path in _texts(request, "places")
            },
            "datasets": {path: describe_dataset(Path(path)) for path in _texts(request, "datasets")},
            "files": {path: hash_file(Path(path)) for path in _texts(request, "files")},
        }

    def _write_marker(self, request: Request) -> dict[str, Any]:
        self._markers.write(Path(_value(request, "directory", str)), _value(request, "name", str))
        return {}

    def _read_markers(self, request: Request) -> dict[str, Any]:
        directory, names = Path(_value(request, "directory", str)), _texts(request, "names")
        return {"found": self._markers.find(directory, names, float(_value(request, "wait_seconds", (int, float))))}

    def _remove_markers(self, _: Request) -> dict[str, Any]:
        self._markers.remove_all()
        return {}

    def _listen(self, request: Request) -> dict[str, Any]:
        self._close_listener({})
        self._listener = Listener(_value(request, "port", int), _value(request, "token", str))
        return {"port": self._listener.port}

    def _reach(self, request: Request) -> dict[str, Any]:
        targets = [Target(str(host), int(port), str(token)) for host, port, token in _value(request, "targets", list)]
        return {"faults": reach_all(targets, float(_value(request, "timeout_seconds", (int, float))))}

    def _close_listener(self, _: Request) -> dict[str, Any]:
        if self._listener:
            self._listener.close()
            self._listener = None
        return {}

    def _open_store(self, _: Request) -> dict[str, Any]:
        return {"port": self._reducer.open_store()}

    def _reduce(self, request: Request) -> dict[str, Any]:
        task = ReduceTask(
            backend=_value(request, "backend", str),
            peer=_value(request, "peer", str),
            store_host=_value(request, "store_host", str),
            store_port=_value(request, "store_port", int),
            rank=_value(request, "rank", int),
            timeout_seconds=float(_value(request, "timeout_seconds", (int, float))),
        )
        return asdict(self._reducer.measure(task))


def _value(request: Request, name: str, kind: type[T] | tuple[type[T], ...]) -> T:
    value = request.get(name)
    if not isinstance(value, kind):
        raise ProbeError(f"field `{name}` of the request is {value!r}")
    return value


def _texts(request: Request, name: str) -> list[str]:
    return [str(value) for value in _value(request, name, list)]
