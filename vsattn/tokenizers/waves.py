"""Sound as wav2vec 2.0 reads it: convolutions over samples, each vector told its place by what is around it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm
from torch.nn.utils.rnn import pad_sequence

from vsattn.errors import ConfigError, DataError
from vsattn.tokenizers.audio import AudioFrames
from vsattn.tokenizers.frame_stem import frame_mask
from vsattn.tokenizers.spec_augment import SpecAugment
from vsattn.vectorset import VectorSet


class Waves(AudioFrames):
    """Samples at 16 kHz through a stack of convolutions, a vector every 20 ms (Baevski et al. 2020, section 2).

    The stack is padded nowhere, so that a clip has as many vectors as windows of the stack's extent fit into it, and
    they do not depend on what is batched with it. Positions come from a convolution over the vectors: use
    ``positions=none``.

    Args:
        sample_rate: Hz.
        channels: of each convolution.
        kernel_sizes, strides: of each convolution.
        norm: ``"first"``: each channel of the first convolution is normalised over the clip (the base models);
            ``"all"``: each vector of every convolution is (the large ones).
        bias: of the convolutions.
        position_kernel, position_groups: of the convolution of positions.
        last_norm: normalise the vectors at the end, as an encoder with its norms after each layer needs.
        normalise: bring each clip to mean 0 and variance 1 first (the large models).
        dropout: on the vectors before positions.
        trim, dynamic_range: see :class:`~vsattn.tokenizers.audio.AudioFrames`; the latter is of no use here.
        spec_augment: sets stretches of training clips to 0, or None.
        max_vectors: a clip that would become more vectors is refused, since attention is quadratic.

    Raises:
        ConfigError: for values that make no convolutions, or another distortion of training clips.
    """

    def __init__(
        self,
        *,
        sample_rate: int = 16000,
        channels: int = 512,
        kernel_sizes: Sequence[int] = (10, 3, 3, 3, 3, 2, 2),
        strides: Sequence[int] = (5, 2, 2, 2, 2, 2, 2),
        norm: Literal["first", "all"] = "first",
        bias: bool = False,
        position_kernel: int = 128,
        position_groups: int = 16,
        last_norm: bool = True,
        normalise: bool = False,
        dropout: float = 0.0,
        trim: float | None = None,
        dynamic_range: float = 57.0,
        spec_augment: SpecAugment | None = None,
        max_vectors: int = 4096,
    ) -> None:
        sizes = (channels, position_kernel, position_groups, *kernel_sizes, *strides)
        if not kernel_sizes or len(kernel_sizes) != len(strides) or min(sizes) < 1:
            raise ConfigError(
                "channels, kernels, strides and groups are at least 1, as many kernel_sizes as strides; not "
                f"{channels}, {list(kernel_sizes)}, {list(strides)}, {position_kernel}, {position_groups}"
            )
        steps = [math.prod(strides[:i]) for i in range(len(strides) + 1)]
        extent = 1 + sum((kernel - 1) * step for kernel, step in zip(kernel_sizes, steps, strict=False))
        super().__init__(
            sample_rate=sample_rate,
            features="raw",
            window=extent / sample_rate,
            hop=steps[-1] / sample_rate,
            normalise="none",
            strides=(),
            trim=trim,
            dynamic_range=dynamic_range,
            spec_augment=spec_augment,
            max_vectors=max_vectors,
        )
        if spec_augment is not None and spec_augment.stretch:
            raise ConfigError("samples have no frames to stretch: set tokenizer.spec_augment.stretch=0")
        self.channels, self.kernel_sizes, self.stack_strides = channels, tuple(kernel_sizes), tuple(strides)
        self.stack_norm, self.bias, self.unit, self.dropout = norm, bias, normalise, dropout
        self.position_kernel, self.position_groups, self.last_norm = position_kernel, position_groups, last_norm

    def collate(self, items: Sequence[Any], train: bool = False) -> dict[str, Tensor]:
        """Return ``"wave" (B, S)``, padded with zeros, ``"samples" (B,)``, and ``"length" (B,)``, vectors of each.

        Raises:
            DataError: naming the clip that cannot be read or is too long.
        """
        if len(items) == 0:
            raise DataError("a batch needs at least one clip")
        clips = [self._wave(item, f"item {i} of the batch", train) for i, item in enumerate(items)]
        samples = torch.tensor([len(clip) for clip in clips])
        length = torch.tensor([self.num_frames(len(clip)) for clip in clips])
        return {"wave": pad_sequence(clips, batch_first=True), "samples": samples, "length": length}

    def decode(self, batch: dict[str, Tensor]) -> list[np.ndarray]:
        """Return the samples ``(S,)`` of each clip without padding, as normalised as they are."""
        pairs = zip(batch["wave"].detach().cpu(), batch["samples"].tolist(), strict=True)
        return [clip[:count].numpy() for clip, count in pairs]

    def embedder(self, dim: int) -> nn.Module:
        """Make the module ``batch -> VectorSet (B, N, dim)``."""
        return WaveStem(
            dim,
            channels=self.channels,
            kernel_sizes=self.kernel_sizes,
            strides=self.stack_strides,
            norm=self.stack_norm,
            bias=self.bias,
            position_kernel=self.position_kernel,
            position_groups=self.position_groups,
            last_norm=self.last_norm,
            dropout=self.dropout,
        )

    def _wave(self, item: Any, name: str, train: bool) -> Tensor:
        samples = self._samples(item, name)
        samples = F.pad(samples, (0, max(0, self.window - len(samples))))
        samples = F.layer_norm(samples, samples.shape) if self.unit else samples
        return self.spec_augment.masked(samples[:, None])[:, 0] if train and self.spec_augment else samples


class WaveStem(nn.Module):
    """Convolutions, a projection to the model's width, positions, and a norm, each with the names of wav2vec 2.0."""

    def __init__(
        self,
        dim: int,
        *,
        channels: int,
        kernel_sizes: Sequence[int],
        strides: Sequence[int],
        norm: str,
        bias: bool,
        position_kernel: int,
        position_groups: int,
        last_norm: bool,
        dropout: float,
    ) -> None:
        super().__init__()
        if dim % position_groups:
            raise ConfigError(f"position_groups {position_groups} does not divide the width {dim}")
        self.kernel_sizes, self.strides = tuple(kernel_sizes), tuple(strides)
        self.convolutions = nn.ModuleList(
            nn.Conv1d(1 if i == 0 else channels, channels, kernel, stride, bias=bias)
            for i, (kernel, stride) in enumerate(zip(kernel_sizes, strides, strict=True))
        )
        make = ClipNorm if norm == "first" else nn.LayerNorm
        self.norms = nn.ModuleList(make(channels) for _ in kernel_sizes[: 1 if norm == "first" else None])
        self.project_norm, self.project = nn.LayerNorm(channels), nn.Linear(channels, dim)
        self.dropout = nn.Dropout(dropout)
        place = nn.Conv1d(dim, dim, position_kernel, padding=position_kernel // 2, groups=position_groups)
        self.place = weight_norm(place, dim=2)
        self.norm = nn.LayerNorm(dim) if last_norm else None

    def forward(self, batch: dict[str, Tensor]) -> VectorSet:
        """Map ``wave (B, S)`` of ``samples (B,)`` to a sequence of vectors ``(B, N, D)``."""
        x, samples = batch["wave"][:, None], batch["samples"]
        for i, convolution in enumerate(self.convolutions):
            x = convolution(x)  # (B, C, T)
            samples = (samples - self.kernel_sizes[i]) // self.strides[i] + 1
            if i < len(self.norms):
                norm = self.norms[i]
                real = frame_mask(samples, x.shape[2])
                x = norm(x, real) if isinstance(norm, ClipNorm) else norm(x.transpose(1, 2)).transpose(1, 2)
            x = F.gelu(x)
        vectors = self.dropout(self.project(self.project_norm(x.transpose(1, 2))))
        vector_set = VectorSet(vectors, frame_mask(samples, x.shape[2]), layout="sequence")  # padding is 0 from here on
        places = F.gelu(self.place(vector_set.x.transpose(1, 2))[..., : vectors.shape[1]]).transpose(1, 2)
        vectors = vector_set.x + places
        return vector_set.replace(x=vectors if self.norm is None else self.norm(vectors))


class ClipNorm(nn.Module):
    """``(x - mean) / sqrt(var + eps) * g + b`` of each channel over a clip's real time: a group norm of C groups.

    What pads a clip does not count, so that it is the same alone and in a batch.
    """

    def __init__(self, channels: int, *, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels)), eps

    def forward(self, x: Tensor, real: Tensor) -> Tensor:
        """Normalise ``(B, C, T)``, where ``real (B, T)``."""
        share = real[:, None].to(x.dtype)
        share = share / share.sum(2, keepdim=True)
        mean = (x * share).sum(2, keepdim=True)
        variance = ((x - mean).square() * share).sum(2, keepdim=True)
        return (x - mean) * (variance + self.eps).rsqrt() * self.weight[:, None] + self.bias[:, None]
