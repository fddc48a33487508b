"""A run from config to folder: what it writes, prints, chooses and refuses."""

from __future__ import annotations

import csv
import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
import torch.nn.functional as F
import yaml
from torch import nn
from torch.optim import SGD, AdamW
from torch.optim.lr_scheduler import CosineAnnealingLR, ExponentialLR, OneCycleLR, ReduceLROnPlateau

import vsattn
from vsattn.errors import ConfigError, DataError, VsattnError
from vsattn.tasks.data.images import Digits, TensorImages
from vsattn.tasks.experiment import DEFAULT_THREADS, run
from vsattn.tasks.image import ImageTask
from vsattn.tasks.loading import make_loaders
from vsattn.tasks.meters import MeanLoss
from vsattn.tasks.optim import make_optimizer, make_schedule, parameter_groups
from vsattn.tasks.telling import plain_errors
from vsattn.tasks.training import train

LIGHTNING = "lightning.pytorch.callbacks."


def with_callbacks(**more: Any) -> dict[str, Any]:
    return {**tiny.config()["callbacks"], **more}


def split_loss(result, predictor, split) -> float:
    pairs = [split[i] for i in range(len(split))]
    return float(F.cross_entropy(predictor.logits([x for x, _ in pairs]), torch.tensor([t for _, t in pairs])))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def plain_run(runs):
    started = time.time() - 100
    tensorboard = {"_target_": "lightning.pytorch.loggers.TensorBoardLogger", "name": "", "version": "tensorboard"}
    config = tiny.config(logger={"tensorboard": tensorboard, "absent": None})
    return run(config, runs / "plain", started=started), config


def test_folder_holds_everything(plain_run) -> None:
    result, config = plain_run
    files = {str(p.relative_to(result.folder)) for p in result.folder.rglob("*") if p.is_file()}
    assert {
        "config.yaml", "metrics.json", "metrics.csv", "checkpoints/best.ckpt", "checkpoints/last.ckpt",
        "plots/curves.png", "plots/confusion.png", "plots/examples.png",
    } <= files  # fmt: skip
    assert any(name.startswith("tensorboard/events") for name in files)
    assert yaml.safe_load((result.folder / "config.yaml").read_text()) == config


def test_metrics_are_exact(plain_run) -> None:
    result, _ = plain_run
    metrics = json.loads((result.folder / "metrics.json").read_text())
    predictor = vsattn.load(result.folder)
    test = result.data.test
    labels = [answer.label for answer in predictor.predict([test[i][0] for i in range(len(test))])]
    right = [label == str(test[i][1]) for i, label in enumerate(labels)]
    assert metrics["test/accuracy"] == sum(right) / len(test)
    assert metrics["test/accuracy_low"] <= metrics["test/accuracy"] <= metrics["test/accuracy_high"]
    assert metrics["test/loss"] == pytest.approx(split_loss(result, predictor, test), rel=1e-5)
    # 90 validation images are a batch of 64 and one of 26: the mean is over images, not over batches.
    assert metrics["val/loss"] == pytest.approx(split_loss(result, predictor, result.data.val), rel=1e-5)
    assert metrics["parameters"] == sum(p.numel() for p in predictor.model.parameters())
    assert metrics["seed"] == 0 and metrics["epochs"] == 2 and metrics["device"] == "cpu"
    assert metrics["versions/torch"] == torch.__version__.split("+")[0]
    assert 100 < metrics["wall_seconds"] < 200
    assert {f"test/f1/{digit}" for digit in range(10)} < set(metrics)
    assert all(not isinstance(value, (dict, list)) for value in metrics.values())


