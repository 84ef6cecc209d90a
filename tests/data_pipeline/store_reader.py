"""A rank of its own that reads a stream, prints what it read, and ends with its input.

Argument: JSON of config, rank, size, batch, steps.
"""

import json
import sys

from data_pipeline.config import DataConfig
from data_pipeline.durable_file import checksum_bytes
from data_pipeline.stream import open_stream


def main() -> None:
    values = json.loads(sys.argv[1])
    stream = open_stream(DataConfig.model_validate(values["config"]))
    for step in range(values["num_steps"]):
        (batch,) = stream.micro_batches(
            step * values["batch"] * values["dp_size"],
            dp_rank=values["dp_rank"],
            dp_size=values["dp_size"],
            micro_batch_sequences=values["batch"],
            num_micro_batches=1,
        )
        print(step, checksum_bytes(batch.tokens.tobytes() + batch.labels.tobytes()), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
