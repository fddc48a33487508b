"""Speech from a few numbers: a source-filter synthesiser of vowels, many clips at once.

A glottal pulse train and breath noise pass through a cascade of resonators, one a formant (Fant 1960; Klatt 1980).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

#: The seconds for which all settings of the synthesiser hold still.
STEP = 0.005

#: Bandwidths of the three formants in Hz (Klatt 1980, table II: typical values).
BANDWIDTHS = (60.0, 90.0, 150.0)

#: How long formants take from one sound to the next, and voice and breath to come and go, in seconds.
GLIDE, FADE = 0.05, 0.02


@dataclass(frozen=True)
class Sound:
    """What is said for a while.

    Args:
        seconds: how long.
        formants: three frequencies in Hz.
        voice, breath: amplitudes of the pulse train and of the noise at the glottis.
    """

    seconds: float
    formants: tuple[float, float, float]
    voice: float = 0.0
    breath: float = 0.0


@dataclass(frozen=True)
class Utterance:
    """Sounds one after the other in one breath.

    Args:
        sounds: in order.
        pitch: frequency of the pulses in Hz, at the start.
        fall: share of the pitch that is lost towards the end.
        open_quotient: share of each period in which the glottis is open.
    """

    sounds: Sequence[Sound]
    pitch: float
    fall: float = 0.1
    open_quotient: float = 0.6


def synthesise(utterances: Sequence[Utterance], rate: int, random: np.random.Generator) -> list[np.ndarray]:
    """Return the samples of each utterance, float64 ``(S_i,)``.

    Args:
        utterances: what to say.
        rate: samples a second; formants lie below half of it.
        random: draws the breath and the jitter of the pitch.
    """
    steps = [[max(1, round(sound.seconds / STEP)) for sound in said.sounds] for said in utterances]
    lengths = [sum(counts) for counts in steps]
    total, hop = max(lengths), round(STEP * rate)
    formants = np.ones((total, 3, len(utterances)))
    amplitudes = np.zeros((total, 2, len(utterances)))
    pitch = np.ones((total, len(utterances)))
    for clip, (said, counts) in enumerate(zip(utterances, steps, strict=True)):
        length = lengths[clip]
        formants[:length, :, clip] = np.repeat([sound.formants for sound in said.sounds], counts, axis=0)
        formants[length:, :, clip] = said.sounds[-1].formants
        amplitudes[:length, :, clip] = np.repeat([(sound.voice, sound.breath) for sound in said.sounds], counts, axis=0)
        pitch[:, clip] = said.pitch * (1 - said.fall * np.arange(total) / max(1, length))
    formants = np.exp(_smooth(np.log(formants), GLIDE))
    voice, breath = (np.repeat(part, hop, axis=0) for part in _smooth(amplitudes, FADE).transpose(1, 0, 2))  # (S, n)
    pitch = pitch * np.exp(0.02 * _smooth(random.standard_normal(pitch.shape), GLIDE))
    openness = np.array([said.open_quotient for said in utterances])
    sound = voice * pulses(np.repeat(pitch, hop, axis=0), rate, openness)
    sound += breath * random.standard_normal(sound.shape)
    for index, bandwidth in enumerate(BANDWIDTHS):
        sound = resonate(sound, formants[:, index], bandwidth, rate, hop)
    return [np.ascontiguousarray(sound[: length * hop, clip]) for clip, length in enumerate(lengths)]


def pulses(pitch: np.ndarray, rate: int, open_quotient: np.ndarray | float = 0.6) -> np.ndarray:
    """Return the change of the air flow through the glottis, ``(S, n)``, greatest at its closing.

    The flow rises as ``3 t^2 - 2 t^3`` over two thirds of the open phase and falls as ``1 - t^2`` over the rest
    (Rosenberg 1971, pulse B); its derivative is what the lips radiate.

    Args:
        pitch: Hz, ``(S, n)``.
        rate: samples a second.
        open_quotient: share of the period in which the glottis is open, ``(n,)``.
    """
    phase = np.cumsum(pitch / rate, axis=0) % 1.0
    rising, falling = 2 / 3 * open_quotient, 1 / 3 * open_quotient
    up, down = phase / rising, (phase - rising) / falling
    flow = np.where(up < 1, 6 * up * (1 - up) / rising, np.where(down < 1, -2 * down / falling, 0.0))
    return flow * falling / 2  # 1 at the closing


def resonate(sound: np.ndarray, frequency: np.ndarray, bandwidth: float, rate: int, hop: int) -> np.ndarray:
    """Pass sounds through a resonator: ``y[t] = A x[t] + B y[t-1] + C y[t-2]`` (Klatt 1980, equation 2).

    ``C = -exp(-2 pi b / r)``, ``B = 2 exp(-pi b / r) cos(2 pi f / r)``, ``A = 1 - B - C``: its gain at 0 Hz is 1.

    Args:
        sound: ``(S, n)``.
        frequency: f in Hz, ``(S / hop, n)``.
        bandwidth: b in Hz.
        rate: r, samples a second.
        hop: samples for which a frequency holds.
    """
    decay = np.exp(-np.pi * bandwidth / rate)
    b, c = 2 * decay * np.cos(2 * np.pi * frequency / rate), -(decay**2)
    a = 1 - b - c
    result = np.empty_like(sound)
    last = before = np.zeros(sound.shape[1])
    for t in range(len(sound)):  # one step of all clips at once
        k = t // hop
        last, before = a[k] * sound[t] + b[k] * last + c * before, last
        result[t] = last
    return result


def _smooth(tracks: np.ndarray, seconds: float) -> np.ndarray:
    """Average along the first axis over a Hann window of so many seconds."""
    from scipy.ndimage import convolve1d

    window = np.hanning(round(seconds / STEP) + 2)[1:-1]
    return convolve1d(tracks, window / window.sum(), axis=0, mode="nearest")
