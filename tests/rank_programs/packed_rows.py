"""Rows of several documents each, and the same documents trained on alone: what packing must not change."""

import itertools
import random

import torch

from llama_dist.config import OptimizerConfig
from llama_dist.model import Llama, initialize_weights, next_token_loss
from llama_dist.model.loss import IGNORED_LABEL
from llama_dist.optim.adamw import build_adamw


class PackedRows:
    """The global batch of a step: int64 [B, T] tokens, labels and positions, and where each document lies."""

    def __init__(self, step, num_rows, num_tokens, vocabulary):
        source = random.Random(step)
        generator = torch.Generator().manual_seed(step)
        self.tokens = torch.randint(0, vocabulary, (num_rows, num_tokens), generator=generator)
        self.tokens[:, 1::2] = self.tokens[:, 0:-1:2]  # something to learn
        self.labels = torch.full_like(self.tokens, IGNORED_LABEL)
        self.positions = torch.empty_like(self.tokens)
        self.documents = []
        for row in range(num_rows):
            starts = sorted({0, *source.sample(range(1, num_tokens), source.randrange(0, 6))})
            # The last two rows have no labels, as padding has none: some micro-batches have nothing to learn from.
            self._fill(row, [*starts, num_tokens], is_counted=row < num_rows - 2)

    def _fill(self, row, bounds, *, is_counted):
        for start, end in itertools.pairwise(bounds):
            self.positions[row, start:end] = torch.arange(end - start)
            if is_counted:
                self.labels[row, start : end - 1] = self.tokens[row, start + 1 : end]
            if is_counted and end - start > 1:
                self.documents.append((row, start, end))

    def labels_of(self, document):
        """The labels of one document alone; all others are masked."""
        row, start, end = document
        labels = torch.full_like(self.labels, IGNORED_LABEL)
        labels[row, start:end] = self.labels[row, start:end]
        return labels


def train_on_documents_alone(config, steps, learning_rate, rows_of):
    """Train the plain model, each document a sequence of its own without any mask: the loss packing must give."""
    model = Llama(config.model)
    initialize_weights(model.named_parameters(), config.model, config.train.seed)
    optimizer = build_adamw(model.named_parameters(), OptimizerConfig())

    def sums(rows):
        for row, start, end in rows.documents:
            tokens = rows.tokens[row : row + 1, start:end]
            yield next_token_loss(model(tokens[:, :-1]), tokens[:, 1:], torch.tensor(1.0)), end - start - 1

    with torch.no_grad():
        document_losses = [float(total) / num_labels for total, num_labels in sums(rows_of(steps[0]))]
    losses, norms = [], []
    for step in range(*steps):
        totals, counts = zip(*sums(rows_of(step)), strict=True)
        loss = torch.stack(totals).sum() / sum(counts)
        optimizer.zero_grad()
        loss.backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)))
        for group in optimizer.param_groups:
            group["lr"] = learning_rate
        optimizer.step()
        losses.append(float(loss.detach()))
    return {"losses": losses, "norms": norms, "document_losses": document_losses}
