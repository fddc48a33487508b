"""Schedules against their formulas, and the mean of the last weights against a sum by hand."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader

from vsattn.errors import ConfigError, Stopped
from vsattn.tasks.callbacks import AverageLast, Checkpoints
from vsattn.tasks.schedules import InverseSqrt, Noam
from vsattn.tasks.stopping import signals_given_back


def rates(schedule: LRScheduler, steps: int) -> list[float]:
    found = []
    for _ in range(steps):
        found.append(schedule.optimizer.param_groups[0]["lr"])
        schedule.optimizer.step()
        schedule.step()
    return found


def optimizer(lr: float) -> torch.optim.Optimizer:
    return torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=lr)


def test_noam_is_the_formula_of_the_paper() -> None:
    expected = [0.5 * 256**-0.5 * min(t**-0.5, t * 40**-1.5) for t in range(1, 200)]
    assert rates(Noam(optimizer(123.0), 256, factor=0.5, warmup=40), 199) == pytest.approx(expected)


def test_inverse_sqrt_peaks_at_the_optimizer_s_rate() -> None:
    found = rates(InverseSqrt(optimizer(0.01), warmup=25), 100)
    assert max(found) == pytest.approx(0.01) and found.index(max(found)) == 24
    assert found[0] == pytest.approx(0.01 / 25) and found[99] == pytest.approx(0.01 * (25 / 100) ** 0.5)


def test_a_schedule_goes_on_from_its_state() -> None:
    first = Noam(optimizer(1.0), 16, warmup=5)
    rates(first, 7)
    second = Noam(optimizer(1.0), 16, warmup=5)
    second.load_state_dict(first.state_dict())
    second.optimizer.load_state_dict(first.optimizer.state_dict())
    assert rates(second, 5) == rates(first, 5)


@pytest.mark.parametrize("words", [{"warmup": 0}, {"factor": 0.0}, {"dim": 0}])
def test_numbers_out_of_range(words: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="at least 1"):
        Noam(optimizer(1.0), **{"dim": 4, **words})  # type: ignore[arg-type]


class Walk(pl.LightningModule):
    """One weight that SGD moves by 1 each step; validation sees which value it has."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.seen: list[float] = []
        self.passed: list[float] = []

    def training_step(self, batch: Tensor, index: int) -> Tensor:
        return -self.weight

    def on_train_batch_end(self, *_: object) -> None:
        self.passed.append(self.weight.item())

    def validation_step(self, batch: Tensor, index: int) -> None:
        self.seen.append(self.weight.item())
        self.log("val/loss", -self.weight)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1.0)


def test_average_last_validates_the_mean_of_the_last_epochs(tmp_path: Path) -> None:
    model, data = Walk(), DataLoader(torch.zeros(3, 1))  # 3 steps an epoch: the weight is 3, 6, 9, 12, 15 after each
    quiet_trainer(tmp_path).fit(model, data, DataLoader(torch.zeros(1, 1)))
    assert model.passed == [float(n) for n in range(1, 16)]  # training itself goes on from its own weights
    assert model.seen == [3.0, 6.0, 9.0, 10.5, 12.0]  # then the means of 9, 12 and of 9, 12, 15
    assert torch.load(tmp_path / "best.ckpt", weights_only=True)["state_dict"]["weight"] == 12.0


def quiet_trainer(folder: Path, *callbacks: pl.Callback, **words: object) -> pl.Trainer:
    return pl.Trainer(
        max_epochs=5, callbacks=[AverageLast(3), Checkpoints(folder, monitor="val/loss"), *callbacks], logger=False,
        accelerator="cpu", enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0, **words,
    )  # fmt: skip


class Stop(pl.Callback):
    """Asks training to end after a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: pl.Trainer, *_: object) -> None:
        if trainer.global_step == self.step - 1:
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize(("step", "kept"), [(1, 1.0), (8, 8.0), (10, 9.0), (13, 10.5)])
def test_an_interrupted_epoch_keeps_the_weights_of_the_moment_and_goes_on(
    tmp_path: Path, step: int, kept: float
) -> None:
    data, val = DataLoader(torch.zeros(3, 1)), DataLoader(torch.zeros(1, 1))
    with pytest.raises(Stopped), signals_given_back():
        quiet_trainer(tmp_path, Stop(step)).fit(Walk(), data, val)
    last = tmp_path / "last.ckpt"
    assert torch.load(last, weights_only=True)["state_dict"]["weight"] == kept  # or the mean, once there is one
    model = Walk()
    quiet_trainer(tmp_path).fit(model, data, val, ckpt_path=last)
    assert model.seen[-1] == 12.0


def test_average_last_validates_the_weights_of_the_moment_within_an_epoch(tmp_path: Path) -> None:
    model = Walk()
    data = DataLoader(torch.zeros(4, 1)), DataLoader(torch.zeros(1, 1))
    quiet_trainer(tmp_path, val_check_interval=2).fit(model, *data)
    assert model.seen == [2, 4, 6, 8, 10, 12, 12, 14, 14, 16]  # at last means of 12, 16 and of 12, 16, 20


def test_average_last_needs_a_last_epoch() -> None:
    with pytest.raises(ConfigError, match="at least 1"):
        AverageLast(0)
    trainer = pl.Trainer(max_steps=3, max_epochs=-1, callbacks=[AverageLast(2)], logger=False, accelerator="cpu",
                         enable_progress_bar=False, enable_checkpointing=False, enable_model_summary=False)  # fmt: skip
    with pytest.raises(ConfigError, match="max_epochs"):
        trainer.fit(Walk(), DataLoader(torch.zeros(3, 1)))
