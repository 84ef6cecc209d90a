"""The texts of a lab's Slurm. What differs from a cluster's own is said here, with its reason. Writes nothing."""

from pathlib import Path

from launcher.lab.layout import Lab, Node

_MIN_CPUS = 4  # so that a node takes several ranks, whatever this machine has
GRACE_SECONDS = 30


def slurm_directory(lab: Lab) -> Path:
    """Return the directory of Slurm's configuration, state and socket."""
    return lab.directory / "slurm"


def controller_of(lab: Lab) -> Node:
    """Return the controller's host, of a lab that has Slurm."""
    assert lab.controller is not None
    return lab.controller


def munge_socket(lab: Lab) -> Path:
    """Return where munged listens; the nodes share this machine's files, so one serves them all."""
    return slurm_directory(lab) / "munge.socket"


def slurm_conf(lab: Lab, num_cores: int, memory_mib: int) -> str:
    """Return slurm.conf for nodes that each seem to have this machine's cores and memory."""
    lines = [*_names(lab), *_plugins(), *_times(), *_preemption()]
    resources = f"CPUs={max(_MIN_CPUS, num_cores)} RealMemory={memory_mib} State=UNKNOWN"
    lines += [f"NodeName={node.name} NodeAddr={node.address} {resources}" for node in lab.nodes]
    names = ",".join(node.name for node in lab.nodes)
    lines += [
        f"PartitionName=batch Nodes={names} Default=YES PriorityTier=1 GraceTime={GRACE_SECONDS} MaxTime=INFINITE",
        f"PartitionName=urgent Nodes={names} PriorityTier=10 PreemptMode=OFF MaxTime=INFINITE",
    ]
    return "\n".join(lines) + "\n"


def _names(lab: Lab) -> list[str]:
    directory, controller = slurm_directory(lab), controller_of(lab)
    return [
        f"ClusterName={lab.name}",
        f"SlurmctldHost={controller.name}({controller.address})",
        "SlurmUser=root",
        "AuthType=auth/munge",
        # A requeued job waits until the credentials of its last start have expired: 120 seconds by default.
        f"AuthInfo=socket={munge_socket(lab)},cred_expire=5",
        f"StateSaveLocation={directory / 'state'}",
        f"SlurmdSpoolDir={directory / 'spool'}/%n",
        f"SlurmctldPidFile={directory / 'slurmctld.pid'}",
        f"SlurmdPidFile={directory / 'spool'}/%n.pid",
        f"SlurmdLogFile={lab.directory / 'logs'}/%n.slurmstepd.log",
        "SlurmctldSyslogDebug=quiet",
        "SlurmdSyslogDebug=quiet",
    ]


def _plugins() -> list[str]:
    return [
        # No control groups: the machine's own stay as they are. A job is the tree of its processes.
        "ProctrackType=proctrack/linuxproc",
        "TaskPlugin=task/none",
        "SelectType=select/cons_tres",
        "SelectTypeParameters=CR_CPU",
        "SlurmdParameters=config_overrides",  # nodes may have more CPUs here than the machine has
        "MpiDefault=none",
        "SwitchType=switch/none",
        "JobAcctGatherType=jobacct_gather/none",
        "AccountingStorageType=accounting_storage/none",
    ]


def _times() -> list[str]:
    return [
        "SlurmdTimeout=10",  # a dead node is DOWN after some 10 seconds, not 5 minutes
        "SlurmctldTimeout=10",
        "MessageTimeout=5",  # a ping that nobody answers is waited for so long, and delays the verdict
        "ReturnToService=2",  # a node that comes back is used again, whatever took it down
        "InactiveLimit=0",
        "KillWait=10",
        "SchedulerType=sched/backfill",
        "SchedulerParameters=bf_interval=2,sched_interval=2",
    ]


def _preemption() -> list[str]:
    return [
        "JobRequeue=1",
        "PreemptType=preempt/partition_prio",
        "PreemptMode=REQUEUE",
        # `--signal` of a job is sent when it is preempted too, at the start of its grace time.
        "SlurmctldParameters=preempt_send_user_signal",
    ]


def cgroup_conf() -> str:
    """Return cgroup.conf: named, so that slurmd does not look for the kind that this machine uses. It uses none."""
    return "CgroupPlugin=cgroup/v1\n"
