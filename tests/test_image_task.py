"""What is particular to images: losses, mixtures, metrics and drawing."""

from __future__ import annotations

import pickle

import pytest
import tiny
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.metrics import accuracy_score
from torch import nn

import vsattn
from vsattn.errors import ConfigError, DataError
from vsattn.tasks.data.images import Digits
from vsattn.tasks.experiment import run
from vsattn.tasks.image import ImageTask
from vsattn.tokenizers import Pixels

GENERATOR = torch.Generator().manual_seed(0)


class Flat(nn.Module):
    """A linear classifier of 8 x 8 pictures."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 10)

    def forward(self, batch):
        return self.linear(batch["image"].flatten(1))


@pytest.fixture(scope="module")
def data() -> Digits:
    digits = Digits()
    digits.setup(0)
    return digits


def task_of(data: Digits, **arguments) -> ImageTask:
    return ImageTask(Flat(), Pixels().fit(data.fit_items(100)), data.classes, **arguments)


def pairs(data: Digits, count: int = 12) -> list:
    return [data.train[i] for i in range(count)]


def test_training_loss_smooths_and_validation_loss_does_not(data) -> None:
    task = task_of(data, label_smoothing=0.2)
    batch = task.collate(pairs(data))
    logits = torch.randn(12, 10, generator=GENERATOR)
    log_p = logits.log_softmax(-1)
    hard = -log_p[torch.arange(12), batch["target"]]
    assert torch.allclose(task.loss(logits, batch), hard.mean())
    assert torch.allclose(task.training_loss(logits, batch), (0.8 * hard - 0.2 * log_p.mean(-1)).mean())


def test_collator_is_small_and_picklable(data) -> None:
    task = task_of(data, mixup=0.2)
    for train in (True, False):
        sent = pickle.dumps(task.collator(train))
        assert len(sent) < 5000
        assert pickle.loads(sent)(pairs(data))["image"].shape == (12, 1, 8, 8)


@pytest.mark.parametrize("mixture", [{"mixup": 0.4}, {"cutmix": 1.0}, {"mixup": 0.4, "cutmix": 1.0}])
def test_mixtures_are_for_training_alone(data, mixture) -> None:
    task = task_of(data, **mixture)
    torch.manual_seed(0)
    batch = task.collate(pairs(data), train=True)
    assert batch["target"].shape == (12, 10)
    assert torch.allclose(batch["target"].sum(-1), torch.ones(12))
    assert task.collate(pairs(data))["target"].tolist() == [target for _, target in pairs(data)]
    logits = task(batch)
    expected = -(batch["target"] * logits.log_softmax(-1)).sum(-1).mean()
    assert torch.allclose(task.training_loss(logits, batch), expected)
    metrics = task.metrics()
    task.measure(metrics, batch["target"] * 5, batch)
    assert float(metrics["accuracy"].compute()) == 1.0


def test_accuracy_equals_that_of_scikit_learn(data) -> None:
    task = task_of(data)
    metrics = task.metrics()
    truth, guesses = [], []
    for count in (7, 1, 12):
        batch = task.collate(pairs(data, count))
        logits = torch.randn(count, 10, generator=GENERATOR) + 2 * F.one_hot(batch["target"], 10)
        task.measure(metrics, logits, batch)
        truth += batch["target"].tolist()
        guesses += logits.argmax(-1).tolist()
    assert float(metrics["accuracy"].compute()) == pytest.approx(accuracy_score(truth, guesses))


def test_judgement_does_not_depend_on_the_batches(data) -> None:
    task = task_of(data)
    everything = [data.test[i] for i in range(100)]

    def judged(size: int) -> dict[str, float]:
        chunks = [task.collate(everything[i : i + size]) for i in range(0, 100, size)]
        with torch.no_grad():
            return task.evaluate([task.remember(task(batch), batch) for batch in chunks], data, seed=0)

    assert judged(100) == pytest.approx(judged(7), rel=1e-6)


@pytest.mark.parametrize(
    "wrong", [{"label_smoothing": 1.0}, {"label_smoothing": -0.1}, {"mixup": -1.0}, {"cutmix": -1.0}]
)
def test_values_out_of_range(data, wrong) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        task_of(data, **wrong)


def test_one_class_is_not_enough(data) -> None:
    with pytest.raises(DataError, match="at least two classes"):
        ImageTask(Flat(), Pixels().fit(data.fit_items(100)), ["cat"])


def test_checkpoint_keeps_the_weights_of_the_model_alone(data) -> None:
    assert set(task_of(data).state_dict()) == {"model.linear.weight", "model.linear.bias"}


@pytest.fixture
def photos(tmp_path):
    """Pictures of two classes, of many sizes and modes; light ones and dark ones."""
    for split, count in (("train", 12), ("val", 4), ("test", 6)):
        for name, level in (("light", 220), ("dark", 30)):
            folder = tmp_path / "photos" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                mode = ("L", "RGB", "P")[i % 3]
                Image.new("L", (9 + i, 14 - i), level + i).convert(mode).save(folder / f"{i}.png")
    return tmp_path / "photos"


def test_own_pictures_of_any_size_from_files_to_prediction(photos, tmp_path) -> None:
    config = tiny.config(
        data={"_target_": "vsattn.tasks.data.images.ImageFolder", "root": str(photos)},
        batch_size=6,
        trainer={"max_epochs": 12, "accelerator": "cpu", "devices": 1},
    )
    result = run(config, tmp_path / "run")
    assert result.metrics["test/accuracy"] == 1.0 and set(result.data.classes) == {"dark", "light"}
    assert (tmp_path / "run" / "plots" / "examples.png").exists()
    paths = sorted((photos / "test").glob("*/*.png"))
    assert [a.label for a in vsattn.load(tmp_path / "run").predict(paths)] == [path.parent.name for path in paths]


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_corrupt_picture_is_named(photos, tmp_path, num_workers) -> None:
    (photos / "test" / "dark" / "3.png").write_bytes(b"no picture at all")
    config = tiny.config(
        data={"_target_": "vsattn.tasks.data.images.ImageFolder", "root": str(photos)},
        num_workers=num_workers,
        trainer={"max_epochs": 1, "accelerator": "cpu", "devices": 1},
    )
    with pytest.raises(DataError, match=r"dark/3\.png cannot be read") as caught:
        run(config, tmp_path / "run")
    assert "Traceback" not in str(caught.value)


def test_mixtures_need_pictures_of_one_size(photos, tmp_path) -> None:
    config = tiny.config(
        data={"_target_": "vsattn.tasks.data.images.ImageFolder", "root": str(photos)},
        task={"_target_": "vsattn.tasks.image.ImageTask", "mixup": 0.2},
    )
    with pytest.raises(ConfigError, match=r"tokenizer\.size"):
        run(config, tmp_path / "run")
