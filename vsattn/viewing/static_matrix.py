"""Drawings of all queries at once: the matrix of one head with the names of its vectors, and all heads small."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from vsattn.viewing.fonts import inches, shorten
from vsattn.viewing.static_choice import View, alike, entropies
from vsattn.viewing.static_sheet import CHOSEN, Colours, Scale, Sheet
from vsattn.viewing.static_text import counted, name_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Up to so many vectors along an axis are named, of more the numbers are.
NAMED = 96

#: Inches of a matrix of more, and of the smallest side.
MATRIX, SMALLEST = 9.0, 0.3

#: A matrix of one head in the grid has at most so many cells a side; of more, blocks are averaged.
THUMB_CELLS = 128


@dataclass(frozen=True)
class Matrix:
    """All queries (rows) and keys (columns) of a map, as a heat map with the names of both."""

    view: View
    colours: Colours

    @cached_property
    def names(self) -> tuple[list[str], list[str]]:
        """Labels of rows and columns."""
        labels = [[name_of(label) for label in each["labels"]] for each in (self.view.queries, self.view.keys)]
        if self.view.map["queries"] is not None:
            labels[0] = [labels[0][query] for query in self.view.map["queries"]]
        return labels[0], labels[1]

    @property
    def cell(self) -> tuple[float, float]:
        """Width and height in inches of one vector's cell."""
        rows, across = map(len, self.names)
        most = max(rows, across)
        side = min(0.24, max(0.135, MATRIX / most)) if most <= NAMED else MATRIX / most
        return max(side, SMALLEST / across), max(side, SMALLEST / rows)

    @cached_property
    def margins(self) -> tuple[float, float]:
        """Inches that names need on the left and above."""
        left, top = (
            max(inches(name, self._fontsize(side)) for name in each) + 0.15 if len(each) <= NAMED else 0.6
            for each, side in zip(self.names, reversed(self.cell), strict=True)
        )
        return left + 0.22, top + 0.25

    @property
    def size(self) -> tuple[float, float]:
        """Inches."""
        (left, top), (wide, high), (rows, across) = self.margins, self.cell, map(len, self.names)
        return left + wide * across, top + high * rows + 0.1

    def draw(self, sheet: Sheet, x: float, y: float) -> None:
        """Draw the heat map and its names."""
        (left, top), (wide, high), (rows, across) = self.margins, self.cell, map(len, self.names)
        axis = sheet.axes(x + left, y + top, wide * across, high * rows)
        options: dict[str, Any] = {"norm": self.colours.norm, "cmap": self.colours.map, "aspect": "auto"}
        down, over = self.view.map["blocks"] or (1, 1)
        matrix = self.view.matrix()
        extent = (-0.5, matrix.shape[1] * over - 0.5, matrix.shape[0] * down - 0.5, -0.5)
        axis.imshow(matrix, extent=extent, interpolation="nearest" if across <= 512 else "auto", **options)
        axis.set(xlim=(-0.5, across - 0.5), ylim=(rows - 0.5, -0.5))
        axis.xaxis.tick_top()
        axis.xaxis.set_label_position("top")
        for own, which, side in ((axis.yaxis, 0, high), (axis.xaxis, 1, wide)):
            self._name(own, self.names[which], side)
        said = ("query", "key") if self.view.map["query"] == self.view.map["key"] else self._sets
        axis.set_ylabel(said[0], fontsize=8, color="#555555")
        axis.set_xlabel(said[1], fontsize=8, color="#555555")
        if max(rows, across) <= NAMED:
            axis.set_xticks(np.arange(across + 1) - 0.5, minor=True)
            axis.set_yticks(np.arange(rows + 1) - 0.5, minor=True)
            axis.grid(which="minor", color="#e8e8e8", linewidth=0.5)
        axis.tick_params(which="minor", length=0)

    @property
    def _sets(self) -> tuple[str, str]:
        return self.view.map["query"], self.view.map["key"]

    @staticmethod
    def _fontsize(side: float) -> float:
        return min(9.0, side * 72 * 0.75)

    def _name(self, axis: Any, names: list[str], side: float) -> None:
        """Name every vector, or, of many, number some."""
        if len(names) <= NAMED:
            turned = {"rotation": 90} if axis.axis_name == "x" else {}
            axis.set_ticks(range(len(names)), names, fontsize=self._fontsize(side), parse_math=False, **turned)
            axis.set_tick_params(length=0)
        else:
            axis.set_ticks(*counted(len(names)), fontsize=8)


@dataclass(frozen=True)
class Grid:
    """All heads (columns) of all layers (rows) as small heat maps, with their entropies; the chosen one is framed."""

    view: View
    scale: Scale

    @cached_property
    def maps(self) -> list[dict[str, Any]]:
        """One a row."""
        return alike(self.view.inputs[0], self.view.map)

    @property
    def side(self) -> float:
        """Inches of a head."""
        return min(1.0, max(0.5, 10 / max(len(found["heads"]) for found in self.maps)))

    @property
    def size(self) -> tuple[float, float]:
        """Inches."""
        across = max(len(found["heads"]) for found in self.maps)
        return 1.25 + (self.side + 0.1) * across, (self.side + 0.3) * len(self.maps) + 0.32

    def draw(self, sheet: Sheet, x: float, y: float) -> None:
        """Draw each head with colours from zero to its own largest weight."""
        what = "mean entropy of a head's rows in nats" if not self.view.signed else "A − B of each head"
        sheet.text(x, y, f"{what}; each head has colours of its own", fontsize=8, color="#555555")
        for row, found in enumerate(self.maps):
            top = y + 0.42 + row * (self.side + 0.3)
            sheet.text(x, top + self.side / 2 - 0.06, shorten(found["name"], 18), fontsize=8)
            for head, name in enumerate(found["heads"]):
                axis = sheet.axes(x + 1.25 + head * (self.side + 0.1), top, self.side, self.side)
                self._head(axis, found, head)
                entropy = entropies(found)[head]
                measured = "" if self.view.signed or entropy == float("inf") else f"{entropy:.2f}"
                small = 7 if self.side >= 0.7 else 5.5
                axis.set_title(f"{name}: {measured}" if measured else name, fontsize=small, pad=2)

    def _head(self, axis: Axes, found: dict[str, Any], head: int) -> None:
        matrix = coarse(self.view.matrix(found, head), THUMB_CELLS)
        colours = Colours(float(np.abs(matrix).max(initial=0.0)), self.view.signed, self.scale)
        axis.imshow(matrix, norm=colours.norm, cmap=colours.map, aspect="auto", interpolation="nearest")
        axis.set(xticks=[], yticks=[])
        chosen = found["id"] == self.view.map["id"] and self.view.head in (head, "mean")
        for spine in axis.spines.values():
            spine.set(color=CHOSEN if chosen else "#aaaaaa", linewidth=2.0 if chosen else 0.5)


def coarse(matrix: np.ndarray, most: int) -> np.ndarray:
    """Return means of blocks, so that no side has more than ``most``."""
    for axis in (0, 1):
        step = -(-matrix.shape[axis] // most)
        starts = np.arange(0, matrix.shape[axis], step)
        sizes = np.diff([*starts, matrix.shape[axis]])
        matrix = np.add.reduceat(matrix, starts, axis) / (sizes[:, None] if axis == 0 else sizes)
    return matrix
