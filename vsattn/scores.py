"""How well a query matches a key: scaled dot, dot, bilinear, cosine, additive.

A score compares vectors that are already projected (projections belong to the attention module, so keys
are projected once). Calling it gives the dense ``(B, H, Nq, Nk)``, the definition. Scores that are a dot
product in disguise say so by :meth:`Score.as_dot`, and then run on every fused kernel.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vsattn.errors import ConfigError


class Score(nn.Module):
    """Base of all scores.

    Args:
        num_heads: H.
        head_dim: width d of a projected query and key.
    """

    def __init__(self, num_heads: int, head_dim: int) -> None:
        super().__init__()
        self.num_heads, self.head_dim = num_heads, head_dim

    def as_dot(self, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor, float] | None:
        """Return ``(q, k, scale)`` with ``score = scale * q k^T``, or None if the score is not a dot product."""
        return None

    def forward(self, query: Tensor, key: Tensor) -> Tensor:
        """Score ``(B, H, Nq, d)`` against ``(B, H, Nk, d)``: ``(B, H, Nq, Nk)``."""
        dot = self.as_dot(query, key)
        if dot is None:
            raise NotImplementedError(f"{type(self).__name__} must define forward or as_dot")
        q, k, scale = dot
        return (q @ k.transpose(-2, -1)) * scale

    def extra_repr(self) -> str:
        return f"num_heads={self.num_heads}, head_dim={self.head_dim}"


class ScaledDot(Score):
    """``q . k / sqrt(d)`` with d the head's width (Vaswani et al. 2017, section 3.2.1)."""

    def as_dot(self, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor, float]:
        return query, key, 1.0 / math.sqrt(self.head_dim)


class Dot(Score):
    """``q . k``, unscaled (Luong et al. 2015, section 3.1, "dot")."""

    def as_dot(self, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor, float]:
        return query, key, 1.0


class Bilinear(Score):
    """``q W k / sqrt(d)`` with one matrix per head, started as the identity (Luong et al. 2015, "general")."""

    def __init__(self, num_heads: int, head_dim: int) -> None:
        super().__init__(num_heads, head_dim)
        self.weight = nn.Parameter(torch.eye(head_dim).repeat(num_heads, 1, 1))

    def as_dot(self, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor, float]:
        return query @ self.weight.to(query.dtype), key, 1.0 / math.sqrt(self.head_dim)


class Cosine(Score):
    """``t cos(q, k)``, one learned temperature per head (query-key norm, Henry et al. 2020, section 3).

    Args:
        temperature: where t starts; it is kept positive by learning its logarithm. The logits cannot leave
            ``[-t, t]``, so the softmax can only be as sharp as t allows.
    """

    def __init__(self, num_heads: int, head_dim: int, *, temperature: float = 10.0) -> None:
        super().__init__(num_heads, head_dim)
        if temperature <= 0:
            raise ConfigError(f"Cosine.temperature must be positive, not {temperature}")
        self.log_temperature = nn.Parameter(torch.full((num_heads, 1, 1), math.log(temperature)))

    def as_dot(self, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor, float]:
        temperature = self.log_temperature.exp().to(query.dtype)
        eps = max(1e-12, torch.finfo(query.dtype).tiny)  # 1e-12 is 0 in half precision
        return F.normalize(query, dim=-1, eps=eps) * temperature, F.normalize(key, dim=-1, eps=eps), 1.0


class Additive(Score):
    """``v . f(q + k)``, pairwise (Bahdanau et al. 2015, appendix A.1.2; with leaky ReLU GATv2, Brody et al. 2022).

    Query and key arrive projected, so this is ``v^T tanh(W_q q + W_k k)``; it is pairwise, never a dot product.

    Args:
        activation: ``"tanh"`` (Bahdanau) or ``"leaky_relu"`` (GATv2).
        negative_slope: of the leaky ReLU.
    """

    def __init__(
        self,
        num_heads: int,
        head_dim: int,
        *,
        activation: Literal["tanh", "leaky_relu"] = "tanh",
        negative_slope: float = 0.2,
    ) -> None:
        super().__init__(num_heads, head_dim)
        if activation not in ("tanh", "leaky_relu"):
            raise ConfigError(f"Additive.activation is 'tanh' or 'leaky_relu', not {activation!r}")
        self.activation, self.negative_slope = activation, negative_slope
        bound = math.sqrt(6.0 / (head_dim + 1))
        self.weight = nn.Parameter(torch.empty(num_heads, head_dim).uniform_(-bound, bound))

    def forward(self, query: Tensor, key: Tensor) -> Tensor:
        pair = query[:, :, :, None, :] + key[:, :, None, :, :]  # (B, H, Nq, Nk, d)
        pair = pair.tanh() if self.activation == "tanh" else F.leaky_relu(pair, self.negative_slope)
        return torch.einsum("bhqkd,hd->bhqk", pair, self.weight.to(pair.dtype))
