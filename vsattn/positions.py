"""Where a vector stands, told to the vector itself: sinusoidal and learned positions in one or two dimensions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vsattn.errors import ConfigError, ShapeError
from vsattn.vectorset import VectorSet


class Positions(nn.Module):
    """Base: a set in, the same set with position vectors added out; prefix vectors must come later."""

    def encode(self, vector_set: VectorSet) -> Tensor:
        """Return the position vectors ``(B|1, N, D)``."""
        raise NotImplementedError(f"{type(self).__name__} must define encode(vector_set)")

    def forward(self, vector_set: VectorSet) -> VectorSet:
        """Add the position vectors to ``x``."""
        if vector_set.num_prefix:
            raise ShapeError("add positions before prefix vectors: a prefix has none")
        return vector_set.replace(x=vector_set.x + self.encode(vector_set).to(vector_set.x.dtype))


class Sinusoidal(Positions):
    """Sines and cosines of geometrically spaced wavelengths (Vaswani et al. 2017, section 3.5).

    ``PE[2i] = sin(p / w^(2i/d))``, ``PE[2i+1] = cos(p / w^(2i/d))``. With P coordinates the width is cut
    into P equal parts, one for each (rows first), as vision transformers do.

    Args:
        dim: D, even for sequences, a multiple of 4 for grids.
        max_wavelength: w; the longest wavelength is ``2 pi w`` positions.
        scale: factor on the result.
    """

    def __init__(self, dim: int, *, max_wavelength: float = 10000.0, scale: float = 1.0) -> None:
        super().__init__()
        if dim % 2:
            raise ConfigError(f"Sinusoidal.dim must be even, not {dim}")
        self.dim, self.max_wavelength, self.scale = dim, max_wavelength, scale

    def encode(self, vector_set: VectorSet) -> Tensor:
        positions = vector_set.positions()
        coordinates = positions.shape[-1]
        width = self.dim // coordinates
        if self.dim % (2 * coordinates):
            raise ShapeError(f"{coordinates} coordinates need a width divisible by {2 * coordinates}, not {self.dim}")
        exponent = torch.arange(0, width, 2, device=positions.device, dtype=torch.float64) / width
        frequency = torch.exp(-math.log(self.max_wavelength) * exponent)
        angle = positions.to(torch.float64)[..., None] * frequency  # (B|1, N, P, width / 2)
        waves = torch.stack([angle.sin(), angle.cos()], -1).flatten(-3)  # sine, cosine interleaved, parts joined
        return (self.scale * waves).to(vector_set.x.dtype)


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
            return self._along_sequence(vector_set)
        if vector_set.grid == self.grid and vector_set.mask is None and vector_set.pos is None:
            return self.table[None]
        return self._stretched(vector_set)

    def _along_sequence(self, vector_set: VectorSet) -> Tensor:
        positions = vector_set.positions()
        if positions.shape[-1] != 1:
            raise ShapeError(f"Learned(max_length=...) serves sequences; these have {positions.shape[-1]} coordinates")
        if vector_set.pos is None and vector_set.num_vectors > len(self.table):
            raise ShapeError(
                f"a sequence of {vector_set.num_vectors} is longer than the {len(self.table)} learned positions; "
                "raise max_length or use sinusoidal positions"
            )
        index = positions[..., 0].round().long()
        if vector_set.pos is not None and index.numel() and not torch.compiler.is_compiling():
            low, high = int(index.min()), int(index.max())
            if low < 0 or high >= len(self.table):
                raise ShapeError(
                    f"positions {low} .. {high} do not lie within the {len(self.table)} learned ones; "
                    "raise max_length or use sinusoidal positions"
                )
        return F.embedding(index, self.table)

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
