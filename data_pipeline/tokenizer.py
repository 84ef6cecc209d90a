"""Text to token ids and back, through a SentencePiece file. Trains nothing (`tokenizer_training.py`)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy.typing as npt

from data_pipeline.durable_file import checksum_bytes
from data_pipeline.errors import DataError
from data_pipeline.sentencepiece_file import read_model_facts
from data_pipeline.word_cache import WORD_MARK, WordCache, find_cut

# Everything that a tokenizer with clean-up switched on would change.
_LOSSLESS_PROBE = "  if x:\n\t\treturn  'a b' \r\n"


class Piece(NamedTuple):
    """One entry of the vocabulary."""

    text: str
    score: float
    """What BPE merges by: the highest first."""
    kind: Literal["normal", "control", "byte", "other"]


class Tokenizer:
    """A loaded SentencePiece model. `decode(encode(text)) == text` wherever `is_lossless`."""

    def __init__(self, processor: Any, path: Path, content: bytes) -> None:
        self._processor = processor
        self._content = content
        self._cache: WordCache | None = None
        self.path = path
        self.fingerprint = checksum_bytes(content)
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
            return Tokenizer(processor, path, content)
        except (RuntimeError, ValueError) as error:
            raise DataError(
                f"{path}: {len(content)} bytes that are not a SentencePiece model ({_first_line(error)}): "
                "the file is damaged or of another kind: copy or train it again"
            ) from None

    @property
    def token_dtype(self) -> Literal["uint16", "uint32"]:
        """The narrowest width that holds every id: 65,536 ids are the numbers that 16 bits can hold."""
        return "uint16" if self.vocabulary_size <= 1 << 16 else "uint32"

    def encode(self, text: str) -> list[int]:
        """Encode `text`; no special token is added or recognised."""
        # A word mark of the text would come back as a space, so its bytes are encoded one by one instead.
        if WORD_MARK not in text or not self.is_lossless:
            return list(self._processor.encode(text))
        mark = [self._processor.piece_to_id(f"<0x{byte:02X}>") for byte in WORD_MARK.encode()]
        ids: list[int] = []
        for number, part in enumerate(text.split(WORD_MARK)):
            ids += mark if number else []
            ids += self._processor.encode(part)
        return ids

    def encode_batch(self, texts: Sequence[str]) -> list[npt.NDArray[Any]]:
        """Encode many texts, each to `token_dtype` [its tokens], read-only, with the ids of `encode`.

        Far faster than `encode` where the vocabulary allows a word cache, which then stays in memory.
        """
        if self._cache is None:
            cut = find_cut(read_model_facts(self._content)) if self.is_lossless else None
            self._cache = WordCache(self._encode_many, cut, self.token_dtype)
        return self._cache.encode_batch(texts)

    def _encode_many(self, texts: list[str]) -> list[list[int]]:
        plain_texts = [text for text in texts if WORD_MARK not in text]
        encoded: list[list[int]] = self._processor.encode(plain_texts, num_threads=1)
        if len(encoded) == len(texts):
            return encoded
        plain = iter(encoded)
        return [self.encode(text) if WORD_MARK in text else next(plain) for text in texts]

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

    def pieces(self) -> list[Piece]:
        """Return the pieces of the vocabulary, in the order of their ids."""
        processor = self._processor
        return [
            Piece(processor.id_to_piece(number), processor.get_score(number), _kind_of(processor, number))
            for number in range(self.vocabulary_size)
        ]

    def control_id(self, name: str) -> int | None:
        """Return the id of a control symbol, which no text is encoded to; None if there is none of that name."""
        number = self._processor.piece_to_id(name)
        return number if self._processor.is_control(number) else None

    def _finds_probe_unchanged(self) -> bool:
        try:
            has_bytes = bool(self._processor.is_byte(self._processor.piece_to_id("<0xE2>")))
            return has_bytes and self._processor.decode(self._processor.encode(_LOSSLESS_PROBE)) == _LOSSLESS_PROBE
        except UnicodeDecodeError:
            return False


def _kind_of(processor: Any, number: int) -> Literal["normal", "control", "byte", "other"]:
    if processor.is_control(number):
        return "control"
    if processor.is_byte(number):
        return "byte"
    return "other" if processor.is_unknown(number) or processor.is_unused(number) else "normal"


def _existing(token_id: int) -> int | None:
    return token_id if token_id >= 0 else None


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:160]
