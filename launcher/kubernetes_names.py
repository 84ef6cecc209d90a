"""Names of what a run has on Kubernetes, from the run's name: DNS labels, and different for different runs. Pure."""

import hashlib
import re

REPLICATED_JOB = "nodes"
"""Name of the one job of a JobSet."""

# A pod's host name is `NAME-nodes-0-INDEX` in a JobSet: with an index of 4 digits, and the dash of the random part of
# a pod's name, it stays within the 63 characters of a DNS label.
_MAX_LENGTH = 40
_DIGEST_LENGTH = 8


def object_name(run_name: str) -> str:
    """Return the run's name where it is a label that begins with a letter, else the nearest one with a digest."""
    label = re.sub(r"[^a-z0-9]+", "-", run_name.lower()).strip("-")
    if not label[:1].isalpha():
        label = f"run-{label}".rstrip("-")
    if label == run_name and len(label) <= _MAX_LENGTH:
        return label
    digest = hashlib.sha256(run_name.encode()).hexdigest()[:_DIGEST_LENGTH]
    return f"{label[: _MAX_LENGTH - 1 - _DIGEST_LENGTH].rstrip('-')}-{digest}"


def job_name(name: str, jobset: bool) -> str:
    """Return the name of the Indexed Job, from which its pods have theirs; a JobSet makes one from its own name."""
    return f"{name}-{REPLICATED_JOB}-0" if jobset else name
