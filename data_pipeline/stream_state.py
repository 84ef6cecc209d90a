"""All that a checkpoint keeps of the data: where the stream stands, and which stream it is. Reads no data."""

import json
from typing import Annotated, Any

from pydantic import Field

from data_pipeline.config import ConfigError, StrictModel, parse_config
from data_pipeline.errors import DataError
from data_pipeline.order import ORDER_VERSION

# What each field means to the person who reads the refusal.
_CAUSES = {
    "version": "another release of the program wrote it",
    "seed": "data.shuffle_seed was changed",
    "sequence_length_tokens": "data.sequence_length_tokens was changed",
    "mixture_hash": "the weights, the number or the order of data.sources was changed",
    "fingerprint": "the tokens of a dataset in data.sources were changed",
}


class StreamState(StrictModel):
    """The same on every rank and at every world size; at most 512 bytes of JSON."""

    version: int = ORDER_VERSION
    """Version of the order."""

    consumed_samples: Annotated[int, Field(ge=0)]
    """Samples that the trainer has taken, over all ranks: the number of the next one."""

    seed: int
    """Seed of the order."""

    sequence_length_tokens: int
    """Tokens of one sample."""

    mixture_hash: str
    """Hash of the number of sources and of their weights."""

    fingerprint: str
    """Hash of the sources' fingerprints, in their order."""

    def to_json(self) -> str:
        """Return one line of JSON."""
        return json.dumps(self.model_dump())

    @staticmethod
    def from_json(text: str) -> "StreamState":
        """Read what `to_json` wrote. Raises DataError for anything else."""
        try:
            values: Any = json.loads(text)
        except json.JSONDecodeError as error:
            raise DataError(f"stream state: not JSON at character {error.pos}: {text[:80]!r}") from None
        if not isinstance(values, dict):
            raise DataError(f"stream state: holds {type(values).__name__}, needs a JSON object: {text[:80]!r}")
        try:
            return parse_config(StreamState, values, where="stream state")
        except ConfigError as error:
            raise DataError(str(error)) from None


def check_same_stream(saved: StreamState, present: StreamState) -> None:
    """Raise DataError that prints both sides if `saved` belongs to another order than `present`."""
    differing = [name for name in _CAUSES if getattr(saved, name) != getattr(present, name)]
    if differing:
        lines = "\n".join(
            f"  {name}: saved {getattr(saved, name)!r}, now {getattr(present, name)!r} ({_CAUSES[name]})"
            for name in differing
        )
        raise DataError(
            f"the saved position, {saved.consumed_samples} samples, belongs to another stream than the config's:\n"
            f"{lines}\n  resuming would repeat and skip data: restore the former setting, or start a new run"
        )
