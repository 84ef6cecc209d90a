"""AdamW with decay groups, and the learning rate as a function of the step."""

from llama_dist.optim.adamw import build_adamw, decay_groups
from llama_dist.optim.schedule import learning_rate

__all__ = ["build_adamw", "decay_groups", "learning_rate"]
