"""Fit a task, then test it once with its best weights: plain arguments in, numbers and objects out."""

from __future__ import annotations

import contextlib
import copy
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback, Checkpoint, EarlyStopping, Timer
from lightning.pytorch.loggers import CSVLogger, Logger
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from vsattn.checkpoint import read
from vsattn.errors import ConfigError, nearest

from .base import Task
from .callbacks import Checkpoints, is_trial
from .checks import trainer_faults
from .cluster import requeueing
from .data.base import Data
from .distributed import Together, fingerprint, joined, judged_by_first, require_whole_weights, spread
from .loading import Loader, make_loaders
from .loggers import informed, tell_scores
from .progress import EpochBar, EpochTable, Row, print_row
from .stopping import signals_given_back
from .strategies import with_parts
from .telling import NOISE, plain_errors, quiet, written

#: Arguments that testing shares with training.
SHARED = (
    "accelerator",
    "precision",
    "fast_dev_run",
    "limit_test_batches",
    "deterministic",
    "benchmark",
    "inference_mode",
)


@dataclass
class Result:
    """What a run leaves: flat metrics, and the objects that made them."""

    metrics: dict[str, Any]
    task: Task
    data: Data
    trainer: pl.Trainer
    folder: Path
    rows: list[dict[str, Any]] = field(default_factory=list)


def train(
    task: Task,
    data: Data,
    *,
    folder: Path,
    batch_size: int,
    batch_vectors: int | None = None,
    num_workers: int = 0,
    trainer: dict[str, Any] | None = None,
    callbacks: Sequence[Callback] = (),
    loggers: Sequence[Logger] = (),
    seed: int = 0,
    resume: str | Path | None = None,
) -> Result:
    """Fit ``task`` on ``data.train``, choose by ``data.val``, and test the best weights on ``data.test``, once.

    Args:
        task: the model with its losses and metrics.
        data: set up.
        folder: receives ``metrics.csv``, and what callbacks and loggers write.
        batch_size: items of a batch, in all splits.
        batch_vectors: instead, how many vectors a batch has at most, see :class:`~vsattn.tasks.loading.Order`.
        num_workers: processes that load batches; 0 loads in this one.
        trainer: arguments of Lightning's ``Trainer``; with ``overfit_batches`` nothing is augmented or smoothed.
        callbacks: a `Checkpoint` among them decides which weights are tested; without one, the last.
        loggers: Lightning loggers.
        seed: orders the training items, and draws the intervals.
        resume: a ``last.ckpt`` of the same training, to go on from there.

    Raises:
        ConfigError: for arguments that Lightning refuses.
        Stopped: after SIGINT or SIGTERM, with a checkpoint to go on from.
        DataError: for an item that cannot be read, also when a loader's process finds it.
        VsattnError: when the loss is not finite.
    """
    arguments = dict(trainer or {})
    by_heart = arguments.pop("overfit_batches", 0)
    if by_heart:
        data.augment = None  # what changes each time cannot be learned by heart
        task.teach_plainly()
        arguments |= {"limit_train_batches": by_heart, "limit_val_batches": by_heart}
    loaders = make_loaders(
        task,
        data,
        batch_size=batch_size,
        batch_vectors=batch_vectors,
        num_workers=num_workers,
        seed=seed,
        shuffle=not by_heart,
    )
    bar = arguments.pop("enable_progress_bar", True) and sys.stdout.isatty()
    own_csv = any(isinstance(logger, CSVLogger) for logger in loggers)
    table = EpochTable(None if own_csv else folder / "metrics.csv", show=print_row)
    check_monitors(task, callbacks)
    with quiet(), informed(loggers, task.recipe):
        fitter = make_trainer(
            arguments,
            folder=folder,
            callbacks=[*callbacks, table, *([EpochBar()] if bar else [])],
            loggers=loggers,
            enable_progress_bar=bar,
        )
        require_whole_weights(fitter)
        whole = copy.deepcopy(task.model) if spread(fitter) and fitter.is_global_zero else None
        if fitter.world_size > 1:
            sizes = {split: len(loader.order) for split, loader in loaders.items()}
            fitter.callbacks.append(Together(fingerprint(task, sizes), seed))  # type: ignore[attr-defined]
        with requeueing(fitter), signals_given_back(), written(), joined(fitter, NOISE), plain_errors():
            try:
                fitter.fit(task, loaders["train"], loaders["val"], ckpt_path=resume, weights_only=True)
            except Exception:
                with contextlib.suppress(RuntimeError):  # of readers that were killed: there are none to end
                    fitter.fit_loop.teardown()  # an error in validation leaves those of the training loader waiting
                raise
        for callback in fitter.checkpoint_callbacks:
            if isinstance(callback, Checkpoints):
                callback.stop_if_asked(fitter)
        last = fitter.strategy.lightning_module_state_dict() if spread(fitter) else task.state_dict()

        def judge() -> dict[str, Any]:
            say_why_it_stopped(fitter)
            if whole is not None:
                task.model = whole
            metrics = take_weights(task, fitter, table.rows, last)
            with plain_errors():
                test(task, loaders["test"], fitter, arguments)
                return metrics | task.evaluate(task.remembered, data, seed=seed)

        with requeueing(fitter):
            metrics = judged_by_first(fitter, judge)
        tell_scores(fitter.loggers, metrics, fitter.global_step, task.recipe)
    return Result(metrics, task, data, fitter, folder, table.rows)


