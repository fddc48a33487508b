"""The part of a Transformer layer that works on each vector alone."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from vsattn.errors import ConfigError


class FeedForward(nn.Module):
    """``f(x W_1 + b_1) W_2 + b_2`` on each vector (Vaswani et al. 2017, section 3.3).

    With ``"swiglu"``, ``(silu(x W_g) * x W_1) W_2`` (Shazeer 2020, section 2); its hidden width is then used twice.

    Args:
        dim: D.
        ratio: hidden width as a multiple of D.
        hidden_dim: hidden width itself; overrides ``ratio``.
        activation: ``"gelu"``, ``"relu"`` or ``"swiglu"``.
        dropout: on the hidden vectors.
    """

    def __init__(
        self,
        dim: int,
        *,
        ratio: float = 4.0,
        hidden_dim: int | None = None,
        activation: Literal["gelu", "relu", "swiglu"] = "gelu",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if activation not in ("gelu", "relu", "swiglu"):
            raise ConfigError(f"FeedForward.activation is 'gelu', 'relu' or 'swiglu', not {activation!r}")
        hidden = int(dim * ratio) if hidden_dim is None else hidden_dim
        if hidden < 1:
            raise ConfigError(f"FeedForward has a hidden width of {hidden}; raise ratio or hidden_dim")
        self.activation = activation
        self.up = nn.Linear(dim, 2 * hidden if activation == "swiglu" else hidden)
        self.down = nn.Linear(hidden, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(..., D)`` to ``(..., D)``."""
        hidden = self.up(x)
        if self.activation == "swiglu":
            gate, hidden = hidden.chunk(2, dim=-1)
            hidden = F.silu(gate) * hidden
        else:
            hidden = F.gelu(hidden) if self.activation == "gelu" else F.relu(hidden)
        return self.down(self.dropout(hidden))
