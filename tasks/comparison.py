"""Several models under one budget: their runs' numbers as one table and one picture."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .plots import TRAIN, VAL, save_figure
from .report import aligned, environment

#: What is reported of each run beside its metrics.
COSTS = {"parameters": "parameters", "seconds": "wall_seconds", "memory MB": "peak_memory_mb"}


def collect(folder: Path, models: Sequence[str], seeds: Sequence[int], metrics: Sequence[str]) -> list[dict[str, Any]]:
    """Read ``folder/MODEL/seed_SEED/metrics.json`` of every run.

    Returns:
        One row a model: ``model``, a list of values over its runs for each metric and each cost, and ``failed``, the
        seeds without a result; then, where the task has one, the trivial baseline, whose lists have one value.
    """
    rows, floor = [], None
    for model in models:
        row: dict[str, Any] = {"model": model, "failed": [], **{name: [] for name in (*metrics, *COSTS)}}
        for seed in seeds:
            file = folder / model / f"seed_{seed}" / "metrics.json"
            if not file.is_file():
                row["failed"].append(seed)
                continue
            found = json.loads(file.read_text(encoding="utf-8"))
            for name, key in {**{metric: metric for metric in metrics}, **COSTS}.items():
                if found.get(key) is not None:
                    row[name].append(found[key])
            if found.get("floor/name"):
                share = [found["floor/accuracy"]]
                floor = {"model": found["floor/name"], "failed": [], "test/accuracy": share, "test/exact": share}
        rows.append(row)
    return rows if floor is None else [*rows, floor]


def report(rows: list[dict[str, Any]], metrics: Sequence[str], folder: Path, *, command: str) -> None:
    """Print the table, and write ``comparison.md``, ``comparison.json`` and ``comparison.png``."""
    cells = table(rows, metrics)
    print("\n" + "\n".join(aligned(cells)))
    heading, *body = ["| " + " | ".join(line) + " |" for line in cells]
    rule = "|" + "---|" * len(cells[0])
    told = environment()
    text = [f"`{command}`", "", heading, rule, *body, "", f"Mean ± standard deviation over runs; {told['platform']}"]
    (folder / "comparison.md").write_text("\n".join(text) + "\n", encoding="utf-8")
    kept = {"command": command, "rows": rows, **told}
    (folder / "comparison.json").write_text(json.dumps(kept, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    picture(rows, metrics[0], folder / "comparison.png")
    print(f"\ncomparison.md, comparison.json, comparison.png and every run lie in {folder}", flush=True)


def table(rows: list[dict[str, Any]], metrics: Sequence[str]) -> list[list[str]]:
    """Return heading and lines: mean ± standard deviation of each metric in per cent, then mean costs and runs."""
    lines = [["model", *map(_label, metrics), *COSTS, "runs"]]
    for row in rows:
        shares = [_spread([_factor(name) * value for value in row.get(name, [])]) for name in metrics]
        costs = [f"{statistics.fmean(row[name]):,.0f}" if row.get(name) else "" for name in COSTS]
        runs = str(len(row["seconds"])) if "parameters" in row else ""
        failed = f" (failed: {', '.join(map(str, row['failed']))})" if row["failed"] else ""
        lines.append([row["model"], *shares, *costs, runs + failed])
    return lines


def picture(rows: list[dict[str, Any]], metric: str, path: Path) -> Path:
    """Draw each run as a dot with the mean as a line, the trivial baseline across, and beside it seconds and size."""
    from matplotlib.figure import Figure

    models = [row for row in rows if "parameters" in row and row[metric]]
    floors = [row for row in rows if "parameters" not in row and metric in row]
    panels = [metric, *(name for name in COSTS if any(row[name] for row in models))]
    figure = Figure(figsize=(4.2 + 2.6 * len(panels), 1.6 + 0.42 * len(models)), layout="constrained")
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False, width_ratios=[2.0] + [1.0] * (len(panels) - 1))[
        0
    ]
    places = list(range(len(models)))[::-1]
    for axis, name in zip(axes, panels, strict=True):
        for place, row in zip(places, models, strict=True):
            values = [_factor(name) * value if name == metric else value for value in row[name]]
            if name == metric:
                axis.plot(values, [place] * len(values), "o", color=TRAIN, alpha=0.6)
                axis.plot([statistics.fmean(values)] * 2, [place - 0.3, place + 0.3], color=TRAIN, linewidth=2)
            elif values:
                axis.barh(place, statistics.fmean(values), height=0.6, color=TRAIN, alpha=0.8)
        axis.set_xlabel(_label(name) if name == metric else name)
        axis.grid(axis="x", alpha=0.3)
        axis.locator_params(axis="x", nbins=5)
        axis.spines[["top", "right"]].set_visible(False)
    for row in floors:
        axes[0].axvline(_factor(metric) * row[metric][0], color=VAL, linestyle="--", label=row["model"])
        axes[0].legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False, fontsize=9)
    axes[0].set_yticks(places, [row["model"] for row in models])
    axes[0].set_ylim(-0.6, len(models) - 0.4)
    return save_figure(figure, path)


def _factor(metric: str) -> int:
    """Shares are shown in per cent, a loss is in nats, a number of words a number."""
    return 100 if any(part in metric for part in ("accuracy", "exact", "f1", "precision", "recall", "wer")) else 1


def _label(metric: str) -> str:
    return metric.removeprefix("test/").replace("_", " ") + (" %" if _factor(metric) == 100 else "")


def _spread(values: list[float]) -> str:
    if not values:
        return ""
    deviation = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.2f}{deviation}"
