"""What happens beside training: the two checkpoints, and averages of the weights."""

from __future__ import annotations

import shlex
import signal
import time
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import ModelCheckpoint, WeightAveraging

from vsattn.errors import CheckpointError, ConfigError, Stopped

from .stopping import StopRequest


def is_trial(trainer: pl.Trainer) -> bool:
    """Tell whether this is ``fast_dev_run``, which keeps nothing."""
    return bool(trainer.fast_dev_run)  # type: ignore[attr-defined]


class Checkpoints(ModelCheckpoint):
    """Two files: ``best.ckpt`` by a validation measure, and ``last.ckpt``, from which training can go on.

    Lightning's own ``save_last`` renews the last one only when the best one changes. Here both keep their meaning.
    The weights that were validated are the ones in ``best.ckpt``, averaged weights included. ``last.ckpt`` is written
    after an epoch, or between two batches of a long one, and never when something has failed: what was written before
    is the last good one. Each file takes its place when it is complete.

    Args:
        dirpath: the folder.
        monitor: a measure of every validation, such as ``val/loss`` or ``val/accuracy``.
        mode: whether it should be small or large.
        save_last: keep ``last.ckpt``.
        last_every: seconds that must pass before it is written again after an epoch, since an epoch may be shorter
            than the writing; the last epoch of all is always written.
        within_epoch_every: seconds after which it is written within an epoch too.
        save_weights_only: leave out the optimizer's state, without which training cannot go on.

    Raises:
        ConfigError: for negative times.
    """

    def __init__(
        self,
        dirpath: str | Path | None = None,
        *,
        monitor: str = "val/loss",
        mode: Literal["min", "max"] = "min",
        save_last: bool = True,
        last_every: float = 10.0,
        within_epoch_every: float = 600.0,
        save_weights_only: bool = False,
    ) -> None:
        if min(last_every, within_epoch_every) < 0:
            raise ConfigError(
                f"last_every and within_epoch_every are seconds, at least 0, not {last_every} and {within_epoch_every}"
            )
        super().__init__(
            dirpath,
            filename="best",
            monitor=monitor,
            mode=mode,
            save_weights_only=save_weights_only,
            auto_insert_metric_name=False,
            enable_version_counter=False,
            save_on_train_epoch_end=False,
        )
        self.keep_last, self.last_every, self.within_epoch_every = save_last, last_every, within_epoch_every
        self._written = -last_every
        self.request = StopRequest()
        self.stopped = self.past_its_end = False

    def state_dict(self) -> dict[str, Any]:
        """Return Lightning's state, and whether training had come to its end before the last epoch."""
        return {**super().state_dict(), "stopped": self.stopped}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over that state, in this folder, wherever the files were when it was written.

        Raises:
            CheckpointError: when the best weights so far are not beside the last ones.
        """

        def here(path: str) -> str:
            return path and str(Path(self.dirpath or "") / Path(path).name)

        held = {key: here(path) for key, path in state_dict.items() if key.endswith("_path")}
        best = held["best_model_path"]
        if best and not Path(best).is_file():
            raise CheckpointError(f"{best} is missing, which had the best weights so far; it belongs beside last.ckpt")
        scores = {here(path): score for path, score in state_dict["best_k_models"].items()}
        super().load_state_dict({**state_dict, **held, "best_k_models": scores, "dirpath": self.dirpath})
        self.stopped = state_dict.get("stopped", False)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """End at once what early stopping or a time limit had ended before, unless it is to go on all the same."""
        trainer.should_stop = trainer.should_stop or (self.stopped and not self.past_its_end)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Listen to signals, in the place of Lightning, which would end with exit code 0 after SIGTERM."""
        super().on_train_start(trainer, pl_module)
        self._written = time.monotonic() - self.last_every
        if self._resumable(trainer):
            self.request.listen(speaks=trainer.is_global_zero)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Renew ``last.ckpt`` within a long epoch, and end here when asked to."""
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        if not self._resumable(trainer) or not between_batches(trainer):
            return
        asked, late = self._agreed(trainer, self.within_epoch_every)
        if asked or late:
            self._save_last(trainer)
        self._stop(trainer, asked, f"in epoch {trainer.current_epoch + 1}")

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Renew ``last.ckpt``, and end here when asked to."""
        super().on_train_epoch_end(trainer, pl_module)
        epochs_done = trainer.max_epochs is not None and 0 < trainer.max_epochs <= trainer.current_epoch + 1
        steps_done = 0 < trainer.max_steps <= trainer.global_step
        self.stopped = trainer.should_stop
        over = epochs_done or steps_done or self.stopped
        asked, late = self._agreed(trainer, self.last_every)
        if over or asked or late:
            self._save_last(trainer)
        if not over:
            self._stop(trainer, asked, f"in epoch {trainer.current_epoch + 1}")

    def stop_if_asked(self, trainer: pl.Trainer) -> None:
        """Raise `Stopped` when a signal came as training ended by itself: testing is left."""
        self._stop(trainer, self.request.number, "before testing")

    def _agreed(self, trainer: pl.Trainer, every: float) -> tuple[int, bool]:
        """Return the signal that was heard, and whether so many seconds have passed: the same in all processes."""
        late = time.monotonic() - self._written >= every
        if trainer.world_size > 1:
            told = torch.tensor([self.request.number, late], device=trainer.strategy.root_device)
            torch.distributed.all_reduce(told, torch.distributed.ReduceOp.MAX)
            self.request.number, late = told.tolist()
        return self.request.number, bool(late)

    def _stop(self, trainer: pl.Trainer, asked: int, where: str) -> None:
        if asked and self._resumable(trainer):
            word = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}[signal.Signals(asked)]
            folder = Path(self.last_model_path).parent.parent
            raise Stopped(
                f"{word} {where}, after step {trainer.global_step}; "
                f"to go on: python -m vsattn.run resume={shlex.quote(str(folder))}",
                asked,
            )

    def _resumable(self, trainer: pl.Trainer) -> bool:
        return self.keep_last and not self.save_weights_only and self.dirpath is not None and not is_trial(trainer)

    def _save_last(self, trainer: pl.Trainer) -> None:
        if self.keep_last and not is_trial(trainer) and self.dirpath is not None:
            self.last_model_path = str(Path(self.dirpath) / "last.ckpt")
            trainer.save_checkpoint(self.last_model_path, self.save_weights_only)
            self._written = time.monotonic()


def between_batches(trainer: pl.Trainer) -> bool:
    """Tell whether training could go on from here, at the end of a batch: steps are made, and no validation is due."""
    loop = trainer.fit_loop
    ends = loop.epoch_loop.batch_progress.is_last_batch or loop.epoch_loop._num_ready_batches_reached()
    waits = loop._should_accumulate() or trainer.should_stop
    validates = loop._data_fetcher is not None and loop.epoch_loop._should_check_val_fx(loop._data_fetcher)
    return not (ends or waits or validates)


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

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keep the weights of the moment in the checkpoint of an epoch that goes on."""
        self._taken(trainer, pl_module)
        super().on_save_checkpoint(trainer, pl_module, checkpoint)

    def _taken(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> bool:
        """Until the first of the epochs ends, make the weights of the moment the mean; tell whether it is so."""
        early = trainer.current_epoch <= (trainer.max_epochs or 0) - self.epochs
        if early and self._average_model is not None:
            self._average_model.n_averaged.zero_()  # so that the update takes the weights as they are
            self._average_model.update_parameters(pl_module)
        return early
