"""Each transform changes or drops what it says, keeps everything else to the byte, and its counts add up."""

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prose_samples import CHINESE, ENGLISH, MIXED, PROSE

from data_pipeline.config import ConfigError, TransformsFile, parse_config
from data_pipeline.errors import DataError
from data_pipeline.transforms.chain import TransformChain
from data_pipeline.transforms.counts import add_counts
from data_pipeline.transforms.deduplication import split_at_deduplication, text_hash
from data_pipeline.transforms.stop_word_lists import read_word_list, with_recorded_words
from data_pipeline.transforms.transform import Dropped
from data_pipeline.transforms.transforms_file import read_transforms_file

AWKWARD = [
    "nul \0 inside",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467 family, \U0001f1e9\U0001f1ea flag",
    "שלום \u202eעולם\u202c",
    "e\u0301 a\u0308 \u1100\u1161",
    "ﬁ ① Å ｆｕｌｌ",
    "\ufeffmark\r\nline\r\n\x0cform\u2028feed",
    " ",
    "\n\n",
]
EVERY_KIND = [
    {"kind": "normalize_unicode", "form": "NFKC"},
    {"kind": "filter_lines", "needs_letter": True, "min_characters": 2},
    {"kind": "filter_length", "min_characters": 3, "max_characters": 2000},
    {"kind": "filter_repetition"},
    {"kind": "filter_quality"},
    {"kind": "remove_stop_words", "list": "english"},
    {"kind": "remove_stop_words", "list": "chinese"},
]


def configs(*transforms):
    return parse_config(TransformsFile, {"transforms": list(transforms)}, where="test").transforms


def chain(*transforms, keeps=None):
    return TransformChain(configs(*transforms), keeps)


def apply(text, kind, **options):
    return chain({"kind": kind, **options}).apply(text)


@pytest.mark.parametrize("form", ["NFC", "NFD", "NFKC", "NFKD"])
@given(text=st.text(max_size=40).filter(bool))
@settings(max_examples=60, deadline=None)
def test_normalising_twice_is_normalising_once(form, text):
    once = apply(text, "normalize_unicode", form=form)
    assert unicodedata.is_normalized(form, once)
    assert apply(once, "normalize_unicode", form=form) is once


def test_only_the_k_forms_replace_look_alikes():
    assert apply("e\u0301 ﬁ", "normalize_unicode") == "é ﬁ"
    assert apply("e\u0301 ﬁ", "normalize_unicode", form="NFKC") == "é fi"


def test_length_counts_characters_whatever_their_bytes():
    assert apply("数据", "filter_length", min_characters=2, max_characters=2) == "数据"
    assert apply("数", "filter_length", min_characters=2) == Dropped("too_short")
    assert apply("\U0001f600" * 3, "filter_length", max_characters=2) == Dropped("too_long")


def test_lines_stay_in_order_with_their_ends():
    text = "  first line\r\n--\r\n\n17 | 42\nlast one, 最后一行"
    kept = apply(text, "filter_lines", min_characters=3, needs_letter=True)
    assert kept == "  first line\r\n\nlast one, 最后一行"
    assert apply(text, "filter_lines", keeps_blank_lines=False, max_characters=10) == "  first line\r\n--\r\n17 | 42\n"


def test_a_form_feed_or_line_separator_ends_no_line():
    text = "a\x0cb\u2028c\x85d"
    assert apply(text, "filter_lines", min_characters=5) is text


def test_a_document_of_which_no_line_is_left_is_dropped():
    assert apply("--\n\n12\n", "filter_lines", needs_letter=True) == Dropped("empty")


@pytest.mark.parametrize("name", sorted(PROSE))
@pytest.mark.parametrize("kind", ["filter_repetition", "filter_quality", "filter_lines", "filter_length"])
def test_prose_of_every_writing_system_is_kept_whole(name, kind):
    assert apply(PROSE[name], kind) is PROSE[name]
    longer = "\n\n".join(f"{PROSE[name]}{number}{PROSE[other]}" for number, other in enumerate(sorted(PROSE)[:3]))
    if kind == "filter_quality":
        assert apply(longer, kind) is longer


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("menu\nhome\nmenu\nhome\nmenu\n" + ENGLISH, "duplicate_lines"),
        ("\n\n".join([f"one\ntwo {number}" for number in range(9)] + ["x\ny"] * 9), "duplicate_lines"),
        (("buy now " * 60).strip(), "top_ngram"),
        ("立即购买" * 60, "top_ngram"),
        (" ".join(f"{ENGLISH.split(chr(10))[0]} {number}" for number in range(4)), "duplicate_ngrams"),
        ("".join(f"{CHINESE[:80]}{'甲乙丙丁'[number]}" for number in range(4)), "duplicate_ngrams"),
    ],
)
def test_repetition_is_found_with_and_without_spaces(text, reason):
    assert apply(text, "filter_repetition") == Dropped(reason)


