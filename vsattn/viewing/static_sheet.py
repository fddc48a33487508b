"""A sheet that is measured in inches from its upper left corner, and the colours of weights on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from vsattn.viewing.fonts import inches, visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap, Normalize
    from matplotlib.figure import Figure

Scale = Literal["linear", "log"]

#: On the logarithmic scale everything below this part of the largest weight has the colour of zero.
LOG_FLOOR = 1e-4

#: From orange for less to blue for more, as light in the middle as paper; lightness alone tells how much.
DIVERGING = [
    "#7f3b08",
    "#b35806",
    "#e08214",
    "#fdb863",
    "#fee0b6",
    "#f7f7f7",
    "#d1e5f0",
    "#92c5de",
    "#4393c3",
    "#2166ac",
    "#053061",
]

CHOSEN = "#d81b60"


class Panel(Protocol):
    """Part of a sheet."""

    @property
    def size(self) -> tuple[float, float]:
        """Width and height in inches."""

    def draw(self, sheet: Sheet, x: float, y: float) -> None:
        """Draw with the upper left corner there."""


@dataclass(frozen=True)
class Sheet:
    """A figure on which things are placed in inches, to the right and downwards."""

    figure: Figure

    def axes(self, x: float, y: float, width: float, height: float, **options: Any) -> Axes:
        """Return axes whose frame is there."""
        wide, high = self.figure.get_size_inches()
        return self.figure.add_axes((x / wide, 1 - (y + height) / high, width / wide, height / high), **options)

    def text(self, x: float, y: float, text: str, **options: Any) -> None:
        """Write a text whose upper left corner is there."""
        wide, high = self.figure.get_size_inches()
        options = {"va": "top", "fontsize": 9, "parse_math": False, **options}
        self.figure.text(x / wide, 1 - y / high, text, **options)


@dataclass(frozen=True)
class Colours:
    """How weights become colours, widths and heights.

    Args:
        peak: the largest weight, or difference without its sign.
        signed: whether there are differences.
        scale: "linear", or "log" from the peak down to `LOG_FLOOR` of it.
    """

    peak: float
    signed: bool
    scale: Scale

    def scaled(self, values: Any) -> np.ndarray:
        """Return places on the scale, from 0 (or −1) to 1."""
        part = np.clip(np.abs(values) / (self.peak or 1.0), 0, 1)
        if self.scale == "log":
            part = 1 - np.log(np.maximum(part, LOG_FLOOR)) / np.log(LOG_FLOOR)
        return np.sign(values) * part

    @property
    def norm(self) -> Normalize:
        """The scale as matplotlib wants it."""
        from matplotlib.colors import FuncNorm

        peak = self.peak or 1.0
        return FuncNorm((self.scaled, self._weights), -peak if self.signed else 0.0, peak)

    @property
    def map(self) -> Colormap:
        """Colours for the scale, for all eyes."""
        from matplotlib import colormaps
        from matplotlib.colors import LinearSegmentedColormap

        return LinearSegmentedColormap.from_list("differences", DIVERGING) if self.signed else colormaps["Blues"]

    @property
    def ticks(self) -> list[float]:
        """Weights that an axis names."""
        peak = self.peak or 1.0
        parts = [1, 0.5, 0] if self.scale == "linear" else [1, 0.01, 0] if self.signed else [1, 0.1, 0.01, 0.001, 0]
        return sorted({sign * part * peak for part in parts for sign in ((1, -1) if self.signed else (1,))})

    def of(self, values: Any) -> np.ndarray:
        """Return colours ``(..., 4)``."""
        return np.asarray(self.map(self.norm(np.asarray(values, float))))

    def inks(self, values: Any) -> list[str]:
        """Return for each weight black or white, which can be read on its colour (contrast as of WCAG 2)."""
        parts = self.of(values)[..., :3]
        linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
        return ["black" if light > 0.179 else "white" for light in linear @ (0.2126, 0.7152, 0.0722)]

    def _weights(self, places: Any) -> np.ndarray:
        """Undo `scaled`."""
        part = np.abs(places)
        if self.scale == "log":
            part = np.where(part > 0, LOG_FLOOR ** (1 - part), 0.0)
        return np.sign(places) * part * (self.peak or 1.0)


@dataclass(frozen=True)
class Bar:
    """A colour bar that names the weights of its colours and the scale."""

    colours: Colours
    width: float = 3.6

    @property
    def size(self) -> tuple[float, float]:
        """Inches."""
        return self.width, 0.62

    def draw(self, sheet: Sheet, x: float, y: float) -> None:
        """Draw it."""
        from matplotlib.cm import ScalarMappable

        axis = sheet.axes(x + 0.2, y + 0.05, self.width - 0.4, 0.13)
        shown = ScalarMappable(self.colours.norm, self.colours.map)
        bar = sheet.figure.colorbar(shown, cax=axis, orientation="horizontal", ticks=self.colours.ticks)
        bar.minorticks_off()
        bar.ax.set_xticklabels([number(tick) for tick in self.colours.ticks], fontsize=7)
        what = "A − B" if self.colours.signed else "weight"
        bar.set_label(f"{what}, {described(self.colours.scale)}", fontsize=8, labelpad=1)


@dataclass(frozen=True)
class Words:
    """Lines of text, broken at a width in inches."""

    text: str
    width: float
    fontsize: float = 9
    weight: str = "normal"
    colour: str = "black"

    @cached_property
    def lines(self) -> list[str]:
        """The text in lines."""
        return wrapped(self.text, self.width, self._inches)

    @property
    def size(self) -> tuple[float, float]:
        """Inches."""
        return max(map(self._inches, self.lines), default=0.0), len(self.lines) * self.fontsize / 72 * 1.45

    def draw(self, sheet: Sheet, x: float, y: float) -> None:
        """Write it."""
        for line in self.lines:
            sheet.text(x, y, line, fontsize=self.fontsize, weight=self.weight, color=self.colour)
            y += self.fontsize / 72 * 1.45

    def _inches(self, text: str) -> float:
        return inches(text, self.fontsize, weight=self.weight)


def wrapped(text: str, width: float, measure: Callable[[str], float]) -> list[str]:
    """Break a text between words into lines of at most so many inches, and longer words anywhere."""
    lines: list[str] = []
    left = 0.0
    for word in visible(text).split():
        for piece in [word] if measure(word) <= width else _pieces(word, width, measure):
            wide = measure(f" {piece}")
            if lines and wide <= left:
                lines[-1] += f" {piece}"
                left -= wide
            else:
                lines.append(piece)
                left = width - measure(piece)
    return lines


def _pieces(word: str, width: float, measure: Callable[[str], float]) -> list[str]:
    pieces, left = [""], width
    for character in word:
        wide = measure(character)
        if pieces[-1] and wide > left:
            pieces.append("")
            left = width
        pieces[-1] += character
        left -= wide
    return pieces


def number(value: float) -> str:
    """Return a weight in few digits."""
    return f"{value:.2g}" if value else "0"


def described(scale: Scale) -> str:
    """Name a scale."""
    return "linear scale" if scale == "linear" else f"logarithmic scale down to {LOG_FLOOR:g} of the largest"
