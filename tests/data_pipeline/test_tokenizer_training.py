"""The tokenizer gives every text back, is reproducible to the byte, and no file can crash it."""

import random
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.config import ReadingConfig, TokenizerTrainingConfig
from data_pipeline.errors import DataError
from data_pipeline.text_sample import TextSample, cut_at_lines
from data_pipeline.tokenizer import Tokenizer
from data_pipeline.tokenizer_training import train_tokenizer

SMALL = TokenizerTrainingConfig(vocabulary_size=400)

AWKWARD = [
    "",
    " ",
    "   three leading and trailing   ",
    "def f(x):\n\tif x:\n\t\treturn  x\n\n\n",
    "tabs\t\t\tand\r\nwindows ends\r",
    "no newline at the end\n    indented",
    "▁ is the mark of SentencePiece itself ▁▁ a▁b",
    "<s></s><unk><0x0A>",
    "⁇ and \ufffd and \ufeff",
    "nul \0 inside",
    "12 345 0x1F 3.14e-10",
    "日本語 und Ümläute, e\u0301 (two code points), \U0001f600\u200d\U0001f680",
    "\u00a0\u2003\u3000\u2028\u0085 spaces of other kinds",
    "ﬁ ① Å ｆｕｌｌ: NFKC would change these",
]


