"""Figures that several tasks share: curves of training, and the confusion matrix."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vsattn.viewing import fonts

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TRAIN, VAL, BEST = "#1f77b4", "#d95f02", "#7f7f7f"

#: Up to so many classes the counts are written into the cells, and up to so many every class is named.
WRITTEN_CLASSES, NAMED_CLASSES = 30, 100


def save_figure(figure: Figure, path: Path, *, dpi: int = 120) -> Path:
    """Write a figure as PNG, with fonts for all its characters, and return its path."""
    return fonts.save(figure, path, dpi=dpi)


def curves(rows: Sequence[dict[str, Any]], path: Path, *, best_epoch: int | None = None) -> Path | None:
    """Draw every measure that has ``train/`` and ``val/`` values over the epochs, one panel each.

    Args:
        rows: one mapping an epoch, with ``epoch`` and measures.
        path: the PNG to write.
        best_epoch: marked by a line.
    """
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(k.split("/", 1)[1] for row in rows for k in row if k.startswith(("train/", "val/"))))
    if not names:
        return None
    figure = Figure(figsize=(5.6 * len(names), 4.0), layout="constrained")
    for axis, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        for stage, colour in (("train", TRAIN), ("val", VAL)):
            points = [(row["epoch"], row[f"{stage}/{name}"]) for row in rows if row.get(f"{stage}/{name}") is not None]
            marker = "o" if len(points) <= 12 else None
            axis.plot(
                *zip(*points, strict=True), color=colour, label=stage, marker=marker, markersize=4
            ) if points else None
        if best_epoch is not None:
            axis.axvline(best_epoch, color=BEST, linestyle="--", linewidth=1, label=f"best (epoch {best_epoch})")
        axis.set(xlabel="epoch", ylabel=name, title=name)
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend()
    return save_figure(figure, path)


def confusion(targets: np.ndarray, predictions: np.ndarray, classes: Sequence[str], path: Path) -> Path:
    """Draw how often each class (row) was taken for each other (column), coloured by the share of the row.

    Up to 30 classes have their counts written in; beyond that colour alone speaks, and cells that hold
    any mistake stay visible.
    """
    from matplotlib.colors import PowerNorm
    from matplotlib.figure import Figure

    count = len(classes)
    matrix = np.zeros((count, count), dtype=int)
    np.add.at(matrix, (targets, predictions), 1)
    share = matrix / np.maximum(1, matrix.sum(1, keepdims=True))
    cell = 0.55 if count <= WRITTEN_CLASSES else 0.16 * min(1.0, NAMED_CLASSES / count)
    margin = 1.3 + 0.075 * min(max(map(fonts.columns, classes)), 24)
    side = max(2.2, cell * count)
    figure = Figure(figsize=(side + margin + 1.0, side + margin), layout="constrained")
    axis = figure.subplots()
    image = axis.imshow(share, cmap="Blues", norm=PowerNorm(0.5, 0, 1), interpolation="nearest")
    bar = figure.colorbar(image, ax=axis, fraction=0.046, pad=0.02, ticks=[0, 0.01, 0.05, 0.2, 0.5, 1])
    bar.ax.set_yticklabels(["0", "1%", "5%", "20%", "50%", "100%"])
    bar.set_label("share of the true class")
    _label_classes(axis, classes)
    if count <= WRITTEN_CLASSES:
        size = 9 if matrix.max() < 10_000 else 7
        for row, column in zip(*np.nonzero(matrix), strict=True):
            colour = "white" if share[row, column] > 0.3 else "black"
            axis.text(column, row, str(matrix[row, column]), ha="center", va="center", color=colour, fontsize=size)
    right = int(np.trace(matrix))
    axis.set_title(f"{right} of {matrix.sum()} right ({100 * right / max(1, matrix.sum()):.2f}%)", fontsize=11)
    return save_figure(figure, path)


def _label_classes(axis: Axes, classes: Sequence[str]) -> None:
    count = len(classes)
    size = 10 if count <= WRITTEN_CLASSES else 7
    names = [fonts.shorten(name, 24) for name in classes]
    slanted = max(map(fonts.columns, names)) > 3
    named = range(0, count, -(-count // NAMED_CLASSES))
    axis.set_xticks(named, [names[i] for i in named], fontsize=size, rotation=90 if slanted else 0)
    axis.set_yticks(named, [names[i] for i in named], fontsize=size)
    axis.set_xlabel("predicted")
    axis.set_ylabel("true")
    if count > NAMED_CLASSES:
        return
    axis.set_xticks(np.arange(count + 1) - 0.5, minor=True)
    axis.set_yticks(np.arange(count + 1) - 0.5, minor=True)
    axis.grid(which="minor", color="#dddddd", linewidth=0.5)
    axis.tick_params(which="minor", length=0)


def shown(wrong: list[int], right: list[int], total: int, most_wrong: int) -> list[int]:
    """Return which test items to draw, wrong ones first, each kind evenly spaced.

    Args:
        wrong, right: indices of items that are answered so.
        total: how many are drawn.
        most_wrong: how many of them are wrong ones, or more where right ones are too few.
    """
    bad = spread(wrong, max(most_wrong, total - len(right)))
    return bad + spread(right, total - len(bad))


def spread(indices: list[int], limit: int) -> list[int]:
    """Return at most ``limit`` of the indices, evenly spaced."""
    if len(indices) <= limit:
        return indices
    return [indices[i * len(indices) // limit] for i in range(limit)]
