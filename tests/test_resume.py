"""A run that is stopped and goes on ends with the weights, to the bit, of one that was never stopped."""

from __future__ import annotations

import csv
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from lightning.pytorch.callbacks import Callback

from vsattn.errors import CheckpointError, ConfigError, DataError, Stopped, VsattnError
from vsattn.resume import changed_by, find
from vsattn.run import main
from vsattn.tasks.callbacks import Checkpoints
from vsattn.tasks.data.images import Digits
from vsattn.tasks.experiment import run

CHECKPOINTS = {"_target_": "vsattn.tasks.callbacks.Checkpoints", "monitor": "val/loss"}
EMA = {"_target_": "lightning.pytorch.callbacks.EMAWeightAveraging", "decay": 0.9}
LAST = {"_target_": "vsattn.tasks.callbacks.AverageLast", "epochs": 2}
PLATEAU = {"_target_": "torch.optim.lr_scheduler.ReduceLROnPlateau", "_partial_": True, "patience": 0, "threshold": 1.0}
STEP = {"_target_": "torch.optim.lr_scheduler.StepLR", "_partial_": True, "step_size": 7, "gamma": 0.5}
ENCODER = {**tiny.config()["encoder"], "dropout": 0.2}
AUGMENT = {"_target_": "vsattn.tasks.data.augment.ImageAugment", "crop_padding": 1}
#: One epoch has 13 batches.
CASES: dict[str, tuple[dict[str, Any], int]] = {
    "within an epoch": ({}, 18),
    "after the first batch": ({}, 1),
    "as an epoch ends": ({}, 13),
    "before validation": ({}, 12),
    "moving average": ({"callbacks": {"checkpoint": CHECKPOINTS, "ema": EMA}}, 18),
    "moving average, as an epoch ends": ({"callbacks": {"checkpoint": CHECKPOINTS, "ema": EMA}}, 13),
    "average of the last": ({"callbacks": {"checkpoint": CHECKPOINTS, "last": LAST}}, 30),
    "plateau": ({"schedule": PLATEAU}, 13),
    "rate by steps": ({"schedule": STEP}, 18),
    "accumulated": ({"trainer": {"accumulate_grad_batches": 3}}, 5),
    "several validations": ({"trainer": {"val_check_interval": 5}}, 15),
    "readers": ({"num_workers": 2}, 18),
    "steps": ({"trainer": {"max_epochs": None, "max_steps": 35}}, 18),
    "steps, as an epoch ends": ({"trainer": {"max_epochs": None, "max_steps": 35}}, 26),
    "whole split": ({"batch_size": 1000}, 1),
    "early": (
        {"callbacks": {"checkpoint": CHECKPOINTS, "early": {"_target_": "lightning.pytorch.callbacks.EarlyStopping",
                                                            "monitor": "val/loss", "patience": 1, "min_delta": 9.0}}},
        18,
    ),
}  # fmt: skip


