"""Classify images: one picture in, one label out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from vsattn.errors import ConfigError
from vsattn.tokenizers.base import Tokenizer
from vsattn.viewing.fonts import shorten

from .classification import ClassificationTask, Collate, joined
from .data.base import Data
from .data.images import EXTENSIONS
from .plots import confusion, save_figure, shown
from .report import linear_floor

#: Pictures in the drawn grid, and how many of them may be wrong ones.
SHOWN, SHOWN_WRONG = 40, 20

#: Logistic regression learns from so many pictures at most, of so many numbers each.
FLOOR_PICTURES, FLOOR_PIXELS = 5000, 1024


class Mixed(Collate):
    """Batches of mixed pictures, with targets ``(B, C)``."""

    def __init__(self, tokenizer: Tokenizer, mix: Callable[..., Any]) -> None:
        super().__init__(tokenizer, train=True)
        self.mix = mix

    def __call__(self, pairs: list[Any]) -> dict[str, Tensor]:
        """Batch the pairs and mix them."""
        return self.mix(super().__call__(pairs))


class ImageTask(ClassificationTask):
    """Classification of pictures, with mixtures of them in training if asked for.

    Args:
        model: batch -> logits ``(B, C)``.
        tokenizer: a fitted image tokenizer.
        classes, optimizer, schedule, recipe, label_smoothing: see :class:`ClassificationTask`.
        mixup: alpha of MixUp's Beta distribution (Zhang et al. 2018); 0 is off.
        cutmix: alpha of CutMix's (Yun et al. 2019); 0 is off.

    Raises:
        ConfigError: for values outside those ranges.
        DataError: for fewer than two classes.
    """

    floor_name = "logistic regression on pixels"
    extensions = EXTENSIONS

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
        if mixup < 0 or cutmix < 0:
            raise ConfigError(f"task.mixup and task.cutmix are 0 (off) or positive, not {mixup} and {cutmix}")
        super().__init__(
            model,
            tokenizer,
            classes,
            optimizer=optimizer,
            schedule=schedule,
            recipe=recipe,
            label_smoothing=label_smoothing,
        )
        self.mixup, self.cutmix = mixup, cutmix

    def teach_plainly(self) -> None:
        """Smooth no label, and mix no pictures."""
        super().teach_plainly()
        self.mixup = self.cutmix = 0.0

    def collator(self, train: bool) -> Collate:
        """Return the function that batches; in training it mixes pictures if asked to."""
        if not (train and (self.mixup or self.cutmix)):
            return Collate(self.tokenizer, train=train)
        from .data.augment import Mix

        return Mixed(self.tokenizer, Mix(self.num_classes, mixup=self.mixup, cutmix=self.cutmix))

    def floor(self, data: Data) -> np.ndarray | None:
        """Judge logistic regression on the pixels of small pictures of one size; None for others."""
        learned = self.tokenizer.state
        if learned["channels"] * learned["height"] * learned["width"] > FLOOR_PIXELS:
            return None
        step = max(1, -(-len(data.train) // FLOOR_PICTURES))
        train, train_targets = self._pixels([data.train[i] for i in range(0, len(data.train), step)])
        test, test_targets = self._pixels([data.test[i] for i in range(len(data.test))])
        return linear_floor(train, train_targets, test, test_targets) if train.shape[1] == test.shape[1] else None

    def _pixels(self, pairs: list[Any]) -> tuple[np.ndarray, np.ndarray]:
        batch = Collate(self.tokenizer)(pairs)
        return batch["image"].flatten(1).numpy() / 255, batch["target"].numpy()

    def draw(self, folder: Path, data: Data) -> list[Path]:
        """Draw the confusion matrix and a grid of test pictures with predictions."""
        logits, targets = joined(self.remembered)
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
    return shown(wrong, right, SHOWN, SHOWN_WRONG)


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
