"""Does one task of a preparation: reads its documents, tokenizes them, writes its shards.

The result depends on the task alone. Knows no other task and no manifest file.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from data_pipeline.augmentation.augmented_encoder import AugmentedEncoder
from data_pipeline.config import PreparationConfig
from data_pipeline.errors import DataError
from data_pipeline.manifest import SPLITS, ShardEntry, Split
from data_pipeline.preparation.document_hashes import KeptDocuments
from data_pipeline.preparation.documents import Document, DocumentReader
from data_pipeline.preparation.plan import Plan, Task, check_unchanged
from data_pipeline.preparation.shard_writer import ShardWriter
from data_pipeline.preparation.task_record import TaskResult
from data_pipeline.tokenizer import Tokenizer
from data_pipeline.transforms.chain import TransformChain
from data_pipeline.transforms.deduplication import Keeps
from data_pipeline.transforms.transform import Dropped

# Text encoded in one call: large enough to hide the call, small enough to show progress and to stop soon.
_ENCODED_BYTES = 1024 * 1024
_ENCODED_DOCUMENTS = 512


@dataclass(frozen=True)
class Advance:
    """What was done since the last report."""

    num_source_bytes: int
    num_text_bytes: int
    num_tokens: int

    @classmethod
    def of(cls, documents: Sequence[Document], num_tokens: int) -> "Advance":
        """Return what it is to be done with `documents`, which made `num_tokens`."""
        return cls(
            num_source_bytes=sum(document.num_source_bytes for document in documents),
            num_text_bytes=sum(len(document.utf8) for document in documents),
            num_tokens=num_tokens,
        )


def split_of(document_id: bytes, validation_fraction: float) -> Split:
    """Pick the split by the document's hash alone, so that adding files moves no document."""
    bucket = int.from_bytes(document_id[:8], "big") / 2**64
    return "validation" if bucket < validation_fraction else "train"


def run_task(
    plan: Plan,
    task: Task,
    output: Path,
    tokenizer: Tokenizer,
    report: Callable[[Advance], None],
    kept: KeptDocuments | None = None,
) -> TaskResult:
    """Write the shards of `task` under `output`; `report` is called every megabyte and may raise to stop.

    A file that is not what the plan saw, before or after it is read, is a DataError.
    `kept` answers for the transform `deduplicate`, and is needed if the config has it.
    """
    reader = DocumentReader(plan.config.reading)
    check_unchanged(task)
    work = _TextWork(plan.config, tokenizer, kept)
    with ExitStack() as stack:
        series = {split: stack.enter_context(_ShardSeries(plan, task, output, split)) for split in SPLITS}
        for documents in in_groups(document for piece in task.pieces for document in reader.read(piece)):
            num_tokens = 0
            for encoded in work.encode(documents):
                tokens = _with_special_ids(plan, encoded.ids)
                _check_ids(plan, tokens)
                series[encoded.split].append(tokens, encoded.document_id, encoded.num_text_bytes)
                num_tokens += len(tokens)
            report(Advance.of(documents, num_tokens))
        # Inside the block: the last shards do not appear if these raise.
        check_unchanged(task)
        if kept is not None:
            kept.check_all_were_asked_for()
    return TaskResult(
        number=task.number,
        preparation_hash=plan.preparation_hash,
        train=series["train"].entries,
        validation=series["validation"].entries,
        num_skipped_empty=work.num_empty,
        num_skipped_invalid_utf8=reader.num_skipped_invalid_utf8,
        transforms=work.chain.counts(),
    )


@dataclass(frozen=True)
class _Encoded:
    """A document as it will be stored, but for its special ids."""

    ids: npt.NDArray[Any]
    document_id: bytes
    split: Split
    num_text_bytes: int


