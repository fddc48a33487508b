"""The model card says what metrics.json and config.yaml say, and nothing of the machine it was written on."""

from __future__ import annotations

import importlib
import inspect
import json
import pkgutil
import re
from pathlib import Path

import pytest
import tiny
import yaml
from PIL import Image

import vsattn.tasks.data
from vsattn.build import resolve
from vsattn.compose import groups, plain_config
from vsattn.tasks.card import ITEMS, LICENCES, SYNTHETIC, card, without_folders, write_card
from vsattn.tasks.data.base import Data
from vsattn.tasks.experiment import run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run") / "a"
    run(tiny.config(), path)
    return path


@pytest.fixture
def metrics(folder: Path) -> dict:
    return json.loads((folder / "metrics.json").read_text())


def rows_of(text: str) -> list[list[str]]:
    """Return the cells of all rows of tables."""
    lines = [line for line in text.splitlines() if line.startswith("| ") and not line.startswith("| ---")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_every_figure_is_that_of_the_metrics(folder: Path, metrics: dict) -> None:
    text = (folder / "MODEL_CARD.md").read_text(encoding="utf-8")
    rows = {row[0]: row[1:] for row in rows_of(text)}
    whole = [key for key in metrics if re.fullmatch(r"test/[a-z0-9_]+", key) and not key.endswith(("_low", "_high"))]
    assert {"test/accuracy", "test/loss", "test/f1_macro"} <= set(whole)
    for key in whole:
        assert float(rows[key.removeprefix("test/")][0]) == pytest.approx(metrics[key], abs=5e-5)
    low, high = rows["accuracy"][1].split(" to ")
    assert float(low) == pytest.approx(metrics["test/accuracy_low"], abs=5e-5)
    assert float(high) == pytest.approx(metrics["test/accuracy_high"], abs=5e-5)
    for label in "0123456789":
        found = [metrics[f"test/{name}/{label}"] for name in ("precision", "recall", "f1", "support")]
        assert [float(cell) for cell in rows[label]] == pytest.approx(found, abs=5e-5)
    floor = rows[metrics["floor/name"]]
    assert float(floor[0]) == pytest.approx(metrics["floor/accuracy"], abs=5e-5)
    for title, key in (("epochs", "epochs"), ("best epoch", "best_epoch"), ("seed", "seed"), ("device", "device")):
        assert rows[title] == [str(metrics[key])]
    assert float(rows["seconds in all"][0]) == pytest.approx(metrics["wall_seconds"], abs=0.05)
    assert rows["torch"] == [metrics["versions/torch"]] and rows["val/loss"] == [f"{metrics['val/loss']:.4f}"]
    assert f"- Parameters: {metrics['parameters']:,}\n" in text
    assert (metrics["data/train"], metrics["data/val"], metrics["data/test"]) == (808, 90, 899)
    assert "- Items: 808 train, 90 val, 899 test\n" in text and metrics["data/name"] == "Digits"


def test_the_card_changes_with_the_metrics_alone(folder: Path, metrics: dict) -> None:
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert card(metrics, config) == (folder / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert write_card(folder).name == "MODEL_CARD.md"
    assert "| accuracy | 0.1234 |" in card({**metrics, "test/accuracy": 0.12341}, config)
    assert "| f1_macro | - |" in card({**metrics, "test/f1_macro": None}, config)


def test_the_config_in_it_is_that_of_the_run(folder: Path) -> None:
    text = (folder / "MODEL_CARD.md").read_text(encoding="utf-8")
    excerpt = yaml.safe_load(re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)[0])
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert excerpt == {name: config[name] for name in excerpt}
    assert {"dim", "data", "tokenizer", "encoder", "head", "optimizer", "trainer"} <= set(excerpt)
    front = yaml.safe_load(text.split("---\n")[1])
    assert front == {"library_name": "vsattn", "tags": ["vsattn", "attention", "ImageTask"]}


def test_what_it_says_to_type_works(folder: Path, tmp_path: Path, monkeypatch) -> None:
    from vsattn.predict import main

    Image.new("L", (8, 8), 200).save(tmp_path / "picture.png")
    monkeypatch.chdir(folder)
    (command,) = re.findall(r"```sh\npython -m vsattn\.predict (.*?)\n", Path("MODEL_CARD.md").read_text())
    assert main(command.replace("FILE", str(tmp_path / "picture.png")).split()) == 0


def test_no_folder_of_the_machine_is_named(metrics: dict, folder: Path) -> None:
    config = tiny.config(
        data={"_target_": "vsattn.tasks.data.images.ImageFolder", "root": "/home/someone/photos"},
        trainer={"max_epochs": 1, "default_root_dir": "C:\\Users\\someone\\runs", "plugins": ["~/own/plugin"]},
    )
    text = card(metrics, config)
    assert "someone" not in text and "own/plugin" not in text
    assert "root: photos" in text and "default_root_dir: runs" in text and "plugin" in text
    assert without_folders({"a": ["/x/y", "a/b", "/", 3, None, "1:2"]}) == {"a": ["y", "a/b", "/", 3, None, "1:2"]}
    assert str(folder.parent) not in (folder / "MODEL_CARD.md").read_text(encoding="utf-8")


def test_what_it_warns_of(metrics: dict) -> None:
    made = tiny.config(data={"_target_": "vsattn.tasks.data.vowels.Vowels"})
    assert "Synthetic: yes, made by a program" in card(metrics, made)
    assert "The data are synthetic: how it does on real ones is not known." in card(metrics, made)
    plain = card({**metrics, "test/accuracy_low": 0.99}, tiny.config())
    assert "synthetic:" not in plain and "trivial baseline above" not in plain and "only a part" not in plain
    poor = {**metrics, "test/accuracy_low": 0.3, "test/accuracy_high": 0.6, "floor/accuracy_high": 0.9}
    alike, worse = ({**poor, "floor/accuracy_low": low} for low in (0.5, 0.7))
    assert "not clearly better than the trivial baseline above: their" in card(alike, tiny.config())
    assert "It is worse than the trivial baseline above." in card(worse, tiny.config())
    written = {key.replace("test/accuracy", "test/exact"): value for key, value in worse.items()}
    assert "It is worse than the trivial" in card(written, tiny.config()) and "| floor | exact |" in card(
        written, tiny.config()
    )
    tuned = card(metrics, tiny.config(init_from="/home/someone/first", freeze=2))
    assert "Started from the weights of `first`" in tuned and "freeze: 2\n" in tuned
    part = tiny.config(trainer={"fast_dev_run": True})
    assert "only a part (fast_dev_run=True)" in card(metrics, part)
    own = tiny.config(data={"_target_": "vsattn.tasks.data.images.ImageFolder", "root": "photos"})
    assert "Licence: not known to vsattn" in card(metrics, own)
    without = {key: value for key, value in metrics.items() if key != "best_epoch"}
    assert "No best checkpoint was kept" in card(without, tiny.config())


def test_names_of_classes_do_not_break_a_table(metrics: dict) -> None:
    odd = {"test/f1/a|b": 0.5, "test/f1/<b>\n#": 0.25}
    text = card({**metrics, **odd}, tiny.config())
    assert "| a\\|b | - | - | 0.5000 | - |" in text and "| &lt;b> # | - | - | 0.2500 | - |" in text


def test_what_is_known_by_name_is_there() -> None:
    modules = [
        importlib.import_module(f"vsattn.tasks.data.{m.name}") for m in pkgutil.iter_modules(vsattn.tasks.data.__path__)
    ]
    data = {
        name
        for module in modules
        for name, value in inspect.getmembers(module, inspect.isclass)
        if issubclass(value, Data)
    }
    assert {*LICENCES, *SYNTHETIC} <= data and not set(LICENCES) & set(SYNTHETIC)
    for name in groups()["task"]:
        config, _ = plain_config([f"task={name}"])
        target = resolve(config["task"]["_target_"])
        assert name == "classification" or target.__name__ in ITEMS
