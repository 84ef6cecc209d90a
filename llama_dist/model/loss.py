"""The training loss."""

from torch import Tensor
from torch.nn import functional

IGNORED_LABEL = -100
"""Label of a position that the loss leaves out; PyTorch's own default."""


def next_token_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy in nats, fp32, of logits [B, T, V] against the next tokens, int64 [B, T].

    The mean is over the labels that are not IGNORED_LABEL; without any it is NaN.
    """
    return functional.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), ignore_index=IGNORED_LABEL)
