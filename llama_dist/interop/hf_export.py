"""Writes a checkpoint as a model that Hugging Face's transformers loads. Needs neither the topology that wrote it nor
its process group, and holds one file's tensors at a time."""

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError

from data_pipeline.tokenizer import Tokenizer
from llama_dist.checkpoint.disk import sync_directory
from llama_dist.checkpoint.manifest import TOKENIZER_NAME, CheckpointError, Manifest, read_manifest
from llama_dist.checkpoint.range_reader import Wanted, read_ranges
from llama_dist.checkpoint.verify import verify_checkpoint
from llama_dist.config import parse_run_config
from llama_dist.interop.errors import ExchangeError
from llama_dist.interop.hf_config import hf_config
from llama_dist.interop.hf_names import to_hf
from llama_dist.interop.hf_tokenizer import tokenizer_files
from llama_dist.parallel.engine import STATES

_TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_TYPE_NAMES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
PRECISIONS = tuple(_TYPES)
_BYTES_PER_GB = 10**9


@dataclass(frozen=True)
class Export:
    """What the user asked for."""

    checkpoint: Path
    output: Path
    precision: str = "fp32"
    """One of PRECISIONS."""

    max_file_gb: float = 5.0
    with_tokenizer: bool = True


def export_to_hf(wanted: Export) -> Path:
    """Write the model into a new directory, whole or not at all; answers it.

    Raises CheckpointError for a damaged checkpoint or a disk that refuses, ExchangeError for a model or a place that
    cannot be used.
    """
    if os.path.lexists(wanted.output):
        raise ExchangeError(f"{wanted.output}: exists already: name a directory that does not")
    faults = verify_checkpoint(wanted.checkpoint)
    if faults:
        raise CheckpointError("the checkpoint is damaged:\n  " + "\n  ".join(faults))
    manifest = read_manifest(wanted.checkpoint)
    files = _small_files(wanted, manifest)
    staging = wanted.output.with_name(f".{wanted.output.name}.new")
    try:
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
        files["model.safetensors.index.json"] = _write_weights(wanted, manifest, staging)
        for name, values in files.items():
            (staging / name).write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        if wanted.with_tokenizer:
            shutil.copyfile(wanted.checkpoint / TOKENIZER_NAME, staging / TOKENIZER_NAME)
        _sync(staging)
        staging.rename(wanted.output)
    except OSError as error:
        raise CheckpointError(
            f"{error.filename or wanted.output}: {error.strerror or error}: nothing was kept"
        ) from None
    except SafetensorError as error:  # what the disk refuses is not an OSError there
        raise CheckpointError(f"{wanted.output}: {error}: nothing was kept") from None
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return wanted.output


def _small_files(wanted: Export, manifest: Manifest) -> dict[str, Any]:
    model = parse_run_config(manifest.config, where=f"{wanted.checkpoint}: config").model
    tokenizer = _tokenizer(wanted.checkpoint) if wanted.with_tokenizer else None
    ids = {
        "bos_token_id": tokenizer.bos_id if tokenizer else None,
        "eos_token_id": tokenizer.eos_id if tokenizer else None,
    }
    config = hf_config(
        model, dtype=_TYPE_NAMES[wanted.precision], bos_id=ids["bos_token_id"], eos_id=ids["eos_token_id"]
    )
    files: dict[str, Any] = {"config.json": config, "generation_config.json": {"_from_model_config": True, **ids}}
    return files | (tokenizer_files(tokenizer) if tokenizer else {})


def _tokenizer(checkpoint: Path) -> Tokenizer:
    path = checkpoint / TOKENIZER_NAME
    if not path.is_file():
        raise ExchangeError(
            f"{path}: the checkpoint holds no tokenizer: add --no-tokenizer to export the weights alone"
        )
    return Tokenizer.load(path)


def _write_weights(wanted: Export, manifest: Manifest, directory: Path) -> dict[str, Any]:
    """Write the tensors file by file; answers the index that says which file has which."""
    parts = list(_parts(manifest, int(wanted.max_file_gb * _BYTES_PER_GB), _TYPES[wanted.precision].itemsize))
    index = {}
    for number, names in enumerate(parts, start=1):
        file = f"model-{number:05d}-of-{len(parts):05d}.safetensors"
        tensors = {}
        for name in names:
            theirs = to_hf(name)
            if theirs is None:
                raise ExchangeError(f"{name}: Hugging Face's LLaMA has no such parameter")
            index[theirs] = file
            tensors[theirs] = _read(wanted.checkpoint, manifest, name).to(_TYPES[wanted.precision])
        safetensors.torch.save_file(tensors, directory / file, metadata={"format": "pt"})
    num_bytes = sum(record.num_elements for record in manifest.tensors.values()) * _TYPES[wanted.precision].itemsize
    return {"metadata": {"total_size": num_bytes}, "weight_map": index}


def _parts(manifest: Manifest, most_bytes: int, item_bytes: int) -> Iterator[list[str]]:
    """Yield the parameters of each file: one at least, and no more than fit."""
    part: list[str] = []
    num_bytes = 0
    for name, record in manifest.tensors.items():
        size = record.num_elements * item_bytes
        if part and num_bytes + size > most_bytes:
            yield part
            part, num_bytes = [], 0
        part.append(name)
        num_bytes += size
    if part:
        yield part


def _read(checkpoint: Path, manifest: Manifest, name: str) -> torch.Tensor:
    record = manifest.tensors[name]
    flat = torch.empty(record.num_elements)
    read_ranges(checkpoint, manifest, [Wanted(name, STATES[0], 0, flat)])
    return flat.view(record.shape)


def _sync(directory: Path) -> None:
    for path in directory.iterdir():
        with path.open("rb") as stream:
            os.fsync(stream.fileno())
    sync_directory(directory)
