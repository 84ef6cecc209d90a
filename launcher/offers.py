"""What would work instead of a topology that breaks the rules: the smallest changes that pass all of them."""

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

from llama_dist.config import RULES, ConfigError, RunConfig, check_rules

_MAX_OFFERS = 3


def check_topology(config: RunConfig, world_size: int) -> None:
    """Raise ConfigError that lists each broken rule, and after them what fits on `world_size` processes."""
    try:
        check_rules(config, world_size)
    except ConfigError as error:
        offers = find_offers(config, world_size)
        advice = "".join(f"\n  --set {' --set '.join(offer)}" for offer in offers)
        raise ConfigError(
            f"{error}{f'{chr(10)}works on {world_size} process(es):{advice}' if offers else ''}"
        ) from None


def find_offers(config: RunConfig, world_size: int) -> list[tuple[str, ...]]:
    """Return up to three sets of `a.b=c` overrides that pass every rule, fewest changes first."""
    legal = [changes for changes in _candidates(config, world_size) if _is_legal(config, changes, world_size)]
    legal.sort(key=lambda changes: (len(changes), [abs(_value(config, key) - value) for key, value in changes]))
    return [tuple(f"{key}={value}" for key, value in changes) for changes in legal[:_MAX_OFFERS]]


def take_offer(config: RunConfig, offer: Sequence[str]) -> RunConfig:
    """Apply the overrides of one offer."""
    changes = ((key, int(value)) for key, _, value in (text.partition("=") for text in offer))
    return _changed(config, dict(changes))


Changes = tuple[tuple[str, int], ...]


def _candidates(config: RunConfig, world_size: int) -> Iterator[Changes]:
    """Yield the cuts that keep the global batch, so that the order of the data stays the same."""
    batch = config.batch.global_batch_sequences
    stage_counts = [count for count in range(1, world_size + 1) if world_size % count == 0]
    micro_batches = {size for size in range(1, config.batch.micro_batch_sequences + 1) if batch % size == 0}
    for stages, zero, micro in product(stage_counts, (0, 1, 2, 3), sorted(micro_batches)):
        wanted = {
            "parallel.pipeline_stages": stages,
            "parallel.zero_stage": zero,
            "batch.micro_batch_sequences": micro,
        }
        yield tuple((key, value) for key, value in wanted.items() if _value(config, key) != value)


def _is_legal(config: RunConfig, changes: Changes, world_size: int) -> bool:
    changed = _changed(config, dict(changes))
    return all(rule.broken_by(changed, world_size) is None for rule in RULES)


def _changed(config: RunConfig, values: dict[str, int]) -> RunConfig:
    """Another number of stages makes an uneven cut that was told meaningless."""
    parallel: dict[str, Any] = dict(_below("parallel.", values))
    if "pipeline_stages" in parallel:
        parallel["layers_per_stage"] = None
    return config.model_copy(
        update={
            "parallel": config.parallel.model_copy(update=parallel),
            "batch": config.batch.model_copy(update=_below("batch.", values)),
        }
    )


def _below(prefix: str, values: dict[str, int]) -> dict[str, int]:
    return {key.removeprefix(prefix): value for key, value in values.items() if key.startswith(prefix)}


def _value(config: RunConfig, key: str) -> int:
    section, name = key.split(".")
    return int(getattr(getattr(config, section), name))
