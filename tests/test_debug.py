"""Ways to look at a training: one batch by heart, where its time goes, which learning rate; and its safeguards."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import tiny
import torch
from lightning.pytorch.callbacks import Callback
from PIL import Image
from torch.optim import SGD

from vsattn.compose import groups, plain_config
from vsattn.errors import ConfigError, VsattnError
from vsattn.lr_find import main as lr_find
from vsattn.run import main
from vsattn.tasks.checks import faults
from vsattn.tasks.data.images import Digits
from vsattn.tasks.experiment import make_task, prepare, run
from vsattn.tasks.lr_find import find_rates, suggestion
from vsattn.tasks.training import train

TINY = ["trainer=cpu", "dim=16", "encoder.num_layers=1", "num_threads=1"]
ONE_TEST = "+trainer.limit_test_batches=1"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def epochs_of(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def task_and_data(**changes: Any) -> tuple[Any, Digits, dict[str, Any]]:
    config = tiny.config(**changes)
    prepare(config)
    data = Digits()
    data.setup(0)
    from vsattn.tokenizers import ConvStem

    tokenizer = ConvStem(widths=(8,), strides=(1, 2)).fit(data.fit_items(50))
    return make_task(config, data, tokenizer), data, config


@pytest.mark.parametrize("debug", ["fast", "overfit", "profile"])
@pytest.mark.parametrize("task", groups()["task"])
def test_every_task_can_be_looked_at(task: str, debug: str) -> None:
    config, found = plain_config([f"task={task}", f"debug={debug}"])
    assert found == [] and faults(config) == []


@pytest.mark.parametrize("task", ["image", "recognition"])
def test_one_batch_is_learned_by_heart(folder: Path, task: str) -> None:
    smoothed = ["task.label_smoothing=0.3", "task.mixup=1"] if task == "image" else ["optimizer.lr=0.003"]
    words = [f"task={task}", "debug=overfit", *smoothed, *TINY, "dim=32", ONE_TEST, "batch_size=16"]
    words += ["batch_vectors=1000"] if task == "recognition" else []
    assert main([*words, "logger=none", "hydra.run.dir=r"]) == 0
    losses = [float(epoch["train/loss"]) for epoch in epochs_of(folder / "r")]
    assert len(losses) == 100 and losses[0] > 2 and losses[-1] < 0.1


def test_where_the_time_of_a_step_goes(folder: Path, capsys) -> None:
    steps = ["callbacks.profile.warmup=2", "callbacks.profile.steps=4", "callbacks.profile.operators=2"]
    words = ["task=image", "debug=profile", *TINY, *steps, "trainer.max_steps=8", "logger=none", "hydra.run.dir=r"]
    assert main(words) == 0
    said = capsys.readouterr().out
    lines = [line.rsplit(maxsplit=2) for line in said.split("a training step")[1].splitlines()[1:6]]
    assert [name for name, *_ in lines] == [
        "data",
        "forward, loss, metrics",
        "backward",
        "optimizer, clipping",
        "in all",
    ]
    times, shares = np.array([[float(x) for x in line[1:]] for line in lines]).T
    assert times[:4].sum() == pytest.approx(times[4], abs=0.03) and shares[:4].sum() == pytest.approx(100, abs=0.3)
    assert (times[:4] > 0).all()
    wall = float(epochs_of(folder / "r")[0]["seconds"])
    assert 4 * times[4] / 1000 < wall
    trace = json.loads((folder / "r" / "profile" / "trace.json").read_text())
    assert sum(event.get("name") == "Optimizer.step#AdamW.step" for event in trace["traceEvents"]) == 2
    assert "aten::addmm" in (folder / "r" / "profile" / "operators.txt").read_text()
    assert "train_dataloader_next" in (folder / "r" / "profile" / "steps.txt").read_text()


def test_a_profile_of_too_few_steps(tmp_path: Path) -> None:
    profile = {"_target_": "vsattn.tasks.profiling.Profile", "warmup": 1, "steps": 5}
    trainer = {"max_epochs": 1, "limit_train_batches": 3, "limit_val_batches": 1, "accelerator": "cpu", "devices": 1}
    with pytest.raises(ConfigError, match="Profile needs 9 steps, but training had 3"):
        run(tiny.config(callbacks={"profile": profile}, trainer=trainer), tmp_path / "run")


def test_a_learning_rate_is_found(folder: Path, capsys) -> None:
    words = ["task=image", *TINY, "min_lr=1e-6", "steps=60", "-o", "found"]
    assert lr_find(words) == 0
    said = capsys.readouterr().out
    with (folder / "found" / "lr_find.csv").open() as file:
        rates = [(float(row["lr"]), float(row["loss"])) for row in csv.DictReader(file)]
    assert [lr for lr, _ in rates] == pytest.approx(np.geomspace(1e-6, 1, 60)[: len(rates)].tolist())
    found = suggestion(rates)
    assert 1e-4 < found < 0.3 and f"optimizer.lr={found:.2g}" in said
    with Image.open(folder / "found" / "plots" / "lr_find.png") as picture:
        assert picture.width > 500
    assert sorted(path.name for path in (folder / "found").iterdir()) == ["lr_find.csv", "plots"]
    assert lr_find(words) == 1 and "holds something already" in capsys.readouterr().err
    assert lr_find([*words, "task=imgae", "steps=many"]) == 2
    for limits in ("min_lr=2", "max_lr=inf"):
        assert lr_find(["task=image", *TINY, limits, "-o", "other"]) == 2
    assert "0 < min_lr < max_lr" in capsys.readouterr().err


def test_a_search_for_the_rate_leaves_no_trace_and_survives_a_lost_loss(tmp_path: Path) -> None:
    task, data, _ = task_and_data()
    before = {name: value.clone() for name, value in task.state_dict().items()}
    schedule = task.schedule
    trainer = {"accelerator": "cpu", "devices": 1, "max_epochs": 1}
    limits = {"min_lr": 1e-3, "max_lr": 1e30, "steps": 40}
    rates = find_rates(task, data, folder=tmp_path, batch_size=64, trainer=trainer, **limits)
    assert 2 <= len(rates) < 40 and np.isfinite([loss for _, loss in rates]).all()
    assert all(torch.equal(value, before[name]) for name, value in task.state_dict().items())
    assert task.schedule is schedule and task.must_be_finite and not list(tmp_path.rglob("*.ckpt"))


def test_the_rate_of_the_steepest_fall() -> None:
    rates = np.geomspace(1e-6, 1, 100)
    losses = 2 - np.tanh(2 * np.log10(rates / 1e-3))  # falls fastest at 1e-3
    assert suggestion(list(zip(rates, losses))) == pytest.approx(1e-3, rel=0.15)
    with pytest.raises(VsattnError, match="falls at none of 100 rates"):
        suggestion([(rate, 1.0 + rate) for rate in rates])


class Step(Callback):
    """Keeps the weights before and after the first step."""

    def weights(self, module: pl.LightningModule) -> torch.Tensor:
        return torch.cat([parameter.detach().flatten() for parameter in module.parameters()])

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.before = self.weights(pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.moved = float((self.weights(pl_module) - self.before).norm())


def test_gradients_are_clipped(tmp_path: Path) -> None:
    """A step of plain descent at rate 1 is as long as its gradient."""
    moved = {}
    for limit in (None, 0.01):
        task, data, _ = task_and_data(schedule=None)
        task.optimizer = lambda params: SGD(params, lr=1.0)
        step = Step()
        trainer = {"max_steps": 1, "accelerator": "cpu", "devices": 1, "gradient_clip_val": limit,
                   "limit_val_batches": 1, "limit_test_batches": 1}  # fmt: skip
        train(task, data, folder=tmp_path / str(limit), batch_size=64, trainer=trainer, callbacks=[step])
        moved[limit] = step.moved
    assert moved[None] > 0.1 and moved[0.01] == pytest.approx(0.01, rel=1e-3)


def test_safeguards_from_the_command_line(folder: Path, capsys) -> None:
    stop = ["callbacks.early_stopping.patience=1", "callbacks.early_stopping.mode=max", "trainer.max_epochs=9"]
    few = ["+trainer.limit_train_batches=2", "+trainer.limit_val_batches=1", ONE_TEST]
    words = ["task=image", *TINY, *stop, *few, "callbacks=ema", "trainer.gradient_clip_val=0.5", "logger=none"]
    assert main([*words, "hydra.run.dir=r"]) == 0
    said = capsys.readouterr().out
    assert "cpu, 1 threads" in said and "val/loss has not improved for 1 epochs" in said
    assert len(epochs_of(folder / "r")) < 9
    saved = torch.load(folder / "r" / "checkpoints" / "best.ckpt", weights_only=True)
    name = "model.head.classify.weight"
    assert not torch.equal(saved["state_dict"][name], saved["current_model_state"][name])
