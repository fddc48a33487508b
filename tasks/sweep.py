"""The runs of a folder, such as a sweep's: what varied among them against what came of it, as tables and a plot."""

from __future__ import annotations

import csv
import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

from vsattn.errors import DataError

from .comparison import COSTS, best, table
from .report import aligned
from .sweep_plots import draw, told

#: What is reported beside metrics; memory is not, as jobs in one process share it.
SPENT = ("parameters", "seconds")

#: Settings that do not make a run another one.
SAME = ("seed", "paths", "compare", "num_threads", "num_workers")


@dataclass
class Job:
    """What ``job.json`` in the folder of each run of a sweep says; without an exit code it has not ended by itself.

    Args:
        folder: of the run.
        number: within the sweep.
        words: its settings, as they would be typed.
        exit_code: 0, or what went wrong.
        error: the same in words.
    """

    folder: Path
    number: int | None = None
    words: list[str] = field(default_factory=list)
    exit_code: int | None = None
    error: str = ""

    @classmethod
    def read(cls, folder: Path) -> Job:
        """Read the file, where there is one; raise DataError when it holds something else."""
        found = _read(folder / "job.json")
        kinds: dict[str, Any] = {"number": int | None, "words": list, "exit_code": int | None, "error": str}
        wrong = [name for name, value in found.items() if not isinstance(value, kinds.get(name, ()))]
        wrong += [] if wrong or all(isinstance(word, str) for word in found.get("words", [])) else ["words"]
        if wrong:
            raise DataError(f"{folder / 'job.json'} cannot be read: no sweep writes such {', '.join(wrong)}")
        return cls(folder, **found)

    def write(self) -> None:
        """Write the file."""
        kept = {key: value for key, value in asdict(self).items() if key != "folder"}
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "job.json").write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")


@dataclass
class Run:
    """One run: its job, its config and metrics where it came so far, and the settings in which it differs."""

    job: Job
    config: dict[str, Any]
    metrics: dict[str, Any]
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def exit_code(self) -> int:
        """0, or what went wrong; a run that was cut off failed, unless it was resumed and ended."""
        if self.job.exit_code == 0 or "wall_seconds" in self.metrics:
            return 0
        return self.job.exit_code or 1

    @property
    def name(self) -> str:
        """The number of its job, or its folder."""
        return self.job.folder.name if self.job.number is None else str(self.job.number)


def collect(folder: Path) -> list[Run]:
    """Read every run below a folder, in the order of their numbers, failed ones included.

    Raises:
        DataError: for a file that cannot be read.
    """
    places = {file.parent for name in ("job.json", "config.yaml") for file in folder.rglob(name)}
    places = {place for place in places if not places.intersection(place.parents)}  # loggers keep files of these names
    runs = []
    for place in places:
        runs.append(Run(Job.read(place), _read(place / "config.yaml"), _read(place / "metrics.json")))
    runs.sort(key=lambda run: (run.job.number is None, run.job.number or 0, str(run.job.folder)))
    for run, settings in zip(runs, _differences(runs), strict=True):
        run.settings = settings
    return runs


