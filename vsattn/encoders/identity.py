"""No encoder: for an embedder that has one of its own."""

from __future__ import annotations

from torch import nn

from vsattn.encoders.base import Encoder
from vsattn.vectorset import VectorSet


class Identity(Encoder):
    """The set as it is, but for dropout.

    Args:
        num_layers: of no use, since there is none; recipes of tasks set it for all encoders.
        dropout: on the vectors.
    """

    def __init__(self, *, num_layers: int = 0, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)

    def forward(self, vector_set: VectorSet) -> VectorSet:
        """Return the set."""
        return vector_set.replace(x=self.dropout(vector_set.x))
