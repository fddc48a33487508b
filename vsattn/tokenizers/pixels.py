"""Each pixel is a vector."""

from __future__ import annotations

from torch import Tensor, nn

from vsattn.tokenizers.images import ImageTokenizer, cell_mask
from vsattn.vectorset import VectorSet


class Pixels(ImageTokenizer):
    """Each pixel's channels are one vector, projected to the model's width: a picture is a set of its pixels."""

    def grid_of(self, height: int, width: int) -> tuple[int, int]:
        return height, width

    def embedder(self, dim: int) -> nn.Module:
        """Make the module ``batch -> VectorSet (B, H * W, dim)``."""
        return PixelEmbedder(self.state["channels"], dim)


class PixelEmbedder(nn.Module):
    """A linear map of each pixel's channels."""

    def __init__(self, channels: int, dim: int) -> None:
        super().__init__()
        self.project = nn.Linear(channels, dim)

    def forward(self, batch: dict[str, Tensor]) -> VectorSet:
        """Map ``image (B, C, H, W)`` to a grid of ``H * W`` vectors."""
        image = batch["image"]
        grid = (image.shape[2], image.shape[3])
        x = self.project(image.flatten(2).transpose(1, 2))
        return VectorSet(x, cell_mask(batch.get("size"), grid), layout="grid", grid=grid)
