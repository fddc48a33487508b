"""Drawings of what one vector looks at among those that stand in a row: shaded words, and bars with curves."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from vsattn.viewing.fonts import inches, shorten
from vsattn.viewing.static_choice import View
from vsattn.viewing.static_sheet import CHOSEN, Colours, Sheet

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import PolyCollection

#: Columns of a label, inches of a line of words, and how wide words and bars get.
LABEL, LINE, WIDTH = 24, 0.3, 11.0


@dataclass(frozen=True)
class Tokens:
    """The vectors of a set as words in lines; of the set that is looked at each on the colour of its weight."""

    view: View
    name: str
    colours: Colours

    @cached_property
    def lines(self) -> list[list[tuple[int, float, float, str]]]:
        """Lines of ``(number, left, width, word)``, in inches."""
        lines: list[list[tuple[int, float, float, str]]] = [[]]
        x = 0.0
        for index, label in enumerate(self.view.set(self.name)["labels"]):
            word = name_of(label, 40)
            width = inches(word, family="monospace") + 0.08
            if x + width > WIDTH and lines[-1]:
                lines.append([])
                x = 0.0
            lines[-1].append((index, x, width, word))
            x += width + 0.05
        return lines

    @property
    def above(self) -> float:
        """Inches for the name of the set, where another is drawn beside it."""
        return 0.2 if self.view.map["query"] != self.view.map["key"] else 0.0

    @property
    def size(self) -> tuple[float, float]:
        """Inches."""
        return max(line[-1][1] + line[-1][2] for line in self.lines), self.above + LINE * len(self.lines) + 0.05

    def draw(self, sheet: Sheet, x: float, y: float) -> None:
        """Draw boxes and words; the box of the query has a frame."""
        from matplotlib.collections import PolyCollection

        width, height = self.size
        if self.above:
            sheet.text(x, y, self.name, fontsize=8, color="#555555")
        axis = sheet.axes(x, y + self.above, width, height - self.above)
        axis.set(xlim=(0, width), ylim=(height - self.above, 0))
        axis.set_axis_off()
        placed = [(row * LINE, *word) for row, line in enumerate(self.lines) for word in line]
        corners = [rectangle(left, left + wide, top + 0.03, top + LINE - 0.03) for top, _, left, wide, _ in placed]
        if self.name == self.view.map["key"]:
            values = self.view.line()
            boxes = PolyCollection(corners, array=values, norm=self.colours.norm, cmap=self.colours.map)
            inks = self.colours.inks(values)
        else:
            boxes, inks = PolyCollection(corners, facecolors="white"), ["black"] * len(placed)
        framed = [self.name == self.view.map["query"] and index == self.view.query for _, index, *_ in placed]
        edges, widths = [CHOSEN if one else "#dddddd" for one in framed], [2.0 if one else 0.5 for one in framed]
        boxes.set(clip_on=False, edgecolor=edges, linewidth=widths)
        axis.add_collection(boxes, autolim=False)
        style: dict[str, Any] = {"ha": "center", "va": "center_baseline", "family": "monospace", "fontsize": 9}
        for top, index, left, wide, word in placed:
            axis.text(left + wide / 2, top + LINE / 2, word, color=inks[index], **style)


@dataclass(frozen=True)
class Curves:
    """What each key gets from the query: the chosen head as bars, the others of its layer as lines."""

    view: View
    colours: Colours

    @cached_property
    def names(self) -> list[str]:
        """Labels of the keys."""
        return [name_of(label) for label in self.view.keys["labels"]]

    @property
    def width(self) -> float:
        """Inches of the frame."""
        return min(WIDTH - 0.7, max(4.5, 0.25 * len(self.names)))

    @cached_property
    def below(self) -> float:
        """Inches that names need."""
        return max(inches(name, 8) for name in self.names) + 0.15 if self.named else 0.45

    @property
    def named(self) -> bool:
        """Whether there is room for names."""
        return self.width / len(self.names) >= 0.125

    @property
    def size(self) -> tuple[float, float]:
        """Inches."""
        return self.width + 0.7, 1.95 + self.below

    def draw(self, sheet: Sheet, x: float, y: float) -> None:
        """Draw with the scale of the colours."""
        axis = sheet.axes(x + 0.6, y + 0.3, self.width, 1.6)
        values, heads = self.view.line(), self.view.map["heads"]
        places = np.arange(len(values))
        axis.add_collection(bars(places - 0.4, places + 0.4, values, self.colours), autolim=False)
        others = range(len(heads)) if len(heads) > 1 and not self.view.signed else ()
        lines = [self.view.line(head) for head in others]
        for line in lines:
            axis.plot(places, line, color="#777777", lw=0.6, alpha=0.7, marker="." if len(line) == 1 else None)
        if lines:
            told = "bars: what is shown above; grey lines: each head"
            sheet.text(x + 0.6, y + 0.08, told, fontsize=7.5, color="#555555")
        scaled_axis(axis, self.colours, float(np.max(lines, initial=0.0)))
        axis.set_xlim(-0.6, len(values) - 0.4)
        if self.named:
            size = min(8.0, self.width / len(values) * 72 * 0.75)
            axis.set_xticks(places, self.names, rotation=90, fontsize=size, parse_math=False)
        else:
            axis.set_xticks(*counted(len(values)), fontsize=8)
            axis.set_xlabel("number of the vector", fontsize=8)


def bars(start: np.ndarray, end: np.ndarray, values: np.ndarray, colours: Colours) -> PolyCollection:
    """Return bars from 0 to weights, in their colours."""
    from matplotlib.collections import PolyCollection

    corners = [rectangle(*each) for each in zip(start, end, np.zeros(len(values)), values, strict=True)]
    found = PolyCollection(corners, array=values, norm=colours.norm, cmap=colours.map)
    found.set(edgecolor="#335577", linewidth=0.4 if len(values) <= 300 else 0.0)
    return found


def rectangle(left: float, right: float, low: float, high: float) -> list[tuple[float, float]]:
    """Return its corners."""
    return [(left, low), (right, low), (right, high), (left, high)]


def scaled_axis(axis: Axes, colours: Colours, peak: float = 0.0) -> None:
    """Give weights along y the scale of their colours."""
    high = 1.05 * (max(peak, colours.peak) or 1.0)
    low = -high if colours.signed else 0.0
    if colours.scale == "log":
        axis.set_yscale("symlog", linthresh=1e-3 * (colours.peak or 1.0), linscale=0.3)
        axis.set_yticks(colours.ticks, [f"{tick:.2g}" for tick in colours.ticks])
        axis.minorticks_off()
    axis.set_ylim(low, high)
    axis.axhline(0, color="black", lw=0.6)
    axis.tick_params(axis="y", labelsize=7)
    axis.set_ylabel("A − B" if colours.signed else "weight", fontsize=8)
    axis.spines[["top", "right"]].set_visible(False)


def name_of(label: str, width: int = LABEL) -> str:
    """Return a label that can be seen, and is not too long."""
    return shorten(label, width) if label.strip() else "␣"


def counted(count: int) -> tuple[list[int], list[str]]:
    """Return places and names, from 1, of some of many vectors."""
    step = next(step for k in range(9) for step in (10**k, 2 * 10**k, 5 * 10**k) if count / step <= 10)
    numbers = [1, *range(step, count + 1, step)]
    return [number - 1 for number in numbers], [f"{number:,}" for number in numbers]
