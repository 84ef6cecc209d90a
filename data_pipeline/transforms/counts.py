"""What a transform did to the documents of a task, and of a corpus: numbers that add up."""

from collections.abc import Iterable, Sequence
from typing import Annotated

from pydantic import Field

from data_pipeline.config import StrictModel

Count = Annotated[int, Field(ge=0)]


class TransformCount(StrictModel):
    """One transform of the chain; documents in are documents out and documents dropped."""

    kind: str
    """The transform."""

    num_documents_in: Count
    """Documents that reached it."""

    num_documents_out: Count
    """Documents that it let pass."""

    num_text_bytes_in: Count
    """UTF-8 bytes of the documents that reached it."""

    num_text_bytes_out: Count
    """UTF-8 bytes of the documents that it let pass, as it left them."""

    dropped: dict[str, Count]
    """Documents that it dropped, by reason, in the order of the reasons' names."""


def add_counts(parts: Iterable[Sequence[TransformCount]]) -> list[TransformCount]:
    """Add up the counts of one chain over several tasks. No tasks give no counts."""
    return [_add(same) for same in zip(*parts, strict=True)]


def _add(parts: Sequence[TransformCount]) -> TransformCount:
    reasons = sorted({reason for part in parts for reason in part.dropped})
    return TransformCount(
        kind=parts[0].kind,
        num_documents_in=sum(part.num_documents_in for part in parts),
        num_documents_out=sum(part.num_documents_out for part in parts),
        num_text_bytes_in=sum(part.num_text_bytes_in for part in parts),
        num_text_bytes_out=sum(part.num_text_bytes_out for part in parts),
        dropped={reason: sum(part.dropped.get(reason, 0) for part in parts) for reason in reasons},
    )
