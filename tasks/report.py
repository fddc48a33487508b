"""Figures of a finished run: intervals, per-class scores, versions, and the files they are written to."""

from __future__ import annotations

import csv
import importlib.metadata
import json
import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

PACKAGES = ("vsattn", "torch", "torchvision", "lightning", "hydra-core", "numpy")


def bootstrap_interval(
    correct: np.ndarray, *, confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Return the percentile bootstrap interval of an accuracy (Efron and Tibshirani 1993, chapter 13).

    Args:
        correct: bool ``(n,)``, one entry per test item.
        confidence: coverage of the interval.
        resamples: how many resamples; ``seed`` draws them.
    """
    from scipy.stats import bootstrap

    values = np.asarray(correct, dtype=np.float64)
    if len(values) < 2 or values.min() == values.max():
        return float(values.mean()), float(values.mean())
    interval = bootstrap(
        (values,), np.mean, confidence_level=confidence, n_resamples=resamples, method="percentile",
        batch=max(1, 2_000_000 // len(values)), rng=np.random.default_rng(seed),
    ).confidence_interval  # fmt: skip
    return float(interval.low), float(interval.high)


def per_class(
    expected: np.ndarray, predicted: np.ndarray, classes: Sequence[str]
) -> tuple[list[tuple[str, float, float, float, int]], float]:
    """Return rows ``(class, precision, recall, F1, count)`` and the mean F1 over the classes, by scikit-learn."""
    from sklearn.metrics import precision_recall_fscore_support

    labels = list(range(len(classes)))
    columns = precision_recall_fscore_support(expected, predicted, labels=labels, zero_division=0.0)
    rows = [
        (name, float(p), float(r), float(f), int(n)) for name, p, r, f, n in zip(classes, *columns, strict=True)
    ]
    return rows, float(np.mean([row[3] for row in rows]))


def environment() -> dict[str, Any]:
    """Return versions of what ran, and the git revision of the current folder where there is one."""
    found: dict[str, Any] = {"versions/python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[f"versions/{package}"] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            if package == "vsattn":  # an uninstalled checkout knows its version itself
                import vsattn

                found["versions/vsattn"] = vsattn.__version__
    try:
        revision = subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return found
    if revision.returncode == 0:
        found["git_revision"] = revision.stdout.strip()
    return found


def write_metrics(folder: Path, metrics: dict[str, Any], history: Sequence[dict[str, float]]) -> None:
    """Write ``metrics.json`` (flat) and ``metrics.csv`` (one row an epoch)."""
    text = json.dumps(metrics, indent=2, sort_keys=True)
    (folder / "metrics.json").write_text(text + "\n", encoding="utf-8")
    names = list(dict.fromkeys(name for row in history for name in row))
    with (folder / "metrics.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(history)


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a plain table, first column left and the others right."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]

    def line(row: Sequence[str]) -> str:
        cells = [cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))]
        return "  ".join(cells).rstrip()

    return "\n".join([line(header), "  ".join("-" * w for w in widths), *(line(row) for row in rows)])
