"""Nodes with disks of their own: each keeps what its ranks wrote, a start copies what its ranks need. Real ranks."""

import re
import socket

import pytest

from llama_dist.checkpoint.manifest import FileRecord, list_steps, step_directory
from llama_dist.checkpoint.placement import Copy, arrange_nodes, describe_copy, plan_copies, share_by_bytes

HOST = socket.gethostname()
FILE_0, FILE_1 = "rank_00000.safetensors", "rank_00001.safetensors"


def test_each_local_rank_0_begins_a_node_unless_the_disk_is_shared():
    members = [("a", 0), ("a", 1), ("b", 0), ("b", 1), ("b", 0)]
    nodes = arrange_nodes(members, is_shared=False)
    assert nodes.node_of_rank == (0, 0, 1, 1, 2) and nodes.leaders == (0, 2, 4)
    assert [nodes.name_of(node) for node in range(3)] == ["a", "b (from rank 2 on)", "b (from rank 4 on)"]
    assert arrange_nodes(members, is_shared=True).leaders == (0,)


def test_shares_are_even_by_bytes_and_not_by_files():
    sizes = {0: 90, 1: 10, 2: 30, 3: 20, 4: 30}
    shares = share_by_bytes(sizes, [4, 7])
    assert shares.keys() == sizes.keys()
    load = {rank: sum(sizes[file] for file, of_rank in shares.items() if of_rank == rank) for rank in (4, 7)}
    assert load == {4: 90, 7: 90}


def test_the_plan_copies_what_is_needed_and_absent_and_spreads_it_over_the_ranks():
    nodes = arrange_nodes([("a", 0), ("a", 1), ("b", 0), ("b", 1)], is_shared=False)
    files = [FileRecord(f"rank_{number:05d}.safetensors", 1_200_000_000, "") for number in range(4)]
    copies = plan_copies(nodes, files, intact=[{0, 1, 2}, {2, 3}], needed=[{0, 3}, {0, 1, 2}])
    assert copies == [Copy(3, 2, 0), Copy(0, 1, 3), Copy(1, 0, 2)]
    assert describe_copy(copies[0], nodes, files) == "copying rank_00003.safetensors, 1.2 GB, from b to a"
    assert plan_copies(nodes, files, intact=[{0, 3}, {0}], needed=[{0, 3}, {0}]) == []


@pytest.fixture(scope="module")
def results(run_ranks, tmp_path_factory):
    """Two nodes of one rank save; what is left of their disks is loaded. Answers the root and the results by job."""
    root = tmp_path_factory.mktemp("nodes")
    own, other, empty = (str(root / name / "checkpoints") for name in ("{node}", "other {node}", "new {node}"))

    def disk(name, path=""):
        return str(root / name / "checkpoints" / path)

    def load(checkpoints, **options):
        return {"do": "load", "checkpoints": checkpoints, "num_nodes": 2, **options}

    def merge(into):
        return {"do": "merge", "into": disk(into), "paths": [disk("0"), disk("1")]}

    def save(step):
        return {"do": "save", "checkpoints": own, "step": step, "num_nodes": 2}

    jobs = {
        "first save": save(1),
        "second save": save(2),
        "as it was": load(own),
        "nothing anywhere": load(empty),
        "one disk has all": merge("whole"),
        "the other node is new": load([disk("whole"), disk("new")]),
        "once more": load([disk("whole"), disk("new")]),
        "a disk to spoil": merge("other 0"),
        "changed under way": load(other, flipped_after_verification=disk("other 0", f"step_00000002/{FILE_1}")),
        "the nodes changed places": load([disk("1"), disk("0")]),
        # From here on each loss comes on top of the last.
        "damage": {"do": "flip", "path": disk("1", f"step_00000002/{FILE_1}")},
        "damage of the copy": {"do": "remove", "paths": [disk("0", f"step_00000002/{FILE_1}")]},
        "damaged on its only node": load(own),
        "loss": {"do": "remove", "paths": [disk("1", "step_00000001"), disk("1", "step_00000002")]},
        "lost": load(own),
    }
    found = run_ranks("checkpoint_jobs.py", 2, list(jobs.values()), timeout_seconds=60)
    return root, dict(zip(jobs, found, strict=True))


def names_of(root, disk, step):
    return sorted(path.name for path in step_directory(root / disk / "checkpoints", step).iterdir())


def test_the_same_nodes_load_without_a_copy(results):
    for of_rank in results[1]["as it was"]:
        assert of_rank == {"step": 2, "passed_over": [], "told": [], "right": True}
    assert all(of_rank == {"step": None} for of_rank in results[1]["nothing anywhere"])


def test_a_new_node_gets_what_its_ranks_need_and_no_more(results):
    root, by_job = results
    size = (root / "whole" / "checkpoints" / "step_00000002" / FILE_1).stat().st_size
    for of_rank in by_job["the other node is new"]:
        assert of_rank["step"] == 2 and of_rank["right"]
        to_new = f"from {HOST} (from rank 0 on) to {HOST} (from rank 1 on)"
        assert of_rank["told"] == [
            f"copying {FILE_1}, {size / 1000:.1f} kB, {to_new}",
            f"copying tokenizer.model, 11 bytes, {to_new}",
        ]
    assert names_of(root, "new", 2) == ["manifest.json", FILE_1, "tokenizer.model"]
    for of_rank in by_job["once more"]:
        assert of_rank["told"] == [] and of_rank["right"], "what was copied is whole, and is found again"


def test_nodes_that_changed_places_copy_both_ways(results):
    for of_rank in results[1]["the nodes changed places"]:
        assert of_rank["step"] == 2 and of_rank["right"]
        assert [line.split(",")[0] for line in of_rank["told"]] == [f"copying {FILE_0}", f"copying {FILE_1}"]
    assert names_of(results[0], "0", 1) == ["manifest.json", FILE_0, "tokenizer.model"], "that step was not asked for"


def test_a_file_that_changes_on_its_way_is_refused_on_arrival_and_leaves_no_name(results):
    root, by_job = results
    for of_rank in by_job["changed under way"]:
        assert re.search(rf"rank 1 on host .*{FILE_1}: arrived with checksum", of_rank["error"]), of_rank
    assert names_of(root, "other 1", 2) == [".manifest.json.new", "tokenizer.model"]
    assert list_steps(root / "other 1" / "checkpoints") == []


def test_a_file_that_is_whole_nowhere_is_named_with_its_host_and_the_older_checkpoint_is_loaded(results):
    for of_rank in results[1]["damaged on its only node"]:
        assert of_rank["step"] == 1 and of_rank["right"]
        told = "\n".join(of_rank["passed_over"])
        assert re.search(rf"rank 1 on host .*step_00000002/{FILE_1}: checksum", told)
        assert re.search(rf"{FILE_1}: is whole on no node, host {HOST} wrote it", told)
    for of_rank in results[1]["lost"]:
        assert "no checkpoint is good" in of_rank["error"]
        assert re.search(rf"step_00000001/{FILE_1}: is whole on no node, host {HOST} wrote it", of_rank["error"])
