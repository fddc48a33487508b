"""A trained model judged again: as its run did, on other splits, and on other data of the same kind."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

import vsattn
from tests import tiny
from vsattn.errors import DataError
from vsattn.evaluate import main
from vsattn.tasks.base import Task
from vsattn.tasks.classification import IGNORED
from vsattn.tasks.data.audio import Segment
from vsattn.tasks.data.base import Data
from vsattn.tasks.evaluation import by_name
from vsattn.tasks.experiment import run

SENTENCES = {
    "train": ["the/D dog/N barks/V", "a/D cat/N sleeps/V", "dogs/N bark/V", "the/D cat/N", "cats/N sleep/V soundly/A"]
    * 4,
    "val": ["the/D dog/N sleeps/V", "a/D bark/N"],
    "test": ["a/D dog/N barks/V soundly/A", "the/D cats/N bark/V", "sleep/N"],
}


def conllu(sentences: list[str]) -> str:
    rows = [[word.split("/") for word in sentence.split()] for sentence in sentences]
    blank = ["_"] * 6
    return "".join(
        "".join("\t".join([str(i), word, "_", tag, *blank]) + "\n" for i, (word, tag) in enumerate(row, 1)) + "\n"
        for row in rows
    )


def word_files(folder: Path, sentences: dict[str, list[str]]) -> dict[str, str]:
    folder.mkdir(parents=True)
    for split, texts in sentences.items():
        (folder / f"{split}.conllu").write_text(conllu(texts), encoding="utf-8")
    return {split: str(folder / f"{split}.conllu") for split in sentences}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of small runs of three tasks."""
    folder = tmp_path_factory.mktemp("runs")
    words = word_files(folder / "words", SENTENCES)
    configs: dict[str, dict[str, Any]] = {
        "image": tiny.config(trainer={"max_epochs": 1, "accelerator": "cpu", "devices": 1}),
        "labeling": tiny.config(
            task={"_target_": "vsattn.tasks.labeling.LabelingTask"},
            data={"_target_": "vsattn.tasks.data.conllu.Conllu", **words},
            tokenizer={"_target_": "vsattn.tokenizers.Words"},
            head={"_target_": "vsattn.heads.VectorHead"},
            batch_size=3,
        ),
        "node": tiny.config(
            task={"_target_": "vsattn.tasks.node.NodeTask"},
            data={"_target_": "vsattn.tasks.data.graphs.DigitsGraph"},
            tokenizer={"_target_": "vsattn.tokenizers.GraphNodes"},
            positions=None,
            head={"_target_": "vsattn.heads.VectorHead"},
        ),
    }
    for name, config in configs.items():
        run(config, folder / name)
    return {name: folder / name for name in configs}


