"""Positions by rotation: the match of a query and a key then depends on their offset alone."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from vsattn.errors import ConfigError, ShapeError
from vsattn.positions.base import angles
from vsattn.vectorset import VectorSet


class Rotary(nn.Module):
    """Turn each pair of features of a query or key by an angle that grows with its position.

    ``(a, b) -> (a cos t - b sin t, a sin t + b cos t)`` with ``t = p / w^(2i/d)`` for pair i at position p, so that
    ``q_m . k_n`` depends on ``n - m`` only. With P coordinates the width is cut into P equal parts, one for each
    (rows first), each with wavelengths of its own: axial rotary positions on a grid. Nothing is learned, norms
    stay, and prefix vectors, which have no position, are not turned.

    Args:
        head_dim: d, even for sequences, a multiple of 4 for grids.
        max_wavelength: w; the longest wavelength is below ``2 pi w`` positions.
        pairing: which features make a pair: neighbours (``"interleaved"``, as in the paper) or feature i of a part's
            first half with feature i of its second (``"halves"``, as in GPT-NeoX and LLaMA). Trained weights fit one.

    Raises:
        ConfigError: for an odd ``head_dim``, or a ``max_wavelength`` that is not positive.
        ShapeError: in use, when ``head_dim`` is no multiple of ``2 P``, or the vectors have no positions.

    Source: Su et al. 2021, "RoFormer", section 3.2.2.
    """

    def __init__(
        self,
        head_dim: int,
        *,
        max_wavelength: float = 10000.0,
        pairing: Literal["interleaved", "halves"] = "interleaved",
    ) -> None:
        super().__init__()
        if head_dim < 2 or head_dim % 2:
            raise ConfigError(f"Rotary.head_dim must be even, not {head_dim}")
        if pairing not in ("interleaved", "halves"):
            raise ConfigError(f"Rotary.pairing is 'interleaved' or 'halves', not {pairing!r}")
        if max_wavelength <= 0:
            raise ConfigError(f"Rotary.max_wavelength is positive, not {max_wavelength}")
        self.head_dim, self.max_wavelength, self.pairing = head_dim, max_wavelength, pairing

    def forward(self, vectors: Tensor, vector_set: VectorSet) -> Tensor:
        """Turn ``vectors (B, H, N, d)`` by the positions of ``vector_set``; the dtype stays."""
        angle = self._angles(vector_set)  # (B|1, N, P, d / 2P)
        if vectors.shape[-1] != self.head_dim or vectors.shape[-2] != angle.shape[1]:
            raise ShapeError(
                f"Rotary(head_dim={self.head_dim}) of a set of {angle.shape[1]} vectors turns (B, H, "
                f"{angle.shape[1]}, {self.head_dim}), not {tuple(vectors.shape)}"
            )
        wide = torch.promote_types(vectors.dtype, torch.float32)  # half precision would blur near positions
        cos, sin = (wave.to(wide)[:, None] for wave in (angle.cos(), angle.sin()))  # (B|1, 1, N, P, d / 2P)
        axis, shape = (-1, (angle.shape[2], -1, 2)) if self.pairing == "interleaved" else (-2, (angle.shape[2], 2, -1))
        a, b = vectors.to(wide).unflatten(-1, shape).unbind(axis)  # two of (B, H, N, P, d / 2P)
        return torch.stack([a * cos - b * sin, a * sin + b * cos], axis).flatten(-3).to(vectors.dtype)

    def _angles(self, vector_set: VectorSet) -> Tensor:
        positions, prefix = vector_set.positions(), vector_set.num_prefix
        coordinates = positions.shape[-1]
        if self.head_dim % (2 * coordinates):
            raise ShapeError(
                f"{coordinates} coordinates need heads of a width divisible by {2 * coordinates}, not {self.head_dim}; "
                "change num_heads or head_dim"
            )
        positions = torch.nn.functional.pad(positions[:, prefix:], (0, 0, prefix, 0))
        return angles(positions, self.head_dim // coordinates, self.max_wavelength)

    def extra_repr(self) -> str:
        return f"{self.head_dim}, max_wavelength={self.max_wavelength}, pairing={self.pairing!r}"
