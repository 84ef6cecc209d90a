"""Which kind of model a folder holds, and the import that reads it."""

from collections.abc import Callable
from pathlib import Path

from llama_dist.config import RunConfig
from llama_dist.interop.deepspeed_folder import is_deepspeed
from llama_dist.interop.deepspeed_import import import_from_deepspeed
from llama_dist.interop.hf_import import import_from_hf


def import_model(
    source: Path, config: RunConfig, revision: str, *, ignore_tokenizer: bool, tell: Callable[[str], None]
) -> Path:
    """Make what `source` holds the first checkpoint of the run; answers its directory.

    Raises ExchangeError where source and run do not fit, CheckpointError where a file is damaged or the disk refuses.
    """
    if is_deepspeed(source):
        return import_from_deepspeed(source, config, revision, ignore_tokenizer=ignore_tokenizer, tell=tell)
    return import_from_hf(source, config, revision, ignore_tokenizer=ignore_tokenizer)
