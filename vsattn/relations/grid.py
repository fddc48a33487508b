"""A learned bias for each offset on a grid."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vsattn.errors import ConfigError, ShapeError
from vsattn.relations.base import EdgePair, Pair, Relation


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

    def to_score(self, query: Tensor, pair: Pair | EdgePair) -> Tensor:
        offsets = pair.offsets()
        if offsets.shape[-1] != 2:
            raise ShapeError(f"Relative2d needs (row, column) positions; these have {offsets.shape[-1]} coordinate(s)")
        reach = self.max_distance
        cell = offsets.round().long().clamp(-reach, reach) + reach
        return F.embedding(cell[..., 0] * (2 * reach + 1) + cell[..., 1], self.bias)


def _nearest_offsets(count: int, reach: int) -> Tensor:
    """Return the ``count`` non-zero offsets nearest to the query, ``(count, 2)``, repeated if there are too few."""
    side = torch.arange(-reach, reach + 1)
    offsets = torch.cartesian_prod(side, side)
    offsets = offsets[offsets.abs().sum(-1) > 0]
    order = offsets.square().sum(-1).argsort(stable=True)
    return offsets[order].repeat(math.ceil(count / len(order)), 1)[:count]
