"""Loggers: each keeps the config once, the measures of each epoch, and the scores of the test, beside metrics.csv."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny
import yaml

from vsattn.compose import plain_config
from vsattn.errors import VsattnError
from vsattn.tasks.checks import faults
from vsattn.tasks.experiment import run
from vsattn.tasks.image import ImageTask

SHORT = {"max_epochs": 1, "limit_train_batches": 2, "limit_val_batches": 1, "limit_test_batches": 1,
         "accelerator": "cpu", "devices": 1}  # fmt: skip


def logged(*words: str) -> dict[str, Any]:
    """Return a tiny config with the loggers that words of the command line choose."""
    config, found = plain_config(words)
    assert found == [] and faults(config) == []
    return tiny.config(trainer=SHORT, logger=config["logger"])


def flat(config: dict[str, Any], path: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in config.items():
        nested = isinstance(value, dict) and value
        found |= flat(value, f"{path}{key}/") if nested else {f"{path}{key}": value}
    return found


def kept(folder: Path) -> dict[str, float]:
    """Return the scores of the whole test in a run's own file, and check that its table of epochs is there too."""
    assert len((folder / "metrics.csv").read_text().splitlines()) >= 2
    metrics = json.loads((folder / "metrics.json").read_text())
    return {key: value for key, value in metrics.items() if key.startswith("test/") and key.count("/") == 1}


def test_tensorboard_and_csv(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = tiny.config(trainer=SHORT, logger={**logged()["logger"], **logged("logger=csv")["logger"]})
    assert set(config["logger"]) == {"tensorboard", "csv"}
    run(config, tmp_path / "run")
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    for name, value in kept(tmp_path / "run").items():
        (event,) = events.Scalars(name)
        assert event.value == pytest.approx(value)
    assert "val/loss" in events.Tags()["scalars"]
    ((_, summary),) = [pair for pair in events.summary_metadata.items() if "session_start_info" in pair[0]]
    assert b"optimizer/lr" in summary.plugin_data.content
    for place in (".", "tensorboard"):
        assert yaml.safe_load((tmp_path / "run" / place / "hparams.yaml").read_text()) == config
    assert "test/accuracy" in (tmp_path / "run" / "metrics.csv").read_text()


def test_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tracking = pytest.importorskip("mlflow.tracking")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    config = logged("logger=mlflow", "logger.mlflow.run_name=mine")
    run(config, tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(ImageTask, "loss", lambda self, output, batch: output.sum() * float("nan"))
        with pytest.raises(VsattnError):
            run(config, tmp_path / "lost")
    client = tracking.MlflowClient("sqlite:///mlflow.db")
    (experiment,) = [e for e in client.search_experiments() if e.name == "vsattn"]
    lost, done = client.search_runs([experiment.experiment_id])
    assert (done.info.status, lost.info.status) == ("FINISHED", "FAILED")
    assert done.info.run_name == "mine"
    assert done.data.params == {key: str(value)[:250] for key, value in flat(config).items()}
    scores = kept(tmp_path / "run")
    assert {key: value for key, value in done.data.metrics.items() if key.startswith("test/")} == pytest.approx(scores)
    assert "val/loss" in done.data.metrics


def chunks(data: bytes) -> Iterator[bytes]:
    """Read W&B's file: after 7 bytes, the log format of LevelDB, records in parts that fit blocks of 32 KiB."""
    place, whole = 7, b""
    while place + 7 <= len(data):
        left = 32768 - place % 32768
        if left < 7:
            place += left
            continue
        _, length, kind = struct.unpack("<IHB", data[place : place + 7])
        whole += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield whole
            whole = b""


def test_wandb_without_a_network_one_run_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    from wandb.proto import wandb_internal_pb2

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    config = logged("logger=wandb")
    for name in ("first", "second"):
        run(config, tmp_path / name)
        (file,) = (tmp_path / name / "wandb").glob("offline-run-*/*.wandb")
        settings: dict[str, Any] = {}
        numbers: dict[str, float] = {}
        codes = []
        for data in chunks(file.read_bytes()):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            for update in (*record.run.config.update, *record.config.update):
                settings[update.key or "/".join(update.nested_key)] = json.loads(update.value_json)
            for item in record.history.item:
                numbers[item.key or "/".join(item.nested_key)] = json.loads(item.value_json)
            codes += [record.exit.exit_code] if record.HasField("exit") else []
        assert {key: settings[key] for key in config} == config and codes == [0]
        scores = kept(tmp_path / name)
        assert {key: value for key, value in numbers.items() if key.startswith("test/")} == pytest.approx(scores)
        assert "val/loss" in numbers


@pytest.mark.parametrize("package", ["wandb", "mlflow"])
def test_a_package_that_is_not_installed_is_named_before_anything_runs(
    package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vsattn.tasks.checks.find_spec", lambda name: None)
    config, _ = plain_config([f"logger={package}"])
    assert faults(config) == [f"logger.{package}: needs the package {package}; pip install 'vsattn[{package}]'"]
