"""What all tasks share: a model, its optimizer, its losses and scores, and what a checkpoint keeps."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.optim import Optimizer

from vsattn.errors import VsattnError
from vsattn.model import Model
from vsattn.tokenizers.base import Tokenizer

from .optim import make_optimizer, make_schedule


class Task(LightningModule):
    """Trains a model on one kind of problem; a subclass says what a batch is, what is lost, and what is drawn.

    Args:
        model: batch -> logits.
        tokenizer: fitted; makes batches of raw items.
        classes: names of the classes.
        optimizer: a partial, called with parameter groups.
        schedule: a partial, called with the optimizer for each step of training, or None.
        payload: what a checkpoint keeps beside the weights (see `vsattn.checkpoint.payload`).
    """

    def __init__(
        self,
        model: Model,
        tokenizer: Tokenizer,
        classes: Sequence[str],
        *,
        optimizer: Callable[..., Optimizer],
        schedule: Callable[..., Any] | None = None,
        payload: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.model, self.tokenizer, self.classes = model, tokenizer, list(classes)
        self.make_optimizer, self.make_schedule = optimizer, schedule
        self.payload = payload or {}
        self.history: list[dict[str, float]] = []
        self.measured: dict[str, float] = {}
        self._sums: dict[str, dict[str, Any]] = {}
        self._epoch_started = time.perf_counter()

    @property
    def collator(self) -> Callable[..., dict[str, Tensor]]:
        """A plain picklable ``(pairs, train) -> batch`` for ``(item, target)`` pairs; loader workers are sent this alone."""
        raise NotImplementedError(f"{type(self).__name__} must define collator")

    def losses(self, batch: dict[str, Tensor], train: bool) -> tuple[Tensor, dict[str, Tensor], int]:
        """Return the loss, sums to be averaged over an epoch (``"loss"``, ``"accuracy"``), and their count."""
        raise NotImplementedError(f"{type(self).__name__} must define losses(batch, train)")

    def examine(self, batch: dict[str, Tensor]) -> None:
        """Keep what the report needs of one test batch."""

    def report(self) -> dict[str, float]:
        """Return the task's own test figures, named ``test/...``, after every test batch was examined."""
        return {}

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Return header and rows of the final table."""
        return [], []

    def draw(self, folder: Path, items: Sequence[tuple[Any, Any]]) -> list[Path]:
        """Draw the task's own pictures of the test into ``folder``."""
        return []

    def on_train_epoch_start(self) -> None:
        self._epoch_started = time.perf_counter()

    def training_step(self, batch: dict[str, Tensor], batch_index: int) -> Tensor:
        loss, sums, count = self.losses(batch, train=True)
        self._add("train", sums, count)
        return loss

    def validation_step(self, batch: dict[str, Tensor], batch_index: int) -> None:
        _, sums, count = self.losses(batch, train=False)
        self._add("val", sums, count)

    def test_step(self, batch: dict[str, Tensor], batch_index: int) -> None:
        _, sums, count = self.losses(batch, train=False)
        self._add("test", sums, count)
        self.examine(batch)

    def on_validation_epoch_end(self) -> None:
        means = {**self._means("train"), **self._means("val")}
        self._sums.pop("val", None)
        if self.trainer.sanity_checking:
            return
        if not all(torch.isfinite(torch.tensor(v)) for v in means.values()):
            raise VsattnError(
                f"the loss is no longer a number in epoch {self.current_epoch}, by step {self.global_step}: "
                f"{means}. Lower optimizer.lr or set trainer.gradient_clip_val; checkpoints of earlier epochs are kept."
            )
        self.log_dict(means, prog_bar=False)
        seconds = time.perf_counter() - self._epoch_started
        self.history.append({"epoch": self.current_epoch, **means, "seconds": seconds})
        self._sums.pop("train", None)

    def on_test_epoch_end(self) -> None:
        self.measured = {**self._means("test"), **self.report()}
        self._sums.pop("test", None)

    def running(self, split: str = "train") -> dict[str, float]:
        """Return the means so far of an epoch, for a progress bar."""
        return {name.split("/")[1]: value for name, value in self._means(split).items()}

    def _add(self, split: str, sums: dict[str, Tensor], count: int) -> None:
        kept = self._sums.setdefault(split, {"count": 0})
        kept["count"] += count
        for name, value in sums.items():
            kept[name] = kept.get(name, 0.0) + value.detach()

    def _means(self, split: str) -> dict[str, float]:
        kept = self._sums.get(split, {"count": 0})
        count = max(1, kept["count"])
        return {f"{split}/{name}": float(value) / count for name, value in kept.items() if name != "count"}

    def configure_optimizers(self) -> Any:
        optimizer = make_optimizer(self.make_optimizer, self.model)
        if self.make_schedule is None:
            return optimizer
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = make_schedule(self.make_schedule, optimizer, steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["vsattn"] = self.payload