def take_weights(task: Task, fitter: pl.Trainer, rows: list[Row], last: dict[str, Any]) -> dict[str, Any]:
    """Give the task the weights that are to be tested, the best or else the last, and return their epoch's measures."""
    best = best_checkpoint(fitter)
    metrics: dict[str, Any] = {"epochs": rows[-1]["epoch"] if rows else fitter.current_epoch}
    if best is None:
        print("no best checkpoint was kept: testing the weights as they are now", flush=True)
        task.load_state_dict(last)
        return metrics | _measures(rows[-1] if rows else {})
    checkpoint = read(best)
    task.load_state_dict(checkpoint["state_dict"])
    metrics["best_epoch"] = checkpoint["epoch"] + 1
    return metrics | _measures(next((row for row in rows if row["epoch"] == metrics["best_epoch"]), {}))


def test(task: Task, loader: Loader, fitter: pl.Trainer, arguments: dict[str, Any]) -> None:
    """Let a task remember all test items once, on one device, with the weights that it has now.

    Its own trainer runs none of the training's callbacks: one that averages weights would put others in.
    """
    shared = {name: arguments[name] for name in SHARED if name in arguments}
    index = fitter.strategy.root_device.index
    tester = pl.Trainer(
        **shared,
        devices=1 if index is None else [index],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    with signals_given_back():
        tester.test(task, loader, verbose=False)


def make_trainer(
    arguments: dict[str, Any],
    *,
    folder: Path,
    callbacks: Sequence[Callback],
    loggers: Sequence[Logger],
    enable_progress_bar: bool,
) -> pl.Trainer:
    """Make Lightning's Trainer.

    Raises:
        ConfigError: for arguments that it does not have, or refuses.
    """
    faults = trainer_faults(arguments)
    if faults:
        raise ConfigError("\n".join(faults))
    # Each process takes its own share of a batch, see `loading.Order`.
    defaults = {"num_sanity_val_steps": 0, "enable_model_summary": False, "use_distributed_sampler": False}
    try:
        return pl.Trainer(
            **{**defaults, **with_parts(arguments), "enable_progress_bar": enable_progress_bar},
            callbacks=list(callbacks),
            logger=list(loggers) or False,
            default_root_dir=folder,
            enable_checkpointing=any(isinstance(callback, Checkpoint) for callback in callbacks),
        )
    except (MisconfigurationException, ValueError, TypeError, RuntimeError) as error:
        raise ConfigError(f"trainer: {error}") from None


def check_monitors(task: Task, callbacks: Sequence[Callback]) -> None:
    """Raise ConfigError when a callback watches a measure that this task does not log."""
    logged = [f"{stage}/{name}" for stage in ("train", "val") for name in ("loss", *task.metrics())]
    for callback in callbacks:
        monitor = getattr(callback, "monitor", None)
        if isinstance(monitor, str) and monitor not in logged:
            name = type(callback).__name__
            raise ConfigError(f"{name} watches {monitor!r}, which is never logged; {nearest(monitor, logged)}")


def best_checkpoint(trainer: pl.Trainer) -> Path | None:
    """Return the file with the best weights of this fit, if one was kept."""
    path = getattr(trainer.checkpoint_callback, "best_model_path", "")
    return Path(path) if path and not is_trial(trainer) else None


def say_why_it_stopped(trainer: pl.Trainer) -> None:
    """Print why training ended before its last epoch."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, EarlyStopping) and callback.stopped_epoch > 0:
            after = f"{callback.monitor} has not improved for {callback.patience} epochs"
            print(f"stopped after epoch {callback.stopped_epoch + 1}: {after}", flush=True)
        if isinstance(callback, Timer) and (callback.time_remaining() or 0.0) <= 0 and callback.time_elapsed() > 0:
            print(f"stopped in epoch {trainer.current_epoch}: trainer.max_time is used up", flush=True)


def _measures(row: Row) -> dict[str, float]:
    return {key: value for key, value in row.items() if key.startswith(("train/", "val/"))}
