"""What `llama-dist generate` does: checkpoint and prompt in, text out. `llama_dist/cli.py` declares its options."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from data_pipeline.tokenizer import Tokenizer
from llama_dist.checkpoint.fit import check_shapes, has_tokenizer
from llama_dist.checkpoint.load import find_newest_good, load_weights
from llama_dist.checkpoint.manifest import MANIFEST_NAME, TOKENIZER_NAME, read_manifest
from llama_dist.config import RunDirectory, parse_run_config
from llama_dist.generation.errors import GenerationError
from llama_dist.generation.generate import GeneratedToken, generate_tokens
from llama_dist.generation.sample import Sampling
from llama_dist.model import Llama
from llama_dist.model.shapes import shapes_of


@dataclass(frozen=True)
class Request:
    """What the user asked for."""

    checkpoint: Path
    prompt: str
    max_new_tokens: int
    sampling: Sampling
    seed: int
    tokenizer: Path | None = None


@dataclass(frozen=True)
class Answer:
    """The text, and what it was made from."""

    checkpoint: Path
    step: int
    prompt: str
    text: str
    tokens: tuple[GeneratedToken, ...]
    token_texts: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values for `--json`."""
        tokens = [
            {"id": token.token_id, "text": text, "log_probability_nats": token.log_probability}
            for token, text in zip(self.tokens, self.token_texts, strict=True)
        ]
        return {
            "checkpoint": str(self.checkpoint),
            "step": self.step,
            "prompt": self.prompt,
            "text": self.text,
            "tokens": tokens,
        }

    def to_lines(self, *, logprobs: bool) -> list[str]:
        """Text for a person: prompt and continuation; with `logprobs` also a line for each token, in nats."""
        lines = [self.prompt + self.text]
        if logprobs:
            pairs = zip(self.tokens, self.token_texts, strict=True)
            lines += [f"{token.log_probability:10.4f}  {json.dumps(text)}" for token, text in pairs]
        return lines


def answer(request: Request) -> Answer:
    """Load the checkpoint and generate. Raises a ReportedError for anything that the user can mend."""
    directory = find_checkpoint(request.checkpoint)
    model, step = load_model(directory)
    tokenizer = _load_tokenizer(request.tokenizer or _own_tokenizer(directory), model)
    tokens = tuple(
        generate_tokens(
            model,
            encode_prompt(tokenizer, request.prompt),
            request.sampling,
            max_new_tokens=request.max_new_tokens,
            vocabulary_size=tokenizer.vocabulary_size,
            eos_id=tokenizer.eos_id,
            seed=request.seed,
        )
    )
    ids = [token.token_id for token in tokens]
    texts = tuple(tokenizer.decode([token_id]) for token_id in ids)
    return Answer(directory, step, request.prompt, _decode_text(tokenizer, ids), tokens, texts)


def find_checkpoint(path: Path) -> Path:
    """Return `path` if it is a checkpoint, else the newest good one of the run directory or checkpoints directory."""
    if (path / MANIFEST_NAME).is_file():
        return path
    for checkpoints in (RunDirectory(path).checkpoints, path):
        if checkpoints.is_dir() and any(checkpoints.glob("step_*")):
            return find_newest_good(checkpoints)
    raise GenerationError(
        f"{path}: no checkpoint: needs a directory that holds {MANIFEST_NAME}, such as "
        "runs/NAME/checkpoints/step_00001000, or a run directory that has one"
    )


def load_model(directory: Path) -> tuple[Llama, int]:
    """Verify and load one checkpoint; return its model, in fp32 on the GPU where there is one, and its step."""
    manifest, weights = load_weights(directory)
    config = parse_run_config(manifest.config, where=f"{directory / MANIFEST_NAME}: config")
    check_shapes(directory, manifest, shapes_of(config.model))
    with torch.device("meta"):
        model = Llama(config.model)
    model.load_state_dict(weights, assign=True)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return model.to(device).eval(), manifest.step


def encode_prompt(tokenizer: Tokenizer, prompt: str) -> list[int]:
    """Encode the text as it stands; an empty one becomes the token that stands between documents.

    Raises GenerationError for text that was no UTF-8 on the command line.
    """
    try:
        prompt.encode("utf-8")
    except UnicodeEncodeError as error:
        raise GenerationError(f"the prompt is not UTF-8 at character {error.start}: give it as UTF-8") from None
    ids = tokenizer.encode(prompt)
    boundary = tokenizer.bos_id if tokenizer.eos_id is None else tokenizer.eos_id
    return ids or ([] if boundary is None else [boundary])


def _own_tokenizer(directory: Path) -> Path:
    path = directory / TOKENIZER_NAME
    if not has_tokenizer(read_manifest(directory)):
        raise GenerationError(f"{path}: the checkpoint holds no tokenizer: name the run's own with --tokenizer")
    return path


def _load_tokenizer(path: Path, model: Llama) -> Tokenizer:
    tokenizer = Tokenizer.load(path)
    if tokenizer.vocabulary_size > model.config.vocabulary_size:
        raise GenerationError(
            f"{path}: {tokenizer.vocabulary_size} tokens, the model has {model.config.vocabulary_size}: "
            "use the tokenizer that the run was trained with"
        )
    return tokenizer


def _decode_text(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    """Text of `ids` without a closing EOS."""
    return tokenizer.decode(ids[:-1] if ids and ids[-1] == tokenizer.eos_id else ids)
