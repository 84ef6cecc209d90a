"""`llama-dist tokenizer train`: a SentencePiece BPE from a sample of the corpus.

The same documents give the same file, byte for byte. Using the tokenizer is `tokenizer.py`'s.
"""

import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from data_pipeline.config import TokenizerTrainingConfig
from data_pipeline.durable_file import write_durably
from data_pipeline.errors import DataError, StorageError
from data_pipeline.manifest import TOKENIZER_NAME
from data_pipeline.preparation.documents import DocumentReader
from data_pipeline.preparation.inputs import find_inputs, split_into_pieces
from data_pipeline.progress import print_note, show_progress
from data_pipeline.text_sample import TextSample, cut_at_lines
from data_pipeline.tokenizer import Tokenizer

# The trainer drops longer "sentences" in silence; ours are cut to a quarter of it, at most 4 bytes a character.
_SENTENCE_BYTES = 16384
_SENTENCE_CHARACTERS = _SENTENCE_BYTES // 4
# The trainer drops any sentence with a tab, which is its own separator; NUL and its word mark would be learned wrong.
_UNLEARNABLE = re.compile("[\t\0▁]")
_TOO_LARGE = re.compile(r"value <= (\d+)")
_TOO_SMALL = re.compile(r"required_chars\. \d+ vs (\d+)")


@dataclass(frozen=True)
class TrainedTokenizer:
    """The tokenizer and what it was trained on."""

    tokenizer: Tokenizer
    num_sampled_bytes: int
    num_corpus_bytes: int
    num_skipped_invalid_utf8: int


def tokenizer_file(output: Path) -> Path:
    """Return the file that `--output` means: itself if it ends in `.model`, else `tokenizer.model` inside it."""
    return output if output.suffix == ".model" else output / TOKENIZER_NAME


def train_tokenizer(
    inputs: Sequence[Path | str], output: Path, config: TokenizerTrainingConfig, *, overwrite: bool = False
) -> TrainedTokenizer:
    """Train on the documents of `inputs` and write the file. Raises DataError where the text cannot carry it."""
    path = tokenizer_file(output)
    if path.exists() and not overwrite:
        raise DataError(f"{path}: exists: choose another --output, or use --overwrite")
    reader = DocumentReader(config.reading)
    sample = _collect_sample(inputs, reader, config)
    print_note(f"training on {sample.num_bytes / 1e6:.1f} MB of {sample.num_seen_bytes / 1e6:.1f} MB")
    content = _train(sample, config)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{path.parent}: cannot be made: {error.strerror}") from None
    write_durably(path, content)
    return TrainedTokenizer(
        Tokenizer.load(path), sample.num_bytes, sample.num_seen_bytes, reader.num_skipped_invalid_utf8
    )


def _collect_sample(
    inputs: Sequence[Path | str], reader: DocumentReader, config: TokenizerTrainingConfig
) -> TextSample:
    files = find_inputs(inputs, config.reading)
    sample = TextSample(config.sample_bytes)
    num_source_bytes = 0
    with show_progress("sampling", sum(file.num_bytes for file in files)) as progress:
        for file in files:
            for piece in split_into_pieces(file, piece_bytes=max(1, file.num_bytes)):
                for document in reader.read(piece):
                    sample.add(document.text, document.utf8)
                    num_source_bytes += document.num_source_bytes
                    progress.update(num_source_bytes, sample.num_seen_bytes, 0)
    if not sample.num_bytes:
        raise DataError(f"empty corpus: {len(files)} files hold no text: check the inputs, --glob and --text-field")
    return sample


def _sentences(sample: TextSample) -> Iterator[str]:
    for chunk in sample.chunks():
        for part in _UNLEARNABLE.split(chunk):
            yield from cut_at_lines(part, _SENTENCE_CHARACTERS)


def _train(sample: TextSample, config: TokenizerTrainingConfig) -> bytes:
    import sentencepiece  # noqa: PLC0415  (heavy, and only this verb needs its trainer)

    sink = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=_sentences(sample),
            model_writer=sink,
            model_type="bpe",
            vocab_size=config.vocabulary_size,
            byte_fallback=True,
            character_coverage=config.character_coverage,
            split_digits=True,
            control_symbols=list(config.reserved),
            # Nothing of the text is changed or added, so that decoding gives it back.
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            add_dummy_prefix=False,
            # Runs of spaces are the indentation of code.
            allow_whitespace_only_pieces=True,
            max_sentence_length=_SENTENCE_BYTES,
            # The thread count is written into the file and decides the order of equal merges.
            num_threads=1,
            unk_id=0,
            bos_id=1,
            eos_id=2,
            pad_id=-1,
            # Errors come as exceptions; the trainer's own log is hundreds of lines.
            minloglevel=2,
        )
    except RuntimeError as error:
        raise DataError(_explain(str(error), sample, config)) from None
    return sink.getvalue()


def _explain(message: str, sample: TextSample, config: TokenizerTrainingConfig) -> str:
    start = f"--vocabulary-size {config.vocabulary_size}"
    if too_large := _TOO_LARGE.search(message):
        return (
            f"{start} is more than {sample.num_bytes} bytes of text can fill: "
            f"use at most {too_large.group(1)}, or give more text"
        )
    if too_small := _TOO_SMALL.search(message):
        return (
            f"{start} has no room for the special ids, the 256 bytes and the text's characters: "
            f"use more than {too_small.group(1)}, or a lower --character-coverage"
        )
    return f"the tokenizer cannot be trained on {sample.num_bytes} bytes of text: {message}"
