"""The convolutional baseline, for grids and for sequences."""

from __future__ import annotations

from torch import nn

from vsattn.encoders.base import Encoder, refuse_structure, require_sequence
from vsattn.errors import ConfigError, ShapeError
from vsattn.layers import BatchNorm
from vsattn.vectorset import VectorSet


class ConvEncoder(Encoder):
    """Residual convolutions on a grid or a sequence: ``x + dropout(relu(norm(conv(x))))``, layer after layer.

    The baseline that self-attention on images and sound is held against. Vectors and their number stay, so it takes the
    Transformer's place behind any tokenizer and before any head; it sees ``kernel_size`` cells, all layers
    together ``num_layers * (kernel_size - 1) + 1``.

    Args:
        dim: D.
        num_layers: how many convolutions.
        kernel_size: odd.
        dimensions: 2 for grids, 1 for sequences.
        dropout: on each branch.
    """

    def __init__(
        self, dim: int, num_layers: int, *, kernel_size: int = 3, dimensions: int = 2, dropout: float = 0.0
    ) -> None:
        super().__init__()
        if num_layers < 1 or kernel_size < 1 or kernel_size % 2 != 1:
            raise ConfigError(
                f"ConvEncoder.num_layers is at least 1 and kernel_size odd, not {num_layers} and {kernel_size}"
            )
        if dimensions not in (1, 2):
            raise ConfigError(f"ConvEncoder.dimensions is 1 (sequences) or 2 (grids), not {dimensions}")
        self.dimensions = dimensions
        convolution = nn.Conv1d if dimensions == 1 else nn.Conv2d
        self.convolutions = nn.ModuleList(
            convolution(dim, dim, kernel_size, padding=kernel_size // 2, bias=False) for _ in range(num_layers)
        )
        self.norms = nn.ModuleList(BatchNorm(dim) for _ in range(num_layers))
        self.dropout = nn.Dropout(dropout)

    def forward(self, vector_set: VectorSet) -> VectorSet:
        """Map ``(B, N, D)`` to ``(B, N, D)``.

        Raises:
            ShapeError: for a set that is not a grid (or sequence), or has a structure of its own.
        """
        if self.dimensions == 1:
            require_sequence(vector_set, self)
        elif vector_set.grid is None or vector_set.num_prefix:
            raise ShapeError(
                f"ConvEncoder needs a grid of vectors without prefix; this set is {vector_set.layout!r} with "
                f"{vector_set.num_prefix} prefix vectors"
            )
        refuse_structure(vector_set, self)
        mask = vector_set.mask
        cells = (vector_set.num_vectors,) if vector_set.grid is None else vector_set.grid
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            assert isinstance(norm, BatchNorm)
            # (B, D, N) or (B, D, H, W); padded cells are 0, as beyond a border
            maps = convolution(vector_set.x.transpose(1, 2).unflatten(2, cells))
            branch = self.dropout(norm.on_maps(maps, mask).relu())
            vector_set = vector_set.replace(x=vector_set.x + branch.flatten(2).transpose(1, 2))
        return vector_set
