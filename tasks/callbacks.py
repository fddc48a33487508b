"""What is shown while a model trains: a bar on a terminal, one line an epoch in a log."""

from __future__ import annotations

import sys
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, RichProgressBar


class EpochLines(Callback):
    """Print one line at the end of each epoch."""

    def on_validation_end(self, trainer: Trainer, task: LightningModule) -> None:
        if trainer.sanity_checking or not trainer.is_global_zero or not task.history:
            return
        row = task.history[-1]
        parts = [f"{name} {value:.4f}" for name, value in row.items() if name not in ("epoch", "seconds")]
        total = trainer.max_epochs if trainer.max_epochs and trainer.max_epochs > 0 else "?"
        print(f"epoch {int(row['epoch']) + 1}/{total}  {'  '.join(parts)}  {row['seconds']:.1f} s", flush=True)


class EpochBar(RichProgressBar):
    """Lightning's Rich bar with the epoch's running loss and accuracy."""

    def get_metrics(self, trainer: Trainer, task: LightningModule) -> dict[str, Any]:
        means = {f"train {name}": f"{value:.3f}" for name, value in task.running().items()}
        last = task.history[-1] if task.history else {}
        return {**means, **{k.replace("/", " "): f"{v:.3f}" for k, v in last.items() if k.startswith("val/")}}


def progress() -> Callback:
    """Return the bar when a person watches a terminal, else the lines."""
    return EpochBar(refresh_rate=5) if sys.stdout.isatty() else EpochLines()
