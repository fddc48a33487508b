"""Sets that lie in a picture: patches of an image, stretches of a sound in its spectrogram."""

from __future__ import annotations

import base64
import copy
import io
import math
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from vsattn.tokenizers.audio import AudioFrames as Frames
    from vsattn.tokenizers.images import ImageTokenizer
    from vsattn.viewing.sets import Shown

#: Mel bands of a spectrogram whose tokenizer has none of its own, and the most pixels of its width.
BANDS, WIDEST = 40, 2000

#: The share of a spectrogram that is black.
QUIETEST = 0.02

#: Frequencies that a spectrogram's axis may name, in Hz.
MARKS = (0, 125, 250, 500, 1000, 2000, 4000, 8000, 16000)


def png(pixels: np.ndarray) -> str:
    """Return uint8 pixels ``(H, W)`` or ``(H, W, 3)`` as a data URI of a PNG."""
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode("ascii")


def image_set(shown: Shown) -> dict[str, Any]:
    """Describe the vectors of an image: the picture as the model sees it, and the pixels that each one stands for.

    What convolutions read beyond a cell's own stride is not in its box.
    """
    tokenizer: ImageTokenizer = shown.tokenizer
    (pixels,) = tokenizer.decode(shown.batch)
    height, width = pixels.shape[:2]
    rows, columns = tokenizer.grid_of(height, width)
    tall, wide = cell_of(tokenizer, (height, width), (rows, columns))
    boxes, labels = [], []
    for row in range(rows):
        for column in range(columns):
            x, y = column * wide, row * tall
            boxes.append([x, y, min(wide, width - x), min(tall, height - y)])
            labels.append(f"row {row + 1}, column {column + 1}")
    picture = png(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    where = {"picture": picture, "size": [width, height], "grid": [rows, columns], "boxes": boxes}
    return {"kind": "image", "labels": labels, **where}


def cell_of(tokenizer: ImageTokenizer, size: tuple[int, int], grid: tuple[int, int]) -> tuple[float, float]:
    """Return height and width of a vector's cell in pixels: the tokenizer's own step, or an equal share."""
    step = getattr(tokenizer, "patch_size", None)
    if step is None and hasattr(tokenizer, "strides"):
        step = math.prod(tokenizer.strides) * 2 ** len(getattr(tokenizer, "pools", ()))
    if step is not None and all(-(-side // step) == cells for side, cells in zip(size, grid, strict=True)):
        return step, step
    return size[0] / grid[0], size[1] / grid[1]


def sound_set(shown: Shown) -> dict[str, Any]:
    """Describe the vectors of a sound: its spectrogram over time, and from when to when each one reaches.

    The spectrogram is of the tokenizer's own mel bands, as the model gets them, or of `BANDS` where it has none. Where
    the tokenizer cuts off quiet ends, times count from what it keeps.
    """
    from vsattn.tokenizers.audio import AudioFrames
    from vsattn.tokenizers.waveforms import to_waveform, trimmed

    tokenizer: Frames = shown.tokenizer
    samples = to_waveform(shown.item, tokenizer.sample_rate, "the clip")
    samples = samples if tokenizer.trim is None else trimmed(samples, tokenizer.trim, tokenizer.window)
    whole: Frames = copy.copy(tokenizer)
    whole.trim = None  # they are cut already
    duration = len(samples) / tokenizer.sample_rate
    borders = whole.borders(tokenizer.num_vectors(len(samples))).tolist()
    times = [[min(start, duration), min(end, duration)] for start, end in pairwise(borders)]
    frames = whole
    if tokenizer.features != "log_mel":
        rate, limits = tokenizer.sample_rate, tokenizer.frequencies
        frames = AudioFrames(sample_rate=rate, num_features=BANDS, frequencies=limits, max_vectors=1 << 30)
    centre = 0.5 * frames.window / frames.sample_rate
    pixels = spectrogram(frames.frames(samples).numpy(), duration, centre, frames.hop / frames.sample_rate)
    return {
        "kind": "sound",
        "labels": [f"{start:.2f} to {end:.2f} s" for start, end in times],
        "spectrogram": png(pixels),
        "duration": duration,
        "times": times,
        "ticks": mel_ticks(frames.frequencies, frames.num_features),
    }


def spectrogram(frames: np.ndarray, duration: float, centre: float, hop: float) -> np.ndarray:
    """Return frames ``(T, F)`` as uint8 pixels from the first to the last second, frequency upwards, loud is bright.

    Args:
        frames: larger is louder.
        duration: seconds, the width of the picture.
        centre, hop: when the first frame lies, and from one to the next, in seconds.
    """
    width = max(1, min(WIDEST, round(duration / hop)))
    times = (np.arange(width) + 0.5) / width * duration
    shown = frames[np.rint((times - centre) / hop).astype(int).clip(0, len(frames) - 1)]
    low, high = np.quantile(shown, QUIETEST), shown.max()
    scaled = (shown - low) / (high - low) if high > low else np.zeros_like(shown)
    return np.rint(scaled.clip(0, 1) * 255).astype(np.uint8).T[::-1]


def mel_ticks(frequencies: tuple[float, float], bands: int) -> list[list[float]]:
    """Return ``[Hz, share of the height from below]`` of what the axis of that many mel bands names."""
    from vsattn.tokenizers.mel import mel

    low, high = map(mel, frequencies)
    places = [(mark, ((mel(mark) - low) / (high - low) * (bands + 1) - 0.5) / bands) for mark in MARKS]
    return [[float(mark), place] for mark, place in places if 0 <= place <= 1]
