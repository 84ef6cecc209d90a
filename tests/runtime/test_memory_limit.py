"""What a job's memory limit leaves, from the files of a made-up control group."""

import psutil
import pytest

from llama_dist.runtime import memory_limit
from llama_dist.runtime.memory_limit import allowed_by_groups, available_bytes

V2 = ("memory.max", "memory.current", "inactive_file")
V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


@pytest.fixture
def groups(tmp_path):
    """Answers what is left, given the process's groups and each group's limit, use and file pages."""

    def left(membership, limits, names=V2):
        (tmp_path / "membership").write_text(membership)
        for path, (limit, use, file_pages) in limits.items():
            group = tmp_path / "mount" / path
            group.mkdir(parents=True, exist_ok=True)
            (group / names[0]).write_text(f"{limit}\n")
            (group / names[1]).write_text(f"{use}\n")
            (group / "memory.stat").write_text(f"anon 1\n{names[2]} {file_pages}\n")
        return sorted(allowed_by_groups(tmp_path / "membership", tmp_path / "mount"))

    return left


def test_every_group_that_holds_the_process_limits_it(groups):
    job, step = "slurm/job_7", "slurm/job_7/step_0"
    assert groups(f"0::/{step}\n", {job: (1000, 900, 50), step: ("max", 800, 0), "other": (5, 5, 0)}) == [150]
    assert groups(f"0::/{step}\n", {step: (850, 800, 0)}) == [50, 150]


def test_a_container_that_is_its_own_root_is_limited(groups):
    assert groups("0::/\n", {"": (1000, 400, 100)}) == [700]


def test_the_older_version_is_read_too_also_where_the_path_is_the_hosts(groups):
    membership = "5:cpu,cpuacct:/docker/x\n4:memory:/docker/x\n"
    assert groups(membership, {"memory": (1000, 600, 0)}, V1) == [400]


def test_use_above_the_limit_leaves_nothing_and_no_group_limits_nothing(groups, tmp_path):
    assert groups("0::/a\n", {"a": (10, 20, 0)}) == [0]
    assert groups("0::/nowhere\n", {}) == []
    assert list(allowed_by_groups(tmp_path / "absent", tmp_path)) == []


def test_the_smallest_of_machine_and_groups_counts(monkeypatch):
    monkeypatch.setattr(memory_limit, "allowed_by_groups", lambda *_: iter([1 << 60, 7]))
    assert available_bytes() == 7
    monkeypatch.setattr(memory_limit, "allowed_by_groups", lambda *_: iter([]))
    assert 0 < available_bytes() <= psutil.virtual_memory().total
