"""The plot of a sweep: metrics against what varied."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .comparison import factor, label, picture
from .plots import BEST, TRAIN, save_figure

#: More lines than these in one panel cannot be told apart.
MAX_LINES = 8


def draw(rows: Sequence[dict[str, Any]], keys: Sequence[str], metrics: Sequence[str], path: Path) -> Path | None:
    """Draw metrics against the setting that varied; None where there is nothing to compare.

    Numbers are an axis, logarithmic where they spread over a decade or more, with a line for each combination of the
    other settings, or, where those leave no line, one panel of points for each. Options are rows of points.
    """
    rows = [row for row in rows if any(row[name] for name in metrics)]
    numeric = [key for key in keys if len(_numbers(rows, key)) > 1]
    if len(rows) < 2:
        return None
    if not numeric:
        models = [{**row, "model": ", ".join(told(row, keys))} for row in rows]
        return picture(models, next((name for name in metrics if name.startswith("test/")), metrics[0]), path)
    from matplotlib.figure import Figure

    x = max(numeric, key=lambda key: len(_numbers(rows, key)))
    lines: dict[str, list[dict[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: row[x]):
        lines.setdefault(", ".join(told(row, [key for key in keys if key != x])), []).append(row)
    scattered = len(lines) > MAX_LINES or max(map(len, lines.values())) < 2
    panels = [(key, metrics[0]) for key in numeric] if scattered else [(x, name) for name in metrics[:2]]
    named = not scattered and len(lines) > 1
    figure = Figure(figsize=(5.2 * len(panels) + 2.6 * named, 3.9), layout="constrained")
    for axis, (key, metric) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for name, members in {"": rows}.items() if scattered else lines.items():
            _line_of(axis, members, key, metric, name, joined=not scattered)
        _numeric_axis(axis, _numbers(rows, key), key)
        axis.set_ylabel(label(metric))
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    if not scattered and any(len(row[metrics[0]]) > 1 for row in rows):
        figure.suptitle("mean ± standard deviation over seeds; a dot is a run", fontsize=9, color=BEST)
    if named:
        figure.legend(*axis.get_legend_handles_labels(), loc="outside right center", frameon=False, fontsize=9)
    return save_figure(figure, path)


def _line_of(axis: Any, rows: Sequence[dict[str, Any]], key: str, metric: str, name: str, *, joined: bool) -> None:
    """Draw the runs as dots, and their means, joined, with the standard deviation as bars."""
    rows = [row for row in rows if row[metric]]
    colour = axis._get_lines.get_next_color() if name else TRAIN
    shown = [[factor(metric) * value for value in row[metric]] for row in rows]
    for row, values in zip(rows, shown, strict=True):
        axis.plot([row[key]] * len(values), values, "o", color=colour, alpha=0.35 if joined else 0.7, markersize=4)
    if joined:
        means = [statistics.fmean(values) for values in shown]
        bars = [statistics.stdev(values) if len(values) > 1 else 0.0 for values in shown]
        axis.errorbar([row[key] for row in rows], means, bars, color=colour, capsize=3, label=name)


def _numeric_axis(axis: Any, values: list[float], key: str) -> None:
    """Mark the values that were tried, on a logarithmic axis where they spread over a decade or more."""
    spread = len(values) > 2 and values[0] > 0 and values[-1] / values[0] >= 10
    if spread:
        axis.set_xscale("log")
    if len(values) <= 8:
        axis.set_xticks(values, [f"{value:g}" for value in values])
        axis.minorticks_off()
    axis.set_xlabel(f"{key} (logarithmic)" if spread else key)


def _numbers(rows: Sequence[dict[str, Any]], key: str) -> list[float]:
    """Return the different values of a setting in order, or nothing where one of them is no number."""
    values = {row[key] for row in rows}
    return sorted(values) if all(isinstance(value, (int, float)) for value in values) else []


def told(row: dict[str, Any], keys: Sequence[str]) -> list[str]:
    """Return settings as they are typed."""
    return [f"{key}={row[key]}" for key in keys]
