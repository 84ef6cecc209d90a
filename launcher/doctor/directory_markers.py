"""Finds out whether this host and the nodes see one directory: each leaves a file there and looks for the others'."""

import secrets
from collections.abc import Sequence
from pathlib import Path

from cluster.probe.markers import Markers
from cluster.probe.storage import nearest_existing
from launcher.doctor.probe_pool import Asker, ask_all
from launcher.doctor.storage_checks import Sightings

_ASK_SECONDS = 10.0
_LATE_FILE_SECONDS = 3.0  # a network file system may show a new file late


def leave_markers(nodes: Asker, hosts: Sequence[str], path: Path) -> Sightings:
    """Look at a directory, or at the nearest of its parents that this host has. Every file is removed again."""
    try:
        directory = nearest_existing(path)
    except OSError as error:
        return Sightings(str(path), _told(error, path), {}, (), ())
    ours, own_name, own_fault = Markers(), _marker_name(), ""
    names = {host: _marker_name() for host in hosts}
    place = {"directory": str(directory)}
    try:
        ours.write(directory, own_name)
    except OSError as error:
        own_fault = _told(error, directory)
    try:
        written = nodes.ask(
            {host: {"ask": "write_marker", "name": names[host], **place} for host in hosts}, _ASK_SECONDS
        )
        look = {"ask": "read_markers", "names": [own_name], "wait_seconds": _LATE_FILE_SECONDS, **place}
        read = ask_all(nodes, hosts, look, _ASK_SECONDS)
        writers = [host for host, answer in written.items() if answer.values is not None]
        found = ours.find(directory, [names[host] for host in writers], _LATE_FILE_SECONDS)
    finally:
        ours.remove_all()
        ask_all(nodes, hosts, {"ask": "remove_markers"}, _ASK_SECONDS)
    return Sightings(
        directory=str(directory),
        own_fault=own_fault,
        write_faults={host: answer.fault for host, answer in written.items() if answer.values is None},
        sees_ours=[host for host, answer in read.items() if own_name in (answer.values or {}).get("found", ())],
        seen_here=[host for host in writers if names[host] in found],
    )


def _marker_name() -> str:
    return f".llama-dist-doctor-{secrets.token_hex(16)}"


def _told(error: OSError, path: Path) -> str:
    return f"{error.filename or path}: {error.strerror}"
