"""One opened split of one prepared dataset: its manifest, its token line, its sequences. Knows no order."""

from dataclasses import dataclass
from pathlib import Path

from data_pipeline.config import DataConfig
from data_pipeline.durable_file import checksum_file
from data_pipeline.errors import DataError
from data_pipeline.manifest import TOKENIZER_NAME, Manifest, Split, read_manifest
from data_pipeline.packing.pack_index import open_pack_index
from data_pipeline.sequences import ConcatSequences, PackedSequences, Sequences
from data_pipeline.shard_files import LocalShardFiles, ShardFiles, check_file_size
from data_pipeline.stores.opening import RemoteSources
from data_pipeline.token_line import TokenLine


@dataclass(frozen=True)
class Source:
    """One opened split."""

    name: str
    """Name of the source in the config."""

    directory: Path
    """Directory with the manifest, the tokenizer and the pack indexes; those of a remote dataset are copies."""

    manifest: Manifest
    sequences: Sequences

    @property
    def num_sequences(self) -> int:
        """Sequences of the split."""
        return self.sequences.num_sequences


def open_source(config: DataConfig, number: int, split: Split, remote: RemoteSources | None) -> Source:
    """Open source `number` of `config`, by `remote` where it is a URL.

    Raises DataError if it is absent or damaged at sight, StorageError if its store or the cache fails.
    """
    source = config.sources[number]
    if remote is not None and source.is_remote:
        shards = remote.open_dataset(number, split)
        directory, manifest = shards.dataset.directory, shards.dataset.manifest
        sequences = _open_sequences(config, directory, manifest, split, shards)
        return Source(source.resolved_name, directory, manifest, sequences)
    directory = Path(source.path)
    manifest = read_manifest(directory)
    _check_sizes(directory, manifest)
    _check_tokenizer_file(directory / TOKENIZER_NAME, manifest.tokenizer.checksum)
    files = LocalShardFiles(directory, manifest.shards(split))
    return Source(source.resolved_name, directory, manifest, _open_sequences(config, directory, manifest, split, files))


def _open_sequences(
    config: DataConfig, directory: Path, manifest: Manifest, split: Split, files: ShardFiles
) -> Sequences:
    table, num_tokens = manifest.table(split), config.sequence_length_tokens
    line = TokenLine(table, files, manifest.token_dtype)
    if config.packing == "concat":
        return ConcatSequences(line, table, num_tokens, manifest.fingerprint)
    # Padding has no label and no neighbour that looks at it, so any id will do.
    padding_id = manifest.tokenizer.eos_id or 0
    return PackedSequences(line, open_pack_index(directory, manifest, split, num_tokens), padding_id)


def check_same_tokenizer(sources: list[Source]) -> None:
    """Raise DataError if the sources' ids are of different tokenizers."""
    first = sources[0]
    for source in sources[1:]:
        if source.manifest.tokenizer != first.manifest.tokenizer:
            raise DataError(
                "the sources were prepared with different tokenizers:\n"
                f"  {first.directory}: {first.manifest.tokenizer}\n  {source.directory}: {source.manifest.tokenizer}\n"
                "  prepare them again with one tokenizer"
            )


def _check_sizes(directory: Path, manifest: Manifest) -> None:
    for table in (manifest.table("train"), manifest.table("validation")):
        names, sizes = table.columns.files.to_pylist(), table.columns.counts["num_bytes"].tolist()
        for name, num_bytes in zip(names, sizes, strict=True):
            check_file_size(f"{directory}/{name}", num_bytes)


def _check_tokenizer_file(path: Path, needed: str) -> None:
    try:
        seen = checksum_file(path)
    except OSError as error:
        raise DataError(f"{path}: the dataset's tokenizer cannot be read: {error.strerror}: restore it") from None
    if seen != needed:
        raise DataError(f"{path}: checksum {seen}, the manifest says {needed}: another tokenizer's file: restore it")
