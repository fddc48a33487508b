"""Stochastic depth: a residual branch skipped for a whole sample."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vsattn.errors import ConfigError


class DropPath(nn.Module):
    """Set the branch of each sample to 0 with probability p, and scale the others by ``1 / (1 - p)``, in training.

    Source: Huang et al. 2016, "Deep Networks with Stochastic Depth", section 3.
    """

    def __init__(self, p: float = 0.0) -> None:
        super().__init__()
        if not 0.0 <= p < 1.0:
            raise ConfigError(f"drop_path is a probability in [0, 1), not {p}")
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, N, D)`` to ``(B, N, D)``."""
        if not self.training or self.p == 0.0:
            return x
        keep = torch.empty(x.shape[0], 1, 1, dtype=x.dtype, device=x.device).bernoulli_(1.0 - self.p)
        return x * keep / (1.0 - self.p)

    def extra_repr(self) -> str:
        return f"p={self.p}"


def drop_path_rates(last: float, num_layers: int) -> list[float]:
    """Return the drop path of each layer, which grows linearly from 0 to that of the last."""
    return [last * layer / (num_layers - 1) if num_layers > 1 else last for layer in range(num_layers)]
