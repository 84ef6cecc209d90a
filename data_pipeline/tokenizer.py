"""Text to token ids and back, through a SentencePiece file. Trains nothing (`tokenizer_training.py`)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data_pipeline.durable_file import checksum_bytes
from data_pipeline.errors import DataError

# SentencePiece writes a space as this character inside its pieces, so that one in the text would come back as a
# space. Its bytes are encoded one by one instead.
_WORD_MARK = "▁"
# Everything that a tokenizer with clean-up switched on would change.
_LOSSLESS_PROBE = "  if x:\n\t\treturn  'a b' \r\n"


class Tokenizer:
    """A loaded SentencePiece model. `decode(encode(text)) == text` wherever `is_lossless`."""

    def __init__(self, processor: Any, path: Path, fingerprint: str) -> None:
        self._processor = processor
        self.path = path
        self.fingerprint = fingerprint
        """xxh3_128 of the file."""
        self.vocabulary_size: int = processor.get_piece_size()
        self.unk_id = _existing(processor.unk_id())
        self.bos_id = _existing(processor.bos_id())
        self.eos_id = _existing(processor.eos_id())
        self.is_lossless = False
        self.is_lossless = self._finds_probe_unchanged()

    @staticmethod
    def load(path: Path | str) -> "Tokenizer":
        """Load a model file. Raises DataError where it is missing, cut off or damaged."""
        path = Path(path)
        try:
            content = path.read_bytes()
        except OSError as error:
            raise DataError(f"{path}: the tokenizer cannot be read: {error.strerror}") from None
        if not content:
            raise DataError(f"{path}: 0 bytes, needs a SentencePiece model: train the tokenizer again")
        import sentencepiece  # noqa: PLC0415  (the launcher reads this module's errors; the library is heavy)

        try:
            processor = sentencepiece.SentencePieceProcessor(model_proto=content)
            return Tokenizer(processor, path, checksum_bytes(content))
        except (RuntimeError, ValueError) as error:
            raise DataError(
                f"{path}: {len(content)} bytes that are not a SentencePiece model ({_first_line(error)}): "
                "the file is damaged or of another kind: copy or train it again"
            ) from None

    def encode(self, text: str) -> list[int]:
        """Encode `text`; no special token is added or recognised."""
        if _WORD_MARK not in text or not self.is_lossless:
            return list(self._processor.encode(text))
        mark = [self._processor.piece_to_id(f"<0x{byte:02X}>") for byte in _WORD_MARK.encode()]
        ids: list[int] = []
        for number, part in enumerate(text.split(_WORD_MARK)):
            ids += mark if number else []
            ids += self._processor.encode(part)
        return ids

    def encode_batch(self, texts: Sequence[str]) -> list[npt.NDArray[np.int64]]:
        """Encode many texts, each to int64 [its tokens], as `encode` would one by one."""
        plain = [text for text in texts if _WORD_MARK not in text]
        encoded = iter(self._processor.encode(plain, num_threads=1) if plain else [])
        return [
            np.array(next(encoded) if _WORD_MARK not in text else self.encode(text), dtype=np.int64) for text in texts
        ]

    def decode(self, ids: Sequence[int]) -> str:
        """Decode `ids`, which may end inside a character. Raises DataError for an id outside the vocabulary."""
        ids = [int(token) for token in ids]
        outside = next((token for token in ids if not 0 <= token < self.vocabulary_size), None)
        if outside is not None:
            raise DataError(f"{self.path}: token id {outside} is outside 0..{self.vocabulary_size - 1}")
        try:
            return str(self._processor.decode(ids))
        except UnicodeDecodeError as error:
            raise DataError(f"{self.path}: a piece of the tokenizer is not UTF-8 ({error.reason}): damaged") from None

    def _finds_probe_unchanged(self) -> bool:
        try:
            has_bytes = bool(self._processor.is_byte(self._processor.piece_to_id("<0xE2>")))
            return has_bytes and self._processor.decode(self._processor.encode(_LOSSLESS_PROBE)) == _LOSSLESS_PROBE
        except UnicodeDecodeError:
            return False


def _existing(token_id: int) -> int | None:
    return token_id if token_id >= 0 else None


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:160]
