"""A search for the learning rate: train while it rises, and see where the loss falls fastest (Smith 2017)."""

from __future__ import annotations

import copy
import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
from lightning.pytorch.callbacks import Callback

from vsattn.errors import ConfigError, VsattnError

from .base import Task
from .data.base import Data
from .experiment import announce, assemble, prepare
from .loading import make_loaders
from .plots import TRAIN, VAL, save_figure
from .telling import plain_errors, quiet
from .training import make_trainer

#: Arguments of the trainer that would end the search before its last step, or watch it.
LIMITS = (
    "max_epochs",
    "min_epochs",
    "max_steps",
    "min_steps",
    "max_time",
    "fast_dev_run",
    "overfit_batches",
    "profiler",
    "val_check_interval",
)

#: The first rates, at which nothing happens, and the last, at which all is lost, are never suggested.
SKIPPED = 10, 1

#: How much the mean of earlier losses weighs against the next one.
SMOOTHING = 0.9


def find_rates(
    task: Task,
    data: Data,
    *,
    folder: Path,
    batch_size: int,
    batch_vectors: int | None = None,
    num_workers: int = 0,
    trainer: dict[str, Any] | None = None,
    seed: int = 0,
    min_lr: float = 1e-7,
    max_lr: float = 1.0,
    steps: int = 100,
) -> list[tuple[float, float]]:
    """Train for some steps, each at a higher learning rate than the last, and give the task its weights back.

    Args:
        task, data, folder, batch_size, batch_vectors, num_workers, trainer, seed: as `vsattn.tasks.training.train`
            takes them.
        min_lr, max_lr: the first rate and the last; it ends earlier where the loss is lost.
        steps: how many.

    Returns:
        Rates and smoothed losses, see :class:`Rising`.

    Raises:
        ConfigError: for numbers out of range, and arguments that Lightning refuses.
    """
    if not 0 < min_lr < max_lr < math.inf or steps < 2 * sum(SKIPPED):
        raise ConfigError(
            f"0 < min_lr < max_lr and at least {2 * sum(SKIPPED)} steps, not {min_lr}, {max_lr} and {steps}"
        )
    loaders = make_loaders(
        task, data, batch_size=batch_size, batch_vectors=batch_vectors, num_workers=num_workers, seed=seed
    )
    arguments = {key: value for key, value in (trainer or {}).items() if key not in LIMITS}
    arguments |= {"max_epochs": -1, "max_steps": steps, "check_val_every_n_epoch": 10**9}
    rising = Rising(min_lr, max_lr, steps)
    weights, schedule = copy.deepcopy(task.state_dict()), task.schedule
    task.must_be_finite, task.schedule = False, None
    try:
        with quiet(), plain_errors():
            searcher = make_trainer(arguments, folder=folder, callbacks=[rising], loggers=[], enable_progress_bar=False)
            searcher.fit(task, loaders["train"], loaders["val"])
    finally:
        task.must_be_finite, task.schedule = True, schedule
        task.load_state_dict(weights)
    return rising.found


class Rising(Callback):
    """Raises the learning rate from step to step by the same factor, and notes the loss, smoothed.

    Groups of weights keep the ratios of their rates. Training ends when the loss is four times the least so far, or no
    number any more.

    Args:
        first, last: rates.
        steps: between them.
    """

    def __init__(self, first: float, last: float, steps: int) -> None:
        self.rates = np.geomspace(first, last, steps).tolist()
        self.found: list[tuple[float, float]] = []
        self._mean = self._rate = 0.0
        self._shares: list[float] = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note how the rates of groups of weights differ."""
        rates = [group["lr"] for group in trainer.optimizers[0].param_groups]
        self._shares = [rate / max(rates) for rate in rates]

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Set the rate of this step."""
        self._rate = self.rates[trainer.global_step]
        for group, share in zip(trainer.optimizers[0].param_groups, self._shares, strict=True):
            group["lr"] = share * self._rate

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Note the loss before the step: the mean over all steps, of which the older weigh less."""
        count = len(self.found) + 1
        self._mean = SMOOTHING * self._mean + (1 - SMOOTHING) * float(outputs["loss"])
        smoothed = self._mean / (1 - SMOOTHING**count)
        if not math.isfinite(smoothed) or (count > 1 and smoothed > 4 * min(loss for _, loss in self.found)):
            trainer.should_stop = True
        else:
            self.found.append((self._rate, smoothed))


def suggestion(rates: Sequence[tuple[float, float]]) -> float:
    """Return the rate at which the loss falls fastest per factor of the rate.

    Raises:
        VsattnError: when the loss never falls.
    """
    kept = [(lr, loss) for lr, loss in rates[SKIPPED[0] : -SKIPPED[1]] if math.isfinite(loss)]
    if len(kept) > 2:
        lrs, losses = np.array(kept).T
        slopes = np.gradient(losses, np.log(lrs))
        if slopes.min() < 0:
            return float(lrs[slopes.argmin()])
    raise VsattnError(
        f"the loss falls at none of {len(rates)} rates from {rates[0][0]:.1e} to {rates[-1][0]:.1e}: "
        "try other limits (min_lr, max_lr) or more steps"
    )


def write(rates: Sequence[tuple[float, float]], suggested: float, folder: Path) -> list[Path]:
    """Write ``lr_find.csv`` and ``plots/lr_find.png``."""
    from matplotlib.figure import Figure

    table = folder / "lr_find.csv"
    with table.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("lr", "loss"), *rates])
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axis = figure.subplots()
    axis.semilogx(*zip(*rates, strict=True), color=TRAIN)
    axis.axvline(suggested, color=VAL, linestyle="--", label=f"falls fastest at {suggested:.2g}")
    least = min(loss for _, loss in rates if math.isfinite(loss))
    first = next(loss for _, loss in rates if math.isfinite(loss))
    axis.set(xlabel="learning rate (logarithmic)", ylabel="training loss, smoothed")
    axis.set_ylim(least - 0.1 * abs(first - least), first + 0.6 * abs(first - least))
    axis.grid(alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False)
    return [table, save_figure(figure, folder / "plots" / "lr_find.png")]


def search(config: dict[str, Any], folder: Path, *, min_lr: float, max_lr: float, steps: int) -> float:
    """Do all that for the model and data of a plain config, print what was found, and return the suggestion.

    Raises:
        ConfigError: naming all faults of the config at once.
        VsattnError: when the loss never falls.
    """
    prepare(config)
    task, data, lines = assemble(config)
    announce(config, folder, task, data, lines)
    folder.mkdir(parents=True, exist_ok=True)
    rates = find_rates(
        task,
        data,
        folder=folder,
        batch_size=config["batch_size"],
        batch_vectors=config.get("batch_vectors"),
        num_workers=config.get("num_workers", 0),
        trainer=config["trainer"],
        seed=config["seed"],
        min_lr=min_lr,
        max_lr=max_lr,
        steps=steps,
    )
    suggested = suggestion(rates)
    files = write(rates, suggested, folder)
    ended = "" if len(rates) >= steps else f", where the loss had grown fourfold ({len(rates)} of {steps} steps)"
    print(
        f"\n{rates[0][0]:.1e} to {rates[-1][0]:.1e}{ended}: the loss falls fastest at optimizer.lr={suggested:.2g}\n"
        f"{' and '.join(str(file.relative_to(folder)) for file in files)} lie in {folder}",
        flush=True,
    )
    return suggested
