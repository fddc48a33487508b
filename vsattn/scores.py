"""How well a query matches a key: scaled dot, dot, bilinear, cosine, additive; and how scores become weights.

A score compares vectors that are already projected (projections belong to the attention module, so keys
are projected once). :meth:`Score.pairwise` is its definition, for pairs laid out in any way. Scores that are a dot
product in disguise say so by :meth:`Score.as_dot`, and then run on every fused kernel.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vsattn.errors import ConfigError
from vsattn.sparse import edge_pairwise
from vsattn.structure import EdgeList

#: What turns the scores of a query into weights that sum to 1.
Normalizer = Literal["softmax", "sparsemax", "entmax15"]


class Score(nn.Module):
    """Base of all scores.

    Args:
        num_heads: H.
        head_dim: width d of a projected query and key.
        normalizer: ``"softmax"``; ``"sparsemax"`` (Martins and Astudillo 2016, section 2) or ``"entmax15"`` (Peters
            et al. 2019, section 3), which give most keys a weight of exactly 0 and need the ``entmax`` package.
    """

    def __init__(self, num_heads: int, head_dim: int, *, normalizer: Normalizer = "softmax") -> None:
        super().__init__()
        if normalizer not in get_args(Normalizer):
            raise ConfigError(f"{type(self).__name__}.normalizer is one of {get_args(Normalizer)}, not {normalizer!r}")
        self.num_heads, self.head_dim, self.normalizer = num_heads, head_dim, normalizer

    def pairwise(self, query: Tensor, key: Tensor) -> Tensor:
        """Score pairs: ``(..., H, d)`` against ``(..., H, d)``, broadcast, gives ``(..., H)``. The definition."""
        raise NotImplementedError(f"{type(self).__name__} must define pairwise(query, key)")

    def as_dot(self, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor, float] | None:
        """Return ``(q, k, scale)`` with ``score = scale * q k^T``, or None if the score is not a dot product.

        Args:
            query: ``(B, H, Nq, d)``.
            key: ``(B, H, Nk, d)``.
        """
        return None

    @property
    def is_dot(self) -> bool:
        """Whether the score is a dot product."""
        return type(self).as_dot is not Score.as_dot

    def forward(self, query: Tensor, key: Tensor) -> Tensor:
        """Score ``(B, H, Nq, d)`` against ``(B, H, Nk, d)``: ``(B, H, Nq, Nk)``."""
        dot = self.as_dot(query, key)
        if dot is None:
            pairs = self.pairwise(query.transpose(1, 2)[:, :, None], key.transpose(1, 2)[:, None])  # (B, Nq, Nk, H)
            return pairs.permute(0, 3, 1, 2)
        q, k, scale = dot
        return (q @ k.transpose(-2, -1)) * scale

    def along(self, query: Tensor, key: Tensor, edges: EdgeList) -> Tensor:
        """Score the pairs of a list: ``(Nq, H, d)`` and ``(Nk, H, d)`` give ``(E, H)``."""
        return edge_pairwise(self.pairwise, tuple(self.parameters()), query, key, edges)

    def extra_repr(self) -> str:
        return f"num_heads={self.num_heads}, head_dim={self.head_dim}, normalizer={self.normalizer!r}"


class ScaledDot(Score):
    """``q . k / sqrt(d)`` with d the head's width (Vaswani et al. 2017, section 3.2.1)."""

    def pairwise(self, query: Tensor, key: Tensor) -> Tensor:
        return (query * key).sum(-1) / math.sqrt(self.head_dim)

    def as_dot(self, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor, float]:
        return query, key, 1.0 / math.sqrt(self.head_dim)


class Dot(Score):
    """``q . k``, unscaled (Luong et al. 2015, section 3.1, "dot")."""

    def pairwise(self, query: Tensor, key: Tensor) -> Tensor:
        return (query * key).sum(-1)

    def as_dot(self, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor, float]:
        return query, key, 1.0


class Bilinear(Score):
    """``q W k / sqrt(d)`` with one matrix per head, started as the identity (Luong et al. 2015, "general")."""

    def __init__(self, num_heads: int, head_dim: int, *, normalizer: Normalizer = "softmax") -> None:
        super().__init__(num_heads, head_dim, normalizer=normalizer)
        self.weight = nn.Parameter(torch.eye(head_dim).repeat(num_heads, 1, 1))

    def pairwise(self, query: Tensor, key: Tensor) -> Tensor:
        turned = torch.einsum("...hd,hde->...he", query, self.weight.to(query.dtype))
        return (turned * key).sum(-1) / math.sqrt(self.head_dim)

    def as_dot(self, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor, float]:
        return query @ self.weight.to(query.dtype), key, 1.0 / math.sqrt(self.head_dim)


