"""Numbers that are reported: scores of a test set with their uncertainty, where they come from, and tables."""

from __future__ import annotations

import json
import math
import platform
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

import vsattn

#: Packages whose versions are reported.
PACKAGES = (
    "torch", "torchvision", "torchaudio", "torch-geometric", "lightning", "torchmetrics", "numpy", "scikit-learn"
)  # fmt: skip


def accuracy(name: str, right: np.ndarray, *, seed: int) -> dict[str, float]:
    """Return the share of right answers, bool ``(n,)``, as ``test/<name>``, with its interval."""
    low, high = bootstrap(right, seed=seed)
    return {f"test/{name}": float(right.mean()), f"test/{name}_low": low, f"test/{name}_high": high}


def classification(
    targets: np.ndarray, predictions: np.ndarray, classes: Sequence[str], *, seed: int
) -> dict[str, float]:
    """Score labels ``(n,)`` against targets ``(n,)``.

    Returns ``test/accuracy`` with ``_low`` and ``_high`` (a 95% interval), ``test/f1_macro``, and
    ``test/precision/<class>``, ``recall``, ``f1`` and ``support`` of each class among the targets or the predictions.
    """
    from sklearn.metrics import precision_recall_fscore_support

    correct = np.asarray(targets) == np.asarray(predictions)
    present = sorted({*np.unique(targets).tolist(), *np.unique(predictions).tolist()})
    columns = precision_recall_fscore_support(targets, predictions, labels=present, zero_division=0.0)
    scores = {**accuracy("accuracy", correct, seed=seed), "test/f1_macro": float(columns[2].mean())}
    for name, column in zip(("precision", "recall", "f1", "support"), columns, strict=True):
        for label, value in zip(present, column, strict=True):
            scores[f"test/{name}/{classes[label]}"] = int(value) if name == "support" else float(value)
    return scores


def bootstrap(correct: np.ndarray, *, seed: int, resamples: int = 10_000, level: float = 0.95) -> tuple[float, float]:
    """Return the percentile bootstrap interval of a share of right answers (Efron and Tibshirani 1993, chapter 13).

    Drawing n of n right-or-wrong answers with replacement gives a binomial number of right ones, so that
    is drawn directly.
    """
    n = len(correct)
    shares = np.random.default_rng(seed).binomial(n, float(np.mean(correct)), size=resamples) / n
    low, high = np.quantile(shares, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def linear_floor(
    train: np.ndarray, train_targets: np.ndarray, test: np.ndarray, test_targets: np.ndarray
) -> np.ndarray:
    """Return which of the test answers logistic regression gets right, bool ``(n,)``.

    Args:
        train, test: features ``(m, F)`` and ``(n, F)``, standardised here by the training part.
        train_targets, test_targets: classes ``(m,)`` and ``(n,)``.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if len(np.unique(train_targets)) == 1:
        return test_targets == train_targets[0]
    machine = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    return machine.fit(train, train_targets).predict(test) == test_targets


def environment() -> dict[str, str]:
    """Return versions, the system, and the git revision of the code where there is one, as flat strings."""
    found = {"versions/vsattn": vsattn.__version__, "versions/python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[f"versions/{name}"] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    revision = git_revision(Path(vsattn.__file__).resolve().parent.parent)
    return {**found, "platform": platform.platform(), **({"git_revision": revision} if revision else {})}


def git_revision(checkout: Path) -> str | None:
    """Return the commit of a checkout, with ``-dirty`` when files differ from it; None if it is no checkout."""
    if not (checkout / ".git").exists():
        return None
    command = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def peak_memory(device: str | torch.device = "cpu") -> float | None:
    """Return the most memory that this process has held so far, in MB; None where the system does not say.

    Args:
        device: whose memory; of a GPU it is what PyTorch's tensors have held.
    """
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    status = Path("/proc/self/status")
    if status.is_file():  # Linux, whose getrusage counts what a process held before it became this program
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1.024e-3  # what is called kB there has 1,024 bytes
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS, kilobytes elsewhere
    return peak * (1e-6 if sys.platform == "darwin" else 1.024e-3)


def write_metrics(metrics: dict[str, Any], path: Path) -> None:
    """Write a flat JSON file; a number that is not finite becomes null."""
    plain = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in metrics.items()}
    path.write_text(json.dumps(plain, indent=2, allow_nan=False, ensure_ascii=False) + "\n", encoding="utf-8")


def tables(metrics: dict[str, Any], split: str = "test") -> list[tuple[list[str], list[list[str]]]]:
    """Arrange ``test/...`` numbers as tables (heading, rows): whole-set scores first, then scores of each class.

    Args:
        metrics: flat.
        split: what the heading says was judged.
    """
    whole = {k.split("/", 1)[1]: v for k, v in metrics.items() if k.startswith("test/") and k.count("/") == 1}
    rows = []
    for name, value in whole.items():
        if name.endswith(("_low", "_high")):
            continue
        interval = f"{name}_low" in whole and f"{name}_high" in whole
        between = f"{number(whole[f'{name}_low'])} to {number(whole[f'{name}_high'])}" if interval else ""
        rows.append([name, number(value), between])
    result = [([split, "value", "95% interval"], rows)] if rows else []
    by_class: dict[str, dict[str, Any]] = {}
    for key, value in metrics.items():
        if key.startswith("test/") and key.count("/") > 1:
            _, name, label = key.split("/", 2)
            by_class.setdefault(label, {})[name] = value
    if by_class:
        names = list(dict.fromkeys(name for scores in by_class.values() for name in scores))
        rows = [[label, *(number(scores.get(name)) for name in names)] for label, scores in by_class.items()]
        result.append((["class", *names], rows))
    return result


def number(value: Any) -> str:
    """Write a number for a table: whole ones whole, others with four decimals, none as a dash."""
    if value is None:
        return "-"
    return str(value) if isinstance(value, int) else f"{value:.4f}"


def show_tables(metrics: dict[str, Any], split: str = "test") -> None:
    """Print the tables: with Rich on a terminal, as aligned plain text elsewhere."""
    for heading, rows in tables(metrics, split):
        if sys.stdout.isatty():
            _rich(heading, rows)
        else:
            print("\n" + "\n".join(aligned([heading, *rows])), flush=True)


def _rich(heading: list[str], rows: list[list[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table()
    for index, name in enumerate(heading):
        table.add_column(Text(name), justify="right" if index else "left")
    for row in rows:
        table.add_row(*[Text(cell) for cell in row])
    Console().print(table)


def aligned(rows: list[list[str]]) -> list[str]:
    """Return the rows as lines of columns, the first to the left and the others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]).rstrip()
        for row in rows
    ]
