"""Where exact deduplication stands in a chain, and the hash by which texts are compared.

Which document of a corpus is the first of its text is found by the preparation, which sees all of them; here a document
is asked for its hash and kept or dropped.
"""

from collections.abc import Callable, Sequence

import xxhash

from data_pipeline.config.transforms import TransformConfig
from data_pipeline.transforms.transform import Dropped

Keeps = Callable[[bytes], bool]
"""Asked once for each document that arrives at the deduplication, in the order of the task: is it to stay?"""


def text_hash(text: str) -> bytes:
    """Return the 16 bytes by which texts are compared: xxh3_128 of the UTF-8 form, as a `doc_id` is."""
    return xxhash.xxh3_128_digest(text.encode())


def split_at_deduplication(
    chain: Sequence[TransformConfig],
) -> tuple[list[TransformConfig], list[TransformConfig]]:
    """Return the transforms before `deduplicate` and those after it; all and none if the chain has none."""
    place = next((number for number, one in enumerate(chain) if one.kind == "deduplicate"), len(chain))
    return list(chain[:place]), list(chain[place + 1 :])


def has_deduplication(chain: Sequence[TransformConfig]) -> bool:
    """Whether the chain has a `deduplicate`."""
    return any(one.kind == "deduplicate" for one in chain)


class Deduplicate:
    """Drops as `duplicate` what `keeps` says is not the first."""

    def __init__(self, keeps: Keeps) -> None:
        self._keeps = keeps

    def apply(self, text: str) -> str | Dropped:
        """Return the text itself, or that it is dropped."""
        return text if self._keeps(text_hash(text)) else Dropped("duplicate")