def test_duplicate_paragraphs_are_found_where_lines_alone_would_pass():
    paragraph = "\n".join(f"line {number} of the paragraph" for number in range(3))
    text = f"{paragraph}\n\n{ENGLISH}\n\n{paragraph}"
    options = {"max_duplicate_line_share": 1.0, "max_duplicate_line_character_share": 1.0, "min_ngram_words": 10_000}
    assert apply(text, "filter_repetition", max_duplicate_paragraph_share=0.2, **options) == Dropped(
        "duplicate_paragraphs"
    )
    assert apply(text, "filter_repetition", **options) is text


def test_repetition_limits_are_shares_of_the_characters_of_words():
    # 12 words of 2 characters: `aa bb` three times is 12 of 24 characters, and all but its first is 8 of 24.
    text = "aa bb cc aa bb dd aa bb ee ff gg hh"
    off = {"min_ngram_words": 0, "top_ngrams": [], "duplicate_ngrams": []}
    for key, share in (("top_ngrams", 12 / 24), ("duplicate_ngrams", 8 / 24)):
        for limit, expected in (
            (share, text),
            (share - 0.01, Dropped(key.removesuffix("s") if key[0] == "t" else key)),
        ):
            options = off | {key: [{"num_words": 2, "max_share": limit}]}
            assert apply(text, "filter_repetition", **options) == expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("word, 12; 34. 5/6 " * 20, "few_letters"),
        ("abcdefgh 12345 " * 20, "many_digits"),
        ("really?!!! yes!!! " * 20, "much_punctuation"),
        ("great \U0001f600\U0001f600 news " * 20, "many_symbols"),
        ("word          " * 20, "much_whitespace"),
        ("a text \0\0 with nul " * 20, "control_characters"),
        ("ab cd ef g " * 20, "short_words"),
        ("pneumonoultramicroscopicsilicovolcanoconiosis " * 20, "long_words"),
        ("#subject longer words... " * 20, "hashes_and_ellipses"),
        ("他说……然后……走了……" * 20, "much_punctuation"),
        (" \n\t", "much_whitespace"),
    ],
)
def test_each_quality_limit_drops_with_its_reason(text, reason):
    assert apply(text, "filter_quality") == Dropped(reason)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The cat sat on the mat.", "cat sat mat."),
        ("    if the\n\tthe dog", "    \n\tdog"),
        ("state-of-the-art (the cat) i_am", "state-of-the-art (cat) i_am"),
        ("Don’t panic, don't!", "panic,!"),
        ("a\u0301 thesis, andes", "a\u0301 thesis, andes"),
        ("我the书 The", "我书"),
    ],
)
def test_english_stop_words_go_whole_and_spaces_are_tidied(text, expected):
    assert apply(text, "remove_stop_words", list="english") == expected


def test_chinese_stop_words_go_from_chinese_runs_longest_first():
    assert (
        apply("我们的数据管道可以处理English的文本。", "remove_stop_words", list="chinese")
        == "数据管道处理English文本。"
    )
    assert apply("为什么不是他们？", "remove_stop_words", list="chinese") == "？"
    assert apply(ENGLISH, "remove_stop_words", list="chinese") == ENGLISH
    assert apply("它们", "remove_stop_words", words=["它", "它们"]) == Dropped("empty")


def test_mixed_text_has_both_lists_done_to_it():
    cleaned = chain(
        {"kind": "remove_stop_words", "list": "chinese"}, {"kind": "remove_stop_words", "words": ["batch", "loss"]}
    ).apply(MIXED)
    assert "PyTorch 2.11" in cleaned
    assert "batch" in MIXED and "我们" in MIXED
    assert not [word for word in ("我们", "了", "batch", "loss") if word in cleaned]


@pytest.mark.parametrize(("name", "least"), [("english", 150), ("chinese", 150)])
def test_the_lists_of_the_package_hold_words_once(name, least):
    words = read_word_list(name)
    assert len(words) >= least
    assert sorted(set(words)) == words


