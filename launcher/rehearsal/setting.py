"""The user's run as it is rehearsed: on the hosts of a lab, without an end, saved every few steps. Pure."""

from dataclasses import dataclass
from pathlib import Path

from cluster.hostfile import read_hostfile
from launcher.hosts import with_slots
from launcher.lab.layout import lay_out
from launcher.replan import Fitted, fit_to
from launcher.trial import trial_config
from llama_dist.config import ClusterConfig, ConfigError, RunConfig
from llama_dist.config.cluster import NodeRange

TRIAL_NAME = "rehearsed"
INTERVAL_STEPS = 5
_KEEP_LAST = 2
# Two that are kept, one that is written, and room for what a save needs beside it.
_CHECKPOINTS_ON_DISK = _KEEP_LAST + 2
_BYTES_PER_PARAMETER = 12  # fp32 weight and two moments
_BYTES_BESIDE = 16 << 20  # manifest, tokenizer, what the file system itself takes
_ENDLESS_STEPS = 10**9  # a drill ends when its faults are through, not when the run would


@dataclass(frozen=True)
class Setting:
    """What is launched, but for what only a lab that stands can tell."""

    config: RunConfig
    cluster: ClusterConfig
    changes: tuple[str, ...]
    """What had to differ from the user's config for the lab's few nodes."""

    @property
    def fewest_nodes(self) -> int:
        """Nodes without which the run waits."""
        return self.cluster.nodes.min if self.cluster.nodes else self.most_nodes

    @property
    def most_nodes(self) -> int:
        """Nodes that an attempt has at most."""
        regular = len(self.cluster.hosts) - self.cluster.spare_nodes
        return min(self.cluster.nodes.max, regular) if self.cluster.nodes else regular


def set_the_scene(config: RunConfig, cluster: ClusterConfig, num_nodes: int, *, loses_node: bool) -> Setting:
    """Fit the run onto the lab. Raises ConfigError where it could not train there, or not with a node less."""
    on_lab = cluster_on_lab(cluster, num_nodes)
    setting = Setting(config, on_lab, ())
    fitted = _fit(config, on_lab, setting.most_nodes)
    if loses_node and on_lab.nodes and on_lab.nodes.min < setting.most_nodes:
        _fit(config, on_lab, setting.most_nodes - 1)
    return Setting(fitted.config, on_lab, fitted.overrides)


def cluster_on_lab(cluster: ClusterConfig, num_nodes: int) -> ClusterConfig:
    """Return the user's cluster with a lab's hosts: what reaches the nodes is the lab's, times and counts stay.

    Raises LabError for a number of nodes that no lab has.
    """
    hosts = [node.name for node in lay_out(TRIAL_NAME, num_nodes, 0, has_slurm=False).nodes]
    spare = cluster.spare_nodes if cluster.spare_nodes < num_nodes else 0
    if cluster.hostfile:
        cluster = with_slots(cluster, read_hostfile(Path(cluster.hostfile)))
    return ClusterConfig(
        backend="ssh",
        hosts=hosts,
        num_processes_per_node=cluster.num_processes_per_node or 1,
        nodes=_node_range(cluster, num_nodes - spare),
        spare_nodes=spare,
        connect_timeout_seconds=cluster.connect_timeout_seconds,
        node_timeout_seconds=cluster.node_timeout_seconds,
    )


def rehearsed_config(config: RunConfig, directory: Path, small_disk: Path | None) -> RunConfig:
    """Return the config of the trial; with `small_disk` its checkpoints lie there."""
    place = {} if small_disk is None else {"directory": str(small_disk)}
    return trial_config(
        config,
        TRIAL_NAME,
        directory,
        interval_steps=INTERVAL_STEPS,
        keep_last=_KEEP_LAST,
        checkpoint={"shared": True, **place},  # the lab's nodes have one disk
        train={"num_steps": max(config.train.num_steps, _ENDLESS_STEPS)},
    )


def small_disk_bytes(config: RunConfig, available_bytes: int) -> int:
    """Size of the disk that is filled up; it takes memory. Raises ConfigError where there is too little."""
    num_bytes = _CHECKPOINTS_ON_DISK * config.model.num_parameters * _BYTES_PER_PARAMETER + _BYTES_BESIDE
    if num_bytes > available_bytes // 2:
        raise ConfigError(
            f"full-disk needs a disk in memory of {num_bytes / 2**30:.1f} GiB for {_CHECKPOINTS_ON_DISK} checkpoints; "
            f"{available_bytes / 2**30:.1f} GiB are available, and half of that is for the ranks: leave the fault out "
            "of --faults, or rehearse a smaller model (--set model.num_layers=2)"
        )
    return num_bytes


def _node_range(cluster: ClusterConfig, num_regular: int) -> NodeRange | None:
    """Elastic by one node, unless the user's cluster says otherwise and that fits a lab."""
    wanted = cluster.nodes
    if wanted is None:
        is_said = "nodes" in cluster.model_fields_set
        return None if is_said else NodeRange(min=max(1, num_regular - 1), max=num_regular)
    fewest = wanted.min if wanted.min <= num_regular else max(1, num_regular - 1)
    return NodeRange(min=fewest, max=max(fewest, min(wanted.max, num_regular)))


def _fit(config: RunConfig, cluster: ClusterConfig, num_nodes: int) -> Fitted:
    try:
        return fit_to(config, (cluster.num_processes_per_node or 1) * num_nodes)
    except ConfigError as error:
        raise ConfigError(f"on {num_nodes} node(s) of the lab: {error}") from None
