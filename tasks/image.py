"""Image classification."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim import Optimizer

from vsattn.errors import ConfigError
from vsattn.model import Model
from vsattn.tokenizers.images import ImageTokenizer, to_tensor

from .base import Task
from .data.augment import Mix
from .plots import draw_confusion, draw_pictures
from .report import bootstrap_interval, per_class


class ImageCollator:
    """``(picture, class index)`` pairs to a batch with ``"target"``; training batches are mixed."""

    def __init__(self, tokenizer: ImageTokenizer, mix: Mix) -> None:
        self.tokenizer, self.mix = tokenizer, mix

    def __call__(self, pairs: Sequence[tuple[Any, int]], train: bool = False) -> dict[str, Tensor]:
        pictures, targets = zip(*pairs, strict=True)
        batch = {**self.tokenizer.collate(pictures, train), "target": torch.tensor(targets)}
        return self.mix(batch) if train else batch


class ImageTask(Task):
    """One label per picture, by cross-entropy.

    Args:
        model, tokenizer, classes, optimizer, schedule, payload: see :class:`Task`.
        label_smoothing: share of the target spread over all classes in training (Szegedy et al. 2016, section 7).
        mixup, cutmix: alphas of :class:`Mix`; 0 is off.
    """

    def __init__(
        self,
        model: Model,
        tokenizer: ImageTokenizer,
        classes: Sequence[str],
        *,
        optimizer: Callable[..., Optimizer],
        schedule: Callable[..., Any] | None = None,
        payload: dict[str, Any] | None = None,
        label_smoothing: float = 0.0,
        mixup: float = 0.0,
        cutmix: float = 0.0,
    ) -> None:
        super().__init__(model, tokenizer, classes, optimizer=optimizer, schedule=schedule, payload=payload)
        if not 0 <= label_smoothing < 1:
            raise ConfigError(f"ImageTask.label_smoothing is in [0, 1), not {label_smoothing}")
        self.label_smoothing = label_smoothing
        self._collator = ImageCollator(tokenizer, Mix(len(classes), mixup=mixup, cutmix=cutmix))
        self.predicted: list[Tensor] = []
        self.expected: list[Tensor] = []

    @property
    def collator(self) -> ImageCollator:
        return self._collator

    def losses(self, batch: dict[str, Tensor], train: bool) -> tuple[Tensor, dict[str, Tensor], int]:
        target = batch["target"]
        logits = self.model(batch).float()
        loss = F.cross_entropy(logits, target, label_smoothing=self.label_smoothing if train else 0.0)
        label = target.argmax(1) if target.ndim == 2 else target
        correct = (logits.argmax(1) == label).sum()
        if not train:
            self._last = logits.argmax(1)
        return loss, {"loss": loss * len(label), "accuracy": correct}, len(label)

    def on_test_start(self) -> None:
        self.predicted, self.expected = [], []

    def examine(self, batch: dict[str, Tensor]) -> None:
        self.predicted.append(self._last.cpu())
        self.expected.append(batch["target"].cpu())

    def report(self) -> dict[str, float]:
        predicted, expected = torch.cat(self.predicted), torch.cat(self.expected)
        low, high = bootstrap_interval((predicted == expected).numpy())
        rows, macro = per_class(expected.numpy(), predicted.numpy(), self.classes)
        return {
            "test/accuracy_low": low,
            "test/accuracy_high": high,
            "test/f1_macro": macro,
            **{f"test/f1/{name}": f1 for name, _, _, f1, _ in rows},
        }

    def table(self) -> tuple[list[str], list[list[str]]]:
        predicted, expected = torch.cat(self.predicted), torch.cat(self.expected)
        rows, _ = per_class(expected.numpy(), predicted.numpy(), self.classes)
        shown = [[name, f"{p:.3f}", f"{r:.3f}", f"{f:.3f}", str(n)] for name, p, r, f, n in rows]
        return ["class", "precision", "recall", "F1", "pictures"], shown

    def draw(self, folder: Path, items: Sequence[tuple[Any, int]]) -> list[Path]:
        predicted, expected = torch.cat(self.predicted), torch.cat(self.expected)
        confusion = draw_confusion(folder / "confusion.png", expected.numpy(), predicted.numpy(), self.classes)
        wrong = (predicted != expected).nonzero()[:, 0].tolist()
        right = (predicted == expected).nonzero()[:, 0].tolist()
        some = wrong[:20] + right[:: max(1, len(right) // 40)]
        chosen = sorted(some[:40])
        pictures = [to_tensor(items[i][0], f"test item {i}").permute(1, 2, 0).numpy() for i in chosen]
        names = [(self.classes[predicted[i]], self.classes[expected[i]]) for i in chosen]
        caption = f"{len(chosen)} of {len(predicted)} test pictures, {len(wrong)} wrong in all; wrong ones framed"
        return [confusion, draw_pictures(folder / "examples.png", pictures, names, caption)]