@pytest.mark.parametrize("text", AWKWARD)
def test_decoding_gives_awkward_text_back(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text


@given(st.text(max_size=60) | st.text(alphabet=" \t\n\r▁a1\0é", max_size=40))
@settings(max_examples=200, deadline=None)
def test_decoding_gives_any_text_back(tokenizer, text):
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert not {tokenizer.unk_id, tokenizer.bos_id, tokenizer.eos_id} & set(ids)


def test_decoding_gives_source_code_back(tokenizer, corpus):
    for path in [*corpus.rglob("*.py"), __file__, random.__file__]:
        text = open(path, encoding="utf-8", newline="").read()  # noqa: SIM115, PTH123
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_batches_are_encoded_like_single_texts(tokenizer):
    assert [ids.tolist() for ids in tokenizer.encode_batch(AWKWARD)] == [tokenizer.encode(text) for text in AWKWARD]


def test_digits_are_split(tokenizer):
    assert [tokenizer.decode([token]) for token in tokenizer.encode("12345")] == ["1", "2", "3", "4", "5"]


def test_special_ids_are_fixed_and_the_vocabulary_is_as_asked(tokenizer):
    assert (tokenizer.unk_id, tokenizer.bos_id, tokenizer.eos_id) == (0, 1, 2)
    assert tokenizer.vocabulary_size == 512
    assert tokenizer.is_lossless


def test_code_pieces_are_learned(tokenizer):
    pieces = {tokenizer.decode([token]) for token in range(tokenizer.vocabulary_size)}
    assert {"    ", "):", " return"} <= pieces


def test_the_same_text_gives_the_same_bytes(corpus, tokenizer, tmp_path):
    config = TokenizerTrainingConfig(vocabulary_size=512)
    again = train_tokenizer([corpus], tmp_path / "again.model", config).tokenizer
    assert again.path.read_bytes() == tokenizer.path.read_bytes()
    assert again.fingerprint == tokenizer.fingerprint


def test_the_order_of_the_files_does_not_matter(tmp_path):
    texts = [f"word{number} other{number % 5} and more\n" * 40 for number in range(30)]
    models = []
    for order in (texts, texts[::-1]):
        folder = tmp_path / f"corpus_{len(models)}"
        folder.mkdir()
        for number, text in enumerate(order):
            (folder / f"{number:02d}.txt").write_text(text)
        models.append(train_tokenizer([folder], folder / "t.model", SMALL.model_copy(update={"vocabulary_size": 300})))
    assert models[0].tokenizer.path.read_bytes() == models[1].tokenizer.path.read_bytes()


@given(st.lists(st.integers(1, 3000), min_size=1, max_size=30), st.integers(1000, 20000), st.randoms())
@settings(max_examples=60, deadline=None)
def test_sample_is_bounded_and_independent_of_the_order(lengths, most_bytes, shuffler):
    documents = [random.Random(number).randbytes(length).hex() for number, length in enumerate(lengths)]
    samples = []
    for _ in range(2):
        sample = TextSample(most_bytes)
        for document in documents:
            sample.add(document, document.encode())
        samples.append(list(sample.chunks()))
        assert sample.num_bytes == sum(map(len, samples[-1])) <= most_bytes
        shuffler.shuffle(documents)
    assert samples[0] == samples[1]


def test_sample_of_a_small_corpus_is_all_of_it():
    sample = TextSample(10_000)
    for text in ("one", "two", "three", "one"):
        sample.add(text, text.encode())
    assert sorted(sample.chunks()) == ["one", "three", "two"]


@given(st.text(alphabet="ab\n", max_size=200), st.integers(1, 20))
def test_cutting_loses_nothing_and_prefers_line_ends(text, most):
    parts = list(cut_at_lines(text, most))
    assert "".join(parts) == text
    assert all(0 < len(part) <= most for part in parts)
    assert all("\n" not in part or part.endswith("\n") for part in parts[:-1])


def test_too_large_a_vocabulary_says_what_is_possible(tmp_path):
    (tmp_path / "a.txt").write_text("a few words only")
    with pytest.raises(DataError, match=r"--vocabulary-size 5000 is more than 16 bytes .* use at most \d+"):
        train_tokenizer([tmp_path], tmp_path / "t.model", TokenizerTrainingConfig(vocabulary_size=5000))


def test_too_small_a_vocabulary_says_what_is_needed(tmp_path):
    (tmp_path / "a.txt").write_text("".join(chr(code) for code in range(0x4E00, 0x4F00)))
    with pytest.raises(DataError, match=r"--vocabulary-size 300 has no room .* more than 5\d\d"):
        train_tokenizer([tmp_path], tmp_path / "t.model", TokenizerTrainingConfig(vocabulary_size=300))


def test_empty_corpus_is_an_error(tmp_path):
    with pytest.raises(DataError, match="empty corpus"):
        train_tokenizer([tmp_path], tmp_path / "t.model", SMALL)
    (tmp_path / "empty.txt").touch()
    with pytest.raises(DataError, match="empty corpus"):
        train_tokenizer([tmp_path], tmp_path / "t.model", SMALL)


def test_an_existing_tokenizer_is_kept_unless_asked(corpus, tokenizer, tmp_path):
    path = tmp_path / "t.model"
    path.write_bytes(tokenizer.path.read_bytes())
    with pytest.raises(DataError, match="exists"):
        train_tokenizer([corpus], path, SMALL)
    assert train_tokenizer([corpus], path, SMALL, overwrite=True).tokenizer.vocabulary_size == 400


def test_text_that_is_not_utf8_names_the_file_and_the_byte(tmp_path):
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9 au lait")
    with pytest.raises(DataError, match=r"latin\.txt: not UTF-8 at byte 3 \(0xE9"):
        train_tokenizer([tmp_path], tmp_path / "t.model", SMALL)
    (tmp_path / "fine.txt").write_text("plain words are fine " * 50)
    config = TokenizerTrainingConfig(vocabulary_size=275, reading=ReadingConfig(invalid_utf8="skip"))
    assert train_tokenizer([tmp_path], tmp_path / "t.model", config).num_skipped_invalid_utf8 == 1


@pytest.mark.parametrize("content", [b"", b"hello world" * 30, b"\0" * 1000, b"\x0a\xff\xff\xff\xff\x0f"])
def test_a_file_of_another_kind_is_no_tokenizer(tmp_path, content):
    path = tmp_path / "tokenizer.model"
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"{path}: {len(content)} bytes"):
        Tokenizer.load(path)


def test_a_missing_tokenizer_is_named(tmp_path):
    with pytest.raises(DataError, match=r"none\.model: the tokenizer cannot be read: No such file"):
        Tokenizer.load(tmp_path / "none.model")


def test_damaged_tokenizers_are_errors_and_never_crashes(tokenizer, tmp_path):
    """Each file is loaded in this process: a native crash would end the test run."""
    content, source = tokenizer.path.read_bytes(), random.Random(0)
    num_refused = 0
    for number in range(200):
        damaged = bytearray(content)
        if number % 2:
            del damaged[source.randrange(len(damaged)) :]
        else:
            damaged[source.randrange(len(damaged))] ^= 1 << source.randrange(8)
        path = tmp_path / "damaged.model"
        path.write_bytes(damaged)
        try:
            loaded = Tokenizer.load(path)
            loaded.decode(loaded.encode("x = 1\n"))
        except DataError:
            num_refused += 1
    assert num_refused > 100


def test_decoding_an_id_outside_the_vocabulary_is_an_error(tokenizer):
    for token in (-1, tokenizer.vocabulary_size, sys.maxsize):
        with pytest.raises(DataError, match=r"outside 0\.\.511"):
            tokenizer.decode([5, token])
