"""What all position vectors share."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from vsattn.errors import ShapeError
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


def sequence_index(vector_set: VectorSet, max_length: int, owner: str) -> Tensor:
    """Return the whole-numbered position of each vector of a sequence, ``(B|1, N)``.

    Raises:
        ShapeError: for more than one coordinate, or a position outside ``0 .. max_length - 1``.
    """
    positions = vector_set.positions()
    if positions.shape[-1] != 1:
        raise ShapeError(f"{owner} serves sequences; these have {positions.shape[-1]} coordinates")
    if vector_set.pos is None and vector_set.num_vectors > max_length:
        raise ShapeError(
            f"a sequence of {vector_set.num_vectors} is longer than the {max_length} learned positions; "
            "raise max_length or use sinusoidal positions"
        )
    index = positions[..., 0].round().long()
    if vector_set.pos is not None and index.numel() and not torch.compiler.is_compiling():
        low, high = int(index.min()), int(index.max())
        if low < 0 or high >= max_length:
            raise ShapeError(
                f"positions {low} .. {high} do not lie within the {max_length} learned ones; "
                "raise max_length or use sinusoidal positions"
            )
    return index


def angles(positions: Tensor, width: int, max_wavelength: float) -> Tensor:
    """Return ``p / w^(2i/d)`` in float64: ``positions (B|1, N, P)`` and d = ``width`` give ``(B|1, N, P, d / 2)``.

    Source: Vaswani et al. 2017, section 3.5.
    """
    exponent = torch.arange(0, width, 2, device=positions.device, dtype=torch.float64) / width
    return positions.to(torch.float64)[..., None] * torch.exp(-math.log(max_wavelength) * exponent)