def test_table_of_epochs(plain_run) -> None:
    result, _ = plain_run
    with (result.folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2"] and [row["step"] for row in rows] == ["13", "26"]
    assert all(value for row in rows for value in row.values())
    best = rows[result.metrics["best_epoch"] - 1]
    assert float(best["val/accuracy"]) == result.metrics["val/accuracy"]


def test_log_has_one_line_an_epoch_and_nothing_of_lightning(runs, capfd, recwarn) -> None:
    run(tiny.config(), runs / "log")
    out, err = capfd.readouterr()
    number = r"\d+\.\d{4}"
    line = rf"epoch \d/2  train loss {number} accuracy {number}  val loss {number} accuracy {number}  \d+\.\d s"
    assert len(re.findall(rf"^{line}$", out, re.MULTILINE)) == 2 == len(re.findall("^epoch", out, re.MULTILINE))
    assert "Digits: 808 train, 90 val, 899 test, 10 classes" in out
    assert re.search(r"-> 16 vectors of 16 in a grid of 4 x 4 -> output \(10,\)", out)
    assert "metrics.json" in out and str(runs / "log") in out and "95% interval" in out
    assert err == "" and [str(w.message) for w in recwarn] == []


@pytest.mark.parametrize("use_buffers", [True, False])
def test_averaged_weights_are_validated_saved_and_tested(tmp_path, use_buffers) -> None:
    ema = {"_target_": LIGHTNING + "EMAWeightAveraging", "decay": 0.9, "use_buffers": use_buffers}
    result = run(tiny.config(callbacks=with_callbacks(ema=ema)), tmp_path / "run")
    predictor = vsattn.load(tmp_path / "run")
    assert result.metrics["val/loss"] == pytest.approx(split_loss(result, predictor, result.data.val), rel=1e-5)
    assert result.metrics["test/loss"] == pytest.approx(split_loss(result, predictor, result.data.test), rel=1e-5)
    saved = torch.load(tmp_path / "run" / "checkpoints" / "best.ckpt", weights_only=True)
    name = "model.head.classify.weight"
    assert not torch.equal(saved["state_dict"][name], saved["current_model_state"][name])


def test_best_is_tested_and_last_is_the_last(tmp_path) -> None:
    worst = {"checkpoint": {**tiny.config()["callbacks"]["checkpoint"], "mode": "max"}}  # so that epoch 1 is the best
    result = run(tiny.config(callbacks=worst, trainer={"max_epochs": 3, "accelerator": "cpu"}), tmp_path / "run")
    saved = {k: torch.load(tmp_path / f"run/checkpoints/{k}.ckpt", weights_only=True) for k in ("best", "last")}
    assert saved["best"]["epoch"] == 0 and saved["last"]["epoch"] == 2 and result.metrics["best_epoch"] == 1
    tested = result.task.state_dict()
    assert all(torch.equal(tested[k], v) for k, v in saved["best"]["state_dict"].items())
    assert result.metrics["val/loss"] == result.rows[0]["val/loss"]
    assert result.metrics["test/loss"] == pytest.approx(
        split_loss(result, vsattn.load(tmp_path / "run"), result.data.test), rel=1e-5
    )


def test_same_seed_gives_the_same_run_however_many_processes_load(plain_run, runs) -> None:
    result, _ = plain_run
    again = run(tiny.config(num_workers=2), runs / "again")
    assert [row["train/loss"] for row in again.rows] == [row["train/loss"] for row in result.rows]
    assert again.metrics["test/loss"] == result.metrics["test/loss"]
    other = run(tiny.config(seed=1), runs / "other")
    assert other.metrics["test/loss"] != result.metrics["test/loss"]


def test_loss_that_is_not_a_number_stops_training(tmp_path, monkeypatch) -> None:
    plain = ImageTask.training_loss

    def poisoned(self, output, batch):
        bad = self.current_epoch == 1 and self.trainer.global_step == 15
        return plain(self, output, batch) * (float("nan") if bad else 1.0)

    monkeypatch.setattr(ImageTask, "training_loss", poisoned)
    with pytest.raises(VsattnError, match=r"training loss became nan in epoch 2, at step 16; .*best\.ckpt\. Try"):
        run(tiny.config(), tmp_path / "run")
    for name in ("best", "last"):
        saved = torch.load(tmp_path / f"run/checkpoints/{name}.ckpt", weights_only=True)
        assert saved["global_step"] == 13
        assert all(value.isfinite().all() for value in saved["state_dict"].values())


def test_losses_are_also_checked_in_groups(tmp_path, monkeypatch) -> None:
    """As on an accelerator, where looking at each of them would wait for it."""
    plain = ImageTask.training_loss

    def poisoned(self, output, batch):
        return plain(self, output, batch) * (float("inf") if self.trainer.global_step == 7 else 1.0)

    monkeypatch.setattr(ImageTask, "training_loss", poisoned)
    require = ImageTask._require_finite
    monkeypatch.setattr(ImageTask, "_require_finite", lambda self: len(self._recent) >= 13 and require(self))
    with pytest.raises(VsattnError, match="became inf in epoch 1, at step 8; no checkpoint had been written yet"):
        run(tiny.config(), tmp_path / "run")


def test_validation_loss_that_is_not_a_number_stops_training(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(ImageTask, "loss", lambda self, output, batch: output.sum() * float("nan"))
    with pytest.raises(VsattnError, match="validation loss became nan in epoch 1"):
        run(tiny.config(), tmp_path / "run")
    assert not list((tmp_path / "run").rglob("*.ckpt"))


def test_a_failure_leaves_the_last_good_checkpoints(tmp_path, monkeypatch) -> None:
    plain = ImageTask.training_loss

    def broken(self, output, batch):
        if self.trainer.global_step == 20:
            raise RuntimeError("the machine is on fire")
        return plain(self, output, batch)

    monkeypatch.setattr(ImageTask, "training_loss", broken)
    with pytest.raises(RuntimeError, match="on fire"):
        run(tiny.config(), tmp_path / "run")
    steps = {
        k: torch.load(tmp_path / f"run/checkpoints/{k}.ckpt", weights_only=True)["global_step"]
        for k in ("best", "last")
    }
    assert steps == {"best": 13, "last": 13}


class Broken(TensorImages):
    """One picture cannot be read, and only a loader's process finds out."""

    def __getitem__(self, index: int):
        if index == 30 and torch.utils.data.get_worker_info() is not None:
            raise DataError("photos/30.png cannot be read as a picture:\nit is empty")
        return super().__getitem__(index)


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_data_error_in_a_loader_process_keeps_its_own_message(tmp_path, monkeypatch, split) -> None:
    setup = Digits.setup

    def broken_setup(self, seed):
        setup(self, seed)
        items = getattr(self, split)
        setattr(self, split, Broken(items.images, items.targets))

    monkeypatch.setattr(Digits, "setup", broken_setup)
    with pytest.raises(DataError) as caught:
        run(tiny.config(num_workers=1), tmp_path / "run")
    assert str(caught.value) == "photos/30.png cannot be read as a picture:\nit is empty"


def test_a_measure_that_nothing_logs_is_a_config_error(tmp_path) -> None:
    monitored = {"_target_": "vsattn.tasks.callbacks.Checkpoints", "monitor": "val/nothing"}
    with pytest.raises(ConfigError, match="Checkpoints watches 'val/nothing', which is never logged"):
        run(tiny.config(callbacks={"checkpoint": monitored}), tmp_path / "run")


def test_other_errors_are_left_as_they_are() -> None:
    with pytest.raises(DataError, match=r"^Caught a cold$"), plain_errors():
        raise DataError("Caught a cold")


def test_fast_dev_run_goes_through_everything(tmp_path, capsys) -> None:
    run(tiny.config(trainer={"fast_dev_run": True, "accelerator": "cpu", "devices": 1}), tmp_path / "run")
    assert "testing the weights as they are now" in capsys.readouterr().out
    assert not (tmp_path / "run" / "checkpoints").exists()
    assert "test/accuracy" in json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert (tmp_path / "run" / "plots" / "examples.png").exists()


def test_time_limit_and_early_stopping_are_told(tmp_path, capsys) -> None:
    limited = {"max_epochs": 900, "max_time": "00:00:00:01", "accelerator": "cpu", "devices": 1}
    result = run(tiny.config(trainer=limited), tmp_path / "limited")
    assert result.metrics["epochs"] < 900 and "trainer.max_time is used up" in capsys.readouterr().out
    stop = {"_target_": LIGHTNING + "EarlyStopping", "monitor": "val/loss", "mode": "max", "patience": 2}
    config = tiny.config(callbacks=with_callbacks(stop=stop), trainer={"max_epochs": 50, "accelerator": "cpu"})
    assert run(config, tmp_path / "stopped").metrics["epochs"] == 3
    out = capsys.readouterr().out
    assert "stopped after epoch 3: val/loss has not improved for 2 epochs" in out


def test_faults_of_a_config_come_together_and_early(tmp_path) -> None:
    config = tiny.config(dim="wide", trainer={"max_epoch": 1})
    config["optimizer"]["lrr"] = 1.0
    with pytest.raises(ConfigError) as caught:
        run(config, tmp_path / "run")
    for part in ("dim: ", "optimizer.lrr: ", "trainer.max_epoch: ", "max_epochs"):
        assert part in str(caught.value)
    assert not (tmp_path / "run").exists()
    with pytest.raises(ConfigError, match=r"head: the config has none"):
        run(tiny.config(head=None), tmp_path / "run")
    with pytest.raises(ConfigError, match=r"trainer: .*gpu"):
        run(tiny.config(trainer={"accelerator": "gpu"}), tmp_path / "gpu")


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"trainer": {"devices": 2, "strategy": "ddq"}}, r"trainer\.strategy: there is no 'ddq'; did you mean 'ddp'"),
        ({"trainer": {"max_time": "abc"}}, r"trainer\.max_time: is days:hours:minutes:seconds"),
        ({"seed": 2**40}, r"seed: a whole number from 0 to"),
    ],
)
def test_values_out_of_range_are_named_before_anything_runs(changes, message, tmp_path) -> None:
    with pytest.raises(ConfigError, match=message):
        run(tiny.config(**changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_start_that_fails_leaves_its_folder_free(tmp_path) -> None:
    stopping = {"_target_": "lightning.pytorch.callbacks.EarlyStopping", "monitor": "val/acuracy"}
    with pytest.raises(ConfigError, match="cannot be cut into 3 equal heads"):
        run(tiny.config(encoder={**tiny.config()["encoder"], "num_heads": 3}), tmp_path / "run")
    with pytest.raises(ConfigError, match=r"EarlyStopping watches 'val/acuracy'.*did you mean 'val/accuracy'"):
        run(tiny.config(callbacks={"stop": stopping}), tmp_path / "run2")
    trial = {"fast_dev_run": True, "accelerator": "cpu"}
    assert run(tiny.config(trainer=trial), tmp_path / "run").metrics["epochs"] >= 0


def test_a_run_without_threads_does_not_inherit_those_of_the_run_before(tmp_path) -> None:
    trial = {"fast_dev_run": True, "accelerator": "cpu"}
    before = torch.get_num_threads()
    try:
        run(tiny.config(num_threads=DEFAULT_THREADS + 1, trainer=trial), tmp_path / "a")
        run(tiny.config(trainer=trial), tmp_path / "b")
        assert torch.get_num_threads() == DEFAULT_THREADS
    finally:
        torch.set_num_threads(before)


def test_a_folder_holds_one_run(plain_run) -> None:
    result, config = plain_run
    with pytest.raises(ConfigError, match="holds an earlier run"):
        run(config, result.folder)


def test_number_of_threads(tmp_path) -> None:
    before = torch.get_num_threads()
    try:
        run(tiny.config(num_threads=3, trainer={"fast_dev_run": True, "accelerator": "cpu"}), tmp_path / "run")
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_mean_loss_weighs_batches_by_their_targets() -> None:
    meter = MeanLoss()
    meter.update(torch.tensor(1.0), 64)
    meter.update(torch.tensor(2.0), 26)
    assert float(meter.compute()) == pytest.approx(116 / 90)
    meter.update(torch.tensor(float("nan")), 1)
    assert not meter.compute().isfinite()


def made_task(data: Digits, *, norm: bool = True) -> ImageTask:
    from vsattn.tokenizers import ConvStem, Pixels

    tokenizer = (ConvStem(widths=(4,)) if norm else Pixels()).fit(data.fit_items(50))
    model = nn.Sequential(tokenizer.embedder(4), nn.Linear(4, 10))
    return ImageTask(model, tokenizer, data.classes)


def test_loaders() -> None:
    data = Digits(augment=lambda image: torch.zeros_like(image))
    data.setup(0)
    loaders = make_loaders(made_task(data), data, batch_size=64, num_workers=0, seed=0)
    batches = {split: list(loader) for split, loader in loaders.items()}
    sizes = {split: [len(batch["target"]) for batch in found] for split, found in batches.items()}
    assert sizes == {"train": [64] * 12 + [40], "val": [64, 26], "test": [64] * 14 + [3]}
    assert all(len(batch["image"].unique()) == 1 for batch in batches["train"])
    assert all(len(batch["image"].unique()) > 10 for batch in batches["val"] + batches["test"])
    order = torch.cat([batch["target"] for batch in batches["train"]])
    assert order.tolist() != [data.train[i][1] for i in range(808)]
    assert torch.cat([b["target"] for b in batches["test"]]).tolist() == [data.test[i][1] for i in range(899)]
    assert torch.cat([batch["target"] for batch in loaders["train"]]).tolist() == order.tolist()
    loaders["train"].sampler.set_epoch(1)
    second = torch.cat([batch["target"] for batch in loaders["train"]])
    assert not torch.equal(order, second) and torch.equal(order.sort()[0], second.sort()[0])
    again = make_loaders(made_task(data), data, batch_size=64, num_workers=0, seed=0)["train"]
    assert torch.equal(torch.cat([batch["target"] for batch in again]), order)


def test_what_is_learned_by_heart_is_not_augmented(tmp_path: Path) -> None:
    class Linear(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(64, 10))

        def forward(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
            return batch["image"].flatten(1) @ self.weight

    def distort(image: torch.Tensor) -> torch.Tensor:
        raise AssertionError("this was to be learned by heart")

    data = Digits(augment=distort)
    data.setup(0)
    task = made_task(data, norm=False)
    task.model = Linear()
    trainer = {"max_epochs": 1, "overfit_batches": 1, "accelerator": "cpu", "limit_test_batches": 1}
    assert train(task, data, folder=tmp_path, batch_size=64, trainer=trainer).metrics["epochs"] == 1


def test_a_lone_last_item_is_dropped_only_where_batch_norm_would_see_it() -> None:
    data = Digits()
    data.setup(0)
    sizes = {
        (norm, batch_size): [
            sum(len(batch["target"]) for batch in loaders[split]) for split in ("train", "val", "test")
        ]
        for norm in (True, False)
        for batch_size in (807, 89, 64)
        for loaders in [make_loaders(made_task(data, norm=norm), data, batch_size=batch_size, num_workers=0, seed=0)]
    }
    assert sizes == {(n, size): [807 if n and size == 807 else 808, 90, 899] for n, size in sizes}


def test_loaders_refuse_nonsense() -> None:
    data = Digits()
    data.setup(0)
    task = made_task(data)
    with pytest.raises(ConfigError, match="batch_size"):
        make_loaders(task, data, batch_size=0, num_workers=0, seed=0)
    data.val = data.val.select([])
    with pytest.raises(DataError, match="val split of Digits is empty"):
        make_loaders(task, data, batch_size=8, num_workers=0, seed=0)


def test_what_decays_and_what_does_not() -> None:
    from vsattn.heads import AttentionHead
    from vsattn.positions import Learned
    from vsattn.relations import Relative2d

    model = nn.ModuleDict(
        {
            "linear": nn.Linear(3, 4), "conv": nn.Conv2d(1, 2, 3), "norm": nn.LayerNorm(3), "head": AttentionHead(4, 2),
            "positions": Learned(4, grid=(2, 2)), "relation": Relative2d(2, 4),
        }
    )  # fmt: skip
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decayed, spared = ({names[id(p)] for p in group["params"]} for group in parameter_groups(model, 0.1))
    assert decayed == {"linear.weight", "conv.weight", "head.classify.weight"}
    assert decayed | spared == set(names.values()) and not decayed & spared
    optimizer = make_optimizer(model, None)
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.0, 0.01}


def test_schedules_receive_the_number_of_steps_and_the_rate() -> None:
    from functools import partial

    weights = [nn.Parameter(torch.zeros(1))]
    optimizer = AdamW(weights, lr=0.02)
    made = make_schedule(optimizer, partial(OneCycleLR, pct_start=0.5), 10)
    rates = []
    for _ in range(10):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        made["scheduler"].step()
    assert made["interval"] == "step" and max(rates) == pytest.approx(0.02) and rates[0] < 0.001 > rates[-1]
    cosine = make_schedule(SGD(weights, lr=1.0), partial(CosineAnnealingLR), 7)["scheduler"]
    assert cosine.T_max == 7
    own = make_schedule(SGD(weights, lr=1.0), partial(OneCycleLR, max_lr=3.0, total_steps=5), 7)["scheduler"]
    assert own.total_steps == 5 and own.optimizer.param_groups[0]["max_lr"] == 3.0
    make_schedule(SGD(weights, lr=1.0), partial(ExponentialLR, gamma=0.9), float("inf"))
    plateau = make_schedule(SGD(weights, lr=1.0), partial(ReduceLROnPlateau), 7)
    assert plateau["interval"] == "epoch" and plateau["monitor"] == "val/loss"
    with pytest.raises(ConfigError, match=r"schedule\.total_steps .*max_epochs"):
        make_schedule(AdamW(weights), partial(OneCycleLR), float("inf"))