class Cosine(Score):
    """``t cos(q, k)``, one learned temperature per head (query-key norm, Henry et al. 2020, section 3).

    Args:
        temperature: where t starts; it is kept positive by learning its logarithm. The logits cannot leave
            ``[-t, t]``, so the softmax can only be as sharp as t allows.
    """

    def __init__(
        self, num_heads: int, head_dim: int, *, temperature: float = 10.0, normalizer: Normalizer = "softmax"
    ) -> None:
        super().__init__(num_heads, head_dim, normalizer=normalizer)
        if temperature <= 0:
            raise ConfigError(f"Cosine.temperature must be positive, not {temperature}")
        self.log_temperature = nn.Parameter(torch.full((num_heads, 1, 1), math.log(temperature)))

    def pairwise(self, query: Tensor, key: Tensor) -> Tensor:
        temperature = self.log_temperature.exp().to(query.dtype)[:, 0, 0]
        return (_unit(query) * _unit(key)).sum(-1) * temperature

    def as_dot(self, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor, float]:
        return _unit(query) * self.log_temperature.exp().to(query.dtype), _unit(key), 1.0


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
        normalizer: Normalizer = "softmax",
    ) -> None:
        super().__init__(num_heads, head_dim, normalizer=normalizer)
        if activation not in ("tanh", "leaky_relu"):
            raise ConfigError(f"Additive.activation is 'tanh' or 'leaky_relu', not {activation!r}")
        self.activation, self.negative_slope = activation, negative_slope
        bound = math.sqrt(6.0 / (head_dim + 1))
        self.weight = nn.Parameter(torch.empty(num_heads, head_dim).uniform_(-bound, bound))

    def pairwise(self, query: Tensor, key: Tensor) -> Tensor:
        added = query + key
        bent = added.tanh() if self.activation == "tanh" else F.leaky_relu(added, self.negative_slope)
        return _reduced(bent, self.weight)


class SplitAdditive(Score):
    """``leaky_relu(a . q + b . k)``: each vector is reduced to one number first (GAT, Velickovic et al. 2018, eq. 3).

    The order of keys is the same for every query, which is what GATv2 (`Additive` with leaky ReLU) mends.

    Args:
        negative_slope: of the leaky ReLU.
    """

    def __init__(
        self, num_heads: int, head_dim: int, *, negative_slope: float = 0.2, normalizer: Normalizer = "softmax"
    ) -> None:
        super().__init__(num_heads, head_dim, normalizer=normalizer)
        self.negative_slope = negative_slope
        bound = math.sqrt(6.0 / (head_dim + 1))
        self.query_weight = nn.Parameter(torch.empty(num_heads, head_dim).uniform_(-bound, bound))
        self.key_weight = nn.Parameter(torch.empty(num_heads, head_dim).uniform_(-bound, bound))

    def pairwise(self, query: Tensor, key: Tensor) -> Tensor:
        return self._bent(_reduced(query, self.query_weight) + _reduced(key, self.key_weight))

    def forward(self, query: Tensor, key: Tensor) -> Tensor:
        q = _reduced(query.transpose(1, 2), self.query_weight).transpose(1, 2)  # (B, H, Nq)
        k = _reduced(key.transpose(1, 2), self.key_weight).transpose(1, 2)
        return self._bent(q[..., :, None] + k[..., None, :])

    def along(self, query: Tensor, key: Tensor, edges: EdgeList) -> Tensor:
        q, k = _reduced(query, self.query_weight), _reduced(key, self.key_weight)  # (N, H)
        return self._bent(q.index_select(0, edges.query) + k.index_select(0, edges.key))

    def _bent(self, scores: Tensor) -> Tensor:
        return F.leaky_relu(scores, self.negative_slope)


def _unit(vectors: Tensor) -> Tensor:
    eps = max(1e-12, torch.finfo(vectors.dtype).tiny)  # 1e-12 is 0 in half precision
    return F.normalize(vectors, dim=-1, eps=eps)


def _reduced(vectors: Tensor, weight: Tensor) -> Tensor:
    return (vectors * weight.to(vectors.dtype)).sum(-1)  # twice as fast as einsum, which transposes
