"""Labs for tests of any folder: `with lab_for_tests("a") as lab`. Skips, with the reason, where none can be built."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from launcher.lab.lab_error import LabError
from launcher.lab.layout import Lab
from launcher.lab.programs import check_machine
from launcher.lab.up import running_lab


def skip_unless_possible(*, with_slurm: bool = False) -> None:
    try:
        check_machine(with_slurm=with_slurm)
    except LabError as error:
        pytest.skip(str(error))


def name_for_tests(suffix: str) -> str:
    """A name of this process alone: several suites may run on one machine. `suffix`: at most 3 characters."""
    return f"t{os.getpid()}{suffix}"


@contextmanager
def lab_for_tests(suffix: str, *, num_nodes: int = 3, with_slurm: bool = False) -> Iterator[Lab]:
    skip_unless_possible(with_slurm=with_slurm)
    with running_lab(name_for_tests(suffix), num_nodes=num_nodes, with_slurm=with_slurm) as lab:
        yield lab