@pytest.fixture
def unreported(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out pictures and floors, which take longer than training."""
    monkeypatch.setattr("vsattn.tasks.experiment.report", lambda *_: None)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[[dict[str, Any]], tuple[Path, Any]]:
    """Return a function that trains by a config without a stop, once for all cases that have it."""
    done: dict[str, tuple[Path, Any]] = {}

    def train(config: dict[str, Any]) -> tuple[Path, Any]:
        config = {**config, "num_workers": 0}  # as many readers as one likes make the same batches
        if (name := repr(config)) not in done:
            folder = tmp_path_factory.mktemp("whole")
            done[name] = folder, run(config, folder).metrics
        return done[name]

    return train


@pytest.fixture
def whole(unreported: None, trained: Any) -> Any:
    """Return that function, without reports."""
    return trained


class Ask(Callback):
    """Sends this process a signal after a batch."""

    def __init__(self, after: int, number: int = signal.SIGINT) -> None:
        self.after, self.number, self.seen = after, number, 0

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.seen += 1
        if self.seen == self.after:
            os.kill(os.getpid(), self.number)


def config_of(changes: dict[str, Any]) -> dict[str, Any]:
    whole = tiny.config(encoder=ENCODER, data={**tiny.config()["data"], "augment": AUGMENT}, num_threads=1)
    trainer = {**whole["trainer"], "max_epochs": 3, **changes.get("trainer", {})}
    return {**whole, **changes, "trainer": trainer}


def stopped(config: dict[str, Any], folder: Path, monkeypatch: pytest.MonkeyPatch, ask: Callback) -> Stopped:
    """Run until the signal comes."""
    from vsattn.tasks import experiment

    with monkeypatch.context() as patch:
        plain = experiment.parts
        patch.setattr(experiment, "parts", lambda *a, **k: [*plain(*a, **k), *([ask] if a[2] == "callbacks" else [])])
        with pytest.raises(Stopped) as caught:
            run(config, folder)
    return caught.value


def weights(folder: Path, name: str) -> dict[str, Any]:
    return torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True)


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open() as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


def same(folder: Path, other: Path) -> None:
    """Assert that two runs have the same weights, the same averages of them, and the same table."""
    for name in ("best", "last"):
        one, two = weights(folder, name), weights(other, name)
        assert one["global_step"] == two["global_step"] and one["epoch"] == two["epoch"]
        for key in ("state_dict", "current_model_state"):
            assert all(torch.equal(one[key][k], two[key][k]) for k in one.get(key, {})), name
    assert table(folder) == table(other)


@pytest.mark.parametrize("case", CASES)
def test_as_if_never_stopped(case: str, whole: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changes, after = CASES[case]
    config = config_of(changes)
    folder, metrics = whole(config)
    stop = stopped(config, tmp_path / "parts", monkeypatch, Ask(after))
    assert str(stop).startswith("interrupted in epoch ") and stop.number == signal.SIGINT
    assert f"resume={tmp_path / 'parts'}" in str(stop)
    resumed = run(config, tmp_path / "parts", resume=tmp_path / "parts" / "checkpoints" / "last.ckpt")
    same(tmp_path / "parts", folder)
    kept = {key for key in metrics if "second" not in key and "memory" not in key}
    assert {k: resumed.metrics[k] for k in kept} == {k: metrics[k] for k in kept}


def test_with_parts_that_are_frozen_and_a_beginning_that_is_gone(
    whole: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(whole(config_of({}))[0], tmp_path / "origin")
    config = config_of({"init_from": str(tmp_path / "origin"), "freeze": ["embedder"]})
    folder, _ = whole(config)
    stopped(config, tmp_path / "parts", monkeypatch, Ask(18))
    shutil.rmtree(tmp_path / "origin")
    run(config, tmp_path / "parts", resume=tmp_path / "parts" / "checkpoints" / "last.ckpt")
    same(tmp_path / "parts", folder)


def test_in_a_folder_that_was_moved(whole: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_of({"callbacks": {"checkpoint": {**CHECKPOINTS, "mode": "max"}}})
    folder, metrics = whole(config)
    assert metrics["best_epoch"] == 1  # long before the stop
    stopped(config, tmp_path / "before", monkeypatch, Ask(32))
    (tmp_path / "before").rename(tmp_path / "parts")
    last = tmp_path / "parts" / "checkpoints" / "last.ckpt"
    shutil.copytree(tmp_path / "parts", tmp_path / "alone", ignore=shutil.ignore_patterns("best.ckpt"))
    resumed = run(config, tmp_path / "parts", resume=last)
    same(tmp_path / "parts", folder)
    assert resumed.metrics["test/loss"] == metrics["test/loss"]
    assert not (tmp_path / "before").exists()
    with pytest.raises(CheckpointError, match=r"alone/checkpoints/best\.ckpt is missing"):
        run(config, tmp_path / "alone", resume=tmp_path / "alone" / "checkpoints" / "last.ckpt")


def test_rows_of_lightning_s_own_table_are_kept(whole: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logger = {"_target_": "lightning.pytorch.loggers.CSVLogger", "name": "", "version": ""}
    config = config_of({"logger": {"csv": logger}})
    folder, _ = whole(config)
    stopped(config, tmp_path / "parts", monkeypatch, Ask(18))
    with (tmp_path / "parts" / "metrics.csv").open("a") as file:  # of steps that are made again
        file.write("1,25" + "," * (len(table(folder)[0]) - 2) + "\n")
    run(config, tmp_path / "parts", resume=tmp_path / "parts" / "checkpoints" / "last.ckpt")
    assert len(table(folder)) == 7 and table(tmp_path / "parts") == table(folder)


def test_asked_in_the_last_validation_it_ends_before_testing(
    unreported: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class AskLate(Callback):
        def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
            if trainer.current_epoch == 2:
                os.kill(os.getpid(), signal.SIGTERM)

    stop = stopped(config_of({}), tmp_path / "run", monkeypatch, AskLate())
    assert str(stop).startswith("terminated before testing, after step 39; to go on: ") and stop.number == 15
    resumed = run(config_of({}), tmp_path / "run", resume=tmp_path / "run" / "checkpoints" / "last.ckpt")
    assert resumed.metrics["epochs"] == 3 and "test/accuracy" in resumed.metrics


SHORT = (
    "task=image",
    "dim=16",
    "encoder.num_layers=1",
    "tokenizer.widths=[8]",
    "tokenizer.strides=[1,2]",
    "logger=none",
    "num_threads=1",
)


def test_the_command_is_terminated_with_its_readers_and_goes_on(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As `timeout` and Slurm do, which send SIGTERM to all of its processes."""
    words = [*SHORT, "trainer.max_epochs=4000", "schedule=constant", "num_workers=2"]
    process = subprocess.Popen(
        [sys.executable, "-m", "vsattn.run", *words],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if re.match(r"epoch +2/", line):
            os.killpg(process.pid, signal.SIGTERM)
            break
    out, err = process.communicate(timeout=60)
    assert process.returncode == 143 and "Traceback" not in err + out
    (folder,) = (tmp_path / "outputs" / "image").iterdir()
    said = err.strip().splitlines()
    assert said[0] == "ending after this batch, or this validation (SIGTERM again: at once)"
    assert said[1].startswith("terminated in epoch ")
    assert said[1].endswith(f"to go on: python -m vsattn.run resume={folder}") and len(said) == 2
    with pytest.raises(ProcessLookupError):  # no reader is left
        os.killpg(process.pid, 0)
    step, epochs = weights(folder, "last")["global_step"], weights(folder, "last")["epoch"] + 3
    monkeypatch.chdir(tmp_path)
    assert main(["resume=last", f"trainer.max_epochs={epochs}", "num_workers=0"]) == 0
    out, err = capsys.readouterr()
    assert f"resuming  after step {step}" in out and err == ""
    assert weights(folder, "last")["epoch"] == epochs - 1 and (folder / "metrics.json").is_file()
    assert len(list((tmp_path / "outputs" / "image").iterdir())) == 1


def test_the_command_is_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    plain = Checkpoints.on_train_batch_start

    def ask(self: Checkpoints, trainer: Any, *rest: Any) -> None:
        plain(self, trainer, *rest)
        if trainer.global_step == 5:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Checkpoints, "on_train_batch_start", ask)
    assert main([*SHORT, f"hydra.run.dir={tmp_path / 'a run'}"]) == 130
    assert capfd.readouterr().err == (
        "\nending after this batch, or this validation (Ctrl-C again: at once)\n"
        f"interrupted in epoch 1, after step 6; to go on: python -m vsattn.run resume='{tmp_path / 'a run'}'\n"
    )


def test_a_second_signal_ends_at_once(unreported: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Twice(Ask):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
            if self.seen == self.after:
                os.kill(os.getpid(), self.number)

    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(SystemExit) as caught:
        stopped(config_of({}), tmp_path / "run", monkeypatch, Twice(18, signal.SIGTERM))
    assert caught.value.code == 143
    assert weights(tmp_path / "run", "last")["global_step"] == 13  # of the last epoch that ended
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_long_epoch_is_kept_too(unreported: None, tmp_path: Path) -> None:
    class Keep(Callback):
        def __init__(self) -> None:
            self.steps: list[int] = []

        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            path = tmp_path / "run" / "checkpoints" / "last.ckpt"
            self.steps.append(torch.load(path, weights_only=True)["global_step"] if path.is_file() else 0)

    checkpoints = {**CHECKPOINTS, "within_epoch_every": 0.0}
    from vsattn.tasks import experiment

    plain, keep = experiment.parts, Keep()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(experiment, "parts", lambda *a, **k: [*plain(*a, **k), *([keep] if a[2] == "callbacks" else [])])
        run(config_of({"callbacks": {"checkpoint": checkpoints}, "trainer": {"max_epochs": 1}}), tmp_path / "run")
    assert keep.steps == list(range(13))


def test_a_disk_that_is_full_is_told_and_leaves_the_last_good_file(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, before[1]))
    try:
        code = main([*SHORT, "debug=fast", f"hydra.run.dir={tmp_path / 'run'}"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert code == 1
    assert "cannot be written: File too large; what was written before is whole" in capfd.readouterr().err
    assert not list((tmp_path / "run").rglob("*.ckpt"))


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(VsattnError, match=r"file/run cannot be written: Not a directory"):
        run(config_of({}), tmp_path / "file" / "run")


class Killing:
    """Kills the process that reads its twentieth picture, as a system without memory does."""

    def __init__(self, items: Any) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        if index == 20 and torch.utils.data.get_worker_info() is not None:
            os.kill(os.getpid(), signal.SIGKILL)
        return self.items[index]


def test_a_reader_that_is_killed_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Digits.setup

    def deadly(self: Digits, seed: int) -> None:
        plain(self, seed)
        self.train = Killing(self.train)  # type: ignore[assignment]

    monkeypatch.setattr(Digits, "setup", deadly)
    with pytest.raises(
        VsattnError, match=r"a process that reads the data has died \(DataLoader worker .*: memory may have run out"
    ):
        run(config_of({"num_workers": 1}), tmp_path / "run")


def test_what_training_cannot_go_on_from(unreported: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CheckpointError, match=r"there is no .*nowhere to go on from"):
        find(str(tmp_path / "nowhere"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=r"no run below .*outputs has a checkpoints/last\.ckpt"):
        find("last")
    config = config_of({"callbacks": {"checkpoint": {**CHECKPOINTS, "save_weights_only": True}}})
    run({**config, "trainer": {**config["trainer"], "max_epochs": 1}}, tmp_path / "run")
    checkpoint = tmp_path / "run" / "checkpoints" / "last.ckpt"
    assert find(str(tmp_path / "run")) == checkpoint == find(str(checkpoint))
    with pytest.raises(CheckpointError, match=r"training goes on from last\.ckpt, not best\.ckpt"):
        find(str(checkpoint.with_name("best.ckpt")))
    with pytest.raises(CheckpointError, match=r"not what training needs to go on \(optimizer_states"):
        run(config, tmp_path / "run", resume=checkpoint)


def test_data_that_have_changed_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_of({})
    stopped(config, tmp_path / "run", monkeypatch, Ask(5))
    plain = Digits.setup

    def fewer(self: Digits, seed: int) -> None:
        plain(self, seed)
        self.train = self.train.select(range(100))

    monkeypatch.setattr(Digits, "setup", fewer)
    with pytest.raises(DataError, match="an epoch had 13 batches and now has 2"):
        run(config, tmp_path / "run", resume=tmp_path / "run" / "checkpoints" / "last.ckpt")


def test_what_may_change_of_a_run_that_goes_on() -> None:
    config = tiny.config(callbacks={"early_stopping": {"patience": 3}})
    changed = changed_by(config, ["num_workers=2", "callbacks.early_stopping.patience=9"])
    assert changed["num_workers"] == 2 and changed["callbacks"]["early_stopping"]["patience"] == 9
    assert config["num_workers"] == 0
    with pytest.raises(ConfigError) as caught:
        changed_by(
            config, ["encoder.dropout=0.5", "trainer.max_epoch=3", "a b", "num_workers=1,2", "trainer.max_epochs=9"]
        )
    lines = str(caught.value).splitlines()
    assert [line.split(":")[0] for line in lines] == [
        "encoder.dropout=0.5",
        "a b",
        "trainer.max_epoch=3",
        "num_workers=1,2",
    ]
    assert "keeps its parts" in lines[0] and "init_from=FOLDER" in lines[0] and "max_epochs" in lines[2]
    with pytest.raises(ConfigError, match="the rate of OneCycleLR was planned for 2 and comes to its end there"):
        changed_by(config, ["trainer.max_epochs=9"])
    assert changed_by({**config, "schedule": None}, ["trainer.max_epochs=9"])["trainer"]["max_epochs"] == 9
    assert changed_by(config, ["+trainer.limit_val_batches=3"])["trainer"]["limit_val_batches"] == 3


def test_early_stopping_is_not_forgotten(unreported: None, tmp_path: Path) -> None:
    early = {
        "_target_": "lightning.pytorch.callbacks.EarlyStopping",
        "monitor": "val/loss",
        "patience": 1,
        "min_delta": 9.0,
    }
    config = config_of({"callbacks": {"checkpoint": CHECKPOINTS, "early": early}, "schedule": None})
    run(config, tmp_path / "run")
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    assert weights(tmp_path / "run", "last")["epoch"] == 1  # of three
    assert run(config, tmp_path / "run", resume=last).metrics["epochs"] == 2
    past = {**config, "callbacks": {"checkpoint": CHECKPOINTS}}
    assert run(past, tmp_path / "run", resume=last, past_its_end=True).metrics["epochs"] == 3
