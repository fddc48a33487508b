"""Spectrograms of test clips with what a model answered."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vsattn.viewing.fonts import shorten

from .plots import save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

RIGHT, WRONG = "#2e7d32", "#c62828"

#: Decibels from the loudest place of a clip to what is drawn black, and the window and hop of the drawing in seconds.
RANGE, WINDOW, HOP = 60.0, 0.016, 0.004


def spectrogram(samples: np.ndarray, rate: int) -> tuple[np.ndarray, tuple[float, float, float, float]]:
    """Return power in decibels below the maximum, ``(frequencies, times)``, and its extent in seconds and Hz."""
    from scipy.signal import ShortTimeFFT
    from scipy.signal.windows import hann

    size, hop = max(2, round(WINDOW * rate)), max(1, round(HOP * rate))
    samples = np.pad(samples, (0, max(0, size - len(samples))))
    transform = ShortTimeFFT(hann(size, sym=False), hop, rate, mfft=max(512, size))
    power = np.abs(transform.stft(samples)) ** 2
    decibels = 10 * np.log10(power / max(power.max(), 1e-20) + 1e-12)
    start, end = transform.extent(len(samples))[:2]
    return decibels, (start, end, 0.0, rate / 2)


def clips(rows: list[tuple[np.ndarray, int, str, float, str]], title: str, path: Path) -> Path:
    """Draw clips with their predictions; a wrong one has a red frame and says what is true.

    Args:
        rows: of samples ``(S,)``, rate in Hz, predicted label, its probability, true label.
        title: above the grid.
        path: the PNG to write.
    """
    from matplotlib.figure import Figure

    columns = min(5, len(rows))
    lines = -(-len(rows) // columns)
    figure = Figure(figsize=(2.5 * columns + 0.4, 2.05 * lines + 0.7), layout="constrained")
    wrong = sum(predicted != true for _, _, predicted, _, true in rows)
    figure.suptitle(f"{title}; shown: {wrong} wrong (red), {len(rows) - wrong} right", fontsize=11)
    axes = figure.subplots(lines, columns, squeeze=False)
    for index, axis in enumerate(axes.ravel()):
        axis.set_visible(index < len(rows))
        if index < len(rows):
            samples, rate, predicted, probability, true = rows[index]
            colour = RIGHT if predicted == true else WRONG
            _show(axis, samples, rate)
            text = f"{shorten(predicted)} ({100 * probability:.0f}%)"
            axis.set_title(text if predicted == true else f"{text}, true: {shorten(true)}", fontsize=9, color=colour)
            for spine in axis.spines.values():
                spine.set(color=colour, linewidth=1.0 if predicted == true else 3.0)
            if index % columns:
                axis.set_ylabel("")
            if index + columns < len(rows):
                axis.set_xlabel("")
    return save_figure(figure, path)


def timelines(rows: list[tuple[Any, ...]], classes: Sequence[str], title: str, path: Path) -> Path:
    """Draw clips with two bands below each: the true label of every vector, and the predicted one.

    Args:
        rows: of samples ``(S,)``, rate in Hz, times of the vectors ``(N,)`` in seconds, true and predicted
            classes ``(N,)``; a true class below 0 is not known and stays white.
        classes: their names.
        title: above the clips.
        path: the PNG to write.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    colours = [colormaps["tab20"](i % 20) for i in range(len(classes))]
    figure = Figure(figsize=(11, 2.3 * len(rows) + 0.9), layout="constrained")
    figure.suptitle(title, fontsize=11)
    for axis, below, (samples, rate, times, true, predicted) in zip(*_stacked(figure, len(rows)), rows, strict=True):
        _show(axis, samples, rate)
        axis.set_xlabel("")
        axis.tick_params(labelbottom=False)
        wrong = int(((true != predicted) & (true >= 0)).sum())
        axis.set_title(f"{len(true) - wrong} of {len(true)} frames right", fontsize=9, loc="left")
        half = (times[1] - times[0]) / 2 if len(times) > 1 else 0.01
        for level, labels in ((1, true), (0, predicted)):
            image = np.array([colours[label] if label >= 0 else (1, 1, 1, 1) for label in labels])[None]
            below.imshow(image, aspect="auto", extent=(times[0] - half, times[-1] + half, level, level + 0.9))
        below.set(xlim=axis.get_xlim(), ylim=(0, 2))
        below.set_yticks([0.45, 1.45], ["predicted", "true"], fontsize=8)
        below.spines[["top", "right"]].set_visible(False)
    below.set_xlabel("time (s)")
    handles = [Patch(color=colour, label=shorten(name, 30)) for colour, name in zip(colours, classes, strict=True)]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(classes), 11), fontsize=8, frameon=False)
    return save_figure(figure, path)


def _stacked(figure: Any, count: int) -> tuple[list[Axes], list[Axes]]:
    axes = figure.subplots(2 * count, 1, height_ratios=[3, 1] * count)
    return list(axes[::2]), list(axes[1::2])


def _show(axis: Axes, samples: np.ndarray, rate: int) -> None:
    decibels, extent = spectrogram(samples, rate)
    axis.imshow(decibels, origin="lower", aspect="auto", extent=extent, cmap="magma", vmin=-RANGE, vmax=0)
    axis.set_xlim(0, len(samples) / rate)
    axis.set_xlabel("time (s)", fontsize=8)
    axis.set_ylabel("frequency (Hz)", fontsize=8)
    axis.tick_params(labelsize=7)
