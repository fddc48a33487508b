"""Measures that torchmetrics does not have."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric


class MeanLoss(Metric):
    """``sum(n_b * loss_b) / sum(n_b)`` over batches b of n_b targets: the mean over targets, last short batch included.

    torchmetrics' own ``MeanMetric`` forgets the weights when it is told not to look for NaN, and otherwise drops NaN.
    """

    full_state_update = False
    total: Tensor
    weight: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("weight", torch.tensor(0.0), dist_reduce_fx="sum")

    def update(self, loss: Tensor, count: int) -> None:
        """Add the mean loss of ``count`` targets."""
        self.total += loss * count
        self.weight += count

    def compute(self) -> Tensor:
        """Return the mean over all targets so far."""
        return self.total / self.weight