def test_a_list_of_ones_own_is_recorded_in_the_config(tmp_path):
    path = tmp_path / "words.txt"
    path.write_text("# mine\nzwei\neins\nzwei\n", encoding="utf-8")
    recorded = with_recorded_words(configs({"kind": "remove_stop_words", "list": str(path)}))
    assert recorded[0].words == ["eins", "zwei"]
    path.unlink()
    assert TransformChain(recorded).apply("eins drei") == "drei"


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "no word"),
        (b"\xff\xfe", "byte 0"),
        (b"two words\n", "'two words'"),
        ("A股\n".encode(), "'A股'"),
        (None, "read"),
    ],
)
def test_an_unusable_list_is_refused_by_name(tmp_path, content, told):
    path = tmp_path / "words.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=told) as error:
        read_word_list(str(path))
    assert str(path) in str(error.value)


def test_deduplication_asks_once_a_document_that_reaches_it():
    seen: list[bytes] = []

    def keeps(digest):
        seen.append(digest)
        return seen.count(digest) == 1

    both = chain({"kind": "filter_length", "min_characters": 2}, {"kind": "deduplicate"}, keeps=keeps)
    assert [both.apply(text) for text in ("ab", "a", "ab", "cd")] == [
        "ab",
        Dropped("too_short"),
        Dropped("duplicate"),
        "cd",
    ]
    assert seen == [text_hash("ab"), text_hash("ab"), text_hash("cd")]


def test_the_chain_is_split_where_deduplication_stands():
    chained = configs({"kind": "normalize_unicode"}, {"kind": "deduplicate"}, {"kind": "filter_length"})
    before, after = split_at_deduplication(chained)
    assert (before, after) == (chained[:1], chained[2:])
    assert split_at_deduplication(chained[:1]) == (chained[:1], [])


@given(texts=st.lists(st.text(max_size=60).filter(bool) | st.sampled_from([*AWKWARD, *PROSE.values()]), max_size=12))
@settings(max_examples=60, deadline=None)
def test_counts_add_up_over_the_chain_and_over_tasks(texts):
    whole, first, second = chain(*EVERY_KIND), chain(*EVERY_KIND), chain(*EVERY_KIND)
    results = [whole.apply(text) for text in texts]
    for number, text in enumerate(texts):
        (first if number % 2 else second).apply(text)
    counts = whole.counts()
    assert add_counts([first.counts(), second.counts()]) == counts
    arriving = (len(texts), sum(len(text.encode()) for text in texts))
    for count in counts:
        assert (count.num_documents_in, count.num_text_bytes_in) == arriving
        assert count.num_documents_in == count.num_documents_out + sum(count.dropped.values())
        arriving = (count.num_documents_out, count.num_text_bytes_out)
    kept = [result for result in results if isinstance(result, str)]
    assert arriving == (len(kept), sum(len(text.encode()) for text in kept))
    assert all(kept)


@pytest.mark.parametrize("text", AWKWARD)
@pytest.mark.parametrize("kind", ["filter_lines", "filter_length", "filter_repetition", "filter_quality"])
def test_a_filter_never_changes_awkward_text(text, kind):
    result = apply(text, kind)
    assert isinstance(result, Dropped) or result is text


def test_ten_megabytes_in_one_document_are_counted_and_kept():
    # A number written in letters makes every run of three words another one.
    letters = str.maketrans("0123456789", "ghijklmnop")
    text = " ".join(f"the word {number * 7919:x}" for number in range(620_000)).translate(letters)
    assert len(text) > 10_000_000
    counted = chain(*EVERY_KIND[:2], {"kind": "filter_quality"}, {"kind": "filter_length"})
    assert counted.apply(text) is text
    assert [count.num_text_bytes_out for count in counted.counts()] == [len(text)] * 4


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("transforms: [{kind: filter_length, min_charactrs: 3}]", "did you mean `min_characters`"),
        ("transforms: [{kind: filter_lenght}]", "did you mean `filter_length`"),
        ("transform: []", "did you mean `transforms`"),
        ("transforms: [{form: NFC}]", "kind: required"),
        ("transforms: [{kind: deduplicate}, {kind: deduplicate}]", "keep one"),
        ("augmentation: {fill_in_the_midle: {rate: 1}}", "did you mean `fill_in_the_middle`"),
        ("transforms: [{kind: remove_stop_words}]", "set `list` or `words`"),
    ],
)
def test_a_mistake_in_the_file_is_told_with_the_nearest_name(tmp_path, content, told):
    path = tmp_path / "text.yaml"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match=told) as error:
        read_transforms_file(path)
    assert str(path) in str(error.value)
