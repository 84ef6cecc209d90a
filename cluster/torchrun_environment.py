"""A worker that torchrun has started, from the variables that it sets. Pure."""

from collections.abc import Mapping

from cluster.host_names import check_host_name
from cluster.started import SchedulerVariables, Started, is_any_set

_PLACES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK")


def read_torchrun(environment: Mapping[str, str]) -> Started | None:
    """Return what torchrun says of this process, None where it did not start it. Raises ConfigError.

    MASTER_ADDR alone says nothing: batch scripts set it for their own use.
    """
    if not is_any_set(environment, _PLACES):
        return None
    variables = SchedulerVariables(environment, "torchrun")
    variables.require(*_PLACES, "MASTER_ADDR")
    world_size = variables.number("WORLD_SIZE", at_least=1)
    local_size = variables.number("LOCAL_WORLD_SIZE", at_least=1)
    if world_size % local_size:
        raise variables.contradiction(f"WORLD_SIZE={world_size} is no multiple of LOCAL_WORLD_SIZE={local_size}")
    rank = variables.place("RANK", "WORLD_SIZE", world_size)
    local_rank = variables.place("LOCAL_RANK", "LOCAL_WORLD_SIZE", local_size)
    node_index = variables.place("GROUP_RANK", "WORLD_SIZE and LOCAL_WORLD_SIZE", world_size // local_size)
    if rank != node_index * local_size + local_rank:
        raise variables.contradiction(
            f"RANK={rank} is not GROUP_RANK={node_index} x LOCAL_WORLD_SIZE={local_size} + LOCAL_RANK={local_rank}"
        )
    check_host_name(environment["MASTER_ADDR"])
    return Started("torchrun", node_index, world_size // local_size, (), is_rank=True)
