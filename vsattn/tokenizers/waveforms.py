"""Sound files and arrays as samples: reading, mixing the channels down, resampling."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vsattn.errors import DataError

#: Files are read in parts of so many samples.
BLOCK = 1 << 20

#: More channels than this are taken for a mistake.
MAX_CHANNELS = 32

#: Whole numbers that samples are given in; wider ones rarely fill their type's scale, and would become silence.
INTEGERS = (torch.int8, torch.int16, torch.int32)

#: Rates are brought to each other by a ratio of whole numbers up to this one: exact for all usual rates, and within
#: 1 in 200,000 for others, whose resampling filter would otherwise fill the memory.
MAX_RATIO = 500

#: What writes to a pipe puts a size from here on into the header of a WAV file, since it cannot know the true one.
UNKNOWN_SIZE = 0x7FFFF000

#: A larger number is no sample: its square is not finite.
LOUDEST = 1e15


def read_audio(path: str | Path) -> tuple[Tensor, int]:
    """Read a sound file (WAV, FLAC, OGG, MP3 and what else libsndfile knows), its channels averaged.

    Returns:
        Samples, float32 ``(S,)``, full scale +-1, and their rate in Hz.

    Raises:
        DataError: naming the file, when it is missing, corrupt, cut short or empty, or holds NaN or infinity.
    """
    with opened(path) as file:
        rate, promised = int(file.samplerate), int(file.frames)
        parts = []  # a damaged header may promise more than the memory holds
        while len(part := file.read(BLOCK, dtype="float32", always_2d=True)):  # (BLOCK, channels)
            parts.append(torch.from_numpy(part).mean(1))
    samples = torch.cat(parts) if parts else torch.empty(0)
    if len(samples) < promised:
        raise DataError(f"{path} is cut short: {len(samples)} of {promised} samples are there")
    if lacking := _lacking_bytes(path):
        raise DataError(f"{path} is cut short: {lacking:,} bytes of the samples that its header promises are not there")
    return _checked(samples, str(path)), rate


def _lacking_bytes(path: str | Path) -> int:
    """Return how many bytes a WAV file lacks of its samples; libsndfile takes what is there for all."""
    with open(path, "rb") as file:
        head = file.read(12)
        while head[:4] == b"RIFF" and head[8:] == b"WAVE" and len(chunk := file.read(8)) == 8:
            size = int.from_bytes(chunk[4:], "little")
            if chunk[:4] == b"data":
                there = os.fstat(file.fileno()).st_size - file.tell()
                return max(0, size - there) if size < UNKNOWN_SIZE else 0
            file.seek(size + size % 2, 1)
    return 0


@contextmanager
def opened(path: str | Path) -> Iterator[Any]:
    """Open a sound file as a `soundfile.SoundFile`.

    Raises:
        DataError: naming the file, when it is missing, or cannot be read within the block.
    """
    import soundfile  # here, so that arrays can be used without libsndfile

    if not Path(path).is_file():
        raise DataError(f"there is no sound file {path}")
    try:
        with soundfile.SoundFile(str(path)) as file:
            yield file
    except (RuntimeError, TypeError, ValueError, OSError) as error:  # libsndfile's errors are RuntimeErrors
        reason = str(error).rsplit(": ", 1)[-1].strip().rstrip(".") or type(error).__name__
        raise DataError(f"{path} cannot be read as sound: {reason}") from None


def to_waveform(item: Any, sample_rate: int, name: str) -> Tensor:
    """Turn a clip of any accepted kind into float32 samples ``(S,)`` at ``sample_rate``.

    Args:
        item: a path; or samples, which are at ``sample_rate``; or ``(samples, rate)``. Samples are an array or tensor
            ``(S,)``, or two-dimensional with the channels along the shorter axis, which are averaged; floating point
            of full scale +-1, or signed integers of 8, 16 or 32 bits and their type's full scale.
        sample_rate: Hz.
        name: what the item is called in an error.

    Raises:
        DataError: naming the item, for anything else, no samples, NaN, or a file that cannot be read.
    """
    if isinstance(item, (str, Path)):
        samples, rate = read_audio(item)
        return resample(samples, _possible(rate, sample_rate, str(item)), sample_rate)
    rate = sample_rate
    if isinstance(item, (tuple, list)) and len(item) == 2 and isinstance(item[1], (int, np.integer)):
        item, rate = item[0], int(item[1])
    if isinstance(item, np.ndarray) and item.dtype.kind in "if":
        item = torch.from_numpy(np.ascontiguousarray(item, dtype=item.dtype.newbyteorder("=")))
    if not isinstance(item, Tensor) or not (item.is_floating_point() or item.dtype in INTEGERS):
        kind = getattr(item, "dtype", type(item).__name__)
        raise DataError(f"{name} is {kind}; give int16, int32 or floating point, (samples, rate in Hz) or a path")
    if item.numel() == 0:
        raise DataError(f"{name} holds no samples")
    if item.ndim == 2 and min(item.shape) <= MAX_CHANNELS:
        item = _full_scale(item).mean(0 if item.shape[0] <= item.shape[1] else 1)
    if item.ndim != 1:
        raise DataError(f"{name} has shape {tuple(item.shape)}; samples are (S,), or (S, channels) or (channels, S)")
    return resample(_checked(_full_scale(item), name), _possible(rate, sample_rate, name), sample_rate)


def resample(samples: Tensor, rate: int, new_rate: int) -> Tensor:
    """Bring samples ``(S,)`` from one rate to another (Hz), by windowed sinc interpolation of torchaudio."""
    if rate == new_rate:
        return samples
    from torchaudio.functional import resample as sinc  # slow to import, and often not needed

    ratio = Fraction(rate, new_rate).limit_denominator(MAX_RATIO)
    return sinc(samples, ratio.numerator, ratio.denominator)


def _possible(rate: int, sample_rate: int, name: str) -> int:
    """Return the rate, if it can be brought to ``sample_rate``."""
    if not sample_rate <= rate * MAX_RATIO or not rate <= sample_rate * MAX_RATIO:
        raise DataError(f"{name} has a sample rate of {rate} Hz, which cannot be brought to {sample_rate} Hz")
    return rate


def _full_scale(samples: Tensor) -> Tensor:
    return samples.float() if samples.is_floating_point() else samples.float() / -torch.iinfo(samples.dtype).min


def _checked(samples: Tensor, name: str) -> Tensor:
    if not len(samples):
        raise DataError(f"{name} holds no samples")
    if not bool(samples.isfinite().all()):
        raise DataError(f"{name} holds NaN or infinity")
    if float(samples.abs().max()) > LOUDEST:
        raise DataError(f"{name} holds samples up to {float(samples.abs().max()):.3g}; full scale is 1")
    return samples


def trimmed(samples: Tensor, decibels: float, window: int) -> Tensor:
    """Cut off what is quieter at both ends than ``decibels`` below the loudest stretch of ``window`` samples.

    Args:
        samples: ``(S,)``; a shorter clip than two windows, and one of silence, stay as they are.
        decibels: positive.
        window: samples over which power is averaged; the windows overlap by half.
    """
    step = max(1, window // 2)
    if len(samples) < 2 * window:
        return samples
    power = samples.unfold(0, window, step).square().mean(1)
    heard = (power >= power.max() * 10 ** (-decibels / 10)).nonzero()[:, 0]
    return samples[int(heard[0]) * step : int(heard[-1]) * step + window]
