"""What a pair of vectors adds to attention beyond what the vectors say: where they stand to each other."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vsattn.errors import ConfigError, ShapeError
from vsattn.vectorset import VectorSet


@dataclass(frozen=True)
class Pair:
    """The pairs of a query set and a key set; ``rows`` restricts the queries (for work in chunks)."""

    query_set: VectorSet
    key_set: VectorSet
    rows: slice = field(default_factory=lambda: slice(None))

    def offsets(self) -> Tensor:
        """Return key position minus query position, ``(B|1, Nq, Nk, P)``."""
        query, key = self.query_set.positions(), self.key_set.positions()
        if query.shape[-1] != key.shape[-1]:
            raise ShapeError(f"queries have {query.shape[-1]} coordinates, keys {key.shape[-1]}")
        return key[:, None, :, :] - query[:, self.rows, None, :]

    def beyond_prefix(self) -> Tensor | None:
        """Return bool ``(Nq, Nk)``, False where a prefix vector takes part, or None when none does."""
        num_query, num_key = self.query_set.num_prefix, self.key_set.num_prefix
        if not num_query and not num_key:
            return None
        device = self.query_set.x.device
        query = torch.arange(self.query_set.num_vectors, device=device)[self.rows] >= num_query
        key = torch.arange(self.key_set.num_vectors, device=device) >= num_key
        return query[:, None] & key[None, :]


class Relation(nn.Module):
    """Base of all relations.

    A relation overrides any of ``to_score``, ``to_key`` and ``to_value``; ``parts`` names those it has.
    A kernel that does not support one of them refuses the relation. Pairs with a prefix vector get zero.
    """

    parts: frozenset[str] = frozenset()

    def __init__(self, num_heads: int, head_dim: int) -> None:
        super().__init__()
        self.num_heads, self.head_dim = num_heads, head_dim

    def to_score(self, query: Tensor, pair: Pair) -> Tensor:
        """Return what is added to the scores, ``(B|1, H, Nq, Nk)``; ``query`` is ``(B, H, Nq, d)``."""
        raise NotImplementedError(f"{type(self).__name__} adds nothing to the scores")

    def to_key(self, pair: Pair) -> Tensor:
        """Return what is added to each query's keys, ``(B|1, H|1, Nq, Nk, d)``."""
        raise NotImplementedError(f"{type(self).__name__} adds nothing to the keys")

    def to_value(self, pair: Pair) -> Tensor:
        """Return what is added to each query's values, ``(B|1, H|1, Nq, Nk, d)``."""
        raise NotImplementedError(f"{type(self).__name__} adds nothing to the values")


class Relative2d(Relation):
    """A learned bias for each head and each 2-D offset, ``b[h, row_k - row_q, column_k - column_q]``.

    With ``start="convolution"`` head h starts as one neighbour of a convolution kernel: its bias is
    ``max(-|offset - c_h|^2, floor)`` with ``c_h`` the h-th nearest offset, so that eight heads begin as the
    eight neighbours of a 3x3 kernel (attention contains convolution, Cordonnier et al. 2020, section 3;
    started there and free to leave, as in ConViT, d'Ascoli et al. 2021, section 3).

    Args:
        max_distance: offsets beyond it, in cells, share the outermost bias.
        start: ``"zeros"`` or ``"convolution"``.
        floor: the lowest bias at the start.
    """

    parts = frozenset({"to_score"})

    def __init__(
        self,
        num_heads: int,
        head_dim: int,
        *,
        max_distance: int = 7,
        start: Literal["zeros", "convolution"] = "zeros",
        floor: float = -6.0,
    ) -> None:
        super().__init__(num_heads, head_dim)
        if max_distance < 1:
            raise ConfigError(f"Relative2d.max_distance counts cells and must be >= 1, not {max_distance}")
        if start not in ("zeros", "convolution"):
            raise ConfigError(f"Relative2d.start is 'zeros' or 'convolution', not {start!r}")
        self.max_distance = max_distance
        side = torch.arange(-max_distance, max_distance + 1)
        offsets = torch.cartesian_prod(side, side)  # (cells, 2), row-major
        table = torch.zeros(len(offsets), num_heads)
        if start == "convolution":
            centres = _nearest_offsets(num_heads, max_distance)
            distance = (offsets[:, None] - centres[None]).square().sum(-1)
            table = (-distance.float()).clamp(min=floor)
        self.bias = nn.Parameter(table)

    def to_score(self, query: Tensor, pair: Pair) -> Tensor:
        offsets = pair.offsets()
        if offsets.shape[-1] != 2:
            raise ShapeError(f"Relative2d needs (row, column) positions; these have {offsets.shape[-1]} coordinate(s)")
        reach = self.max_distance
        cell = offsets.round().long().clamp(-reach, reach) + reach
        index = cell[..., 0] * (2 * reach + 1) + cell[..., 1]  # (B|1, Nq, Nk)
        return F.embedding(index, self.bias).permute(0, 3, 1, 2)


def _nearest_offsets(count: int, reach: int) -> Tensor:
    """Return the ``count`` non-zero offsets nearest to the query, ``(count, 2)``, repeated if there are too few."""
    side = torch.arange(-reach, reach + 1)
    offsets = torch.cartesian_prod(side, side)
    offsets = offsets[offsets.abs().sum(-1) > 0]
    order = offsets.square().sum(-1).argsort(stable=True)
    return offsets[order].repeat(math.ceil(count / len(order)), 1)[:count]
