"""A run that is stopped and goes on ends with the weights, to the bit, of one that was never stopped."""

from __future__ import annotations

import csv
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from lightning.pytorch.callbacks import Callback

from vsattn.errors import CheckpointError, ConfigError, DataError, Stopped, VsattnError
from vsattn.resume import changed_by, find
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


@pytest.mark.parametrize("case", CASES)
def test_as_if_never_stopped(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vsattn.tasks.experiment.report", lambda *_: None)  # pictures take longer than training
    changes, after = CASES[case]
    config = config_of(changes)
    whole = run(config, tmp_path / "whole")
    stop = stopped(config, tmp_path / "parts", monkeypatch, Ask(after))
    assert str(stop).startswith("interrupted in epoch ") and stop.number == signal.SIGINT
    assert f"resume={tmp_path / 'parts'}" in str(stop)
    resumed = run(config, tmp_path / "parts", resume=tmp_path / "parts" / "checkpoints" / "last.ckpt")
    for name in ("best", "last"):
        one, other = weights(tmp_path / "whole", name), weights(tmp_path / "parts", name)
        assert one["global_step"] == other["global_step"] and one["epoch"] == other["epoch"]
        for key in ("state_dict", "current_model_state"):
            assert all(torch.equal(one[key][k], other[key][k]) for k in one.get(key, {})), name
    assert table(tmp_path / "parts") == table(tmp_path / "whole")
    same = {key for key in whole.metrics if "second" not in key and "memory" not in key}
    assert {k: resumed.metrics[k] for k in same} == {k: whole.metrics[k] for k in same}


def command(*words: str, folder: Path, **popen: Any) -> subprocess.Popen[str]:
    root = Path(__file__).resolve().parent.parent
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    words = (sys.executable, "-m", "vsattn.run", *words)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(words, cwd=folder, env=environment, **pipes, **popen)


SHORT = (
    "task=image",
    "dim=16",
    "encoder.num_layers=1",
    "tokenizer.widths=[8]",
    "tokenizer.strides=[1,2]",
    "logger=none",
)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_command_is_stopped_and_goes_on(number: signal.Signals, tmp_path: Path) -> None:
    process = command(*SHORT, "trainer.max_epochs=4000", "schedule=constant", folder=tmp_path)
    assert process.stdout is not None
    for line in process.stdout:
        if re.match(r"epoch +2/", line):
            process.send_signal(number)
            break
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number and "Traceback" not in err + out
    (folder,) = (tmp_path / "outputs" / "image").iterdir()
    said = err.strip().splitlines()
    word = {signal.SIGTERM: "terminated", signal.SIGINT: "interrupted"}[number]
    assert said[0].startswith("ending after this batch, or this validation")
    assert said[1].startswith(f"{word} in epoch ")
    assert said[1].endswith(f"to go on: python -m vsattn.run resume={folder}") and len(said) == 2
    step = weights(folder, "last")["global_step"]
    epochs = weights(folder, "last")["epoch"] + 3
    again = command("resume=last", f"trainer.max_epochs={epochs}", folder=tmp_path)
    out, err = again.communicate(timeout=120)
    assert (again.returncode, err) == (0, "") and f"resuming  after step {step}" in out
    assert weights(folder, "last")["epoch"] == epochs - 1 and (folder / "metrics.json").is_file()
    assert len(list((tmp_path / "outputs" / "image").iterdir())) == 1


def test_a_second_signal_ends_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_a_long_epoch_is_kept_too(tmp_path: Path) -> None:
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


def test_a_disk_that_is_full_is_told_and_leaves_the_last_good_file(tmp_path: Path) -> None:
    script = (
        "import resource, sys; from vsattn.run import main\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000)); sys.exit(main(sys.argv[1:]))"
    )
    root = Path(__file__).resolve().parent.parent
    words = [sys.executable, "-c", script, *SHORT, "debug=fast", "hydra.run.dir=run"]
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "cannot be written: File too large; what was written before is whole" in done.stderr
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


def test_what_training_cannot_go_on_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_early_stopping_is_not_forgotten(tmp_path: Path) -> None:
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
