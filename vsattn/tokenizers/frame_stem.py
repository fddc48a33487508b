"""The stem of convolutions that makes vectors of frames of sound, and what it does to lengths."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vsattn.vectorset import VectorSet


class FrameEmbedder(nn.Module):
    """The stem; what lies beyond a clip's end is set to 0 before each stage, so that padding changes nothing."""

    def __init__(self, num_features: int, dim: int, strides: Sequence[int]) -> None:
        super().__init__()
        self.strides = tuple(strides)
        self.project = None if strides else nn.Linear(num_features, dim)
        inputs = (num_features, *[dim] * (len(self.strides) - 1))
        self.convolutions = nn.ModuleList(
            nn.Conv1d(size, dim, 2 * stride + 1, stride=stride, padding=stride)
            for size, stride in zip(inputs, self.strides)
        )

    def forward(self, batch: dict[str, Tensor]) -> VectorSet:
        """Map ``frames (B, T, F)`` with ``length (B,)`` to a sequence of vectors."""
        x, length = batch["frames"], batch["length"]
        if self.project is not None:
            return VectorSet(self.project(x), frame_mask(length, x.shape[1]), layout="sequence")
        x = x.transpose(1, 2).masked_fill(~frame_mask(length, x.shape[1])[:, None], 0)  # (B, F, T)
        for convolution, stride in zip(self.convolutions, self.strides, strict=True):
            x, length = F.gelu(convolution(x)), after_strides(length, (stride,))
            x = x.masked_fill(~frame_mask(length, x.shape[2])[:, None], 0)
        return VectorSet(x.transpose(1, 2), frame_mask(length, x.shape[2]), layout="sequence")


def after_strides(length: Any, strides: Sequence[int]) -> Any:
    """Return what convolutions of these strides, padded to keep their input's extent, leave of a length."""
    for stride in strides:
        length = (length + stride - 1) // stride
    return length


def frame_mask(length: Tensor, total: int) -> Tensor:
    """Return bool ``(B, total)``, True on the first ``length (B,)`` of each."""
    return torch.arange(total, device=length.device) < length[:, None]
