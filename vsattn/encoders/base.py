"""The face that all encoders share, the Transformer and the baselines it must beat."""

from __future__ import annotations

from torch import nn

from vsattn.vectorset import VectorSet


class Encoder(nn.Module):
    """``VectorSet -> VectorSet`` of the same width and the same vectors (a prefix may be added in front)."""

    def forward(self, vector_set: VectorSet) -> VectorSet:
        """Map ``(B, N, D)`` to ``(B, num_prefix + N, D)``."""
        raise NotImplementedError(f"{type(self).__name__} must define forward(vector_set)")
