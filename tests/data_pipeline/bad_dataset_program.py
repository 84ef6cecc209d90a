"""Verifies a dataset, then reads it whole through a stream, and prints what both said as JSON. Run as a program.

A process of its own, since what is tested is that no native code ends it.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from data_pipeline.config import DataConfig, ReportedError, SourceConfig
from data_pipeline.stream import open_stream
from data_pipeline.verification import verify_dataset


def read_whole(directory: Path, *, isolate: bool) -> None:
    config = DataConfig(
        sources=[SourceConfig(path=str(directory))], sequence_length_tokens=64, isolate_documents=isolate
    )
    stream = open_stream(config)
    for first in range(0, stream.num_sequences, 16):
        stream.read(np.arange(first, min(first + 16, stream.num_sequences)))


def outcome(action: Callable[[], object]) -> dict[str, object]:
    try:
        action()
    except ReportedError as error:
        return {"code": error.exit_code, "message": str(error)}
    return {"code": 0, "message": ""}


if __name__ == "__main__":
    dataset = Path(sys.argv[1])
    print(
        json.dumps(
            {
                "verify": outcome(lambda: verify_dataset(dataset)),
                "plain": outcome(lambda: read_whole(dataset, isolate=False)),
                "isolated": outcome(lambda: read_whole(dataset, isolate=True)),
            }
        )
    )