class _TextWork:
    """What becomes of documents before they are written: transforms, hash, split, token ids."""

    def __init__(self, config: PreparationConfig, tokenizer: Tokenizer, keeps: Keeps | None) -> None:
        self.chain = TransformChain(config.transforms, keeps)
        self.num_empty = 0
        self._config = config
        self._tokenizer = tokenizer
        self._augmented = (
            AugmentedEncoder(config.augmentation, tokenizer, tokenizer.encode_batch) if config.augmentation else None
        )

    def encode(self, documents: Sequence[Document]) -> Iterator[_Encoded]:
        """Yield the documents that are to be stored; those without text at the start are counted as empty."""
        texts = [text for document in documents if isinstance(text := self._transformed(document), str)]
        utf8 = [text.encode() for text in texts]
        names = [xxhash.xxh3_128_digest(content) for content in utf8]
        splits = [split_of(name, self._config.validation_fraction) for name in names]
        for ids, name, split, content in zip(self._ids(texts, names, splits), names, splits, utf8, strict=True):
            if len(ids):
                yield _Encoded(ids, name, split, len(content))
            else:
                self.num_empty += 1

    def _transformed(self, document: Document) -> str | Dropped:
        # Without text from the start: no transform is to blame.
        return self.chain.apply(document.text) if document.text else document.text

    def _ids(self, texts: list[str], names: list[bytes], splits: list[Split]) -> Sequence[npt.NDArray[Any]]:
        if self._augmented is None:
            return self._tokenizer.encode_batch(texts)
        # Held-out documents stay as they are, so that their loss means the same with and without.
        varied = [name if split == "train" else None for name, split in zip(names, splits, strict=True)]
        return self._augmented.encode_batch(texts, varied)


class _ShardSeries:
    """The shards of one split that a task writes, one after another."""

    def __init__(self, plan: Plan, task: Task, output: Path, split: Split) -> None:
        self.entries: list[ShardEntry] = []
        self._name = f"{split}-{task.number:05d}"
        self._plan = plan
        self._output = output
        self._most_tokens = plan.config.shard_bytes // np.dtype(plan.token_dtype).itemsize
        self._writer: ShardWriter | None = None

    def append(self, tokens: npt.NDArray[Any], document_id: bytes, num_text_bytes: int) -> None:
        if self._writer is None:
            self._writer = ShardWriter(
                self._output,
                f"{self._name}-{len(self.entries):03d}.arrow",
                token_dtype=self._plan.token_dtype,
                tokens_per_record_batch=self._plan.config.tokens_per_record_batch,
            )
            self._writer.__enter__()
        self._writer.append(tokens, document_id, num_text_bytes)
        if self._writer.num_tokens >= self._most_tokens:
            self._close()

    def _close(self) -> None:
        if self._writer is not None:
            writer, self._writer = self._writer, None
            writer.__exit__(None, None, None)
            self.entries.append(writer.entry())

    def __enter__(self) -> "_ShardSeries":
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if error is None:
            self._close()
        elif self._writer is not None:
            self._writer.__exit__(kind, error, trace)


def in_groups(documents: Iterator[Document]) -> Iterator[list[Document]]:
    """Yield the documents in order, about a megabyte of them at a time."""
    group: list[Document] = []
    num_bytes = 0
    for document in documents:
        group.append(document)
        num_bytes += len(document.utf8)
        if num_bytes >= _ENCODED_BYTES or len(group) >= _ENCODED_DOCUMENTS:
            yield group
            group, num_bytes = [], 0
    if group:
        yield group


def _with_special_ids(plan: Plan, ids: npt.NDArray[Any]) -> npt.NDArray[Any]:
    parts: list[Any] = [ids]
    if plan.config.adds_bos:
        parts.insert(0, np.array([plan.tokenizer.bos_id], ids.dtype))
    if plan.config.adds_eos:
        parts.append(np.array([plan.tokenizer.eos_id], ids.dtype))
    return np.concatenate(parts) if len(parts) > 1 else ids


def _check_ids(plan: Plan, tokens: npt.NDArray[Any]) -> None:
    lowest, highest = int(tokens.min()), int(tokens.max())
    if lowest < 0 or highest >= plan.tokenizer.vocabulary_size:
        raise DataError(
            f"{plan.tokenizer_path}: gave ids {lowest}..{highest}, its vocabulary is "
            f"0..{plan.tokenizer.vocabulary_size - 1}: the tokenizer is damaged"
        )
