"""Relations of distance along a sequence: ALiBi, T5's buckets, and Shaw's relative vectors."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vsattn.errors import ConfigError, ShapeError
from vsattn.relations.base import EdgePair, Pair, Relation


class Alibi(Relation):
    """``-m_h |offset|``: keys count less the farther they stand; nothing is learned (Press et al. 2022, section 3).

    The slopes ``m_h`` fall geometrically from ``2^(-8/H)`` to ``2^-8``; when H is no power of two, every other slope
    of the next power fills the gap, as the authors' code does. Without `Causal` both directions are treated alike.
    """

    parts = frozenset({"to_score"})
    slopes: Tensor

    def __init__(self, num_heads: int, head_dim: int) -> None:
        super().__init__(num_heads, head_dim)
        self.register_buffer("slopes", torch.tensor(_slopes(num_heads)), persistent=False)

    def to_score(self, query: Tensor, pair: Pair | EdgePair) -> Tensor:
        return -_offset(self, pair).abs()[..., None] * self.slopes


class T5Buckets(Relation):
    """A learned bias for each head and each bucket of offsets, exact nearby and logarithmic far away.

    Args:
        num_buckets: how many; half of them serve each direction when bidirectional.
        max_distance: from there on all offsets share the last bucket.
        bidirectional: False sends every later key to the bucket of offset 0, for causal attention.

    Source: Raffel et al. 2020, section 2.1. T5 shares one table among its layers; here each layer has its own.
    """

    parts = frozenset({"to_score"})

    def __init__(
        self,
        num_heads: int,
        head_dim: int,
        *,
        num_buckets: int = 32,
        max_distance: int = 128,
        bidirectional: bool = True,
    ) -> None:
        super().__init__(num_heads, head_dim)
        sides = 2 if bidirectional else 1
        if num_buckets < 2 * sides or num_buckets % sides or max_distance <= num_buckets // sides // 2:
            raise ConfigError(
                f"T5Buckets needs an even num_buckets >= {2 * sides} and max_distance above a "
                f"{'quarter' if bidirectional else 'half'} of it, not {num_buckets} and {max_distance}"
            )
        self.num_buckets, self.max_distance, self.bidirectional = num_buckets, max_distance, bidirectional
        self.bias = nn.Parameter(torch.zeros(num_buckets, num_heads))

    def to_score(self, query: Tensor, pair: Pair | EdgePair) -> Tensor:
        return F.embedding(self.bucket(_offset(self, pair).round().long()), self.bias)

    def bucket(self, offset: Tensor) -> Tensor:
        """Return the bucket of each integer offset (key position minus query position)."""
        buckets, first = self.num_buckets, torch.zeros_like(offset)
        if self.bidirectional:
            buckets //= 2
            first = (offset > 0).long() * buckets
            distance = offset.abs()
        else:
            distance = (-offset).clamp(min=0)
        exact = buckets // 2
        ratio = (distance.clamp(min=1).float() / exact).log() / math.log(self.max_distance / exact)
        far = (exact + (ratio * (buckets - exact)).long()).clamp(max=buckets - 1)
        return first + torch.where(distance < exact, distance, far)


class RelativeVectors(Relation):
    """A learned vector for each offset, added to the keys and, if asked, to the values (Shaw et al. 2018, section 3).

    ``score_ij = q_i . (k_j + a_ij) / sqrt(d)``, ``out_i = sum_j w_ij (v_j + b_ij)``, with ``a`` and ``b`` shared by the
    heads. The keys' part is added to the score, which is the same and makes no ``(Nq, Nk, d)`` tensor.

    Args:
        max_distance: offsets beyond it share the outermost vector.
        values: whether values get vectors too; the authors found that it changes little (section 4.3), and
            fused kernels cannot do it.
    """

    def __init__(self, num_heads: int, head_dim: int, *, max_distance: int = 16, values: bool = False) -> None:
        super().__init__(num_heads, head_dim)
        if max_distance < 1:
            raise ConfigError(f"RelativeVectors.max_distance counts positions and must be >= 1, not {max_distance}")
        self.max_distance = max_distance
        self.parts = frozenset({"to_score", "to_value"} if values else {"to_score"})
        rows = 2 * max_distance + 1
        self.key_vectors = nn.Parameter(torch.empty(rows, head_dim).normal_(std=head_dim**-0.5))
        self.value_vectors = nn.Parameter(torch.empty(rows, head_dim).normal_(std=head_dim**-0.5)) if values else None

    def to_score(self, query: Tensor, pair: Pair | EdgePair) -> Tensor:
        return pair.match(query, self.key_vectors, self._index(pair)) / math.sqrt(self.head_dim)

    def to_value(self, pair: Pair | EdgePair) -> Tensor:
        if self.value_vectors is None:
            return super().to_value(pair)
        return F.embedding(self._index(pair), self.value_vectors)[..., None, :]

    def _index(self, pair: Pair | EdgePair) -> Tensor:
        reach = self.max_distance
        return _offset(self, pair).round().long().clamp(-reach, reach) + reach


def _offset(relation: Relation, pair: Pair | EdgePair) -> Tensor:
    offsets = pair.offsets()
    if offsets.shape[-1] != 1:
        name = type(relation).__name__
        raise ShapeError(
            f"{name} needs one coordinate per vector (a sequence); these positions have {offsets.shape[-1]}"
        )
    return offsets[..., 0]


def _slopes(num_heads: int) -> list[float]:
    power = 2 ** math.floor(math.log2(num_heads))
    slopes = [2.0 ** (-8.0 * (i + 1) / power) for i in range(power)]
    between = [2.0 ** (-4.0 * (2 * i + 1) / power) for i in range(num_heads - power)]
    return slopes + between
