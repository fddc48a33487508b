"""Several models under one budget: their runs' numbers as one table and one picture."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vsattn.viewing.fonts import shorten

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


def table(
    rows: Sequence[dict[str, Any]],
    metrics: Sequence[str],
    keys: Sequence[str] = ("model",),
    costs: Sequence[str] = tuple(COSTS),
) -> list[list[str]]:
    """Return heading and lines: what was run, mean ± standard deviation of each metric, mean costs and runs.

    Shares are in per cent. The best run of the last metric has a column where there are several runs of one kind.
    """
    several = any(len(row.get(name, [])) > 1 for row in rows for name in metrics) and tuple(keys) != ("model",)
    topped = metrics[-1:] if several else ()
    lines = [[*keys, *map(label, metrics), *(f"best {label(name)}" for name in topped), *costs, "runs"]]
    for row in rows:
        shares = [_spread(row.get(name, []), name) for name in metrics]
        top = [_spread([best(row[name], name)] if row[name] else [], name) for name in topped]
        spent = [f"{statistics.fmean(row[name]):,.0f}" if row.get(name) else "" for name in costs]
        runs = str(len(row["seconds"])) if "parameters" in row else ""
        failed = f" (failed: {', '.join(map(str, row['failed']))})" if row["failed"] else ""
        lines.append([*(str(row[key]) for key in keys), *shares, *top, *spent, runs + failed])
    return lines


def picture(rows: list[dict[str, Any]], metric: str, path: Path) -> Path:
    """Draw each run as a dot with the mean as a line, the trivial baseline across, and beside it seconds and size."""
    from matplotlib.figure import Figure

    models = [row for row in rows if "parameters" in row and row[metric]]
    floors = [row for row in rows if "parameters" not in row and metric in row]
    panels = [metric, *(name for name in COSTS if any(row.get(name) for row in models))]
    figure = Figure(figsize=(4.2 + 2.6 * len(panels), 1.6 + 0.42 * len(models)), layout="constrained")
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False, width_ratios=[2.0] + [1.0] * (len(panels) - 1))[
        0
    ]
    places = list(range(len(models)))[::-1]
    for axis, name in zip(axes, panels, strict=True):
        for place, row in zip(places, models, strict=True):
            values = [factor(name) * value if name == metric else value for value in row.get(name, [])]
            if name == metric:
                axis.plot(values, [place] * len(values), "o", color=TRAIN, alpha=0.6)
                axis.plot([statistics.fmean(values)] * 2, [place - 0.3, place + 0.3], color=TRAIN, linewidth=2)
            elif values:
                axis.barh(place, statistics.fmean(values), height=0.6, color=TRAIN, alpha=0.8)
        axis.set_xlabel(label(name) if name == metric else name)
        axis.grid(axis="x", alpha=0.3)
        axis.locator_params(axis="x", nbins=5)
        axis.spines[["top", "right"]].set_visible(False)
    for row in floors:
        axes[0].axvline(factor(metric) * row[metric][0], color=VAL, linestyle="--", label=row["model"])
        axes[0].legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False, fontsize=9)
    axes[0].set_yticks(places, [shorten(row["model"], 60) for row in models])
    axes[0].set_ylim(-0.6, len(models) - 0.4)
    return save_figure(figure, path)


def factor(metric: str) -> int:
    """Shares are shown in per cent, a loss is in nats, a number of words a number."""
    return 100 if any(part in metric for part in ("accuracy", "exact", "f1", "precision", "recall", "wer")) else 1


def label(metric: str) -> str:
    """Return a metric's name for readers, with its unit."""
    return metric.removeprefix("test/").replace("_", " ").replace("/", " ") + (" %" if factor(metric) == 100 else "")


def best(values: Sequence[float], metric: str) -> float:
    """Return the smallest of losses and error rates, and the largest of anything else."""
    return min(values) if any(part in metric for part in ("loss", "wer", "error", "perplexity")) else max(values)


def _spread(values: Sequence[float], metric: str) -> str:
    """Return mean ± standard deviation: shares in per cent, losses with four digits."""
    if not values:
        return ""
    shown, digits = [factor(metric) * value for value in values], 4 if "loss" in metric else 2
    deviation = f" ± {statistics.stdev(shown):.{digits}f}" if len(shown) > 1 else ""
    return f"{statistics.fmean(shown):.{digits}f}{deviation}"
