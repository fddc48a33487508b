"""The training loop that all tasks share, by Lightning's Trainer."""

from __future__ import annotations

import logging
import random
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, ProgressBar
from lightning.pytorch.loggers import Logger
from torch.utils.data import DataLoader

from vsattn.errors import DataError

from .base import Task
from .callbacks import progress
from .data.base import Augmented, Data


@dataclass
class Result:
    """What a run gives back: flat figures, the task with its best weights, the data, the trainer, the run folder."""

    metrics: dict[str, Any]
    task: Task
    data: Data
    trainer: Trainer
    folder: Path


def loader(task: Task, data: Data, split: str, *, batch_size: int, num_workers: int, seed: int) -> DataLoader:
    """Return the loader of a split; the training one is shuffled, augmented, and seeded."""
    items: Any = getattr(data, split)
    if len(items) == 0:
        raise DataError(f"{data.name}: the {split} split is empty")
    train = split == "train"
    if train and data.augment is not None:
        items = Augmented(items, data.augment)
    return DataLoader(
        items,
        batch_size=batch_size,
        shuffle=train,
        drop_last=train and len(items) > batch_size and len(items) % batch_size == 1,  # BatchNorm needs two
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        collate_fn=partial(task.collator, train=train),
        generator=torch.Generator().manual_seed(seed),
        worker_init_fn=_seed_worker,
    )


def _seed_worker(worker: int) -> None:
    torch.set_num_threads(1)
    seed = torch.initial_seed() % 2**32
    random.seed(seed)
    np.random.seed(seed)


def train(
    task: Task,
    data: Data,
    *,
    folder: Path,
    batch_size: int,
    num_workers: int = 0,
    seed: int = 0,
    trainer: dict[str, Any] | None = None,
    callbacks: Sequence[Callback] = (),
    loggers: Sequence[Logger] = (),
) -> Result:
    """Fit a task, take its best checkpoint, and test that once.

    Args:
        task: with its model.
        data: set up.
        folder: where Lightning writes.
        batch_size: items in a batch.
        num_workers: loader processes of each split; 0 loads in this one.
        seed: of the order of training items.
        trainer: keyword arguments of `lightning.pytorch.Trainer`.
        callbacks: used as they are; a `ModelCheckpoint` among them decides which weights are best.
        loggers: used as they are.

    Returns:
        The result; its metrics are those of the best epoch and of the test.

    Raises:
        VsattnError: for data that cannot be read, and a loss that is no number.
    """
    _quiet()
    shown = progress()
    settings = {
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "enable_progress_bar": isinstance(shown, ProgressBar),
        **(trainer or {}),
    }
    runner = Trainer(
        default_root_dir=str(folder), callbacks=[*callbacks, shown], logger=list(loggers) or False, **settings
    )
    make = partial(loader, task, data, batch_size=batch_size, num_workers=num_workers, seed=seed)
    with _clear_errors():
        runner.fit(task, make("train"), make("val"))
    if runner.interrupted:
        raise KeyboardInterrupt
    epochs = len(task.history)
    best = _best_checkpoint(runner)
    if best:
        state = torch.load(best, map_location="cpu", weights_only=True)
        task.load_state_dict(state["state_dict"])
    tester = Trainer(
        accelerator=settings.get("accelerator", "auto"), devices=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, precision=settings.get("precision"),
        limit_test_batches=1 if settings.get("fast_dev_run") else settings.get("limit_test_batches"),
    )  # fmt: skip
    with _clear_errors():
        tester.test(task, make("test"), verbose=False)
    return Result({**_best_epoch(task, runner), **task.measured, "epochs": epochs}, task, data, runner, folder)


def _best_checkpoint(runner: Trainer) -> str | None:
    for callback in runner.checkpoint_callbacks:
        if isinstance(callback, ModelCheckpoint) and callback.best_model_path and not runner.fast_dev_run:
            return callback.best_model_path
    return None


def _best_epoch(task: Task, runner: Trainer) -> dict[str, float]:
    """Return the validation figures of the epoch whose weights were kept."""
    if not task.history:
        return {}
    row = task.history[-1]
    for callback in runner.checkpoint_callbacks:
        if isinstance(callback, ModelCheckpoint) and callback.monitor in row:
            choose = min if callback.mode == "min" else max
            row = choose(task.history, key=lambda r: r[callback.monitor])
    figures = {name: value for name, value in row.items() if name.startswith("val/")}
    return {**figures, "best_epoch": int(row["epoch"]) + 1}


class _clear_errors:
    """Turn what a loader worker wraps in a traceback back into the one message that it is."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, DataError) and "Original Traceback" in str(error):
            marker = f"{DataError.__module__}.{DataError.__name__}: "
            raise DataError(str(error).rsplit(marker, 1)[-1].strip()) from None


def _quiet() -> None:
    """Silence what Lightning says to its developers; its warnings about a user's run stay."""
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.pytorch.accelerators.cuda"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for pattern in (
        ".*does not have many workers.*",
        ".*smaller than the logging interval.*",
        ".*Checkpoint directory.*exists and is not empty.*",
        ".*isinstance.*LeafSpec.*",
        ".*`treespec, LeafSpec.*",
        ".*Trying to infer the `batch_size`.*",
        ".*Experiment logs directory.*",
        ".*deprecated.*",
    ):
        warnings.filterwarnings("ignore", pattern, module="lightning.*|torch.*")


