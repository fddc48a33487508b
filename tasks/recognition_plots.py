"""Spectrograms of recordings with the words that were said and those that were recognised."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vsattn.ctc import Word
from vsattn.viewing.fonts import shorten

from .plots import save_figure
from .speech_plots import RANGE, RIGHT, WRONG, spectrogram

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TRUE = "#9e9e9e"


class Line(NamedTuple):
    """A recording: samples ``(S,)``, rate in Hz, true ``(word, start, end)``, recognised words, and which are right."""

    samples: np.ndarray
    rate: int
    true: Sequence[tuple[str, float, float]]
    said: Sequence[Word]
    right: Sequence[bool]


def lines(rows: Sequence[Line], title: str, path: Path) -> Path:
    """Draw each recording's spectrogram; below it the true words (grey) and the recognised (green, wrong ones red).

    Args:
        rows: from top to bottom; times are in seconds.
        title: above them.
        path: the PNG to write.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 2.05 * len(rows) + 0.6), layout="constrained")
    figure.suptitle(title, fontsize=11)
    axes = figure.subplots(2 * len(rows), 1, height_ratios=[5, 2.4] * len(rows), squeeze=False)[:, 0]
    for row, above, below in zip(rows, axes[::2], axes[1::2], strict=True):
        decibels, extent = spectrogram(row.samples, row.rate)
        above.imshow(decibels, origin="lower", aspect="auto", extent=extent, cmap="magma", vmin=-RANGE, vmax=0)
        above.set_ylabel("Hz", fontsize=8)
        above.tick_params(labelsize=7, labelbottom=False)
        _words(below, row)
        for axis in (above, below):
            axis.set_xlim(0, len(row.samples) / row.rate)
    axes[-1].set_xlabel("time (s)", fontsize=8)
    return save_figure(figure, path)


def _words(axis: Axes, row: Line) -> None:
    """Draw two bands of words: above the true ones, below the recognised."""
    said = [((word.label, word.start, word.end), RIGHT if good else WRONG) for word, good in zip(row.said, row.right)]
    close = 0.05 * len(row.samples) / row.rate
    for place, marked in ((1, [(word, TRUE) for word in row.true]), (0, said)):
        last, high = -close, False
        for (label, start, end), colour in marked:
            middle = (start + end) / 2
            high = not high if middle - last < close else False  # names that would touch stand one above the other
            last = middle
            axis.broken_barh([(start, end - start)], (place + 0.06, 0.88), color=colour, alpha=0.55)
            weight, height = "bold" if colour == WRONG else "normal", place + (0.76 if high else 0.46)
            axis.text(middle, height, shorten(label), ha="center", va="center", fontsize=8, fontweight=weight)
    axis.set(ylim=(0, 2), yticks=[0.5, 1.5])
    axis.set_yticklabels(["recognised", "true"], fontsize=7)
    axis.tick_params(labelsize=7)
