"""Classify images: one picture in, one label out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy

from vsattn.errors import ConfigError, DataError
from vsattn.tokenizers.base import Tokenizer

from .base import Task
from .data.base import Data
from .plots import confusion, save_figure
from .report import classification

#: Pictures in the drawn grid, and how many of them may be wrong ones.
SHOWN, SHOWN_WRONG = 40, 20


class Collate:
    """``(picture, target)`` pairs to a batch with ``"target"``; picklable, and without weights."""

    def __init__(self, tokenizer: Tokenizer, *, train: bool = False, mix: Callable[..., Any] | None = None) -> None:
        self.tokenizer, self.train, self.mix = tokenizer, train, mix

    def __call__(self, pairs: list[Any]) -> dict[str, Tensor]:
        """Batch the pairs; the mixture of pictures, if any, makes the targets ``(B, C)``."""
        batch = self.tokenizer.collate([item for item, _ in pairs], train=self.train)
        batch["target"] = torch.tensor([target for _, target in pairs])
        return batch if self.mix is None else self.mix(batch)


class ImageTask(Task):
    """Cross-entropy over the classes, with label smoothing and mixtures of pictures in training alone.

    Args:
        model: batch -> logits ``(B, C)``.
        tokenizer: a fitted image tokenizer.
        classes: their names.
        optimizer, schedule, recipe: see :class:`Task`.
        label_smoothing: probability given to all classes alike (Szegedy et al. 2016, section 7), in [0, 1).
        mixup: alpha of MixUp's Beta distribution (Zhang et al. 2018); 0 is off.
        cutmix: alpha of CutMix's (Yun et al. 2019); 0 is off.

    Raises:
        ConfigError: for values outside those ranges.
        DataError: for fewer than two classes.
    """

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
        mixup: float = 0.0,
        cutmix: float = 0.0,
    ) -> None:
        if not 0 <= label_smoothing < 1:
            raise ConfigError(f"task.label_smoothing is in [0, 1), not {label_smoothing}")
        if mixup < 0 or cutmix < 0:
            raise ConfigError(f"task.mixup and task.cutmix are 0 (off) or positive, not {mixup} and {cutmix}")
        if len(classes) < 2:
            raise DataError(f"classification needs at least two classes; the data has {list(classes)}")
        self.num_classes = len(classes)
        super().__init__(model, tokenizer, classes, optimizer=optimizer, schedule=schedule, recipe=recipe)
        self.label_smoothing, self.mixup, self.cutmix = label_smoothing, mixup, cutmix

    def collator(self, train: bool) -> Collate:
        """Return the function that batches; in training it mixes pictures if asked to."""
        if not (train and (self.mixup or self.cutmix)):
            return Collate(self.tokenizer, train=train)
        from .data.augment import Mix

        return Collate(self.tokenizer, train=True, mix=Mix(self.num_classes, mixup=self.mixup, cutmix=self.cutmix))

    def loss(self, output: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """Return the mean cross-entropy, without smoothing."""
        return F.cross_entropy(output.float(), batch["target"])

    def training_loss(self, output: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """Return the mean cross-entropy with label smoothing."""
        return F.cross_entropy(output.float(), batch["target"], label_smoothing=self.label_smoothing)

    def metrics(self) -> dict[str, Metric]:
        """Return the share of right answers."""
        return {"accuracy": MulticlassAccuracy(self.num_classes, average="micro", validate_args=False)}

    def measure(self, metrics: dict[str, Metric], output: Tensor, batch: dict[str, Tensor]) -> None:
        """Count right answers; of a mixture, the class with the larger share is the right one."""
        target = batch["target"]
        metrics["accuracy"].update(output.argmax(-1), target.argmax(-1) if target.ndim == 2 else target)

    def remember(self, output: Tensor, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Keep logits and targets."""
        return output.float().cpu(), batch["target"].cpu()

    def evaluate(self, remembered: list[Any], *, seed: int) -> dict[str, float]:
        """Return loss, accuracy with its interval, and precision, recall and F1 of every class."""
        logits, targets = (torch.cat(part) for part in zip(*remembered, strict=True))
        loss = F.cross_entropy(logits.double(), targets)
        scores = classification(targets.numpy(), logits.argmax(-1).numpy(), self.classes, seed=seed)
        return {"test/loss": float(loss), **scores}

    def draw(self, folder: Path, data: Data) -> list[Path]:
        """Draw the confusion matrix and a grid of test pictures with predictions."""
        logits, targets = (torch.cat(part) for part in zip(*self.remembered, strict=True))
        probabilities, predictions = logits.softmax(-1).max(-1)
        files = [confusion(targets.numpy(), predictions.numpy(), self.classes, folder / "confusion.png")]
        wrong = (predictions != targets).nonzero().flatten().tolist()
        chosen = pick(len(targets), wrong)
        pictures = self.tokenizer.decode(self.tokenizer.collate([data.test[i][0] for i in chosen]))
        rows = [
            (picture, self.classes[predictions[i]], float(probabilities[i]), self.classes[targets[i]])
            for picture, i in zip(pictures, chosen, strict=True)
        ]
        share = len(wrong) / len(targets)
        title = f"{len(targets) - len(wrong)} of {len(targets)} test images right ({100 * (1 - share):.2f}%)"
        files.append(examples(rows, title, folder / "examples.png"))
        return files


