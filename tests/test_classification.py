"""What classification tasks share: one label per set or per vector, in the loss, the measures and the predictions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score
from torch import nn

from vsattn.crf import CrfHead
from vsattn.encoders import RecurrentEncoder, TransformerEncoder
from vsattn.errors import ConfigError, DataError, ShapeError
from vsattn.heads import MeanHead, VectorHead
from vsattn.model import Model
from vsattn.predictor import Predictor
from vsattn.tasks.classification import IGNORED, ClassificationTask
from vsattn.tasks.data.images import Digits
from vsattn.tasks.labeling import LabelingTask
from vsattn.tasks.report import linear_floor
from vsattn.tokenizers.base import Tokenizer
from vsattn.vectorset import VectorSet


class Numbers(Tokenizer):
    """Lists of numbers; each is a vector."""

    def fit(self, items: Any) -> Numbers:
        return self.load_state({})

    def collate(self, items: Any, train: bool = False) -> dict[str, torch.Tensor]:
        rows = [torch.tensor(item, dtype=torch.float32) for item in items]
        length = torch.tensor([len(row) for row in rows])
        return {"x": nn.utils.rnn.pad_sequence(rows, batch_first=True), "length": length}

    def decode(self, batch: dict[str, torch.Tensor]) -> list[Any]:
        return batch["x"].tolist()

    def embedder(self, dim: int) -> nn.Module:
        return Embed(dim)

    @property
    def sizes(self) -> dict[str, Any]:
        return {"dimensions": 1}


class Embed(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(1, dim)

    def forward(self, batch: dict[str, torch.Tensor]) -> VectorSet:
        mask = torch.arange(batch["x"].shape[1]) < batch["length"][:, None]
        return VectorSet(self.linear(batch["x"][..., None]), mask, layout="sequence")


PAIRS = [([0.1, 0.2, 0.3], [0, 1, IGNORED]), ([0.4], [2]), ([0.5, 0.6], [1, 1])]


@pytest.fixture
def task() -> ClassificationTask:
    torch.manual_seed(0)
    tokenizer = Numbers().fit([])
    model = Model(tokenizer.embedder(8), RecurrentEncoder(8, 1), VectorHead(8, 3))
    return ClassificationTask(model, tokenizer, ["a", "b", "c"], label_smoothing=0.1)


def test_the_loss_is_the_mean_over_labelled_vectors(task) -> None:
    batch = task.collate(PAIRS)
    assert batch["target"].tolist() == [[0, 1, IGNORED], [2, IGNORED, IGNORED], [1, 1, IGNORED]]
    output = task(batch)
    chosen = [output[0, 0], output[0, 1], output[1, 0], output[2, 0], output[2, 1]]
    logits, labels = torch.stack(chosen), torch.tensor([0, 1, 2, 1, 1])
    assert task.count(batch) == 5
    assert torch.allclose(task.loss(output, batch), F.cross_entropy(logits, labels))
    assert torch.allclose(task.training_loss(output, batch), F.cross_entropy(logits, labels, label_smoothing=0.1))
    metrics = task.metrics()
    task.measure(metrics, output, batch)
    assert float(metrics["accuracy"].compute()) == pytest.approx(accuracy_score(labels, logits.argmax(-1)))
    kept, targets = task.remember(output, batch)
    assert torch.equal(kept, logits) and torch.equal(targets, labels)


def test_a_batch_without_labels_has_loss_0_and_gradients_0(task) -> None:
    batch = task.collate([([0.1, 0.2], [IGNORED, IGNORED])])
    loss = task.training_loss(task(batch), batch)
    loss.backward()
    assert loss.item() == 0 and task.count(batch) == 0
    assert not any(p.grad.any() for p in task.model.parameters())
    with pytest.raises(DataError, match="the test split has no labels"):
        task.evaluate([task.remember(task(batch), batch)], None, seed=0)


def test_a_head_that_answers_otherwise_than_the_data_is_refused(task) -> None:
    batch = task.collate(PAIRS)
    with pytest.raises(ShapeError, match="choose head=vector"):
        task.loss(torch.randn(3, 3), batch)
    with pytest.raises(ShapeError, match="choose head=attention or head=mean"):
        task.loss(torch.randn(3, 3, 3), {"target": torch.tensor([0, 1, 2])})
    with pytest.raises(ShapeError, match="answers for \\(3, 2\\) vectors and the data has labels for \\(3, 3\\)"):
        task.loss(torch.randn(3, 2, 3), batch)
    with pytest.raises(ShapeError, match="gives 4 numbers for 3 classes: choose head=vector"):
        task.loss(torch.randn(3, 3, 4), batch)
    with pytest.raises(ShapeError, match="gives 4 numbers for 3 classes: choose head=attention or head=mean"):
        task.loss(torch.randn(3, 4), {"target": torch.tensor([0, 1, 2])})


def test_wrong_arguments(task) -> None:
    with pytest.raises(ConfigError, match=r"label_smoothing is in \[0, 1\), not 1"):
        ClassificationTask(task.model, task.tokenizer, ["a", "b"], label_smoothing=1)
    with pytest.raises(DataError, match="at least two classes"):
        ClassificationTask(task.model, task.tokenizer, ["a"])


def test_a_random_field_is_refused_by_tasks_that_do_not_train_it(task) -> None:
    model = Model(task.tokenizer.embedder(8), RecurrentEncoder(8, 1), CrfHead(8, 3))
    with pytest.raises(ConfigError, match="head=crf is trained by task=labeling alone: choose head=vector"):
        ClassificationTask(model, task.tokenizer, task.classes)
    assert LabelingTask(model, task.tokenizer, task.classes).trains_crf


def test_predictions_for_each_vector_are_those_of_the_item_alone(task) -> None:
    predictor = Predictor(task.model, task.tokenizer, task.classes)
    items = [item for item, _ in PAIRS]
    together, alone = predictor.predict(items), [predictor.predict([item])[0] for item in items]
    assert [len(answer) for answer in together] == [3, 1, 2]
    for one, other in zip(together, alone, strict=True):
        for a, b in zip(one, other, strict=True):
            assert a.label == b.label and a.probability == pytest.approx(b.probability, abs=1e-6)
    assert [tuple(logits.shape) for logits in predictor.logits(items)] == [(3, 3), (1, 3), (2, 3)]
    per_set = Predictor(Model(task.tokenizer.embedder(8), TransformerEncoder(8, 1, 2), MeanHead(8, 3)),
                        task.tokenizer, task.classes)  # fmt: skip
    assert per_set.logits(items).shape == (3, 3) and per_set.predict(items)[0].label in task.classes


def test_the_floor_of_pictures_is_logistic_regression() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(200, 5)), rng.integers(0, 3, 200)
    x[:, 0] += 2 * y
    scaled = (x - x[:100].mean(0)) / x[:100].std(0)
    expected = LogisticRegression(max_iter=1000).fit(scaled[:100], y[:100]).predict(scaled[100:]) == y[100:]
    assert (linear_floor(x[:100], y[:100], x[100:], y[100:]) == expected).all()


def test_the_floor_of_the_digits() -> None:
    from vsattn.tasks.image import ImageTask
    from vsattn.tokenizers import Pixels

    data = Digits()
    data.setup(0)
    tokenizer = Pixels().fit(data.fit_items(2000))
    task = ImageTask(nn.Identity(), tokenizer, data.classes)
    correct = task.floor(data)
    assert correct.shape == (899,) and 0.92 < correct.mean() < 0.95
