"""What a run shows of its progress: a table with one row an epoch, and one line or one bar an epoch."""

from __future__ import annotations

import csv
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback, RichProgressBar

from .base import Task

Row = dict[str, Any]


class EpochTable(Callback):
    """Keeps one row of measures an epoch, writes it to a CSV file, and hands it to ``show``.

    Args:
        path: the file, written anew when a column appears, otherwise appended to; None writes none.
        show: called with the row and the number of epochs (-1: no end).
    """

    def __init__(self, path: Path | None, *, show: Callable[[Row, int], None] | None = None) -> None:
        self.path, self.show = path, show
        self.rows: list[Row] = []
        self._val: Row = {}
        self._began = 0.0
        self._columns: list[str] = []

    def state_dict(self) -> dict[str, Any]:
        """Return the rows, and what the next one has so far."""
        return {"rows": self.rows, "val": self._val, "seconds": time.perf_counter() - self._began}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there."""
        self.rows, self._val = list(state_dict["rows"]), state_dict["val"]
        self._began = time.perf_counter() - state_dict["seconds"]

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the epoch's clock."""
        self._began, self._val = time.perf_counter(), {}

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note the validation measures, which come before the end of the training epoch."""
        assert isinstance(pl_module, Task)
        self._val = pl_module.results("val")

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Complete the row."""
        assert isinstance(pl_module, Task)
        row = {
            "epoch": trainer.current_epoch + 1,
            "step": trainer.global_step,
            "lr": trainer.optimizers[0].param_groups[0]["lr"] if trainer.optimizers else None,
            **pl_module.results("train"),
            **self._val,
            "seconds": time.perf_counter() - self._began,
        }
        self.rows.append(row)
        if trainer.is_global_zero:
            if self.path is not None:
                self._write(self.path)
            if self.show is not None:
                self.show(row, trainer.max_epochs or -1)

    def _write(self, path: Path) -> None:
        columns = list(dict.fromkeys(key for row in self.rows for key in row))
        columns.sort(key="seconds".__eq__)
        fresh = len(self.rows) == 1 or set(columns) != set(self._columns)
        self._columns = columns if fresh else self._columns
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w" if fresh else "a", newline="") as file:
            writer = csv.DictWriter(file, self._columns)
            if fresh:
                writer.writeheader()
            writer.writerows(self.rows if fresh else self.rows[-1:])


def print_row(row: Row, epochs: int) -> None:
    """Print one epoch as one line: its number, every train and val measure, and the seconds."""
    number = f"{row['epoch']:>{len(str(epochs))}}/{epochs}" if epochs > 0 else str(row["epoch"])
    parts = [f"epoch {number}"]
    for stage in ("train", "val"):
        measures = [f"{key.split('/', 1)[1]} {value:.4f}" for key, value in row.items() if key.startswith(f"{stage}/")]
        parts.append(f"{stage} " + (" ".join(measures) or "-"))
    print("  ".join([*parts, f"{row['seconds']:.1f} s"]), flush=True)


class EpochBar(RichProgressBar):
    """Lightning's Rich bar for the epoch in progress, with its loss and metrics so far; finished epochs are lines.

    Args:
        every: seconds between two looks at the measures.
    """

    def __init__(self, *, every: float = 0.25) -> None:
        super().__init__(refresh_rate=1, leave=False)
        self._every, self._next = every, 0.0
        self._shown: dict[str, Any] = {}

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        """Return what stands at the end of the bar."""
        if trainer.world_size > 1:  # computing them waits for the other ranks, which draw no bar
            return {}
        now = time.perf_counter()
        if isinstance(pl_module, Task) and now >= self._next:
            self._next = now + self._every
            self._shown = {k.split("/", 1)[1]: f"{v:.4f}" for k, v in pl_module.results("train").items()}
        return dict(self._shown)

    def _get_train_description(self, current_epoch: int) -> str:
        epochs = self.trainer.max_epochs or -1
        return f"epoch {current_epoch + 1}" + (f"/{epochs}" if epochs > 0 else "")
