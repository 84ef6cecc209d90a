"""Reads a file of `torch.save` without executing it: tensors and plain values alone, and inert stand-ins for the few
classes of DeepSpeed's that its checkpoints name. The only place that calls `torch.load`.

Tensors stay on the disk (mmap) until they are read.
"""

import re
import zipfile
import zlib
from pathlib import Path
from typing import Any

import torch

from llama_dist.checkpoint.manifest import CheckpointError
from llama_dist.interop.errors import ExchangeError


class InertRecord:
    """Stands for an object of DeepSpeed's: keeps the plain values that the file gives it, and can do nothing."""

    arguments: tuple[Any, ...]
    """What its class was called with."""

    fields: dict[str, Any]
    """Its attributes."""

    def __new__(cls, *arguments: Any) -> "InertRecord":
        """Keep the arguments."""
        record = super().__new__(cls)
        record.arguments, record.fields = arguments, {}
        return record

    def __setstate__(self, state: Any) -> None:
        """Keep the attributes, beside the record's own."""
        self.fields = dict(state) if isinstance(state, dict) else {}


# All that checkpoints of DeepSpeed 0.19.8 name beyond torch's own types; ZeRO 1 to 3, fp32, bf16, fp16.
_STAND_INS = (
    "deepspeed.runtime.fp16.loss_scaler.LossScaler",
    "deepspeed.runtime.fp16.loss_scaler.DynamicLossScaler",
    "deepspeed.runtime.zero.config.ZeroStageEnum",
    "deepspeed.utils.tensor_fragment.fragment_address",
)
_ASKED_FOR = re.compile(r"GLOBAL (\S+)")


def read_inert(path: Path) -> dict[str, Any]:
    """The dictionary that a file holds. Verifies the file's checksums first: it reads every byte.

    Raises CheckpointError for a damaged file, ExchangeError for one that asks for more than plain values.
    """
    _verify(path)
    try:
        with torch.serialization.safe_globals([(InertRecord, name) for name in _STAND_INS]):
            values = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001  a file made to harm makes torch's reader raise anything
        asked = _ASKED_FOR.search(str(error))
        if asked:
            raise ExchangeError(
                f"{path}: asks for {asked[1]}, which may be code: nothing of it was run: only tensors and plain values "
                "are read: save it again with no other objects in `client_state`"
            ) from None
        raise CheckpointError(f"{path}: cannot be read: {type(error).__name__}: copy it again") from None
    if not isinstance(values, dict):
        raise ExchangeError(f"{path}: holds {type(values).__name__}, needs a dictionary: DeepSpeed did not write it")
    return values


def _verify(path: Path) -> None:
    """torch compares no checksums. Raises CheckpointError for what `torch.save` did not write as it is now."""
    try:
        with zipfile.ZipFile(path) as archive:
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                raise CheckpointError(f"{path}: is compressed, which `torch.save` never does: it was made otherwise")
            damaged = archive.testzip()
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError, ValueError) as error:
        raise CheckpointError(f"{path}: is no whole file of `torch.save`: {error}: copy it again") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}: copy it again") from None
    if damaged:
        raise CheckpointError(f"{path}: {damaged} is not what its checksum says: the file is damaged: copy it again")
