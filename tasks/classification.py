"""What all classification shares: one label per set or one per vector, cross-entropy, and how it is judged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy

from vsattn.crf import CrfHead
from vsattn.ensemble import together
from vsattn.errors import ConfigError, DataError, ShapeError
from vsattn.heads import MultiTaskHead
from vsattn.tokenizers.base import Tokenizer

from .base import Task
from .data.base import Data
from .plots import confusion
from .report import classification, linear_floor

#: The target of a vector that has no label, or whose label is not to be looked at.
IGNORED = -100

#: Logistic regression learns from so many items at most.
FLOOR_ITEMS = 5000


class Collate:
    """``(item, target)`` pairs to a batch with ``"target"``; picklable, and without weights.

    A target is a number, which gives ``(B,)``, or one number per vector, which gives ``(B, N)`` padded with `IGNORED`.
    """

    def __init__(self, tokenizer: Tokenizer, *, train: bool = False) -> None:
        self.tokenizer, self.train = tokenizer, train

    def __call__(self, pairs: list[Any]) -> dict[str, Tensor]:
        """Batch the pairs."""
        batch = self.tokenizer.collate([item for item, _ in pairs], train=self.train)
        targets = [torch.as_tensor(target) for _, target in pairs]
        per_vector = bool(targets) and targets[0].ndim > 0
        batch["target"] = pad_sequence(targets, True, IGNORED) if per_vector else torch.stack(targets)
        return batch


class ClassificationTask(Task):
    """Cross-entropy over the classes, for one label per set or one per vector, with label smoothing in training alone.

    Args:
        model: batch -> logits ``(B, C)`` or ``(B, N, C)``.
        tokenizer: fitted.
        classes: their names.
        optimizer, schedule, recipe: see :class:`Task`.
        label_smoothing: probability given to all classes alike (Szegedy et al. 2016, section 7), in [0, 1).

    Raises:
        ConfigError: for a smoothing outside that range, or a `CrfHead` or `MultiTaskHead` that the task does not train.
        DataError: for fewer than two classes.
    """

    floor_name = "logistic regression on a summary of each item"
    formats: tuple[str, ...] = ("csv", "tsv", "table", "jsonl")
    tells_classes = True
    #: Whether the task learns and finds the labels of a sequence together, as `CrfHead` needs.
    trains_crf = False
    #: Whether the task learns further columns of labels, as `MultiTaskHead` needs.
    teaches_columns = False

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Tokenizer,
        classes: Sequence[str],
        *,
        optimizer: Callable[..., Optimizer] | None = None,
        schedule: Callable[..., LRScheduler] | None = None,
        recipe: dict[str, Any] | None = None,
        label_smoothing: float = 0.0,
    ) -> None:
        if not 0 <= label_smoothing < 1:
            raise ConfigError(f"task.label_smoothing is in [0, 1), not {label_smoothing}")
        if len(classes) < 2:
            raise DataError(f"classification needs at least two classes; the data has {list(classes)}")
        if isinstance(getattr(model, "head", None), CrfHead) and not self.trains_crf:
            raise ConfigError("head=crf is trained by task=labeling alone: choose head=vector")
        if isinstance(getattr(model, "head", None), MultiTaskHead) and not self.teaches_columns:
            raise ConfigError("head=multi_task is trained by task=labeling alone: choose head=vector")
        self.num_classes = len(classes)
        super().__init__(model, tokenizer, classes, optimizer=optimizer, schedule=schedule, recipe=recipe)
        self.label_smoothing = label_smoothing

    def collator(self, train: bool) -> Callable[[list[Any]], dict[str, Tensor]]:
        """Return the function that batches."""
        return Collate(self.tokenizer, train=train)

    def loss(self, output: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """Return the mean cross-entropy, without smoothing."""
        return self.cross_entropy(output, batch["target"], 0.0)

    def training_loss(self, output: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """Return the mean cross-entropy with label smoothing."""
        return self.cross_entropy(output, batch["target"], self.label_smoothing)

    def teach_plainly(self) -> None:
        """Smooth no label."""
        self.label_smoothing = 0.0

    def cross_entropy(self, output: Tensor, target: Tensor, label_smoothing: float) -> Tensor:
        """Return the mean over labelled vectors (or sets) of the cross-entropy; 0 where none is labelled.

        Args:
            output: logits, ``(B, C)`` or ``(B, N, C)``.
            target: classes, ``(B,)`` or ``(B, N)``; or their shares, ``(B, C)``.
            label_smoothing: in [0, 1).

        Raises:
            ShapeError: when the head answers per set and the data per vector, or the reverse; or not for each class.
        """
        if target.is_floating_point():
            return F.cross_entropy(output.float(), target, label_smoothing=label_smoothing)
        if output.shape[:-1] != target.shape:
            raise ShapeError(_misfit(output, target))
        if output.shape[-1] != self.num_classes:
            head = "head=attention or head=mean" if target.ndim == 1 else "head=vector"
            raise ShapeError(f"the head gives {output.shape[-1]} numbers for {self.num_classes} classes: choose {head}")
        logits, labels = output.float().flatten(0, -2), target.flatten()
        total = F.cross_entropy(logits, labels, ignore_index=IGNORED, label_smoothing=label_smoothing, reduction="sum")
        return total / (labels != IGNORED).sum().clamp(min=1)

    def count(self, batch: dict[str, Tensor]) -> int:
        """Return how many labels the batch has."""
        target = batch["target"]
        return len(target) if target.is_floating_point() else int((target != IGNORED).sum())

    def metrics(self) -> dict[str, Metric]:
        """Return the share of right answers."""
        accuracy = MulticlassAccuracy(self.num_classes, average="micro", ignore_index=IGNORED, validate_args=False)
        return {"accuracy": accuracy}

    def measure(self, metrics: dict[str, Metric], output: Tensor, batch: dict[str, Tensor]) -> None:
        """Count right answers; of a mixture, the class with the larger share is the right one."""
        target = batch["target"]
        metrics["accuracy"].update(output.argmax(-1), target.argmax(-1) if target.is_floating_point() else target)

    def remember(self, output: Tensor, batch: dict[str, Tensor]) -> Any:
        """Keep logits ``(n, C)`` and targets ``(n,)`` of what is labelled, in order."""
        labelled = batch["target"] != IGNORED
        return output[labelled].float().cpu(), batch["target"][labelled].cpu()

    def together(self, remembered: Sequence[list[Any]]) -> list[Any]:
        """Average the members' probabilities; each kept the same items in the same order."""
        logits, targets = zip(*map(joined, remembered), strict=True)
        return [(together(logits), targets[0])]

    def evaluate(self, remembered: list[Any], data: Data, *, seed: int) -> dict[str, float]:
        """Return loss, accuracy with its interval, and precision, recall and F1 of every class."""
        logits, targets = joined(remembered)
        loss = F.cross_entropy(logits.double(), targets)
        scores = classification(targets.numpy(), logits.argmax(-1).numpy(), self.classes, seed=seed)
        return {"test/loss": float(loss), **scores}

    def floor(self, data: Data) -> np.ndarray | None:
        """Judge logistic regression on the figures by which the tokenizer sums up an item; None where it does not."""
        item, target = data.train[0]
        if self.tokenizer.summary(item) is None or torch.as_tensor(target).ndim:
            return None
        every = max(1, -(-len(data.train) // FLOOR_ITEMS))
        parts = []
        for split, step in ((data.train, every), (data.test, 1)):
            pairs = [split[i] for i in range(0, len(split), step)]
            parts += [np.array([self.tokenizer.summary(item) for item, _ in pairs])]
            parts += [np.array([target for _, target in pairs])]
        return linear_floor(*parts)

    def draw(self, folder: Path, data: Data) -> list[Path]:
        """Draw the confusion matrix."""
        logits, targets = joined(self.remembered)
        return [confusion(targets.numpy(), logits.argmax(-1).numpy(), self.classes, folder / "confusion.png")]


def joined(remembered: list[Any]) -> tuple[Tensor, Tensor]:
    """Return logits ``(n, C)`` and targets ``(n,)`` of the whole test split, in its order.

    Raises:
        DataError: when nothing of it is labelled.
    """
    logits, targets = (torch.cat(part) for part in zip(*remembered, strict=True))
    if not len(targets):
        raise DataError("the test split has no labels to judge by")
    return logits, targets


def _misfit(output: Tensor, target: Tensor) -> str:
    if target.ndim == 1 and output.ndim == 3:
        return "the head answers per vector and the data has one label per set: choose head=attention or head=mean"
    if target.ndim == 2 and output.ndim == 2:
        return "the head answers per set and the data has one label per vector: choose head=vector"
    return (
        f"the model answers for {tuple(output.shape[:-1])} vectors and the data has labels for {tuple(target.shape)}: "
        "the tokenizer makes another number of vectors than there are labels"
    )
