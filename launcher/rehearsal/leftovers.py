"""What a rehearsal that was killed left behind: found by the record that it wrote before it built anything."""

import contextlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from launcher.lab.down import down
from launcher.lab.layout import lab_directory
from launcher.lab.mounts import unmount_below
from launcher.records import process_is_alive, read_json, write_json

_RECORD = "lab.json"


@contextmanager
def recorded_lab(directory: Path) -> Iterator[str]:
    """Answer the name for the lab of this process; `directory` holds a record of it for as long as the lab may be."""
    name = _lab_name(os.getpid())
    write_json(directory / _RECORD, {"pid": os.getpid(), "create_time": psutil.Process().create_time()})
    try:
        yield name
    finally:
        if not lab_directory(name).exists():
            (directory / _RECORD).unlink()


def remove_leftovers(rehearsals: Path) -> list[str]:
    """Take down the labs and mounts of killed rehearsals below the folder; answers the labs' names."""
    names = []
    for record in sorted(rehearsals.glob(f"*/{_RECORD}")):
        values = read_json(record) or {}
        with contextlib.suppress(KeyError, TypeError, ValueError):
            pid, create_time = int(values["pid"]), float(values["create_time"])
            if process_is_alive(pid, create_time):
                continue
            down(_lab_name(pid))
            names.append(_lab_name(pid))
        unmount_below(record.parent)
        record.unlink()
    return names


def _lab_name(pid: int) -> str:
    return f"r{pid}"
