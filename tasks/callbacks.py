"""What happens beside training: the table of epochs, one line or one bar an epoch, and the two checkpoints."""

from __future__ import annotations

import csv
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, RichProgressBar, WeightAveraging

from vsattn.errors import ConfigError

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


def is_trial(trainer: pl.Trainer) -> bool:
    """Tell whether this is ``fast_dev_run``, which keeps nothing."""
    return bool(trainer.fast_dev_run)  # type: ignore[attr-defined]


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


class Checkpoints(ModelCheckpoint):
    """Two files: ``best.ckpt`` by a validation measure, and ``last.ckpt`` of the last epoch that ended.

    Lightning's own ``save_last`` renews the last one only when the best one changes, and with
    ``save_on_exception`` it would overwrite the best one by the weights of the moment. Here both keep their meaning.
    The weights that were validated are the ones in ``best.ckpt``, averaged weights included.

    Args:
        dirpath: the folder.
        monitor: a measure of every validation, such as ``val/loss`` or ``val/accuracy``.
        mode: whether it should be small or large.
        save_last: keep ``last.ckpt``.
        last_every: seconds that must pass before it is written again, since an epoch may be shorter than the writing;
            the last epoch of all is always written.
        save_on_exception: write ``last.ckpt`` also when training is interrupted, but not when the loss was not finite.
        save_weights_only: leave out the optimizer's state, with which training could go on.
    """

    def __init__(
        self,
        dirpath: str | Path | None = None,
        *,
        monitor: str = "val/loss",
        mode: Literal["min", "max"] = "min",
        save_last: bool = True,
        last_every: float = 10.0,
        save_on_exception: bool = True,
        save_weights_only: bool = False,
    ) -> None:
        super().__init__(
            dirpath,
            filename="best",
            monitor=monitor,
            mode=mode,
            save_on_exception=save_on_exception,
            save_weights_only=save_weights_only,
            auto_insert_metric_name=False,
            enable_version_counter=False,
            save_on_train_epoch_end=False,
        )
        self.keep_last, self.last_every, self._written = save_last, last_every, 0.0

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Renew ``last.ckpt``."""
        super().on_train_epoch_end(trainer, pl_module)
        epochs_done = trainer.max_epochs is not None and 0 < trainer.max_epochs <= trainer.current_epoch + 1
        steps_done = 0 < trainer.max_steps <= trainer.global_step
        if epochs_done or steps_done or trainer.should_stop or time.monotonic() - self._written >= self.last_every:
            self._save_last(trainer)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Renew ``last.ckpt`` when training is interrupted, so that it can go on."""
        if self.save_on_exception and self.keep_last and trainer.training:
            self._save_last(trainer)
            if trainer.is_global_zero and self.last_model_path:
                print(f"interrupted; the weights of this moment are in {self.last_model_path}", flush=True)

    def _save_last(self, trainer: pl.Trainer) -> None:
        if self.keep_last and not is_trial(trainer) and self.dirpath is not None:
            self.last_model_path = str(Path(self.dirpath) / "last.ckpt")
            trainer.save_checkpoint(self.last_model_path, self.save_weights_only)
            self._written = time.monotonic()


class AverageLast(WeightAveraging):
    """Tests the mean of the weights after each of the last epochs (Vaswani et al. 2017, section 6.1).

    Until the first of them ends, what is validated and kept are the weights of the moment.

    Args:
        epochs: how many; the first of them is the last that was not averaged.

    Raises:
        ConfigError: for fewer than one.
    """

    def __init__(self, epochs: int = 5) -> None:
        if epochs < 1:
            raise ConfigError(f"AverageLast.epochs is at least 1, not {epochs}")
        super().__init__()
        self.epochs = epochs

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Make room for the mean.

        Raises:
            ConfigError: for a training without a last epoch.
        """
        if stage == "fit" and (trainer.max_epochs or -1) < 1:
            raise ConfigError("AverageLast averages the last epochs: set trainer.max_epochs")
        super().setup(trainer, pl_module, stage)

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        """Never by itself: :meth:`on_train_batch_end` knows which batch is an epoch's last."""
        return False

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Add the weights after an epoch's last batch, before they are validated."""
        assert self._average_model is not None
        if trainer.is_last_batch and not self._taken(trainer, pl_module):
            self._average_model.update_parameters(pl_module)

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Validate the weights of the moment also within an epoch."""
        self._taken(trainer, pl_module)
        super().on_validation_epoch_start(trainer, pl_module)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Leave the weights of the moment for the checkpoint of an interrupted epoch."""
        if trainer.training:
            self._taken(trainer, pl_module)

    def _taken(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> bool:
        """Until the first of the epochs ends, make the weights of the moment the mean; tell whether it is so."""
        early = trainer.current_epoch <= (trainer.max_epochs or 0) - self.epochs
        if early and self._average_model is not None:
            self._average_model.n_averaged.zero_()  # so that the update takes the weights as they are
            self._average_model.update_parameters(pl_module)
        return early
