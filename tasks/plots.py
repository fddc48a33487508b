"""Pictures of a run: learning curves, confusion, examples. Drawn to files, without a display."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

BLUE, ORANGE, RED = "#0072B2", "#D55E00", "#C0143C"


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def draw_curves(path: Path, history: Sequence[dict[str, float]], metric: str = "accuracy") -> Path:
    """Draw loss and one metric against epochs, for training and validation."""
    figure = _figure(9, 3.6)
    for axes, name in zip(figure.subplots(1, 2), ("loss", metric), strict=True):
        for split, colour in (("train", BLUE), ("val", ORANGE)):
            points = [(row["epoch"], row[f"{split}/{name}"]) for row in history if f"{split}/{name}" in row]
            if points:
                label = {"train": "training (augmented)" if name == "loss" else "training", "val": "validation"}[split]
                axes.plot(*zip(*points, strict=True), color=colour, label=label, marker="." if len(points) < 3 else None)
        axes.set_xlabel("epoch")
        axes.set_ylabel({"loss": "cross-entropy"}.get(name, name))
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        if axes.lines:
            axes.legend(frameon=False)
    figure.savefig(path, dpi=120)
    return path


def draw_confusion(path: Path, expected: np.ndarray, predicted: np.ndarray, classes: Sequence[str]) -> Path:
    """Draw the confusion matrix: rows are true classes, colour is the share of the row, numbers are counts."""
    from sklearn.metrics import confusion_matrix

    counts = confusion_matrix(expected, predicted, labels=range(len(classes)))
    share = counts / np.maximum(1, counts.sum(1, keepdims=True))
    size = min(16.0, max(4.5, 2.0 + 0.5 * len(classes)))
    figure = _figure(size + 0.8, size)
    axes = figure.subplots()
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=axes, shrink=0.8, label="share of the true class")
    step = max(1, len(classes) // 50)
    ticks = range(0, len(classes), step)
    axes.set_xticks(ticks, [classes[i] for i in ticks], rotation=60, ha="right", rotation_mode="anchor")
    axes.set_yticks(ticks, [classes[i] for i in ticks])
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.set_title(f"{int(np.trace(counts))} of {int(counts.sum())} right")
    if len(classes) <= 25:
        for (row, column), count in np.ndenumerate(counts):
            if count:
                colour = "white" if share[row, column] > 0.5 else "black"
                axes.text(column, row, str(count), ha="center", va="center", color=colour, fontsize=8)
    figure.savefig(path, dpi=110)
    return path


def draw_pictures(
    path: Path, pictures: Sequence[np.ndarray], names: Sequence[tuple[str, str]], caption: str, columns: int = 8
) -> Path:
    """Draw pictures ``(H, W, C)`` in [0, 1] with ``(predicted, true)`` names; wrong ones are framed and say both."""
    rows = max(1, math.ceil(len(pictures) / columns))
    figure = _figure(1.35 * columns, 1.65 * rows + 0.4)
    figure.suptitle(caption, fontsize=10)
    grid: Any = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, picture, (predicted, true) in zip(grid.flat, pictures, names, strict=False):
        axes.set_axis_on()
        axes.set_xticks([])
        axes.set_yticks([])
        grey = picture.shape[-1] == 1
        axes.imshow(picture[..., 0] if grey else picture, cmap="gray" if grey else None, vmin=0, vmax=1)
        wrong = predicted != true
        for spine in axes.spines.values():
            spine.set_color(RED if wrong else "#BBBBBB")
            spine.set_linewidth(3 if wrong else 0.8)
        title = f"{_short(predicted)}\n(is {_short(true)})" if wrong else _short(predicted)
        axes.set_title(title, fontsize=8, color=RED if wrong else "black")
    figure.savefig(path, dpi=110)
    return path


def _short(name: str, length: int = 14) -> str:
    return name if len(name) <= length else name[: length - 1] + "…"
