"""`llama-dist data verify`: reads every byte of a dataset and compares it with the manifest. Changes nothing.

What can be wrong inside a shard is `shard_verification.py`'s.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from data_pipeline.durable_file import checksum_file, is_unfinished
from data_pipeline.errors import DataError
from data_pipeline.interop.output_directory import IMPORT_MARK_NAME
from data_pipeline.manifest import (
    INDEX_NAME,
    MANIFEST_NAME,
    SHARDS_NAME,
    SOURCES_NAME,
    TOKENIZER_NAME,
    Manifest,
    fingerprint_shards,
    read_manifest,
)
from data_pipeline.pack_verification import pack_faults, pack_files
from data_pipeline.progress import show_progress
from data_pipeline.shard_verification import shard_faults

# Enough to see a pattern; a whole damaged disk would fill the screen.
_MOST_FAULTS_SHOWN = 20
# Locks stay, since removing one that another process waits for would break it.
_LOCK_NAMES = {".lock", IMPORT_MARK_NAME}
_FILE_NAMES = {MANIFEST_NAME, INDEX_NAME, TOKENIZER_NAME, SOURCES_NAME}


@dataclass(frozen=True)
class Verified:
    """What was read and found whole."""

    num_shards: int
    num_documents: int
    num_tokens: int
    num_bytes: int
    fingerprint: str


def verify_dataset(directory: Path) -> Verified:
    """Check every file of the dataset. Raises DataError that lists the faults, each with its file and place."""
    manifest = read_manifest(directory)
    shards = manifest.all_shards()
    faults = list(_file_faults(directory, manifest))
    faults += _orphan_faults(directory, {shard.file for shard in shards} | pack_files(directory))
    num_bytes = 0
    with show_progress("verifying", sum(shard.num_bytes for shard in shards)) as progress:
        for shard in shards:
            faults += shard_faults(directory, shard, manifest)
            num_bytes += shard.num_bytes
            progress.update(num_bytes, num_bytes, 0)
        # Fragments are places in the shards' documents: with a damaged shard they mean nothing.
        if not faults:
            faults += pack_faults(directory, manifest)
    if faults:
        shown = "\n".join(f"  {fault}" for fault in faults[:_MOST_FAULTS_SHOWN])
        more = len(faults) - _MOST_FAULTS_SHOWN
        shown += f"\n  and {more} more" if more > 0 else ""
        raise DataError(
            f"{directory}: {len(faults)} fault(s):\n{shown}\n"
            "  restore the files from a copy, or prepare the data again in a new directory"
        )
    return Verified(
        num_shards=len(shards),
        num_documents=sum(shard.num_documents for shard in shards),
        num_tokens=sum(shard.num_tokens for shard in shards),
        num_bytes=num_bytes,
        fingerprint=manifest.fingerprint,
    )


def _file_faults(directory: Path, manifest: Manifest) -> Iterator[str]:
    for name, needed in ((TOKENIZER_NAME, manifest.tokenizer.checksum), (SOURCES_NAME, manifest.sources.checksum)):
        path = directory / name
        try:
            seen = checksum_file(path)
        except OSError as error:
            yield f"{path}: cannot be read: {error.strerror}"
            continue
        if seen != needed:
            yield f"{path}: checksum {seen} over {path.stat().st_size} bytes, the manifest says {needed}"
    fingerprint = fingerprint_shards(manifest.train, manifest.validation, manifest.tokenizer, manifest.token_dtype)
    if fingerprint != manifest.fingerprint:
        yield f"{directory}: fingerprint {fingerprint} of the listed shards, the manifest says {manifest.fingerprint}"


def _orphan_faults(directory: Path, listed: set[str]) -> Iterator[str]:
    """Yield the files that belong to no dataset: what a killed process left, and what a person put there."""
    for path in sorted(directory.rglob("*")):
        name = path.relative_to(directory).as_posix()
        if path.is_dir() or name in listed or name in _FILE_NAMES | _LOCK_NAMES:
            continue
        if is_unfinished(name):
            yield f"{path}: {path.stat().st_size} bytes left by a process that was killed: remove it"
        else:
            kind = (
                "a shard that the manifest does not name" if name.startswith(f"{SHARDS_NAME}/") else "a file of others"
            )
            yield f"{path}: {path.stat().st_size} bytes of {kind}: move it away"
