"""Sines and cosines of each coordinate."""

from __future__ import annotations

import torch
from torch import Tensor

from vsattn.errors import ConfigError, ShapeError
from vsattn.positions.base import Positions, angles
from vsattn.vectorset import VectorSet


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
        if max_wavelength <= 0:
            raise ConfigError(f"Sinusoidal.max_wavelength is positive, not {max_wavelength}")
        self.dim, self.max_wavelength, self.scale = dim, max_wavelength, scale

    def encode(self, vector_set: VectorSet) -> Tensor:
        positions = vector_set.positions()
        coordinates = positions.shape[-1]
        width = self.dim // coordinates
        if self.dim % (2 * coordinates):
            raise ShapeError(f"{coordinates} coordinates need a width divisible by {2 * coordinates}, not {self.dim}")
        angle = angles(positions, width, self.max_wavelength)  # (B|1, N, P, width / 2)
        waves = torch.stack([angle.sin(), angle.cos()], -1).flatten(-3)  # sine, cosine interleaved, parts joined
        return (self.scale * waves).to(vector_set.x.dtype)