def _differences(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Return the settings of each run that differ between runs: of the words of its job, or else of its config."""
    typed = all(run.job.words for run in runs)
    found = [
        dict(word.lstrip("+~").split("=", 1) for word in run.job.words if "=" in word) if typed else _flat(run.config)
        for run in runs
    ]
    keys = [key for key in dict.fromkeys(key for each in found for key in each) if key.split(".")[0] not in SAME]
    columns: dict[str, tuple[str, ...]] = {}
    for key in keys:
        column = tuple(str(each.get(key, "")) for each in found)
        if len(set(column)) > 1 and (typed or not _repeats(key, column, columns)):
            columns[key] = column
    return [{key: _value(column[i]) for key, column in columns.items()} for i in range(len(runs))]


def _repeats(key: str, column: tuple[str, ...], columns: dict[str, tuple[str, ...]]) -> bool:
    """Tell whether a setting says nothing new: a reference to another one, or what belongs to a part that is named."""
    parts = [other for name, other in columns.items() if key.startswith(f"{name}.")]
    return column in columns.values() or any(
        len(set(zip(part, column, strict=True))) == len(set(part)) for part in parts
    )


def _flat(config: dict[str, Any], path: str = "") -> dict[str, Any]:
    """Return the settings of a config by their full keys; that of a part is its class, which stands before them."""
    found = {path: str(config["_target_"]).rsplit(".", 1)[-1]} if "_target_" in config else {}
    for key, value in config.items():
        name = f"{path}.{key}" if path else key
        found |= _flat(value, name) if isinstance(value, dict) else {} if key == "_target_" else {name: value}
    return found


def _value(text: str) -> Any:
    """Return the number that a text is, or the text."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _read(file: Path) -> dict[str, Any]:
    """Return what a file holds by name, nothing where there is no file."""
    if not file.is_file():
        return {}
    try:
        text = file.read_text("utf-8")
        found = yaml.safe_load(text) if file.suffix == ".yaml" else json.loads(text)
        json.dumps(found, default=str)  # YAML may hold itself
    except (OSError, ValueError, TypeError, RecursionError, yaml.YAMLError) as error:
        raise DataError(f"{file} cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
        raise DataError(f"{file} cannot be read: it holds no values by name")
    return found


def _within(config: Any, *names: str) -> Any:
    """Return a setting, or None where there is none."""
    for name in names:
        config = config.get(name) if isinstance(config, dict) else None
    return config


def _number(run: Run, name: str) -> float | None:
    """Return a number of a run's metrics, or None where it has none; raise DataError for something else."""
    value = run.metrics.get(name)
    if value is None or (isinstance(value, (int, float)) and abs(value) <= sys.float_info.max):
        return value
    raise DataError(f"{name} in {run.job.folder / 'metrics.json'} is no number: {str(value)[:80]}")


def metrics_of(runs: Sequence[Run]) -> list[str]:
    """Return what to report: the measure that chose the best checkpoints, then the metrics of the task's comparison."""
    compared = [_within(run.config, "compare", "metrics") for run in runs]
    named = [_monitor(run)[0] for run in runs]
    named += [name for names in compared if isinstance(names, list) for name in names if isinstance(name, str)]
    present = [name for name in dict.fromkeys(named) if any(run.metrics.get(name) is not None for run in runs)]
    if any(name.startswith("test/") for name in present):
        return present
    scores = [key for run in runs for key in run.metrics if key.startswith("test/") and key.count("/") == 1]
    return list(dict.fromkeys([*present, *scores[:1]]))


def summarize(runs: Sequence[Run], folder: Path, metrics: Sequence[str] | None = None) -> None:
    """Print the table, and write ``sweep.md``, ``sweep.csv``, ``runs.csv`` and ``sweep.png`` into the folder.

    Args:
        runs: of :func:`collect`.
        folder: for the files.
        metrics: names in ``metrics.json``; without them those of :func:`metrics_of`.

    Raises:
        DataError: for a metric that no run has.
    """
    metrics = list(metrics or metrics_of(runs))
    missing = [name for name in metrics if not any(run.metrics.get(name) is not None for run in runs)]
    if missing:
        raise DataError(f"no run in {folder} has the metric {', '.join(missing)}; see any metrics.json for the names")
    rows, keys = group(runs, metrics), list(runs[0].settings) or ["settings"]
    notes = [*_best(rows, keys, runs), *_gaps(rows, keys, metrics), *_failures(runs)]
    cells = table(rows, metrics, keys, SPENT)
    print("\n" + "\n".join([*aligned(cells), "", *notes]))
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in cells]
    text = [lines[0], "|" + "---|" * len(cells[0]), *lines[1:], "", "Mean ± standard deviation over runs.", *notes]
    (folder / "sweep.md").write_text("\n".join(text) + "\n", encoding="utf-8")
    _write_csv([_plain(row, keys, metrics) for row in rows], folder / "sweep.csv")
    _write_csv([_line(run, folder) for run in runs], folder / "runs.csv")
    drawn = draw(rows, keys, metrics, folder / "sweep.png")
    files = ["sweep.md", "sweep.csv", "runs.csv", *(["sweep.png"] if drawn else [])]
    print(f"\n{', '.join(files)} lie in {folder}", flush=True)


def group(runs: Sequence[Run], metrics: Sequence[str]) -> list[dict[str, Any]]:
    """Put runs that differ by their seed alone together.

    Returns:
        Rows as :func:`vsattn.tasks.comparison.collect` makes them, with the settings instead of a model's name.
    """
    rows: dict[str, dict[str, Any]] = {}
    for run in runs:
        named = run.settings or {"settings": "the same"}
        row = rows.setdefault(str(named), {**named, "failed": [], **{name: [] for name in (*metrics, *SPENT)}})
        if run.exit_code or not run.metrics:
            row["failed"].append(run.name)
            continue
        for name, key in {**{metric: metric for metric in metrics}, **{name: COSTS[name] for name in SPENT}}.items():
            if (value := _number(run, key)) is not None:
                row[name].append(value)
    return list(rows.values())


def _monitor(run: Run) -> tuple[str, str]:
    """Return the measure that chose a run's best checkpoint, and whether it should be small or large."""
    monitor, mode = (str(_within(run.config, "callbacks", "checkpoint", name) or "") for name in ("monitor", "mode"))
    return monitor, mode or "min"


def _best(rows: Sequence[dict[str, Any]], keys: Sequence[str], runs: Sequence[Run]) -> list[str]:
    """Say which settings are the best by the validation measure: by the test they would be chosen to please it."""
    monitor, mode = next((_monitor(run) for run in runs if _monitor(run)[0] in run.metrics), ("", ""))
    scored = [(statistics.fmean(row[monitor]), row) for row in rows if row.get(monitor)]
    if len(scored) < 2:
        return []
    value, row = (min if mode == "min" else max)(scored, key=lambda pair: pair[0])
    return [f"best by {monitor} ({value:.4f}, runs: {len(row[monitor])}): {' '.join(told(row, keys))}"]


def _gaps(rows: Sequence[dict[str, Any]], keys: Sequence[str], metrics: Sequence[str]) -> list[str]:
    """Say which means are of fewer runs than ended, as one of a loss that was infinite in some."""
    return [
        f"{name} is a number in {len(row[name])} of {len(row['seconds'])} runs ({' '.join(told(row, keys))})"
        for row in rows
        for name in metrics
        if 0 < len(row[name]) < len(row["seconds"])
    ]


def _failures(runs: Sequence[Run]) -> list[str]:
    """Name each run that failed, with why and where."""
    lines = []
    for run in runs:
        if run.exit_code:
            seed = [word for word in run.job.words if word.startswith("seed=")]
            which = " ".join([*told(run.settings, list(run.settings)), *seed])
            why = (run.job.error or "it was cut off").splitlines()[0]
            lines.append(f"failed: {run.name} ({which}), {why}; {run.job.folder}")
    return lines


def _plain(row: dict[str, Any], keys: Sequence[str], metrics: Sequence[str]) -> dict[str, Any]:
    """Return a row of the table as plain numbers."""
    found = {key: row[key] for key in keys} | {"runs": len(row["seconds"]), "failed": len(row["failed"])}
    for name in metrics:
        values = row[name]
        found[f"{name} mean"] = statistics.fmean(values) if values else None
        found[f"{name} deviation"] = statistics.stdev(values) if len(values) > 1 else None
        found[f"{name} best"] = best(values, name) if values else None
    return found | {name: statistics.fmean(row[name]) if row[name] else None for name in SPENT}


def _line(run: Run, folder: Path) -> dict[str, Any]:
    """Return one run with all its numbers."""
    whole = {"folder": str(run.job.folder.relative_to(folder)), "exit_code": run.exit_code, "error": run.job.error}
    return whole | run.settings | {key: value for key, value in run.metrics.items() if key.count("/") < 2}


def _write_csv(rows: Sequence[dict[str, Any]], path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row)))
        writer.writeheader()
        writer.writerows(rows)
