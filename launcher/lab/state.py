"""The directory of all labs: which there are, and what they share. One process at a time changes it."""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from launcher.lab.lab_error import LabError
from launcher.lab.layout import LAB_ROOT, Lab, check_name, free_subnet, lab_directory, lay_out
from launcher.lab.network import machine_addresses
from launcher.lab.programs import check_root
from launcher.records import read_json, write_json

_RECORD = "lab.json"
# sshd refuses to run without this empty folder, whose path is compiled in; its service makes it at every boot.
_SSHD_DIRECTORY = Path("/run/sshd")
_SSHD_DIRECTORY_IS_OURS = "made-run-sshd"


def reserve_lab(name: str, num_nodes: int, *, has_slurm: bool) -> Lab:
    """Make the state directory of a new lab, and take a network for it. Raises LabError where the lab is there."""
    lay_out(name, num_nodes, 0, has_slurm=has_slurm)
    with _locked_root():
        if lab_directory(name).exists():
            raise LabError(
                f"lab `{name}` is there already, in {lab_directory(name)}: take it down with `llama-dist lab down "
                f"--name {name}`, or give this one another --name"
            )
        taken = [lab.subnet for lab in list_labs()]
        lab = lay_out(name, num_nodes, free_subnet(machine_addresses(), taken), has_slurm=has_slurm)
        lab.directory.mkdir(mode=0o700)
        values = {"subnet": lab.subnet, "num_nodes": num_nodes, "has_slurm": has_slurm}
        write_json(lab.directory / _RECORD, values)
        if not _SSHD_DIRECTORY.exists():
            (LAB_ROOT / _SSHD_DIRECTORY_IS_OURS).touch()
            _SSHD_DIRECTORY.mkdir(mode=0o755)
    return lab


def release_lab(name: str) -> None:
    """Remove the state directory of a lab, and what all labs shared once it was the last."""
    if not LAB_ROOT.exists():
        return
    with _locked_root():
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(lab_directory(name))
        if any(path.is_dir() for path in LAB_ROOT.iterdir()):
            return
        mark = LAB_ROOT / _SSHD_DIRECTORY_IS_OURS
        if mark.exists():
            _remove_sshd_directory()
            mark.unlink()
        with contextlib.suppress(OSError):  # someone's own files are in it
            LAB_ROOT.rmdir()


def find_lab(name: str) -> Lab:
    """Return a lab that `up` has begun. Raises LabError where there is none."""
    check_name(name)
    check_root()
    lab = _read_lab(lab_directory(name))
    if lab is None:
        raise LabError(f"there is no lab `{name}` in {LAB_ROOT}: build one with `llama-dist lab up --name {name}`")
    return lab


def list_labs() -> list[Lab]:
    """Return all labs of this machine."""
    if not LAB_ROOT.is_dir():
        return []
    return [lab for path in sorted(LAB_ROOT.iterdir()) if path.is_dir() and (lab := _read_lab(path))]


def _read_lab(directory: Path) -> Lab | None:
    values = read_json(directory / _RECORD) or {}
    try:
        return lay_out(
            directory.name, int(values["num_nodes"]), int(values["subnet"]), has_slurm=bool(values["has_slurm"])
        )
    except (KeyError, TypeError, ValueError, LabError):
        return None


@contextmanager
def _locked_root() -> Iterator[None]:
    """Hold the lock of the directory itself, which the last lab removes: then another one has to be locked."""
    while (descriptor := _lock_directory(LAB_ROOT)) is None:
        pass
    try:
        yield
    finally:
        os.close(descriptor)


def _lock_directory(directory: Path) -> int | None:
    """Lock the directory and return its descriptor; None if it was removed before the lock was there."""
    directory.mkdir(mode=0o700, exist_ok=True)
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        return None
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    with contextlib.suppress(FileNotFoundError):
        if os.path.samestat(os.fstat(descriptor), directory.stat()):
            return descriptor
    os.close(descriptor)
    return None


def _remove_sshd_directory() -> None:
    """Remove the folder that a lab made for sshd, unless the machine's own sshd came to need it since."""
    infos = [process.info for process in psutil.process_iter(["name", "status"])]
    if not any(info["name"] == "sshd" and info["status"] != psutil.STATUS_ZOMBIE for info in infos):
        with contextlib.suppress(OSError):
            _SSHD_DIRECTORY.rmdir()
