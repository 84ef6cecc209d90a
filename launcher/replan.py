"""What an elastic run trains as on the nodes that are left: the same global batches, on another topology. Pure."""

from dataclasses import dataclass

from launcher.offers import find_offers, take_offer
from llama_dist.config import ConfigError, RunConfig, check_rules


@dataclass(frozen=True)
class Fitted:
    """A config that works on so many processes, and the overrides that made it so."""

    config: RunConfig
    overrides: tuple[str, ...]


def fit_to(config: RunConfig, world_size: int) -> Fitted:
    """Return the config itself where it works, or the closest that does; the global batch is never changed.

    Data-parallel size and accumulation follow by themselves; only where they do not work out are micro-batch, stages
    or ZeRO stage changed. Raises ConfigError with every broken rule where nothing fits.
    """
    try:
        check_rules(config, world_size)
    except ConfigError:
        offers = find_offers(config, world_size)
        if not offers:
            raise
        return Fitted(take_offer(config, offers[0]), offers[0])
    return Fitted(config, ())
