"""The probe's loop: lines in, lines out, one request at a time. What the answers are is `answers.py`'s to know."""

import json
import os
import sys
import threading
from collections.abc import Callable, Mapping
from queue import SimpleQueue
from typing import Any, BinaryIO

from cluster.probe.answers import NodeProbe, ProbeError

ANSWER_MARK = "llama_dist_probe"
"""Key of every answer: what else a log-in prints on stdout can be told from them."""

Send = Callable[[Mapping[str, Any]], None]


def serve_standard_streams() -> None:
    """Serve until stdin ends; returns never. Libraries that print on stdout find stderr there."""
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    probe = NodeProbe()
    requests: SimpleQueue[bytes] = SimpleQueue()
    threading.Thread(target=_work, args=(probe, requests, _sender(answers)), daemon=True).start()
    for line in sys.stdin.buffer:
        requests.put(line)
    # The driver is gone, or done. A collective may still wait for a peer in the other thread: do not wait for it.
    probe.clean_up()
    os._exit(0)


def answer_line(probe: NodeProbe, line: bytes) -> dict[str, Any]:
    """Answer one request line by the values of one answer line."""
    try:
        request = json.loads(line)
    except ValueError:
        request = None
    if not isinstance(request, dict):
        return {ANSWER_MARK: 1, "id": None, "fault": "the request is no JSON object"}
    return {ANSWER_MARK: 1, "id": request.get("id"), **answer_of(probe, request)}


def answer_of(probe: NodeProbe, request: Mapping[str, Any]) -> dict[str, Any]:
    """Return the `answer`; what cannot be answered is a `fault` with its reason, never an exception."""
    try:
        return {"answer": probe.answer(request)}
    except (ProbeError, OSError) as error:
        return {"fault": _told(error)}
    except Exception as error:  # noqa: BLE001 - the edge of a program: the driver names the host beside it
        return {"fault": f"{type(error).__name__}: {error}"}


def _work(probe: NodeProbe, requests: "SimpleQueue[bytes]", send: Send) -> None:
    while True:
        send(answer_line(probe, requests.get()))


def _sender(stream: BinaryIO) -> Send:
    def send(values: Mapping[str, Any]) -> None:
        data = json.dumps(values).encode() + b"\n"
        try:
            while data:
                data = data[stream.write(data) :]
        except OSError:
            return  # nobody listens any more: stdin ends as well

    return send


def _told(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    return str(error)
