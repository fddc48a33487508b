"""Distortions of training clips that are made while they become frames."""

from __future__ import annotations

import torch
from torch import Tensor

from vsattn.errors import ConfigError


class SpecAugment:
    """SpecAugment's masks (Park et al. 2019, section 2), another tempo, and another length of the vocal tract.

    Args:
        frequency_masks: so many bands of features are set to 0 in each clip, which is their mean where the frames are
            normalised by utterance or globally.
        frequency_width: each is 0 to so many features wide.
        time_masks: so many stretches of time are set to 0.
        time_share: each is 0 to this share of the clip long.
        stretch: frames are spaced so that the clip seems up to this share longer or shorter, pitch and formants kept.
        warp: frequencies are multiplied by ``1 - warp`` to ``1 + warp`` (VTLP; Jaitly and Hinton 2013, section 3).

    Raises:
        ConfigError: for values out of range.
    """

    def __init__(
        self,
        *,
        frequency_masks: int = 2,
        frequency_width: int = 7,
        time_masks: int = 2,
        time_share: float = 0.2,
        stretch: float = 0.0,
        warp: float = 0.0,
    ) -> None:
        for name, value in (("time_share", time_share), ("stretch", stretch), ("warp", warp)):
            if not 0 <= value < 1:
                raise ConfigError(f"SpecAugment.{name} is in [0, 1), not {value}")
        if min(frequency_masks, frequency_width, time_masks) < 0:
            raise ConfigError("SpecAugment.frequency_masks, frequency_width and time_masks must not be negative")
        self.frequency_masks, self.frequency_width = frequency_masks, frequency_width
        self.time_masks, self.time_share = time_masks, time_share
        self.stretch, self.warp = stretch, warp

    def draw(self) -> tuple[float, float]:
        """Return a factor on the number of frames and one on the frequencies, for one clip."""
        stretch, warp = (torch.rand(2) * 2 - 1).tolist()
        return 1 + self.stretch * stretch, 1 + self.warp * warp

    def masked(self, frames: Tensor) -> Tensor:
        """Return frames ``(T, F)`` with bands and stretches set to 0."""
        count, width = frames.shape
        frames = frames.clone()
        for _ in range(self.frequency_masks):
            start, end = _stretch_of(width, min(width, self.frequency_width))
            frames[:, start:end] = 0
        for _ in range(self.time_masks):
            start, end = _stretch_of(count, int(self.time_share * count))
            frames[start:end] = 0
        return frames


def _stretch_of(total: int, longest: int) -> tuple[int, int]:
    """Return start and end of a random stretch of 0 to ``longest`` of ``total``."""
    length = int(torch.randint(0, longest + 1, ()))
    start = int(torch.randint(0, total - length + 1, ()))
    return start, start + length
