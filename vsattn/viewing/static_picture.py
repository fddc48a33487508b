"""Drawings of vectors that lie in a picture: patches of an image, stretches of a sound in its spectrogram."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from vsattn.viewing.static_choice import View
from vsattn.viewing.static_sheet import CHOSEN, Colours, Sheet
from vsattn.viewing.static_text import bars, rectangle, scaled_axis

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Inches of a picture's longer side; of the drawing of a sound, and the heights of its two parts.
PICTURE, SOUND, SPECTROGRAM, WEIGHTS = 3.6, 9.0, 2.0, 1.2

#: How much of a picture its weights cover.
OPACITY = 0.65


@dataclass(frozen=True)
class Image:
    """A picture, and beside it the same under the weights of its patches."""

    view: View
    colours: Colours

    @property
    def sides(self) -> tuple[float, float]:
        """Width and height in inches of one picture."""
        width, height = self.view.keys["size"]
        longer = max(width, height)
        return max(0.4, PICTURE * width / longer), max(0.4, PICTURE * height / longer)

    @property
    def size(self) -> tuple[float, float]:
        """Inches."""
        wide, high = self.sides
        return 2 * wide + 0.25, high + 0.35

    def draw(self, sheet: Sheet, x: float, y: float) -> None:
        """Draw both pictures; the patch that asks has a frame."""
        from matplotlib.collections import PolyCollection

        (wide, high), shown = self.sides, self.view.keys
        picture, values = pixels(shown["picture"]), self.view.line()[shown["num_prefix"] :]
        grey = picture if picture.ndim == 2 else picture @ np.array([0.299, 0.587, 0.114])
        pale = 255 - 0.55 * (255.0 - grey)  # so that the colours of weights stand out
        for place, under in ((x, picture), (x + wide + 0.25, pale)):
            axis = sheet.axes(place, y + 0.05, wide, high)
            self._picture(axis, under)
            _frame(axis, self.view)
        corners = [rectangle(a, a + w, b, b + h) for a, b, w, h in shown["boxes"]]
        cover = PolyCollection(corners, array=values, norm=self.colours.norm, cmap=self.colours.map)
        cover.set(alpha=OPACITY, linewidth=0, antialiased=False)
        axis.add_collection(cover, autolim=False)
        sheet.text(x, y + high + 0.1, _of_prefix(self.view), fontsize=8, color="#555555")

    def _picture(self, axis: Axes, picture: np.ndarray) -> None:
        width, height = self.view.keys["size"]
        smooth = "nearest" if max(width, height) < 100 else "antialiased"
        options: dict[str, Any] = {"cmap": "gray", "vmin": 0, "vmax": 255} if picture.ndim == 2 else {}
        axis.imshow(picture, extent=(0, width, height, 0), interpolation=smooth, aspect="auto", **options)
        axis.set(xticks=[], yticks=[])


@dataclass(frozen=True)
class Sound:
    """A spectrogram over time and frequency, and below it, along the same time, the weights of its stretches."""

    view: View
    colours: Colours

    @property
    def size(self) -> tuple[float, float]:
        """Inches."""
        return SOUND + 0.75, SPECTROGRAM + WEIGHTS + 0.85

    @cached_property
    def spans(self) -> np.ndarray:
        """Start and end in seconds ``(N, 2)`` of where each stretch is drawn: those that overlap meet halfway."""
        times = np.array(self.view.keys["times"], float).reshape(-1, 2)
        spans, centres = times.copy(), times.mean(1)
        overlap = times[:-1, 1] > times[1:, 0]
        middle = (centres[:-1] + centres[1:]) / 2
        spans[:-1, 1] = np.where(overlap, middle, times[:-1, 1])
        spans[1:, 0] = np.where(overlap, middle, times[1:, 0])
        return spans

    def draw(self, sheet: Sheet, x: float, y: float) -> None:
        """Draw both with one axis of time; where the query lies is marked."""
        shown = self.view.keys
        above = sheet.axes(x + 0.65, y + 0.05, SOUND, SPECTROGRAM)
        extent = (0.0, shown["duration"], 0.0, 1.0)
        above.imshow(pixels(shown["spectrogram"]), extent=extent, aspect="auto", cmap="magma", vmin=0, vmax=255)
        places = [share for _, share in shown["ticks"]]
        above.set_yticks(places, [f"{hertz:g}" for hertz, _ in shown["ticks"]], fontsize=7)
        above.set_ylabel("frequency (Hz)", fontsize=8)
        above.tick_params(labelbottom=False)
        below = sheet.axes(x + 0.65, y + 0.15 + SPECTROGRAM, SOUND, WEIGHTS)
        values = self.view.line()[shown["num_prefix"] :]
        below.add_collection(bars(self.spans[:, 0], self.spans[:, 1], values, self.colours), autolim=False)
        scaled_axis(below, self.colours)
        below.set_xlabel("time (s)", fontsize=8)
        below.tick_params(axis="x", labelsize=8)
        for axis in (above, below):
            axis.set_xlim(0, shown["duration"])
            self._query(axis)
        sheet.text(x + 0.65, y + SPECTROGRAM + WEIGHTS + 0.6, _of_prefix(self.view), fontsize=8, color="#555555")

    def _query(self, axis: Axes) -> None:
        asked = _asked(self.view)
        if asked is not None:
            axis.axvspan(*self.spans[asked], ec=CHOSEN, fc="none", lw=1.2, zorder=4)


def pixels(uri: str) -> np.ndarray:
    """Return the picture of a data URI, ``(H, W)`` or ``(H, W, 3)``."""
    from PIL import Image

    picture = Image.open(io.BytesIO(base64.b64decode(uri.split(",", 1)[1])))
    return np.asarray(picture if picture.mode == "L" else picture.convert("RGB"))


def _asked(view: View) -> int | None:
    """Return the query's number among the vectors that have a place, if it has one."""
    asked = -1 if view.query is None or view.map["query"] != view.map["key"] else view.query
    return asked - view.keys["num_prefix"] if asked >= view.keys["num_prefix"] else None


def _frame(axis: Axes, view: View) -> None:
    from matplotlib.patches import Rectangle

    asked = _asked(view)
    if asked is not None:
        left, top, width, height = view.keys["boxes"][asked]
        axis.add_patch(Rectangle((left, top), width, height, fc="none", ec="white", lw=3.0, zorder=3))
        axis.add_patch(Rectangle((left, top), width, height, fc="none", ec=CHOSEN, lw=1.6, zorder=4))


def _of_prefix(view: View) -> str:
    """Say what vectors without a place get."""
    labels, values = view.keys["labels"], view.line()
    told = [f"{labels[i]} {values[i]:.4f}" for i in range(view.keys["num_prefix"])]
    return f"without a place: {', '.join(told)}" if told else ""
