"""Whether one staged copy of the state fits into the memory of every host. Measures and refuses; allocates nothing."""

from llama_dist.checkpoint.save_group import SaveGroup
from llama_dist.config import ConfigError
from llama_dist.runtime.memory_limit import available_bytes

_GIB = 1 << 30


def check_staging_fits(num_bytes: int, group: SaveGroup) -> None:
    """Collective. Compare what the ranks of each host are about to stage with the memory that is available there.

    `num_bytes` is this rank's copy; the job's own limit counts too. Raises ConfigError on every rank where a host has
    too little.
    """
    needed: dict[str, int] = {}
    available: dict[str, int] = {}
    num_ranks: dict[str, int] = {}
    for host, size, free in group.gather([group.host, num_bytes, available_bytes()]):
        needed[host] = needed.get(host, 0) + size
        available[host] = min(free, available.get(host, free))
        num_ranks[host] = num_ranks.get(host, 0) + 1
    short = [
        f"host {host} needs {needed[host] / _GIB:.1f} GiB for its {num_ranks[host]} ranks and has "
        f"{available[host] / _GIB:.1f} GiB available"
        for host in needed
        if needed[host] > available[host]
    ]
    if short:
        raise ConfigError(
            "checkpoint.asynchronous keeps one copy of the training state in host memory: "
            + "; ".join(short)
            + ". Set checkpoint.asynchronous: false, which writes from the live state while training waits, or spread "
            "the run over more hosts"
        )
