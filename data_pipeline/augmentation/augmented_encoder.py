"""Encodes a group of documents, some of them varied. What is not varied goes through the plain encoder as it is."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from data_pipeline.augmentation.bpe_dropout import BpeDropout
from data_pipeline.augmentation.fill_in_the_middle import Part, Sentinels, rearrange
from data_pipeline.augmentation.keyed_random import KeyedRandom
from data_pipeline.config import AugmentationConfig
from data_pipeline.tokenizer import Tokenizer

Ids = npt.NDArray[Any]
EncodeBatch = Callable[[Sequence[str]], Sequence[Ids]]
"""Encodes texts one by one, each to [its tokens]."""


class AugmentedEncoder:
    """Encodes training documents with the variations of a config."""

    def __init__(self, config: AugmentationConfig, tokenizer: Tokenizer, encode_batch: EncodeBatch) -> None:
        """Raises DataError for a tokenizer that cannot be sampled, or lacks a control symbol."""
        self._config = config
        self._encode_batch = encode_batch
        sampling, filling = config.subword_sampling, config.fill_in_the_middle
        self._dropout = BpeDropout(tokenizer) if sampling is not None else None
        self._sentinels = Sentinels.of(tokenizer, filling) if filling is not None else None

    def encode_batch(self, texts: Sequence[str], document_ids: Sequence[bytes | None]) -> list[Ids]:
        """Encode each text to [its tokens]. A document whose id is None, as a held-out one, is not varied."""
        documents = [self._parts(text, name) for text, name in zip(texts, document_ids, strict=True)]
        # Sampled parts are ids by now; all other text is encoded in one call, in the order in which it is taken back.
        encoded = iter(self._encode_batch([part for parts in documents for part in parts if isinstance(part, str)]))
        return [_joined(parts, encoded) for parts in documents]

    def _parts(self, text: str, document_id: bytes | None) -> list[Part | list[int]]:
        if document_id is None or not text:
            return [text]
        parts: list[Part] = self._rearranged(text, document_id)
        sampling = self._config.subword_sampling
        if sampling is None or self._dropout is None:
            return [*parts]
        random = KeyedRandom(self._config.seed, "subword_sampling", document_id)
        if random.share() >= sampling.rate:
            return [*parts]
        dropout = self._dropout
        return [dropout.encode(part, sampling.dropout, random) if isinstance(part, str) else part for part in parts]

    def _rearranged(self, text: str, document_id: bytes) -> list[Part]:
        filling = self._config.fill_in_the_middle
        if filling is None or self._sentinels is None:
            return [text]
        random = KeyedRandom(self._config.seed, "fill_in_the_middle", document_id)
        if random.share() >= filling.rate:
            return [text]
        return rearrange(text, self._sentinels, filling.spm_share, random)


def check_augmentation(config: AugmentationConfig | None, tokenizer: Tokenizer) -> None:
    """Raise DataError if `tokenizer` cannot serve `config`, before any work is begun."""
    if config is not None:
        AugmentedEncoder(config, tokenizer, tokenizer.encode_batch)


def _joined(parts: Sequence[Part | list[int]], encoded: Iterator[Ids]) -> Ids:
    arrays = [next(encoded) if isinstance(part, str) else np.atleast_1d(np.array(part, np.int64)) for part in parts]
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
