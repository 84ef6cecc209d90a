"""A SentencePiece BPE tokenizer as the JSON that Hugging Face's `tokenizers` reads. Trains and encodes nothing.

The ids are ours for every text, but for two things. U+2581, the word mark itself, is a space there. Where two different
pairs make the same piece, their merge goes by the order of pairs and SentencePiece's by place, which may cut a run of
repeated characters another way.
"""

from collections.abc import Sequence
from typing import Any

from data_pipeline.tokenizer import Piece, Tokenizer
from llama_dist.interop.errors import ExchangeError

_WORD_MARK = "▁"


def tokenizer_files(tokenizer: Tokenizer) -> dict[str, Any]:
    """Return the contents of tokenizer.json and tokenizer_config.json, as plain values.

    Raises ExchangeError for a tokenizer that changes text: theirs could not do the same.
    """
    if not tokenizer.is_lossless:
        raise ExchangeError(
            f"{tokenizer.path}: this tokenizer does not give text back as it was, so its rules cannot be written for "
            "Hugging Face: export without it (--no-tokenizer) and copy the tokenizer yourself"
        )
    pieces = tokenizer.pieces()
    special = {piece.text: number for number, piece in enumerate(pieces) if piece.kind == "control"}
    if tokenizer.unk_id is not None:
        special[pieces[tokenizer.unk_id].text] = tokenizer.unk_id
    return {
        "tokenizer.json": {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [_added(text, number) for text, number in sorted(special.items(), key=lambda one: one[1])],
            "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": _WORD_MARK},
            "pre_tokenizer": None,
            "post_processor": None,
            "decoder": {
                "type": "Sequence",
                "decoders": [
                    {"type": "Replace", "pattern": {"String": _WORD_MARK}, "content": " "},
                    {"type": "ByteFallback"},
                    {"type": "Fuse"},
                ],
            },
            "model": {
                "type": "BPE",
                "dropout": None,
                "unk_token": None if tokenizer.unk_id is None else pieces[tokenizer.unk_id].text,
                "continuing_subword_prefix": None,
                "end_of_word_suffix": None,
                "fuse_unk": True,
                "byte_fallback": True,
                "ignore_merges": False,
                "vocab": {piece.text: number for number, piece in enumerate(pieces)},
                "merges": merges_of(pieces),
            },
        },
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "unk_token": _text(pieces, tokenizer.unk_id),
            "bos_token": _text(pieces, tokenizer.bos_id),
            "eos_token": _text(pieces, tokenizer.eos_id),
            "clean_up_tokenization_spaces": False,
            # A text that holds `</s>` is text, as it was in training.
            "split_special_tokens": True,
        },
    }


def merges_of(pieces: Sequence[Piece]) -> list[list[str]]:
    """Every pair of pieces that makes a piece, in the order in which SentencePiece would merge: highest score first."""
    numbers = {piece.text: number for number, piece in enumerate(pieces) if piece.kind == "normal"}
    merges = []
    for piece in pieces:
        if piece.kind != "normal":
            continue
        for cut in range(1, len(piece.text)):
            left, right = piece.text[:cut], piece.text[cut:]
            if left in numbers and right in numbers:
                merges.append((-piece.score, numbers[left], numbers[right], [left, right]))
    return [pair for *_, pair in sorted(merges)]


def _added(text: str, number: int) -> dict[str, Any]:
    return {
        "id": number,
        "content": text,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": True,
    }


def _text(pieces: Sequence[Piece], number: int | None) -> str | None:
    return None if number is None else pieces[number].text
