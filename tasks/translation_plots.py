"""Heat maps of what each word of a translation looked at in its source."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from vsattn.viewing.fonts import columns, visible

from .plots import save_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Inches of a cell, of a character of a label, and between panels; how wide a figure of several panels gets.
CELL, CHARACTER, GAP, WIDTH = 0.22, 0.078, 0.3, 15.0

FONT_SIZE = 9


class Panel(NamedTuple):
    """N source and M target words, weights ``(M, N)``, each row what a target word looked at, and a caption."""

    source: Sequence[str]
    target: Sequence[str]
    weights: np.ndarray
    caption: str = ""

    @property
    def margins(self) -> tuple[float, float]:
        """Inches that the words need on the left and above."""
        left, top = (max(map(columns, words), default=0) * CHARACTER + 0.15 for words in (self.target, self.source))
        return left, top + (0.35 if self.caption else 0.1)

    @property
    def size(self) -> tuple[float, float]:
        """Width and height in inches, words and caption included."""
        left, top = self.margins
        width = max(left + CELL * len(self.source), columns(self.caption) * CHARACTER)
        return width, top + CELL * len(self.target)


def alignments(panels: Sequence[Panel], path: Path, *, title: str = "") -> Path:
    """Draw translations: a row for every target word, a column for every source word, the darker the more weight.

    They stand from left to right and from top to bottom, and a cell is as large in long sentences as in short ones.

    Args:
        panels: each with its own darkest colour, which stands for its largest weight.
        path: the PNG to write.
        title: above them.
    """
    from matplotlib.figure import Figure

    placed, width, height = _laid([panel.size for panel in panels])
    width, top = max(width, 0.1 * len(title)), 0.5 if title else 0.0
    figure = Figure(figsize=(width, height + top))
    figure.suptitle(title, fontsize=11, y=1 - 0.15 / (height + top))
    for panel, (x, y) in zip(panels, placed, strict=True):
        _draw(figure, panel, x, y + top)
    return save_figure(figure, path)


def _laid(sizes: Sequence[tuple[float, float]]) -> tuple[list[tuple[float, float]], float, float]:
    """Return the upper left corner of each panel, and width and height of all, in inches."""
    limit = max([WIDTH, *(width + 2 * GAP for width, _ in sizes)])
    x = y = GAP
    right = bottom = GAP
    placed = []
    for width, height in sizes:
        if x > GAP and x + width + GAP > limit:
            x, y = GAP, bottom + GAP
        placed.append((x, y))
        x, right, bottom = x + width + GAP, max(right, x + width), max(bottom, y + height)
    return placed, right + GAP, bottom + GAP


def _draw(figure: Figure, panel: Panel, x: float, y: float) -> None:
    """Draw a panel whose upper left corner is at ``(x, y)`` inches."""
    width, height = figure.get_size_inches()
    (left, top), (down, across) = panel.margins, (len(panel.target), len(panel.source))
    bottom = y + top + CELL * down
    box = ((x + left) / width, 1 - bottom / height, CELL * across / width, CELL * down / height)
    axis = figure.add_axes(box)
    axis.imshow(panel.weights, cmap="Blues", vmin=0, vmax=max(1e-9, np.max(panel.weights)), aspect="auto")
    axis.xaxis.tick_top()
    words: dict[str, Any] = {"fontsize": FONT_SIZE, "parse_math": False}  # "$5" is no formula
    axis.set_xticks(range(across), map(visible, panel.source), rotation=90, **words)
    axis.set_yticks(range(down), map(visible, panel.target), **words)
    axis.set_xticks(np.arange(across + 1) - 0.5, minor=True)
    axis.set_yticks(np.arange(down + 1) - 0.5, minor=True)
    axis.grid(which="minor", color="#e8e8e8", linewidth=0.5)
    axis.tick_params(which="both", length=0)
    if panel.caption:
        figure.text(x / width, 1 - y / height, visible(panel.caption), va="top", **words)
