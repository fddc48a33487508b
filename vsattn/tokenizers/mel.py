"""The mel scale: filters over a power spectrum, and the cosine transform of their logarithms."""

from __future__ import annotations

import math

import torch
from torch import Tensor

#: An emphasis rises between these frequencies, in Hz.
EMPHASIS = (960.0, 2400.0)


def mel(hertz: float) -> float:
    """Return a frequency on the mel scale, ``2595 log10(1 + f / 700)`` (O'Shaughnessy 1987)."""
    return 2595 * math.log10(1 + hertz / 700)


def mel_filters(bands: int, size: int, sample_rate: int, frequencies: tuple[float, float], warp: float = 1.0) -> Tensor:
    """Return triangular filters, equally spaced on the mel scale, ``(size // 2 + 1, bands)``.

    On the scale of :func:`mel` each filter rises from its left neighbour's centre to 1 at its own and falls to 0 at its
    right neighbour's, in Hz (the HTK book, section 5.4). A ``warp`` a moves the centres f to a f up to
    ``0.8 top / max(a, 1)`` and linearly from there to the top, which changes the apparent length of the vocal tract
    (Jaitly and Hinton 2013, section 3).

    Args:
        bands: number of filters.
        size: of the Fourier transform, in samples.
        sample_rate: Hz.
        frequencies: where the first filter begins and the last one ends, in Hz.
        warp: a.
    """
    low, high = map(mel, frequencies)
    points = 700 * (10 ** (torch.linspace(low, high, bands + 2, dtype=torch.float64) / 2595) - 1)  # in Hz
    if warp != 1.0:
        top, knee = frequencies[1], 0.8 * frequencies[1] / max(warp, 1.0)
        slope = (top - warp * knee) / (top - knee)
        points = torch.where(points <= knee, warp * points, top - slope * (top - points))
    bins = torch.linspace(0, sample_rate / 2, size // 2 + 1, dtype=torch.float64)[:, None]
    left, centre, right = points[:-2], points[1:-1], points[2:]
    rise, fall = (bins - left) / (centre - left), (right - bins) / (right - centre)
    return torch.minimum(rise, fall).clamp(min=0).float()


def emphasised(bands: int, frequencies: tuple[float, float], decibels: float) -> Tensor:
    """Return a factor on the power of each mel band, ``(bands,)``: 1 below `EMPHASIS`, ``decibels`` above it.

    Between the two it rises by the same share of decibels for each band, as a shelving filter does for frequencies.
    """
    low, high = map(mel, frequencies)
    start, end = map(mel, EMPHASIS)
    centres = torch.linspace(low, high, bands + 2)[1:-1]
    return 10 ** (decibels / 10 * ((centres - start) / (end - start)).clamp(0, 1))


def cosines(bands: int, coefficients: int) -> Tensor:
    """Return the first columns of the orthonormal cosine transform (DCT-II), ``(bands, coefficients)``."""
    place, order = torch.arange(bands)[:, None] + 0.5, torch.arange(coefficients)
    scale = torch.where(order == 0, math.sqrt(1 / bands), math.sqrt(2 / bands))
    return scale * torch.cos(math.pi / bands * place * order)
