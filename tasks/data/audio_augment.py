"""Distortions of training clips, as samples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vsattn.errors import ConfigError

from .base import Augment

#: The random equaliser has its own gain at so many equally spaced frequencies.
EQUALISER_POINTS = 6

#: Decibels by which the direct sound lies above all its echoes together, lowest and highest.
DIRECT = (-3.0, 15.0)

#: The shortest time, in seconds, in which echoes fall by 60 dB.
SHORTEST_ECHO = 0.1

#: Fourier transforms have multiples of this size, which makes them ten times faster than odd ones.
BLOCK = 64


class AudioAugment(Augment):
    """Random speed, equaliser, echoes, shift, level and noise of one clip, in this order; a plain picklable callable.

    Args:
        speed: played up to this share faster or slower: tempo, pitch and formants move together (Ko et al. 2015).
        equaliser: gains of up to so many decibels either way, drawn at six frequencies and interpolated between them.
        reverberation: every second clip sounds as in a room whose echoes fall by 60 dB within a tenth of a second to so
            many seconds, by which the clip becomes longer: decaying noise, together -3 to 15 dB below the direct sound
            (Polack 1988; Ko et al. 2017, section 2).
        silence: up to so many seconds of it are put before every second clip, and behind every second; noise fills it.
        shift: so many seconds at most are cut off at the start, or put there as silence.
        gain: the level changes by up to so many decibels either way.
        noise: the range, lowest first, from which the signal-to-noise ratio in decibels is drawn; None adds none. The
            noise is between white and pink.

    Raises:
        ConfigError: for values out of range.
    """

    def __init__(
        self,
        *,
        speed: float = 0.0,
        equaliser: float = 0.0,
        reverberation: float = 0.0,
        silence: float = 0.0,
        shift: float = 0.0,
        gain: float = 0.0,
        noise: Sequence[float] | None = None,
    ) -> None:
        if not 0 <= speed < 1:
            raise ConfigError(f"AudioAugment.speed is in [0, 1), not {speed}")
        if reverberation and not SHORTEST_ECHO <= reverberation < math.inf:
            raise ConfigError(
                f"AudioAugment.reverberation is 0 or at least {SHORTEST_ECHO} seconds, not {reverberation}"
            )
        for name, value in (("equaliser", equaliser), ("silence", silence), ("shift", shift), ("gain", gain)):
            if value < 0:
                raise ConfigError(f"AudioAugment.{name} must not be negative, but is {value}")
        if noise is not None and (len(noise) != 2 or noise[0] > noise[1]):
            raise ConfigError(f"AudioAugment.noise is null or [lowest, highest] in decibels, not {list(noise)}")
        self.speed, self.equaliser, self.shift, self.gain = speed, equaliser, shift, gain
        self.silence, self.reverberation = silence, reverberation
        self.noise = None if noise is None else (float(noise[0]), float(noise[1]))

    @property
    def moves_time(self) -> bool:
        """Whether labels of stretches of time would no longer fit, or not reach a clip's end."""
        return bool(self.speed or self.shift or self.silence or self.reverberation)

    def __call__(self, item: tuple[Tensor, int]) -> tuple[Any, int]:
        """Distort ``(samples (S,), rate in Hz)``."""
        samples, rate = item
        if self.speed or self.equaliser:
            samples = self._filtered(samples)
        if self.reverberation and _between(-1, 1) > 0:
            samples = _echoing(samples, rate, _between(SHORTEST_ECHO, self.reverberation), _between(*DIRECT))
        if self.silence:
            samples = F.pad(samples, [int(max(0.0, _between(-self.silence, self.silence)) * rate) for _ in range(2)])
        if self.shift:
            move = int(_between(-self.shift, self.shift) * rate)
            samples = F.pad(samples, (move, 0)) if -move < len(samples) else samples
        if self.noise is not None:
            samples = samples + _noise_for(samples, _between(*self.noise))
        return samples * 10 ** (_between(-self.gain, self.gain) / 20), rate

    def _filtered(self, samples: Tensor) -> Tensor:
        """Change the speed by a Fourier transform of another size, exactly for what is below both half rates."""
        spectrum, count = torch.fft.rfft(samples, n=_whole(len(samples))), len(samples)
        if self.equaliser:
            gains = self.equaliser * (2 * torch.rand(1, 1, EQUALISER_POINTS) - 1)
            curve = F.interpolate(gains, size=len(spectrum), mode="linear", align_corners=True)[0, 0]
            spectrum = spectrum * 10 ** (curve / 20)
        size = _whole(count)
        new = _whole(round(size / (1 + _between(-self.speed, self.speed)) - BLOCK / 2))
        return torch.fft.irfft(spectrum, n=new)[: max(1, round(count * new / size))] * (new / size)


def _whole(count: int) -> int:
    """Return the next multiple of `BLOCK`."""
    return BLOCK * max(1, -(-count // BLOCK))


def _between(low: float, high: float) -> float:
    return low + (high - low) * float(torch.rand(()))


def _echoing(samples: Tensor, rate: int, seconds: float, direct: float) -> Tensor:
    """Return samples ``(S,)`` with echoes, ``(S + T,)``, T the samples of ``seconds``.

    They are convolved with ``h(0) = 1, h(t) = c n(t) 10^(-3 t / seconds)``, n white noise, and c such that the echoes'
    energy lies ``direct`` decibels below that of h(0).
    """
    time = torch.arange(1, 1 + int(seconds * rate)) / rate
    echoes = torch.randn(len(time)) * 10 ** (-3 * time / seconds)
    response = F.pad(echoes * (10 ** (-direct / 10) / echoes.square().sum()).sqrt(), (1, 0))
    response[0] = 1
    count = len(samples) + len(time)
    size = _whole(count)
    return torch.fft.irfft(torch.fft.rfft(samples, n=size) * torch.fft.rfft(response, n=size), n=size)[:count]


def _noise_for(samples: Tensor, ratio: float) -> Tensor:
    """Return noise of a power ``ratio`` decibels below that of the samples, its spectrum 0 to 3 dB an octave down."""
    white = torch.fft.rfft(torch.randn(_whole(len(samples))))
    slope = (1 + torch.arange(len(white))) ** (-0.5 * float(torch.rand(())))
    noise = torch.fft.irfft(white * slope)[: len(samples)]
    power = noise.square().mean().clamp(min=1e-20)
    return noise * (samples.square().mean() / power * 10 ** (-ratio / 10)).sqrt()
