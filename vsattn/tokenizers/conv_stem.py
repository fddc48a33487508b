"""A few convolutions first, then each cell of their feature map is a vector."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vsattn.errors import ConfigError
from vsattn.layers import BatchNorm
from vsattn.tokenizers.images import ImageTokenizer, cell_mask
from vsattn.vectorset import VectorSet


class ConvStem(ImageTokenizer):
    """Stages of 3x3 convolution, batch norm, ReLU; each cell of the last is one vector (Xiao et al. 2021, section 3).

    Args:
        widths: channels of all stages but the last, whose width is the model's.
        strides: step of each stage's convolution, one more entry than ``widths``.
        pools: after which stages (counted from 0) a 2x2 maximum is taken.
        size, channels, max_vectors: see :class:`ImageTokenizer`.
    """

    def __init__(
        self,
        *,
        widths: Sequence[int] = (32,),
        strides: Sequence[int] = (1, 2),
        pools: Sequence[int] = (),
        size: int | Sequence[int] | None = None,
        channels: int | None = None,
        max_vectors: int = 4096,
    ) -> None:
        super().__init__(size=size, channels=channels, max_vectors=max_vectors)
        if len(strides) != len(widths) + 1:
            raise ConfigError(
                f"strides has one entry per stage, {len(widths) + 1} (widths, then the model's); got {list(strides)}"
            )
        if any(n < 1 for n in (*widths, *strides)) or any(not 0 <= p < len(strides) for p in pools):
            raise ConfigError(f"widths and strides are positive and pools are stages 0 .. {len(strides) - 1}")
        self.widths, self.strides, self.pools = tuple(widths), tuple(strides), tuple(sorted(set(pools)))

    def grid_of(self, height: int, width: int) -> tuple[int, int]:
        for stage, stride in enumerate(self.strides):
            height, width = -(-height // stride), -(-width // stride)
            if stage in self.pools:
                height, width = -(-height // 2), -(-width // 2)
        return height, width

    def embedder(self, dim: int) -> nn.Module:
        """Make the module ``batch -> VectorSet (B, h * w, dim)``."""
        return ConvStemEmbedder(self.state["channels"], (*self.widths, dim), self.strides, self.pools)


class ConvStemEmbedder(nn.Module):
    """The stages; what lies beyond a smaller picture's border is set to 0 after each, so it equals itself alone."""

    def __init__(self, channels: int, widths: Sequence[int], strides: Sequence[int], pools: Sequence[int]) -> None:
        super().__init__()
        inputs = (channels, *widths[:-1])
        self.convolutions = nn.ModuleList(
            nn.Conv2d(c, w, 3, stride=s, padding=1, bias=False) for c, w, s in zip(inputs, widths, strides, strict=True)
        )
        self.norms = nn.ModuleList(BatchNorm(w) for w in widths)
        self.strides, self.pools = tuple(strides), tuple(pools)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # faster, and vectors are contiguous

    def forward(self, batch: dict[str, Tensor]) -> VectorSet:
        """Map ``image (B, C, H, W)`` to a grid of vectors."""
        x, cells, mask = batch["image"], batch.get("size"), None
        for stage, (convolution, norm, stride) in enumerate(
            zip(self.convolutions, self.norms, self.strides, strict=True)
        ):
            x = convolution(x)
            cells = None if cells is None else (cells + stride - 1) // stride
            mask = cell_mask(cells, (x.shape[2], x.shape[3]))
            assert isinstance(norm, BatchNorm)
            x = norm.on_maps(x, mask).relu()
            if mask is not None:
                x = x * mask.view(x.shape[0], 1, *x.shape[2:])
            if stage in self.pools:
                x = F.max_pool2d(x, 2, ceil_mode=True)
                cells = None if cells is None else (cells + 1) // 2
                mask = cell_mask(cells, (x.shape[2], x.shape[3]))
        grid = (x.shape[2], x.shape[3])
        return VectorSet(x.flatten(2).transpose(1, 2), mask, layout="grid", grid=grid)
