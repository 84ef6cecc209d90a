"""The training loss."""

from torch import Tensor
from torch.nn import functional

IGNORED_LABEL = -100
"""Label of a position that the loss leaves out; PyTorch's own default."""


def next_token_loss(logits: Tensor, labels: Tensor, divisor: Tensor | None = None) -> Tensor:
    """Mean cross-entropy in nats, fp32, of logits [B, T, V] against the next tokens, int64 [B, T].

    The mean is over the labels that are not IGNORED_LABEL; without any it is NaN. With a `divisor` (fp32, no
    dimension) it is the sum over those labels divided by it, and 0 without any.
    """
    scores, wanted = logits.float().flatten(0, 1), labels.flatten()
    if divisor is None:
        return functional.cross_entropy(scores, wanted, ignore_index=IGNORED_LABEL)
    return functional.cross_entropy(scores, wanted, ignore_index=IGNORED_LABEL, reduction="sum") / divisor
