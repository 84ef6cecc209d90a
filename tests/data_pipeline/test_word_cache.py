"""The word cache gives SentencePiece's own ids, for every text, or is not used."""

import io
import random
import sysconfig
from pathlib import Path

import numpy as np
import pytest
import sentencepiece

from data_pipeline.config import ReadingConfig, TokenizerTrainingConfig
from data_pipeline.sentencepiece_file import ModelFacts, read_model_facts
from data_pipeline.tokenizer import Tokenizer
from data_pipeline.tokenizer_training import train_tokenizer
from data_pipeline.word_cache import WordCache, find_cut

STDLIB = Path(sysconfig.get_paths()["stdlib"])
# Every kind of character that a tokenizer may treat apart: spaces of all sorts, the word mark, NUL, digits, symbols,
# right-to-left letters, combining marks, joined emoji, the ends of the planes.
ALPHABETS = [
    " ",
    " \n\t\r",
    "▁ ",
    "abcdefgh ",
    "self.x_1(): =\n    ",
    "0123456789 ",
    "\0\x01\x7f\x85",
    "éüßñ",
    "\u0301\u0308e a",
    "日本語，。 ",
    "שלום عربى \u202e",
    "👩‍💻🏳️‍🌈 ",
    "\u00a0\u2003\u3000\u2028",
    "\ufeff\ufffd\uffff\U0010ffff",
]


@pytest.fixture(scope="module")
def code_tokenizer(tmp_path_factory) -> Tokenizer:
    reading = ReadingConfig(globs=["*.py"])
    config = TokenizerTrainingConfig(vocabulary_size=8000, sample_bytes=2_000_000, reading=reading)
    return train_tokenizer([STDLIB], tmp_path_factory.mktemp("code"), config).tokenizer


def random_text(source: random.Random) -> str:
    characters = "".join(source.choices(ALPHABETS, k=3))
    any_character = [chr(source.choice([source.randrange(0xD800), source.randrange(0xE000, 0x110000)]))]
    return "".join(source.choices([*characters, *any_character], k=source.randrange(40)))


def sentencepiece_ids(tokenizer: Tokenizer, texts: list[str]) -> list[list[int]]:
    """SentencePiece's own answer; `Tokenizer` spells a word mark of the text in bytes, as SentencePiece does others."""
    processor = sentencepiece.SentencePieceProcessor(model_file=str(tokenizer.path))
    mark = [processor.piece_to_id(f"<0x{byte:02X}>") for byte in "▁".encode()]
    parts = [text.split("▁") for text in texts]
    ids = iter(processor.encode([part for split in parts for part in split]))
    answer = []
    for split in parts:
        joined = list(next(ids))
        for _ in split[1:]:
            joined += mark + next(ids)
        answer.append(joined)
    return answer


def assert_equal_ids(tokenizer: Tokenizer, texts: list[str], needed: list[list[int]]) -> None:
    for text, ids, right in zip(texts, tokenizer.encode_batch(texts), needed, strict=True):
        assert ids.tolist() == right, repr(text)


def test_the_cache_equals_sentencepiece_on_the_whole_standard_library(code_tokenizer):
    left_out = {"site-packages", "test", "tests"}  # the tests of Python itself are two thirds, and more of the same
    paths = [path for path in sorted(STDLIB.rglob("*.py")) if not left_out & set(path.parts)]
    texts = [path.read_bytes().decode("utf-8", errors="ignore") for path in paths]
    assert sum(map(len, texts)) > 8_000_000
    needed = sentencepiece_ids(code_tokenizer, texts)
    for first in range(0, len(texts), 200):
        assert_equal_ids(code_tokenizer, texts[first : first + 200], needed[first : first + 200])


def test_the_cache_equals_sentencepiece_on_ten_thousand_random_strings(code_tokenizer):
    source = random.Random(0)
    texts = [random_text(source) for _ in range(10_000)]
    assert sum("▁" in text for text in texts) > 500
    needed = sentencepiece_ids(code_tokenizer, texts)
    assert_equal_ids(code_tokenizer, texts, needed)
    assert_equal_ids(code_tokenizer, texts, needed)
    assert [code_tokenizer.decode(ids) for ids in needed] == texts


def test_a_small_memory_and_a_long_text_change_no_id(code_tokenizer, monkeypatch):
    monkeypatch.setattr("data_pipeline.word_cache._PART_CHARACTERS", 1000)
    texts = [path.read_text("utf-8") for path in sorted(STDLIB.glob("*.py"))[:20]]
    texts += [" " * 5000 + "x" * 5000, "日本" * 3000, ""]
    facts = read_model_facts(code_tokenizer.path.read_bytes())
    processor = sentencepiece.SentencePieceProcessor(model_file=str(code_tokenizer.path))
    cache = WordCache(processor.encode, find_cut(facts), np.uint16, most_entries=300)
    for text, ids in zip(texts, cache.encode_batch(texts), strict=True):
        assert ids.tolist() == processor.encode(text)


def foreign_tokenizer(path: Path, **options) -> Tokenizer:
    lines = [line for file in sorted(STDLIB.glob("*.py"))[:15] for line in file.read_text("utf-8").splitlines()]
    sink = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=sink, vocab_size=900, minloglevel=2, num_threads=1, **options
    )
    path.write_bytes(sink.getvalue())
    return Tokenizer.load(path)


PLAIN = {
    "model_type": "bpe",
    "byte_fallback": True,
    "normalization_rule_name": "identity",
    "remove_extra_whitespaces": False,
    "add_dummy_prefix": False,
}
FOREIGN = {
    "defaults": {},
    "unigram": PLAIN | {"model_type": "unigram"},
    "no bytes": PLAIN | {"byte_fallback": False},
    "normalised": PLAIN | {"normalization_rule_name": "nfkc_cf"},
    "dummy prefix": PLAIN | {"add_dummy_prefix": True},
    "spaces removed": PLAIN | {"remove_extra_whitespaces": True},
    "mark behind": PLAIN | {"treat_whitespace_as_suffix": True},
    "spaces inside": PLAIN | {"split_by_whitespace": False},
    "symbol with a space": PLAIN | {"user_defined_symbols": ["def x", "("]},
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_tokenizer_of_another_kind_is_not_cached_and_gives_its_own_ids(tmp_path, kind):
    tokenizer = foreign_tokenizer(tmp_path / "foreign.model", **FOREIGN[kind])
    assert find_cut(read_model_facts(tokenizer.path.read_bytes())) is None
    source = random.Random(1)
    texts = [random_text(source).replace("▁", "") for _ in range(500)]
    texts += [path.read_text("utf-8") for path in sorted(STDLIB.glob("*.py"))[:5]]
    processor = sentencepiece.SentencePieceProcessor(model_file=str(tokenizer.path))
    assert_equal_ids(tokenizer, texts, [processor.encode(text) for text in texts])


def test_symbols_are_cut_off_only_where_no_piece_joins_them_to_letters(tmp_path):
    tokenizer = foreign_tokenizer(tmp_path / "mixed.model", **PLAIN, split_by_unicode_script=False)
    facts = read_model_facts(tokenizer.path.read_bytes())
    coarse, fine = find_cut(facts), find_cut(ModelFacts(("▁ab", "(", "▁▁"), True, True, True))
    assert coarse is not None and coarse.findall("  a(b c") == ["  a(b", " c"]
    assert fine is not None and fine.findall("  a(b c") == ["  a", "(", "b", " c"]
    texts = [path.read_text("utf-8") for path in sorted(STDLIB.glob("*.py"))[:5]]
    assert_equal_ids(tokenizer, texts, sentencepiece_ids(tokenizer, texts))
