"""A learned vector for each position."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vsattn.errors import ConfigError, ShapeError
from vsattn.positions.base import Positions, sequence_index
from vsattn.vectorset import VectorSet


class Learned(Positions):
    """A learned vector per position of a sequence or per cell of a grid (Gehring et al. 2017; Dosovitskiy et al. 2021).

    A grid of another size, or a smaller picture in a padded batch, reads the table by bilinear
    interpolation stretched to its own extent, as ``interpolate(align_corners=False)`` does.

    Args:
        dim: D.
        grid: ``(H, W)`` of the table for grids; give this or ``max_length``.
        max_length: number of positions of a sequence.
        std: standard deviation of the start.
    """

    def __init__(
        self, dim: int, *, grid: Sequence[int] | None = None, max_length: int | None = None, std: float = 0.02
    ) -> None:
        super().__init__()
        if (grid is None) == (max_length is None):
            raise ConfigError(f"Learned takes grid=(H, W) or max_length=N, one of them; got {grid} and {max_length}")
        self.grid = None if grid is None else (int(grid[0]), int(grid[1]))
        rows = max_length if self.grid is None else self.grid[0] * self.grid[1]
        self.table = nn.Parameter(torch.empty(rows or 0, dim).normal_(std=std))

    def encode(self, vector_set: VectorSet) -> Tensor:
        if self.grid is None:
            index = sequence_index(vector_set, len(self.table), "Learned(max_length=...)")
            return F.embedding(index, self.table)
        if vector_set.mask is None and vector_set.pos is None and vector_set.grid == self.grid:
            return self.table[None]
        return self._stretched(vector_set)

    def _stretched(self, vector_set: VectorSet) -> Tensor:
        assert self.grid is not None
        positions = vector_set.positions()
        if positions.shape[-1] != 2:
            raise ShapeError(
                f"Learned(grid=...) serves grids; these positions have {positions.shape[-1]} coordinate(s)"
            )
        height, width = self.grid
        size = positions.new_tensor([height, width])
        if vector_set.mask is not None:
            extent = (positions * vector_set.mask[..., None]).amax(1, keepdim=True) + 1
        elif vector_set.grid is not None:
            extent = positions.new_tensor(vector_set.grid)
        else:
            extent = positions.amax(1, keepdim=True) + 1
        place = ((positions + 0.5) * size / extent - 0.5).clamp(min=0)
        place = torch.minimum(place, size - 1)  # (B|1, N, 2) in cells of the table
        low = place.floor()
        high = torch.minimum(low + 1, size - 1).long()
        (r0, c0), (r1, c1) = low.long().unbind(-1), high.unbind(-1)
        (row, column) = (place - low).to(self.table.dtype)[..., None].unbind(-2)
        top = torch.lerp(F.embedding(r0 * width + c0, self.table), F.embedding(r0 * width + c1, self.table), column)
        bottom = torch.lerp(F.embedding(r1 * width + c0, self.table), F.embedding(r1 * width + c1, self.table), column)
        return torch.lerp(top, bottom, row)
