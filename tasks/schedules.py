"""Learning rates that rise linearly and fall with the square root of the step."""

from __future__ import annotations

from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from vsattn.errors import ConfigError


class InverseSqrt(LRScheduler):
    """``lr * min(t / w, sqrt(w / t))`` at step t = 1, 2, ...: up to the optimizer's rate in w steps, and down again.

    Args:
        optimizer: its ``lr`` is the peak.
        warmup: w, in steps.

    Raises:
        ConfigError: for a warm-up below one step.
    """

    def __init__(self, optimizer: Optimizer, *, warmup: int = 400, last_epoch: int = -1) -> None:
        if warmup < 1:
            raise ConfigError(f"{type(self).__name__}.warmup is at least 1 step, not {warmup}")
        self.warmup = warmup
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[Any]:
        """Return the rate of each group of weights at this step."""
        step = self.last_epoch + 1
        share = min(step / self.warmup, (self.warmup / step) ** 0.5)
        return [peak * share for peak in self.peaks]

    @property
    def peaks(self) -> list[Any]:
        """The highest rate of each group of weights."""
        return list(self.base_lrs)


class Noam(InverseSqrt):
    """``factor * d^(-1/2) * min(t^(-1/2), t w^(-3/2))`` (Vaswani et al. 2017, eq. 3), not the optimizer's rate.

    The paper's w of 4,000 steps was for 100,000 steps of large batches; a small corpus is over before they are.

    Args:
        optimizer: the weights.
        dim: d, the model's width.
        factor: on the whole.
        warmup: w, in steps.

    Raises:
        ConfigError: for numbers out of range.
    """

    def __init__(
        self, optimizer: Optimizer, dim: int, *, factor: float = 1.0, warmup: int = 4000, last_epoch: int = -1
    ) -> None:
        if dim < 1 or factor <= 0:
            raise ConfigError(f"Noam.dim is at least 1 and factor above 0, not {dim} and {factor}")
        self.peak = factor * (dim * max(1, warmup)) ** -0.5
        super().__init__(optimizer, warmup=warmup, last_epoch=last_epoch)

    @property
    def peaks(self) -> list[Any]:
        """The highest rate, the same for all groups."""
        return [self.peak] * len(self.base_lrs)
