"""Drawings of graphs: nodes where they were laid out, weights as the width and opacity of edges."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from vsattn.viewing.fonts import shorten
from vsattn.viewing.static_choice import View
from vsattn.viewing.static_sheet import CHOSEN, Colours, Sheet, number

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Inches of a graph, and of its legend; points of the widest edge; how opaque the faintest is.
GRAPH, LEGEND, WIDEST, FAINTEST = 6.6, 2.3, 5.0, 0.15

#: Of more edges than these the widest is narrower.
CROWDED = 500

#: Up to so many nodes are named, so many classes told apart, and so many edges drawn: the strongest, of maps without
#: edges of their own.
NAMED, CLASSES, STRONGEST = 60, 14, 4000

#: Colours that stay apart for all eyes (Okabe and Ito 2008), then once more with another shape.
FILLS = ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#cc79a7", "#d55e00", "#999999")
SHAPES = ("o", "s")

LINE = "#0072b2"


@dataclass(frozen=True)
class Graph:
    """Nodes and weighted edges; of a query those to what it looks at, with its neighbourhood in full."""

    view: View
    colours: Colours

    @property
    def size(self) -> tuple[float, float]:
        """Inches."""
        return GRAPH + LEGEND, GRAPH + 0.3

    @cached_property
    def xy(self) -> np.ndarray:
        """Places of the real vectors ``(N, 2)``."""
        return np.array(self.view.keys["xy"], float).reshape(-1, 2)

    @cached_property
    def edges(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Keys, queries (among real vectors) and weights of the lines, the strongest last."""
        prefix = self.view.keys["num_prefix"]
        keys, queries, weights = self.view.edges()
        kept = (keys >= prefix) & (queries >= prefix) & (weights != 0)
        order = np.argsort(np.abs(weights[kept]), kind="stable")
        if not self.view.map.get("edges"):
            order = order[-STRONGEST:]
        return keys[kept][order] - prefix, queries[kept][order] - prefix, weights[kept][order]

    @cached_property
    def near(self) -> np.ndarray:
        """Which nodes are drawn in full ``(N,)``: all, or the query and what it looks at or is joined to."""
        asked = None if self.view.query is None else self.view.query - self.view.keys["num_prefix"]
        if asked is None or asked < 0 or not len(self._joined):
            return np.ones(len(self.xy), bool)
        near = np.zeros(len(self.xy), bool)
        near[[asked, *self._joined[(self._joined == asked).any(1)].ravel()]] = True
        if self.view.map.get("edges"):
            near[self.edges[0]] = True
        return near

    @property
    def _joined(self) -> np.ndarray:
        """The graph's own edges among real vectors ``(E, 2)``."""
        joined = np.array(self.view.keys["edges"], int).reshape(-1, 2) - self.view.keys["num_prefix"]
        return joined[(joined >= 0).all(1)]

    def draw(self, sheet: Sheet, x: float, y: float) -> None:
        """Draw edges, weights, nodes and names; a large graph near the query alone."""
        axis = sheet.axes(x, y + 0.05, GRAPH, GRAPH)
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_color("#dddddd")
        self._lines(axis)
        self._nodes(axis)
        self._window(axis)
        self._names(axis)
        axis.legend(
            handles=self._legend(),
            loc="upper left",
            bbox_to_anchor=(1.01, 1),
            borderaxespad=0,
            frameon=False,
            fontsize=8,
        )
        shown, drawn = self.near.sum(), len(self.edges[2])
        part = "" if self.near.all() else f"; in full: the query and its {shown - 1:,} neighbours"
        sheet.text(
            x, y + GRAPH + 0.1, f"{len(self.xy):,} nodes, {drawn:,} weights drawn{part}", fontsize=8, color="#555555"
        )

    def _lines(self, axis: Axes) -> None:
        from matplotlib.collections import LineCollection

        joined = self._joined[self.near[self._joined].any(1)]
        ground = LineCollection(list(self.xy[joined]), colors="#b0b0b0", linewidths=0.4, zorder=1)
        ground.set_alpha(np.clip(1200 / max(1, len(joined)), 0.08, 0.6))
        axis.add_collection(ground, autolim=False)
        keys, queries, weights = self.edges
        ends = np.stack([self.xy[keys], self.xy[queries]], 1)
        along = ends[:, 1] - ends[:, 0]
        length = np.maximum(np.hypot(*along.T), 1e-9)[:, None]
        ends += 0.003 * (np.stack([-along[:, 1], along[:, 0]], 1) / length)[:, None]  # there and back lie side by side
        place = np.abs(self.colours.scaled(weights))
        colour = self.colours.of(weights) if self.view.signed else LINE
        lines = LineCollection(list(ends), linewidths=self.widest * place, colors=colour, zorder=2, capstyle="round")
        lines.set_alpha(FAINTEST + (1 - FAINTEST) * place if len(place) else None)
        axis.add_collection(lines, autolim=False)
        loops = keys == queries
        if loops.any():
            ring: dict[str, Any] = {"linewidths": 0.6 * self.widest * place[loops], "facecolors": "none"}
            ring["edgecolors"] = self.colours.of(weights[loops]) if self.view.signed else LINE
            x, y = self.xy[keys[loops]].T
            axis.scatter(x, y, s=self._area * 3.2, zorder=2.5, **ring)

    @property
    def widest(self) -> float:
        """Points of the edge with the largest weight."""
        return float(WIDEST * min(1.0, (CROWDED / max(1, len(self.edges[2]))) ** 0.5))

    @property
    def _area(self) -> float:
        """Square points of a node."""
        return float(np.clip(9000 / self.near.sum(), 8, 90))

    def _nodes(self, axis: Axes) -> None:
        classes = np.array(self.view.keys["classes"] or [""] * len(self.xy))
        for name, fill, shape in self._signs:
            for full, opacity in ((False, 0.2), (True, 1.0)):
                which = (classes == name) & (self.near == full)
                style: dict[str, Any] = {"marker": shape, "color": fill, "alpha": opacity, "edgecolors": "#333333"}
                style |= {"s": self._area if full else 10, "linewidths": 0.4, "zorder": 2.8 + full}
                axis.scatter(*self.xy[which].T, **style)
        asked = -1 if self.view.query is None else self.view.query - self.view.keys["num_prefix"]
        if asked >= 0:
            ring: dict[str, Any] = {"facecolors": "none", "edgecolors": CHOSEN, "linewidths": 2.2, "zorder": 4}
            x, y = self.xy[asked]
            axis.scatter(x, y, s=self._area * 2.2, **ring)

    @property
    def _signs(self) -> list[tuple[str, str, str]]:
        """Name, colour and shape of each class; those beyond `CLASSES` share one."""
        names = list(dict.fromkeys(self.view.keys["classes"] or [""]))
        signs = [(fill, shape) for shape in SHAPES for fill in FILLS]
        return [(name, *(signs[i] if i < CLASSES else ("#ffffff", "D"))) for i, name in enumerate(names)]

    def _window(self, axis: Axes) -> None:
        """Show all, or of a large graph the neighbourhood."""
        part = self.xy[self.near] if len(self.xy) > NAMED else self.xy
        low, high = part.min(0), part.max(0)
        middle, half = (low + high) / 2, max(0.03, float((high - low).max()) / 2) * 1.12
        axis.set(xlim=(middle[0] - half, middle[0] + half), ylim=(middle[1] + half, middle[1] - half))

    def _names(self, axis: Axes) -> None:
        named = np.flatnonzero(self.near) if self.near.sum() <= NAMED else np.zeros(0, int)
        labels = self.view.keys["labels"][self.view.keys["num_prefix"] :]
        for node in named:
            style: dict[str, Any] = {"fontsize": 7, "zorder": 5, "xytext": (0, -4 - self._area**0.5 / 2)}
            style |= {"ha": "center", "va": "top", "textcoords": "offset points", "parse_math": False}
            axis.annotate(shorten(labels[node], 18), self.xy[node], annotation_clip=True, **style)

    def _legend(self) -> list[Any]:
        from matplotlib.lines import Line2D

        handles = []
        for name, fill, shape in self._signs[: CLASSES + 1] if self.view.keys["classes"] else []:
            told = shorten(name, 26) if shape != "D" else f"{len(self._signs) - CLASSES} more classes"
            handles.append(Line2D([], [], ls="", marker=shape, color=fill, mec="#333333", mew=0.4, label=told))
        for weight in [tick for tick in reversed(self.colours.ticks) if tick] if len(self.edges[2]) else []:
            place = abs(float(self.colours.scaled(weight)))
            colour: Any = self.colours.of(weight) if self.view.signed else LINE
            line: dict[str, Any] = {"lw": self.widest * place, "alpha": FAINTEST + (1 - FAINTEST) * place}
            what = "difference" if self.view.signed else "weight"
            handles.append(Line2D([], [], color=colour, label=f"{what} {number(weight)}", **line))
        return handles
