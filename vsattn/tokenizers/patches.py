"""Each square of pixels is a vector."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from vsattn.errors import ConfigError
from vsattn.tokenizers.images import ImageTokenizer, cell_mask
from vsattn.vectorset import VectorSet


class Patches(ImageTokenizer):
    """Each ``patch_size x patch_size`` square is one vector (Dosovitskiy et al. 2021, section 3.1).

    A side that is no multiple of the patch is padded at its end with the mean colour.

    Args:
        patch_size: side of a patch in pixels.
        size, channels, max_vectors: see :class:`ImageTokenizer`.
    """

    def __init__(
        self,
        *,
        patch_size: int = 4,
        size: int | Sequence[int] | None = None,
        channels: int | None = None,
        max_vectors: int = 4096,
    ) -> None:
        super().__init__(size=size, channels=channels, max_vectors=max_vectors)
        if patch_size < 1:
            raise ConfigError(f"patch_size counts pixels and must be >= 1, not {patch_size}")
        self.patch_size = patch_size

    def grid_of(self, height: int, width: int) -> tuple[int, int]:
        return -(-height // self.patch_size), -(-width // self.patch_size)

    def embedder(self, dim: int) -> nn.Module:
        """Make the module ``batch -> VectorSet (B, h * w, dim)`` with ``h x w`` patches."""
        return PatchEmbedder(self.state["channels"], dim, self.patch_size)


class PatchEmbedder(nn.Module):
    """A linear map of each patch, as a convolution whose stride is its kernel."""

    def __init__(self, channels: int, dim: int, patch_size: int) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.project = nn.Conv2d(channels, dim, patch_size, stride=patch_size)

    def forward(self, batch: dict[str, Tensor]) -> VectorSet:
        """Map ``image (B, C, H, W)`` to a grid of patch vectors."""
        image, side = batch["image"], self.patch_size
        image = F.pad(image, (0, -image.shape[3] % side, 0, -image.shape[2] % side))
        patches = self.project(image)
        grid = (patches.shape[2], patches.shape[3])
        cells = (batch["size"] + side - 1) // side if "size" in batch else None
        return VectorSet(patches.flatten(2).transpose(1, 2), cell_mask(cells, grid), layout="grid", grid=grid)
