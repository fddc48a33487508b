"""The results of a benchmark run: one JSON, one Markdown table, one log-log plot."""

from __future__ import annotations

import json
import statistics
from dataclasses import asdict, dataclass
from pathlib import Path

import measure


@dataclass
class Row:
    """One candidate at one size: median milliseconds, its ratio to ours with a 95% interval, added peak MB."""

    problem: str
    size: str
    count: float
    direction: str
    candidate: str
    milliseconds: float
    ratio: float
    low: float
    high: float
    rounds: int
    megabytes: float | None = None


def rows_of(problem: str, size: str, count: float, direction: str, samples: dict[str, list[float]]) -> list[Row]:
    """Return one row for each candidate; the first one is ours."""
    ours = next(iter(samples.values()))
    return [
        Row(problem, size, count, direction, name, statistics.median(found), *measure.ratio(ours, found), len(found))
        for name, found in samples.items()
    ]


def write(rows: list[Row], folder: Path) -> None:
    """Write ``results.json``, ``results.md`` and ``results.png``."""
    folder.mkdir(parents=True, exist_ok=True)
    hardware = measure.hardware()
    text = json.dumps({"hardware": hardware, "rows": [asdict(row) for row in rows]}, indent=1)
    (folder / "results.json").write_text(text + "\n", encoding="utf-8")
    lines = [hardware, "", "| problem | size | pass | candidate | ms | times ours (95%) | added MB |", "|" + "---|" * 7]
    for row in rows:
        interval = f"{row.ratio:.2f} ({row.low:.2f} to {row.high:.2f})"
        memory = "" if row.megabytes is None else f"{row.megabytes:,.0f}"
        cells = [row.problem, row.size, row.direction, row.candidate, f"{row.milliseconds:,.1f}", interval, memory]
        lines.append("| " + " | ".join(cells) + " |")
    (folder / "results.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    _plot(rows, folder / "results.png")


def _plot(rows: list[Row], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    problems = list(dict.fromkeys(row.problem for row in rows if row.count))
    if not problems:
        return
    lines = -(-len(problems) // 3)
    figure, axes = plt.subplots(lines, 3, figsize=(15, 4 * lines), squeeze=False)
    for axis in axes.flat[len(problems) :]:
        axis.remove()
    for axis, problem in zip(axes.flat, problems):
        found = [row for row in rows if row.problem == problem]
        for name in dict.fromkeys(row.candidate for row in found):
            for direction, style in (("forward", "--"), ("both", "-")):
                line = sorted(
                    (r.count, r.milliseconds) for r in found if (r.candidate, r.direction) == (name, direction)
                )
                if line:
                    axis.loglog(*zip(*line), style, marker="o", markersize=3, label=f"{name}, {direction}")
        axis.set(title=problem, xlabel="edges x width" if "edges" in problem else "N", ylabel="milliseconds")
        axis.grid(alpha=0.3, which="both")
        axis.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)