def pick(count: int, wrong: list[int]) -> list[int]:
    """Choose test pictures to show: wrong ones first, then right ones, each evenly spread over the set."""
    few = set(wrong)
    right = [i for i in range(count) if i not in few]
    bad = spread(wrong, max(SHOWN_WRONG, SHOWN - len(right)))
    return bad + spread(right, SHOWN - len(bad))


def spread(indices: list[int], limit: int) -> list[int]:
    """Return at most ``limit`` of the indices, evenly spaced."""
    if len(indices) <= limit:
        return indices
    return [indices[i * len(indices) // limit] for i in range(limit)]


def examples(rows: list[tuple[Any, str, float, str]], title: str, path: Path) -> Path:
    """Draw pictures with their predictions; a wrong one has a red frame and says what is true.

    Args:
        rows: of picture (uint8 ``(H, W, C)``), predicted label, its probability, true label.
        title: above the grid.
        path: the PNG to write.
    """
    from matplotlib.figure import Figure

    columns = min(8, len(rows))
    lines = -(-len(rows) // columns)
    figure = Figure(figsize=(1.5 * columns, 1.95 * lines + 0.6), layout="constrained")
    wrong_ones = sum(predicted != true for _, predicted, _, true in rows)
    figure.suptitle(f"{title}; shown: {wrong_ones} wrong (red), {len(rows) - wrong_ones} right", fontsize=11)
    axes = figure.subplots(lines, columns, squeeze=False).ravel()
    for axis in axes:
        axis.set_xticks([])
        axis.set_yticks([])
        axis.set_visible(False)
    for axis, (picture, predicted, probability, true) in zip(axes, rows, strict=False):
        axis.set_visible(True)
        shown = picture[..., 0] if picture.shape[-1] == 1 else picture
        smooth = "nearest" if max(picture.shape[:2]) < 100 else "antialiased"
        axis.imshow(shown, cmap="gray", vmin=0, vmax=255, interpolation=smooth)
        right = predicted == true
        colour = "#2e7d32" if right else "#c62828"
        text = f"{shorten(predicted)} ({100 * probability:.0f}%)"
        axis.set_title(text if right else f"{text}\ntrue: {shorten(true)}", fontsize=9, color=colour)
        for spine in axis.spines.values():
            spine.set(color=colour, linewidth=1.0 if right else 3.0)
    return save_figure(figure, path)


def shorten(name: str, length: int = 14) -> str:
    """Cut a long class name."""
    return name if len(name) <= length else name[: length - 1] + "…"
