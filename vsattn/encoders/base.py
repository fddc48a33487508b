"""The face that all encoders share, the Transformer and the baselines it must beat."""

from __future__ import annotations

from torch import nn

from vsattn.errors import ShapeError
from vsattn.structure import Full
from vsattn.vectorset import VectorSet


class Encoder(nn.Module):
    """``VectorSet -> VectorSet`` of the same width and the same vectors (a prefix may be added in front)."""

    #: The width of what comes out, where it is another than goes in.
    output_dim: int | None = None

    def forward(self, vector_set: VectorSet) -> VectorSet:
        """Map ``(B, N, D)`` to ``(B, num_prefix + N, D)``."""
        raise NotImplementedError(f"{type(self).__name__} must define forward(vector_set)")


def require_sequence(vector_set: VectorSet, encoder: Encoder) -> None:
    """Raise ShapeError unless the set is a sequence, without prefix and without a structure of its own."""
    if vector_set.layout != "sequence" or vector_set.num_prefix:
        raise ShapeError(
            f"{type(encoder).__name__} needs a sequence of vectors without prefix; this set is "
            f"{vector_set.layout!r} with {vector_set.num_prefix} prefix vectors"
        )
    refuse_structure(vector_set, encoder)


def refuse_structure(vector_set: VectorSet, encoder: Encoder) -> None:
    """Raise ShapeError for a set with a structure of its own, which this encoder cannot keep."""
    if not isinstance(vector_set.structure, Full):
        name, structure = type(encoder).__name__, type(vector_set.structure).__name__
        raise ShapeError(f"{name} itself decides who sees whom, whatever {structure} says; give it a Full set")
