"""What the demo trains: a model that two CPU cores can teach in two minutes. Values only."""

from pathlib import Path
from typing import Any

VOCABULARY_SIZE = 4096
NUM_STEPS = 160
CHECKPOINT_INTERVAL_STEPS = 20
KILL_AT_STEP = 50
"""Between two checkpoints, so that the resume has steps to do again."""

STOP_AT_STEP = 100
SEQUENCE_LENGTH_TOKENS = 256


def run_values(name: str, directory: Path) -> dict[str, Any]:
    """Plain values of the demo's run file; `directory` holds the data and the runs."""
    return {
        "name": name,
        "runs_directory": str(directory / "runs"),
        "model": {
            "vocabulary_size": VOCABULARY_SIZE,
            "hidden_size": 192,
            "num_layers": 4,
            "num_heads": 6,
            "feed_forward_size": 512,
            "max_sequence_length_tokens": 512,
        },
        "data": {
            "sources": [{"path": str(directory / "data")}],
            "sequence_length_tokens": SEQUENCE_LENGTH_TOKENS,
        },
        "batch": {"global_batch_sequences": 16, "micro_batch_sequences": 4},
        "train": {"num_steps": NUM_STEPS, "precision": "fp32"},
        "optimizer": {"learning_rate": 2e-3},
        "schedule": {"kind": "cosine", "warmup_steps": 10},
        "parallel": {"zero_stage": 1},
        "evaluation": {"interval_steps": 40, "num_sequences": 64},
        "checkpoint": {"interval_steps": CHECKPOINT_INTERVAL_STEPS},
        "supervision": {"process_group_timeout_seconds": 60.0},
    }
