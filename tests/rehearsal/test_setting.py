"""The user's run as it is put onto a lab."""

from pathlib import Path

import pytest

from launcher.lab.lab_error import LabError
from launcher.rehearsal.setting import cluster_on_lab, rehearsed_config, set_the_scene, small_disk_bytes
from llama_dist.config import ClusterConfig, ConfigError, check_rules, parse_run_config


def config(**sections):
    values = {
        "name": "mine",
        "model": {
            "vocabulary_size": 512, "hidden_size": 32, "num_layers": 2, "num_heads": 2, "feed_forward_size": 64,
            "max_sequence_length_tokens": 64,
        },
        "data": {"sources": [{"path": "data"}], "sequence_length_tokens": 64},
        "batch": {"global_batch_sequences": 12, "micro_batch_sequences": 2},
        "train": {"num_steps": 60},
        "checkpoint": {"interval_steps": 1000, "upload": "memory://there", "keep_every_steps": 2},
    }  # fmt: skip
    return parse_run_config(values | sections, where="test")


def nodes_on_lab(cluster, num_nodes):
    nodes = cluster_on_lab(cluster, num_nodes).nodes
    return nodes and (nodes.min, nodes.max)


def test_a_cluster_that_says_nothing_of_nodes_becomes_elastic_by_one():
    assert nodes_on_lab(ClusterConfig(), 3) == (2, 3)
    assert nodes_on_lab(ClusterConfig(), 1) == (1, 1)
    assert nodes_on_lab(ClusterConfig(spare_nodes=1), 3) == (1, 2)


def test_what_the_user_s_cluster_says_of_nodes_holds_where_it_fits():
    assert nodes_on_lab(ClusterConfig(nodes={"min": 1, "max": 8}), 3) == (1, 3)
    assert nodes_on_lab(ClusterConfig(nodes={"min": 3, "max": 8}), 3) == (3, 3)
    assert nodes_on_lab(ClusterConfig(nodes={"min": 48, "max": 64}), 3) == (2, 3), "a lab has no 48 nodes"
    assert nodes_on_lab(ClusterConfig(nodes=None), 3) is None


def test_hosts_are_the_lab_s_and_times_and_ranks_of_a_node_are_the_user_s(tmp_path):
    hostfile = tmp_path / "hostfile"
    hostfile.write_text("gpu1 slots=4\ngpu2 slots=4\n")
    theirs = ClusterConfig(
        backend="ssh", hostfile=str(hostfile), ssh_config="/home/me/.ssh/config", python="/there/python",
        node_timeout_seconds=7.0, spare_nodes=2,
    )  # fmt: skip
    cluster = cluster_on_lab(theirs, 2)
    assert (cluster.hosts, cluster.hostfile, cluster.ssh_config) == (["node1", "node2"], None, None)
    assert (cluster.num_processes_per_node, cluster.node_timeout_seconds) == (4, 7.0)
    assert (cluster.python, cluster.spare_nodes) == (None, 0)
    assert cluster_on_lab(ClusterConfig(backend="kubernetes"), 2).num_processes_per_node == 1


def test_a_number_of_nodes_that_no_lab_has_is_refused():
    with pytest.raises(LabError, match="--nodes 0"):
        cluster_on_lab(ClusterConfig(), 0)


def test_a_topology_for_many_gpus_is_fitted_to_the_lab_and_what_changed_is_told():
    big = config(parallel={"pipeline_stages": 2, "zero_stage": 1})
    setting = set_the_scene(big, ClusterConfig(), 3, loses_node=False)
    check_rules(setting.config, 3)
    assert setting.changes == ("parallel.pipeline_stages=1",)
    assert (setting.fewest_nodes, setting.most_nodes) == (2, 3)
    assert set_the_scene(config(), ClusterConfig(), 3, loses_node=True).changes == ()


def test_a_batch_that_does_not_divide_after_a_lost_node_is_told_before_anything_starts():
    one_layer = config().model.model_dump() | {"num_layers": 1}  # so that no pipeline helps
    odd = config(batch={"global_batch_sequences": 9, "micro_batch_sequences": 1}, model=one_layer)
    with pytest.raises(ConfigError, match=r"on 2 node\(s\) of the lab: (.|\n)*global_batch 9"):
        set_the_scene(odd, ClusterConfig(), 3, loses_node=True)
    set_the_scene(odd, ClusterConfig(), 3, loses_node=False)
    set_the_scene(odd, ClusterConfig(nodes={"min": 3, "max": 3}), 3, loses_node=True)


def test_the_rehearsed_run_saves_often_ends_never_and_touches_nothing_of_the_user_s():
    theirs = config()
    ours = rehearsed_config(theirs, Path("/r"), Path("/r/small_disk"))
    assert (ours.checkpoint.interval_steps, ours.checkpoint.directory) == (5, "/r/small_disk")
    assert (ours.checkpoint.upload, ours.metrics.mlflow, ours.metrics.audit_samples) == (None, False, True)
    assert ours.train.num_steps > 10**6 and ours.runs_directory == "/r"
    assert (ours.model, ours.data, ours.batch, ours.optimizer) == (
        theirs.model, theirs.data, theirs.batch, theirs.optimizer
    )  # fmt: skip
    assert rehearsed_config(theirs, Path("/r"), None).checkpoint.directory is None


def test_the_small_disk_holds_the_checkpoints_or_is_refused():
    num_bytes = small_disk_bytes(config(), 1 << 34)
    assert num_bytes > 3 * 12 * config().model.num_parameters
    with pytest.raises(ConfigError, match="leave the fault out of --faults"):
        small_disk_bytes(config(), num_bytes)