@pytest.fixture
def judged(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Run the command and return what it wrote and printed."""

    def judge(*words: str) -> tuple[dict[str, Any], str]:
        output = tmp_path / "judged.json"
        code = main([*words, f"output={output}"])
        shown = capsys.readouterr()
        assert code == 0, shown.err
        return json.loads(output.read_text(encoding="utf-8")), shown.out

    return judge


@pytest.mark.parametrize("task", ["image", "labeling", "node"])
def test_the_test_split_again_gives_exactly_what_the_run_reported(task: str, runs: dict[str, Path], judged) -> None:
    kept = json.loads((runs[task] / "metrics.json").read_text(encoding="utf-8"))
    found, shown = judged(f"ckpt={runs[task]}")
    expected = {name: value for name, value in kept.items() if name.startswith("test/")}
    assert {name: value for name, value in found.items() if name.startswith("test/")} == expected
    assert len(expected) > 10
    assert re.search(rf"^accuracy +{kept['test/accuracy']:.4f} ", shown, re.MULTILINE)


@pytest.mark.parametrize("task", ["image", "labeling", "node"])
def test_validation_is_judged_as_it_was_in_training(task: str, runs: dict[str, Path], judged) -> None:
    kept = json.loads((runs[task] / "metrics.json").read_text(encoding="utf-8"))
    found, shown = judged(f"ckpt={runs[task]}", "split=val")
    assert found["val/accuracy"] == pytest.approx(kept["val/accuracy"], abs=1e-6)
    assert found["val/loss"] == pytest.approx(kept["val/loss"], rel=1e-4)
    assert not any(name.startswith("test/") for name in found)
    assert [line.split()[0] for line in shown.splitlines() if "95% interval" in line] == ["val"]


def test_the_training_split_is_judged_undistorted_and_whole(runs: dict[str, Path], judged) -> None:
    found, _ = judged(f"ckpt={runs['image']}", "split=train", "batch_size=100", "device=cpu")
    assert sum(value for name, value in found.items() if name.startswith("train/support/")) == 808
    images, targets = load_digits(return_X_y=True)
    answers = vsattn.load(runs["image"]).predict(
        [(i.reshape(8, 8) * 255 / 16).round().astype(np.uint8) for i in images]
    )
    right = np.array([answer.label == str(target) for answer, target in zip(answers, targets)])
    every = {
        split: judged(f"ckpt={runs['image']}", f"split={split}")[0][f"{split}/accuracy"] for split in ("val", "test")
    }
    total = 808 * found["train/accuracy"] + 90 * every["val"] + 899 * every["test"]
    assert total == pytest.approx(right.sum(), abs=0.01)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Digits 3, 7 and 8 of scikit-learn as files, of which 7 and 3 are to be classes."""
    images, targets = load_digits(return_X_y=True)
    for split, start in (("train", 0), ("test", 1000)):
        for digit in (3, 7):
            for i in np.flatnonzero(targets[start:] == digit)[:12] + start:
                path = tmp_path / "pictures" / split / str(digit) / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray((images[i].reshape(8, 8) * 255 / 16).round().astype(np.uint8)).save(path)
    return tmp_path / "pictures"


def test_classes_of_other_data_are_matched_by_their_names(runs: dict[str, Path], pictures: Path, judged) -> None:
    files = sorted((pictures / "test").rglob("*.png"))
    answers = vsattn.load(runs["image"]).predict(files)
    right = np.mean([answer.label == path.parent.name for answer, path in zip(answers, files, strict=True)])
    found, shown = judged(f"ckpt={runs['image']}", "data=image_folder", f"data.root={pictures}")
    assert found["test/accuracy"] == pytest.approx(right)
    assert found["test/support/3"] == found["test/support/7"] == 12 and "24 items" in shown


def test_targets_that_the_model_does_not_know_are_named(
    runs: dict[str, Path], pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [f"ckpt={runs['image']}", "data=image_folder", f"data.root={pictures}"]
    for name, count in (("cat", 2), ("dog", 1)):
        for split in ("train", "test"):
            (pictures / split / name).mkdir()
            for i in range(count if split == "test" else 9):
                shutil.copy(next((pictures / split / "3").iterdir()), pictures / split / name / f"{i}.png")
    assert main(words) == 1
    shown = capsys.readouterr().err
    assert "does not know: cat (2), dog (1); it knows 0, 1, 2" in shown and shown.count("\n") == 2
    for name in ("cat", "dog"):
        shutil.rmtree(pictures / "test" / name)
    assert main(words) == 0  # classes that no item of the split has do no harm


def test_other_words_with_fewer_labels_in_another_order(runs: dict[str, Path], tmp_path: Path, judged) -> None:
    other = {"train": ["dogs/V bark/A"], "val": ["cats/A run/V"], "test": ["soundly/A sleep/V", "barks/V"]}
    files = word_files(tmp_path / "other", other)
    words = [f"data.{split}={path}" for split, path in files.items()]
    answers = vsattn.load(runs["labeling"]).predict([["soundly", "sleep"], ["barks"]])
    right = [one.label == label for one, label in zip([*answers[0], *answers[1]], "AVV", strict=True)]
    for given in (words, ["data=conllu", *words]):
        found, _ = judged(f"ckpt={runs['labeling']}", *given)
        assert found["test/accuracy"] == pytest.approx(np.mean(right))
        assert {name.split("/")[2] for name in found if name.startswith("test/support/")} >= {"A", "V"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_judgement_says_so(
    number: signal.Signals, runs: dict[str, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)]
    monkeypatch.setattr(Task, "on_test_epoch_start", lambda self: os.kill(os.getpid(), number))
    if number == signal.SIGINT:
        assert main([f"ckpt={runs['image']}"]) == 130
    else:
        with pytest.raises(SystemExit) as caught:
            main([f"ckpt={runs['image']}"])
        assert caught.value.code == 143
    shown = capsys.readouterr()
    assert shown.err.split()[-1] == {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}[number]
    assert "accuracy" not in shown.out
    assert [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)] == before


def test_one_device_judges_what_several_have_trained(runs: dict[str, Path], tmp_path: Path, judged) -> None:
    checkpoint = torch.load(runs["image"] / "checkpoints" / "best.ckpt", weights_only=True)
    checkpoint["vsattn"]["config"]["trainer"].update(accelerator="cpu", devices=10**6, strategy="ddp", num_nodes=9)
    torch.save(checkpoint, tmp_path / "best.ckpt")
    assert judged(f"ckpt={tmp_path}") == judged(f"ckpt={tmp_path}", "device=cpu")


class Anything(Data):
    """Targets of every kind, by classes that stand in another order than the model's."""

    def setup(self, seed: int) -> None:
        self.classes = ["b", "c", "a"]
        whole, words = torch.tensor([2, IGNORED, 0]), [0, 2, 2]
        clip = [Segment(0.0, 0.5, 1), Segment(0.5, 1.0, 0)]
        self.train = self.val = self.test = [("x", 2), ("x", words), ("x", whole), ("x", clip), ("x", np.int64(1))]


def test_every_kind_of_target_gets_the_models_numbers() -> None:
    data = Anything()
    data.setup(0)
    assert by_name(data, "test", data.classes) is data.test
    one, words, whole, clip, last = (by_name(data, "test", ["a", "b", "d", "c"])[i][1] for i in range(5))
    assert one == 0 and words == [1, 0, 0] and whole.tolist() == [0, IGNORED, 1] and last == 3
    assert clip == [Segment(0.0, 0.5, 3), Segment(0.5, 1.0, 1)]
    with pytest.raises(DataError, match=r"does not know: b \(3\), c \(2\); it knows a, d"):
        by_name(data, "test", ["a", "d"])


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            ["tokenizer=pixels", "encoder.num_layers=3"],
            ["tokenizer=pixels: the model", "encoder.num_layers=3: the model"],
        ),
        (["seed=3"], ["seed=3: the model"]),
        (["splt=val"], ["did you mean 'split'?"]),
        (["split=tset"], ["did you mean 'test'?"]),
        (["data=digit"], ["did you mean 'digits'?"]),
        (["data.augmnt=null"], ["did you mean 'augment'?"]),
        (["data=image_folder"], ["add data.root=VALUE"]),
        (["paths.data=x"], ["goes with data=OPTION"]),
        (["batch_size=0"], ["at least 1"]),
        (["device=tpu"], ["cpu, cuda, cuda:N or mps"]),
    ],
)
def test_what_cannot_be_done_exits_2(
    words: list[str], says: list[str], runs: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([f"ckpt={runs['image']}", *words]) == 2
    shown = capsys.readouterr()
    assert all(text in shown.err for text in says) and shown.out == ""


def test_data_of_another_kind_and_a_checkpoint_that_is_not_there_exit_1(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([f"ckpt={tmp_path}"]) == 1
    assert "holds no checkpoints/best.ckpt" in capsys.readouterr().err
    words = [f"data.{split}={path}" for split, path in word_files(tmp_path / "words", SENTENCES).items()]
    assert main([f"ckpt={runs['image']}", "data=conllu", *words]) == 1
    assert "does not know: A (1), D (2), N (3), V (2)" in capsys.readouterr().err
