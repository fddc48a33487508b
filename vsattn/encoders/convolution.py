"""The convolutional baseline for grids."""

from __future__ import annotations

from torch import nn

from vsattn.encoders.base import Encoder
from vsattn.errors import ConfigError, ShapeError
from vsattn.layers import BatchNorm
from vsattn.structure import Full
from vsattn.vectorset import VectorSet


class ConvEncoder(Encoder):
    """Residual 2-D convolutions on a grid of vectors: ``x + dropout(relu(norm(conv(x))))``, layer after layer.

    The baseline that self-attention on images is held against. Vectors and their number stay, so it takes the
    Transformer's place behind any tokenizer and before any head; it sees ``kernel_size`` cells, all layers
    together ``num_layers * (kernel_size - 1) + 1``.

    Args:
        dim: D.
        num_layers: how many convolutions.
        kernel_size: odd.
        dropout: on each branch.
    """

    def __init__(self, dim: int, num_layers: int, *, kernel_size: int = 3, dropout: float = 0.0) -> None:
        super().__init__()
        if kernel_size % 2 != 1:
            raise ConfigError(f"ConvEncoder.kernel_size must be odd, not {kernel_size}")
        self.convolutions = nn.ModuleList(
            nn.Conv2d(dim, dim, kernel_size, padding=kernel_size // 2, bias=False) for _ in range(num_layers)
        )
        self.norms = nn.ModuleList(BatchNorm(dim) for _ in range(num_layers))
        self.dropout = nn.Dropout(dropout)

    def forward(self, vector_set: VectorSet) -> VectorSet:
        """Map ``(B, H * W, D)`` to ``(B, H * W, D)``.

        Raises:
            ShapeError: for a set that is not a grid, or has a structure of its own.
        """
        if vector_set.grid is None or vector_set.num_prefix:
            raise ShapeError(
                f"ConvEncoder needs a grid of vectors without prefix; this set is {vector_set.layout!r} with "
                f"{vector_set.num_prefix} prefix vectors"
            )
        if not isinstance(vector_set.structure, Full):
            name = type(vector_set.structure).__name__
            raise ShapeError(f"ConvEncoder sees its neighbours, whatever the set's {name} says; give it a Full set")
        mask, grid = vector_set.mask, vector_set.grid
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            assert isinstance(norm, BatchNorm)
            maps = vector_set.x.transpose(1, 2).unflatten(
                2, grid
            )  # (B, D, H, W); padded cells are 0, as beyond a border
            branch = self.dropout(norm.on_maps(convolution(maps), mask).relu())
            vector_set = vector_set.replace(x=vector_set.x + branch.flatten(2).transpose(1, 2))
        return vector_set
