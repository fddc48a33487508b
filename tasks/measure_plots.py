"""Pictures of a measurement: a square for every head, and curves of answers whose vectors are taken away."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vsattn.measures.faithfulness import BASELINES, HIGHER, Curves, Verdict
from vsattn.measures.intervals import mean_interval

from .plots import save_figure

#: Okabe and Ito's colours, which people with any kind of colour vision can tell apart; baselines are grey.
COLOURS = {
    "attention": "#0072B2",
    "rollout": "#D55E00",
    "relevance": "#009E73",
    "random": "#555555",
    "uniform": "#999999",
}
MARKERS = {"attention": "o", "rollout": "s", "relevance": "^", "random": None, "uniform": None}

#: What a panel shows of heads: the key of a row, its title, whether 0 is the middle.
PANELS = (
    ("entropy_share", "entropy, share of its highest", False),
    ("distance", "mean distance", False),
    ("sink", "weight of the first vector", False),
    ("change", "change of the score without it, in points of 100", True),
)


def named(path: str) -> str:
    """Return a module's path for readers: ``encoder 2``, ``decoder 1 cross``; another one as it is."""
    found = re.match(r"(encoder|decoder)\.(?:blocks|layers)\.(\d+)(?:\.(?:(self|cross)_)?attention)?(?=\.|$)", path)
    if not found:
        return path
    part, layer, kind = found.groups()
    return f"{part} {int(layer) + 1}{f' {kind}' if kind else ''}"


def heads_plot(rows: Sequence[dict[str, Any]], path: Path, *, score: float | None = None) -> Path:
    """Draw a row for every attention module and a square for every head, one panel for each measure that is known.

    Args:
        rows: of heads, with ``path``, ``head`` and measures.
        path: the PNG to write.
        score: of the whole model, which the last panel names; heads that are needed or harmful have a frame.
    """
    from matplotlib.figure import Figure

    panels = [panel for panel in PANELS if any(row.get(panel[0]) is not None for row in rows)]
    paths = list(dict.fromkeys(row["path"] for row in rows))
    width = 1 + max(row["head"] for row in rows)
    columns = min(len(panels), 2 if width > 5 else 4)
    lines = -(-len(panels) // columns)
    size = columns * (0.6 + 0.52 * max(width, 5)), lines * (1.1 + 0.4 * len(paths))
    figure = Figure(figsize=(1.2 + size[0], size[1]), layout="constrained")
    grid = figure.subplots(lines, columns, squeeze=False, sharey=True)
    for axis in grid.flat[len(panels) :]:
        axis.set_visible(False)
    for axis, (name, title, centred) in zip(grid.flat, panels):
        values = np.full((len(paths), width), np.nan)
        for row in rows:
            value = row.get(name)
            values[paths.index(row["path"]), row["head"]] = np.nan if value is None else value
        _squares(axis, 100 * values if centred else values, centred=centred, share=name in ("entropy_share", "sink"))
        heading = f"{title}\n(whole: {100 * score:.2f}; framed: not chance)" if centred and score is not None else title
        axis.set_title(heading, fontsize=9)
        axis.set_xticks(range(width), [str(i + 1) for i in range(width)])
        axis.set_xlabel("head")
        if centred:
            _frame(axis, [(paths.index(r["path"]), r["head"]) for r in rows if r["says"] != "not told"])
    for axis in grid[:, 0]:
        axis.set_yticks(range(len(paths)), [named(one) for one in paths])
    return save_figure(figure, path)


def _squares(axis: Any, values: np.ndarray, *, centred: bool, share: bool) -> None:
    several = values[np.isfinite(values).sum(1) > 1] if centred else values  # an only head carries all there is
    known = np.abs(several[np.isfinite(several)])
    bound = float(known.max()) if known.size else 0.0
    low, high = (-(bound or 1.0), bound or 1.0) if centred else (0.0, 1.0 if share else bound or 1.0)
    image = axis.imshow(
        values, cmap="PuOr" if centred else "cividis", vmin=low, vmax=high, aspect="auto", interpolation="nearest"
    )
    for (row, column), value in np.ndenumerate(values):
        if not math.isfinite(value):
            axis.text(column, row, "–", ha="center", va="center", fontsize=7, color="#777777")
            continue
        red, green, blue, _ = image.cmap(image.norm(value))
        dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.5
        text = f"{value:.{2 if bound < 10 else 1}f}"
        text = "0" if float(text) == 0 else f"{value:+.{1 if abs(value) >= 0.1 else 2}f}" if centred else text
        axis.text(column, row, text, ha="center", va="center", fontsize=7, color="white" if dark else "black")
    axis.spines[:].set_visible(False)
    axis.tick_params(length=0, labelsize=8)


def _frame(axis: Any, places: Sequence[tuple[int, int]]) -> None:
    from matplotlib.patches import Rectangle

    for row, column in places:
        axis.add_patch(Rectangle((column - 0.47, row - 0.47), 0.94, 0.94, fill=False, linewidth=1.6, color="black"))


def curves_plot(curves: Curves, verdicts: Sequence[Verdict], path: Path) -> Path:
    """Draw the probability of the answers against the share of vectors taken away, and kept, with 95% intervals, and
    how much better than random order each method is."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14.5, 4.4), layout="constrained")
    axes = figure.subplots(1, 3, width_ratios=[1, 1, 1.15])
    places = np.arange(len(curves.fractions))
    for axis, kind, title in (
        (axes[0], curves.deletion, "taken away, the most important first\n(a steep fall is good)"),
        (axes[1], curves.insertion, "kept, the most important first, and no others\n(a steep rise is good)"),
    ):
        for name, values in kind.items():
            style: dict[str, Any] = {"color": COLOURS[name], "marker": MARKERS[name], "markersize": 5}
            style["linestyle"] = {"random": "--", "uniform": ":"}.get(name, "-")
            axis.plot(places, values.mean(0), label=name, **style)
            spans = np.array([mean_interval(column) for column in values.T])
            axis.fill_between(places, spans[:, 0], spans[:, 1], color=COLOURS[name], alpha=0.12, linewidth=0)
        axis.set_xticks(places, [f"{100 * share:g}" for share in curves.fractions])
        axis.set(xlabel="% of the vectors (steps are not even)", ylabel="probability of the answer", title=title)
        axis.set_ylim(-0.03, 1.03)
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].legend(frameon=False)
    _differences(axes[2], [one for one in verdicts if one.method not in BASELINES])
    return save_figure(figure, path)


def _differences(axis: Any, verdicts: Sequence[Verdict]) -> None:
    for number, one in enumerate(verdicts):
        found = [one.against["random"][name] for name in HIGHER]
        places = np.arange(len(found)) + 0.2 * (number - (len(verdicts) - 1) / 2)
        values = np.array([d.value for d in found])
        bars = np.array([[d.value - d.low, d.high - d.value] for d in found]).T.clip(min=0)
        style: dict[str, Any] = {"color": COLOURS[one.method], "marker": MARKERS[one.method], "linestyle": "none"}
        axis.errorbar(values, places, xerr=bars, capsize=3, label=one.method, **style)
    axis.axvline(0, color=COLOURS["random"], linestyle="--", linewidth=1)
    axis.set_yticks(range(len(HIGHER)), list(HIGHER))
    axis.invert_yaxis()
    axis.set(xlabel="worse than random order  ←  0  →  better", title="better than random order by\n(95% intervals)")
    axis.grid(axis="x", alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)
