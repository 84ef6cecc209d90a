"""How training documents are varied when they are tokenized. What it does is in `data_pipeline/augmentation/`."""

from typing import Annotated

from pydantic import Field

from data_pipeline.config.base import StrictModel

Share = Annotated[float, Field(ge=0, le=1)]
PieceName = Annotated[str, Field(min_length=1, pattern=r"^\S+$")]


class SubwordSamplingConfig(StrictModel):
    """BPE-dropout (arXiv 1910.13267): each merge of two pieces is left out with some probability."""

    rate: Share
    """Share of the documents that are sampled."""

    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Probability that a merge is left out; SentencePiece calls it alpha. 0 is the plain encoding."""


class FillInTheMiddleConfig(StrictModel):
    """Documents cut in three and put in another order (arXiv 2207.14255), so that a model learns to fill a gap."""

    rate: Share
    """Share of the documents that are cut."""

    spm_share: Share = 0.5
    """Share of those that are written suffix first (SPM), the others prefix first (PSM)."""

    prefix_piece: PieceName = "<fim_prefix>"
    """Control symbol of the tokenizer before the prefix; made with `tokenizer train --reserve`."""

    middle_piece: PieceName = "<fim_middle>"
    """Control symbol of the tokenizer before the middle."""

    suffix_piece: PieceName = "<fim_suffix>"
    """Control symbol of the tokenizer before the suffix."""


class AugmentationConfig(StrictModel):
    """How training documents are varied. A pure function of seed and text; held-out documents are never varied."""

    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Seed of every choice; each document's choices also depend on its text, and on nothing else."""

    subword_sampling: SubwordSamplingConfig | None = None
    """Sampling of the encoding; off by default."""

    fill_in_the_middle: FillInTheMiddleConfig | None = None
    """Reordering for fill-in-the-middle; off by default."""
