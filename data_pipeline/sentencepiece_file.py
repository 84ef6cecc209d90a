"""What a SentencePiece model file says of itself: its pieces, its kind, what it does to text before it encodes.

Reads only the few fields that decide whether a text may be encoded in parts. The library checks the file itself.
Field numbers: sentencepiece_model.proto of the SentencePiece project.
"""

from collections.abc import Iterator
from dataclasses import dataclass

_BPE = 2
_NORMAL, _UNKNOWN, _CONTROL, _BYTE = 1, 2, 3, 6
_NOT_TEXT = (_UNKNOWN, _CONTROL, _BYTE)
_VARINT, _FIXED64, _LENGTH_DELIMITED, _FIXED32 = 0, 1, 2, 5


@dataclass(frozen=True)
class ModelFacts:
    """The fields, with the format's own defaults where the file leaves one out."""

    pieces: tuple[str, ...]
    """Those that text can become: control, unknown and byte pieces are left out."""

    is_bpe: bool
    has_byte_fallback: bool
    keeps_text: bool
    """Whether nothing is normalised, added or removed, and a space becomes the word mark, one for one."""


def read_model_facts(content: bytes) -> ModelFacts:
    """Read the fields of a model that the library has loaded."""
    pieces: list[str] = []
    trainer: dict[int, int | bytes] = {}
    normalizer: dict[int, int | bytes] = {}
    for number, value in _fields(content):
        if number == 1 and isinstance(value, bytes):
            piece = dict(_fields(value))
            text = piece.get(1, b"")
            if piece.get(3, _NORMAL) not in _NOT_TEXT and isinstance(text, bytes):
                pieces.append(text.decode("utf-8", errors="replace"))
        elif number == 2 and isinstance(value, bytes):
            trainer = dict(_fields(value))
        elif number == 3 and isinstance(value, bytes):
            normalizer = dict(_fields(value))
    return ModelFacts(
        pieces=tuple(pieces),
        is_bpe=trainer.get(3, 1) == _BPE,
        has_byte_fallback=bool(trainer.get(35, 0)),
        # No character map, no dummy prefix, no removed spaces, spaces escaped, and the mark before its word.
        keeps_text=(
            not normalizer.get(2, b"")
            and (normalizer.get(3, 1), normalizer.get(4, 1), normalizer.get(5, 1)) == (0, 0, 1)
            and not trainer.get(24, 0)
        ),
    )


def _fields(content: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield (field number, value) of one protobuf message; numbers of fixed width are left out."""
    place = 0
    while place < len(content):
        key, place = _varint(content, place)
        number, wire_type = key >> 3, key & 7
        if wire_type == _VARINT:
            value, place = _varint(content, place)
            yield number, value
        elif wire_type == _LENGTH_DELIMITED:
            length, place = _varint(content, place)
            yield number, content[place : place + length]
            place += length
        elif wire_type in (_FIXED32, _FIXED64):
            place += 4 if wire_type == _FIXED32 else 8
        else:
            raise ValueError(f"byte {place} starts a protobuf field of unknown type {wire_type}")


def _varint(content: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = content[place]
        value |= (byte & 0x7F) << shift
        place += 1
        if byte < 0x80:
            return value, place
        shift += 7
