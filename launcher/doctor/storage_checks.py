"""Verdicts on disks, the run directory and the datasets as each node sees them. Pure."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from launcher.doctor.node_facts import Dataset, Place
from launcher.doctor.result import CheckResult, Verdict, summed_up
from launcher.doctor.software_checks import majority

DISK = "disk"
RUN_DIRECTORY = "run directory"
CHECKPOINT_DIRECTORY = "checkpoint directory"
DATASET = "dataset"

_COMFORTABLE = 1.25  # other files grow too


@dataclass(frozen=True)
class DiskNeed:
    """What the checkpoints of a run take at most, on each node or on the disk that all share."""

    path: str
    is_own: bool
    """Whether the directory is this run's alone, so that what it holds is part of the need."""

    checkpoint_bytes: int
    num_checkpoints: int
    is_shared: bool

    @property
    def total_bytes(self) -> int:
        """All checkpoints that can be there at once."""
        return self.checkpoint_bytes * self.num_checkpoints


@dataclass(frozen=True)
class Sightings:
    """Who sees whose marker file in a directory."""

    directory: str
    own_fault: str
    """Why this host could write none; empty if it did."""

    write_faults: Mapping[str, str]
    """By node: why it could write none."""

    sees_ours: Collection[str]
    """Nodes that see the marker of this host."""

    seen_here: Collection[str]
    """Nodes whose marker this host sees."""


def check_disk(nodes: Mapping[str, Place], need: DiskNeed) -> list[CheckResult]:
    """Judge whether the checkpoints fit. What the run has there already is part of them."""
    findings = {}
    advice = "free some, name another disk by checkpoint.directory, or lower checkpoint.keep_last"
    wanted = f"{need.num_checkpoints} checkpoint(s) of {_size(need.checkpoint_bytes)}"
    for host, place in nodes.items():
        room = place.free_bytes + place.used_bytes
        if place.fault:
            findings[host] = CheckResult(DISK, host, "failed", place.fault, "make the directory readable")
        elif room < need.total_bytes * _COMFORTABLE:
            verdict: Verdict = "failed" if room < need.total_bytes else "warning"
            text = f"{_size(place.free_bytes)} free at {place.existing}, the run needs room for {wanted}"
            findings[host] = CheckResult(DISK, host, verdict, text, advice)
    if need.is_shared and len(findings) == len(nodes) > 1 and len({one.text for one in findings.values()}) == 1:
        one = next(iter(findings.values()))
        return [CheckResult(DISK, None, one.verdict, one.text, one.advice)]
    free = min((place.free_bytes for place in nodes.values()), default=0)
    return summed_up(DISK, list(nodes), findings, f"{_size(free)} free for {wanted}")


def check_shared(check: str, hosts: Collection[str], seen: Sightings, *, must_be_shared: bool) -> list[CheckResult]:
    """Judge whether all nodes and this host see one directory, and can write there."""
    where = seen.directory
    if seen.own_fault:
        return [CheckResult(check, None, "failed", f"this host cannot write: {seen.own_fault}", "mend its rights")]
    findings = {}
    for host in hosts:
        if host in seen.write_faults:
            text = f"cannot write: {seen.write_faults[host]}"
            findings[host] = CheckResult(check, host, "failed", text, "mount it for writing, or mend its rights")
        elif must_be_shared and not (host in seen.sees_ours and host in seen.seen_here):
            text = f"{where} is another directory there: {_direction(host, seen)}"
            advice = "mount the same file system at the same path on every node, or name a place that all share"
            findings[host] = CheckResult(check, host, "failed", text, advice)
    if not must_be_shared and not findings and len(hosts) > 1 and set(hosts) <= set(seen.sees_ours):
        text = f"{where} is one directory on all nodes, checkpoint.shared says it is not"
        return [CheckResult(check, None, "warning", text, "set checkpoint.shared to true")]
    told = "seen and written by every node" if must_be_shared else "written by every node, on disks of their own"
    return summed_up(check, list(hosts), findings, f"{where}: {told}")


def check_datasets(nodes: Mapping[str, Mapping[str, Dataset]], num_remote: int) -> list[CheckResult]:
    """Judge whether each node can read every dataset, and holds what most nodes hold; by path within a node."""
    paths = sorted({path for seen in nodes.values() for path in seen})
    if not paths:
        text = f"{num_remote} source(s) behind URLs: the ranks ask the stores" if num_remote else "no run file given"
        return [CheckResult(DATASET, None, "skipped", text)]
    findings = {}
    for path in paths:
        good = {host: seen[path] for host, seen in nodes.items() if path in seen and not seen[path].fault}
        usual = majority(good) if good else None
        for host, seen in nodes.items():
            fault = _dataset_fault(path, seen.get(path), usual)
            if fault and host not in findings:
                advice = "copy or mount the dataset there; `llama-dist data verify` reads all of it"
                findings[host] = CheckResult(DATASET, host, "failed", fault, advice)
    fine = f"{len(paths)} dataset(s) readable, with equal fingerprints on every node"
    return summed_up(DATASET, list(nodes), findings, fine)


def _dataset_fault(path: str, found: Dataset | None, usual: Dataset | None) -> str | None:
    if found is None:
        return f"{path}: no answer"
    if found.fault or usual is None:
        return found.fault
    if found.fingerprint != usual.fingerprint:
        return f"{path}: fingerprint {found.fingerprint}, elsewhere {usual.fingerprint}: other data"
    if found != usual:
        return (
            f"{path}: {found.num_shards} shard(s) of {found.num_bytes} bytes in all, elsewhere {usual.num_shards} of "
            f"{usual.num_bytes}, under one fingerprint: files are missing, cut off, or of another preparation"
        )
    return None


def _direction(host: str, seen: Sightings) -> str:
    if host in seen.sees_ours:
        return "a file written there is not seen here"
    if host in seen.seen_here:
        return "a file written here is not seen there"
    return "neither side sees a file that the other has written"


def _size(num_bytes: int) -> str:
    return f"{num_bytes / (1 << 30):.2f} GiB" if num_bytes >= 1 << 30 else f"{num_bytes / (1 << 20):.1f} MiB"
