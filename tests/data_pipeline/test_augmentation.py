"""Augmentation gives the text back, is the same in every process, and only touches what its config names."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prose_samples import PROSE

from data_pipeline.augmentation.augmented_encoder import AugmentedEncoder
from data_pipeline.augmentation.bpe_dropout import BpeDropout
from data_pipeline.augmentation.keyed_random import KeyedRandom
from data_pipeline.config import AugmentationConfig, ConfigError, TokenizerTrainingConfig, parse_config
from data_pipeline.errors import DataError
from data_pipeline.tokenizer import Tokenizer
from data_pipeline.tokenizer_training import train_tokenizer

SENTINELS = ["<fim_prefix>", "<fim_middle>", "<fim_suffix>"]
TEXTS = [
    *PROSE.values(),
    "def f(x):\n\tif x:\n\t\treturn  x + 12\n\n\n",
    "▁ marks ▁▁ a▁b",
    "nul \0 and <fim_prefix> </s> <0x0A>",
    "e\u0301 \U0001f600\u200d\U0001f680 \u202eשלום",
    "  ",
]


@pytest.fixture(scope="module")
def reserving(corpus, tmp_path_factory):
    config = TokenizerTrainingConfig(vocabulary_size=520, reserved=SENTINELS)
    return train_tokenizer([corpus], tmp_path_factory.mktemp("reserving"), config).tokenizer


@pytest.fixture(scope="module")
def sampler(tokenizer):
    return BpeDropout(tokenizer)


def encoder(tokenizer, **values):
    config = parse_config(AugmentationConfig, values, where="test")
    return AugmentedEncoder(config, tokenizer, tokenizer.encode_batch)


def names(texts):
    return [f"{number:016d}".encode() for number in range(len(texts))]


def encoded(tokenizer, texts, **values):
    return [ids.tolist() for ids in encoder(tokenizer, **values).encode_batch(texts, names(texts))]


def test_reserved_symbols_have_ids_that_no_text_gets(reserving):
    ids = [reserving.control_id(name) for name in SENTINELS]
    assert ids == [3, 4, 5]
    for text in [*SENTINELS, " ".join(SENTINELS), "a<fim_middle>b"]:
        assert not set(ids) & set(reserving.encode(text))
        assert reserving.decode(reserving.encode(text)) == text


def test_decoding_leaves_reserved_symbols_out(reserving):
    ids = reserving.encode("one two")
    assert reserving.decode([3, *ids[:2], 4, *ids[2:], 5]) == "one two"


@pytest.mark.parametrize("reserved", [["<s>"], ["<0x0A>"], ["<a>", "<a>"], ["with space"], [""]])
def test_a_name_that_is_taken_or_no_name_cannot_be_reserved(reserved):
    with pytest.raises(ConfigError, match="reserved"):
        parse_config(TokenizerTrainingConfig, {"vocabulary_size": 500, "reserved": reserved}, where="test")


def test_without_dropout_the_ids_are_sentencepieces_own(tokenizer, corpus):
    sampler, random = BpeDropout(tokenizer), KeyedRandom(0, "test", b"")
    for text in [*TEXTS, *(path.read_text(encoding="utf-8") for path in sorted(corpus.rglob("*.py"))[:20])]:
        assert sampler.encode(text, 0.0, random) == tokenizer.encode(text)


@given(st.text(max_size=80) | st.text(alphabet=" \t\n▁ab1\0é的", max_size=60))
@settings(max_examples=150, deadline=None)
def test_any_text_comes_back_from_any_dropout(tokenizer, sampler, text):
    assert sampler.encode(text, 0.0, KeyedRandom(0, "test", b"")) == tokenizer.encode(text)
    for dropout in (0.1, 0.9):
        assert tokenizer.decode(sampler.encode(text, dropout, KeyedRandom(1, "test", text.encode()[:8]))) == text


def test_more_dropout_means_more_tokens_and_other_seeds_other_samples(tokenizer):
    sampler, text = BpeDropout(tokenizer), PROSE["english"] * 5
    lengths = [len(sampler.encode(text, dropout, KeyedRandom(0, "test", b""))) for dropout in (0.0, 0.1, 0.5, 0.99)]
    assert lengths == sorted(set(lengths))
    assert lengths[-1] > 0.9 * len(text)
    samples = [sampler.encode(text, 0.1, KeyedRandom(seed, "test", b"")) for seed in (0, 0, 1)]
    assert samples[0] == samples[1] != samples[2]


def test_dropout_leaves_out_the_share_of_merges_that_it_names(tokenizer):
    """Words of one merge: the standard deviation of the share over 4,000 of them is 0.007."""
    sampler = BpeDropout(tokenizer)
    pair = next(
        text
        for piece in tokenizer.pieces()
        if len(text := piece.text) == 2
        and piece.kind == "normal"
        and text.isalpha()
        and len(tokenizer.encode(text)) == 1
    )
    ids = sampler.encode("\n".join([pair] * 4000), 0.3, KeyedRandom(0, "test", b""))
    share = (len(ids) - 7999) / 4000
    assert abs(share - 0.3) < 0.03


@pytest.mark.parametrize(
    "values", [{"subword_sampling": {"rate": 0.5, "dropout": 0.9}}, {"fill_in_the_middle": {"rate": 0.5}}]
)
def test_the_rate_is_the_share_of_documents_and_others_stay_as_they_are(reserving, values):
    texts = [f"the quick brown fox number {number} jumps over the lazy dog" for number in range(400)]
    plain = [ids.tolist() for ids in reserving.encode_batch(texts)]
    num_varied = sum(ids != before for ids, before in zip(encoded(reserving, texts, **values), plain, strict=True))
    assert 150 < num_varied < 250  # five standard deviations of 10
    assert encoded(reserving, texts, **{key: {"rate": 0.0} for key in values}) == plain


def test_sampling_and_filling_together_give_every_text_back(reserving):
    values = {"subword_sampling": {"rate": 1.0, "dropout": 0.2}, "fill_in_the_middle": {"rate": 1.0}}
    for text, ids in zip(TEXTS, encoded(reserving, TEXTS, **values), strict=True):
        assert filled(reserving, ids) == text


@pytest.mark.parametrize(("spm_share", "order"), [(0.0, [3, 5, 4]), (1.0, [3, 5, 4])])
def test_psm_and_spm_write_the_parts_in_the_papers_order(reserving, spm_share, order):
    ids = encoded(reserving, TEXTS, fill_in_the_middle={"rate": 1.0, "spm_share": spm_share})
    for text, one in zip(TEXTS, ids, strict=True):
        assert [token for token in one if token in order] == order
        assert (one[:2] == [3, 5]) >= (spm_share == 1.0)
        assert filled(reserving, one, is_spm=spm_share == 1.0) == text
    assert any(one[:2] != [3, 5] for one in ids) == (spm_share == 0.0)


def filled(tokenizer, ids, is_spm=None):
    """Put the three parts back in the order of the text."""
    assert ids[0] == 3
    suffix_at, middle_at = ids.index(5), ids.index(4)
    first, second, third = ids[1:suffix_at], ids[suffix_at + 1 : middle_at], ids[middle_at + 1 :]
    if is_spm if is_spm is not None else not first:
        # An empty prefix looks like SPM; then the middle alone is third, and the text is the same.
        return tokenizer.decode(third) + tokenizer.decode(second)
    return tokenizer.decode(first) + tokenizer.decode(third) + tokenizer.decode(second)


def test_cuts_fall_anywhere_in_the_text(reserving):
    texts = [f"{number:03d}" + "abcdefghij" * 3 for number in range(300)]
    lengths = [
        len(reserving.decode(ids[1 : ids.index(5)]))
        for ids in encoded(reserving, texts, fill_in_the_middle={"rate": 1.0, "spm_share": 0.0})
    ]
    assert min(lengths) == 0
    assert max(lengths) > 25
    assert abs(sum(lengths) / len(lengths) - 33 / 3) < 2.5  # the smaller of two uniform draws; standard error 0.45


def test_a_tokenizer_without_the_symbols_is_refused_with_the_command(tokenizer):
    with pytest.raises(DataError, match=r"tokenizer train .* --reserve '<fim_prefix>'"):
        encoder(tokenizer, fill_in_the_middle={"rate": 0.5})


def test_a_tokenizer_that_changes_text_cannot_be_sampled(corpus, tmp_path):
    import sentencepiece

    sentences = [line for path in sorted(corpus.rglob("*.py"))[:30] for line in path.read_text("utf-8").split("\n")]
    for model_type, size in (("unigram", 400), ("bpe", 400)):
        prefix = tmp_path / model_type
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(sentences), model_prefix=str(prefix), vocab_size=size, model_type=model_type,
            byte_fallback=True, minloglevel=2, num_threads=1, hard_vocab_limit=False,
        )  # fmt: skip
        with pytest.raises(DataError, match="subword sampling needs a BPE"):
            BpeDropout(Tokenizer.load(Path(f"{prefix}.model")))


def test_another_process_and_another_order_give_the_same_ids(reserving):
    values = {"seed": 5, "subword_sampling": {"rate": 0.7}, "fill_in_the_middle": {"rate": 0.5}}
    here = encoded(reserving, TEXTS, **values)
    backwards = encoder(reserving, **values).encode_batch(TEXTS[::-1], names(TEXTS)[::-1])
    assert [ids.tolist() for ids in backwards][::-1] == here
    program = (
        "import json, sys\nfrom test_augmentation import encoded\nfrom data_pipeline.tokenizer import Tokenizer\n"
        "given = json.load(sys.stdin)\n"
        "print(json.dumps(encoded(Tokenizer.load(given['path']), given['texts'], **given['values'])))"
    )
    there = subprocess.run(
        [sys.executable, "-c", program],
        input=json.dumps({"path": str(reserving.path), "texts": TEXTS, "values": values}),
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parent,
    )
    assert json.loads(there.stdout) == here


def test_a_document_without_a_name_is_not_varied(reserving):
    values = {"subword_sampling": {"rate": 1.0, "dropout": 0.5}, "fill_in_the_middle": {"rate": 1.0}}
    ids = encoder(reserving, **values).encode_batch(TEXTS, [None] * len(TEXTS))
    assert [one.tolist() for one in ids] == [reserving.encode(text) for text in TEXTS]
