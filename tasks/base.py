"""What every task is: a model, what it is taught, and how it is judged; Lightning runs it."""

from __future__ import annotations

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics import Metric

from vsattn.checkpoint import payload
from vsattn.depth import keep_frozen
from vsattn.errors import ConfigError, VsattnError
from vsattn.layers.norms import counted
from vsattn.tokenizers.base import Tokenizer

from .answering import Answering
from .data.base import Data
from .distributed import seen_by_any, spread
from .meters import MeanLoss
from .optim import make_optimizer, make_schedule
from .resuming import restore_training_state, training_state

Stage = Literal["train", "val"]

#: In a batch that a process computes only because the others do; it does not count.
IDLE = "idle"

#: On an accelerator, losses are looked at once in so many steps, because looking waits for the device.
CHECK_EVERY = 20


class Task(Answering, pl.LightningModule, ABC):
    """Base of all tasks. A new one defines the abstract methods, and `training_loss` and `draw` if it wants.

    Args:
        model: batch -> output.
        tokenizer: fitted; turns items into a batch.
        classes: names of the answers, in the order of the targets.
        optimizer: a partial of a torch optimizer; None is AdamW.
        schedule: a partial of a torch schedule, see :mod:`vsattn.tasks.optim`; None keeps the rate.
        recipe: the plain config that the model was built from; kept in checkpoints, which need it to stand alone.

    Attributes:
        frozen: names of the model's parts that stay in evaluation mode, see :func:`vsattn.depth.freeze`.
        layer_decay: see :func:`vsattn.tasks.optim.by_layer`.
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
    ) -> None:
        super().__init__()
        self.model, self.tokenizer, self.classes = model, tokenizer, list(classes)
        self.optimizer, self.schedule, self.recipe = optimizer, schedule, recipe
        self.train_meters, self.val_meters = self._new_meters(), self._new_meters()
        self.remembered: list[Any] = []
        self._recent: list[tuple[int, int, Tensor]] = []
        self._resumed: dict[str, Any] | None = None
        self.layer_decay: float | None = None
        self.frozen: list[str] = []

    #: Whether a loss that is not a number ends training; a search for the learning rate goes there on purpose.
    must_be_finite = True

    #: Whether what is remembered of a test will be joined with what others remember, see :meth:`together`.
    in_ensemble = False

    #: The trivial baseline of :meth:`floor`.
    floor_name = ""

    # What a task defines.

    @abstractmethod
    def collator(self, train: bool) -> Callable[[list[Any]], dict[str, Tensor]]:
        """Return a picklable function from ``(item, target)`` pairs to a batch; workers get it, and no weights."""

    @abstractmethod
    def loss(self, output: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """Return the mean loss that validation reports."""

    @abstractmethod
    def metrics(self) -> dict[str, Metric]:
        """Return fresh metrics, by the names that follow ``train/`` and ``val/``."""

    @abstractmethod
    def measure(self, metrics: dict[str, Metric], output: Tensor, batch: dict[str, Tensor]) -> None:
        """Update those metrics with one batch."""

    @abstractmethod
    def remember(self, output: Tensor, batch: dict[str, Tensor]) -> Any:
        """Return what the final judgement needs of one test batch, on the CPU."""

    @abstractmethod
    def evaluate(self, remembered: list[Any], data: Data, *, seed: int) -> dict[str, float]:
        """Judge the whole test set at once: numbers named ``test/...``, or ``test/<name>/<class>`` for a class."""

    def together(self, remembered: Sequence[list[Any]]) -> list[Any]:
        """Return what an ensemble is judged by, from what :meth:`remember` kept of each member's test.

        Raises:
            ConfigError: for a task whose answers are no labels.
        """
        raise ConfigError(f"{type(self).__name__} judges one model at a time: name one with ckpt=PATH")

    def training_loss(self, output: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """Return the mean loss that training minimises; the plain loss unless a task says otherwise."""
        return self.loss(output, batch)

    def teach_plainly(self) -> None:
        """Neither smooth nor mix the targets from now on: what is to be learned by heart must be the same each time."""

    def count(self, batch: dict[str, Tensor]) -> int:
        """Return over how many targets the loss of this batch is a mean."""
        return len(batch["target"])

    def floor(self, data: Data) -> np.ndarray | None:
        """Return which test answers a trivial baseline gets right, bool ``(n,)``; None where there is none.

        What a model must beat to have learned anything; `floor_name` says what the baseline is. It takes seconds.
        """
        return None

    def lengths(self, data: Data, split: str) -> Sequence[int]:
        """Return the number of vectors of each item of a split, by which ``batch_vectors`` makes batches.

        Raises:
            ConfigError: for data that cannot tell.
        """
        return data.lengths(split)

    def check(self, data: Data, split: str) -> None:
        """Raise DataError for items of a split that the model cannot take; without this, they stop the run later."""

    def unused(self, batch: dict[str, Tensor]) -> str:
        """Return what a run says at its start of data that this model does not look at; "" where it sees all."""
        return ""

    def keep(self, folder: Path, data: Data) -> list[Path]:
        """Write the task's own answers to the test items beside the metrics, and return the files."""
        return []

    def draw(self, folder: Path, data: Data) -> list[Path]:
        """Draw what is particular to the task, after testing, and return the files."""
        return []

    # What all tasks share.

    def collate(self, pairs: list[Any], train: bool = False) -> dict[str, Tensor]:
        """Turn ``(item, target)`` pairs into a batch."""
        return self.collator(train)(pairs)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """Return the model's output for a batch."""
        return self.model(batch)

    def train(self, mode: bool = True) -> Task:
        """Set training or evaluation mode; what is frozen stays in evaluation mode."""
        super().train(mode)
        keep_frozen(self.model, self.frozen)
        return self

    def training_step(self, batch: dict[str, Tensor], index: int) -> Tensor:
        """Return the training loss of a batch."""
        with counted(IDLE not in batch):
            output = self(batch)
        loss = self.training_loss(output, batch)
        several = self.trainer.world_size > 1
        share, shown = self._share(loss, batch) if several else (None, loss.detach())
        self._recent.append((index, self.trainer.global_step, shown))
        if loss.device.type == "cpu" or len(self._recent) >= CHECK_EVERY:
            self._require_finite()
        self._measure("train", loss, output, batch)
        return loss if share is None else loss * share

    def validation_step(self, batch: dict[str, Tensor], index: int) -> None:
        """Measure one validation batch."""
        output = self(batch)
        self._measure("val", self.loss(output, batch), output, batch)

    def test_step(self, batch: dict[str, Tensor], index: int) -> None:
        """Keep what :meth:`evaluate` needs."""
        self.remembered.append(self.remember(self(batch), batch))

    def results(self, stage: Stage) -> dict[str, float]:
        """Return ``<stage>/loss`` and the metrics over what this epoch has seen so far; nothing if it saw nothing."""
        meters = self._meters(stage)
        seen = seen_by_any([meter.update_count for meter in meters.values()], self.device)
        with warnings.catch_warnings():  # what this process has not seen, another one has
            warnings.filterwarnings("ignore", message=".*was called before the ``update`` method.*")
            chosen = [(name, meter) for (name, meter), has in zip(meters.items(), seen, strict=True) if has]
            return {f"{stage}/{name}": float(meter.compute()) for name, meter in chosen}

    def configure_model(self) -> None:
        """Spread the weights over the processes where the strategy asks for that."""
        if spread(self.trainer):
            from .sharding import shard  # loads much

            shard(self.model)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Make the optimizer and the schedule."""
        optimizer = make_optimizer(self.model, self.optimizer, self.layer_decay)
        if self.schedule is None:
            return optimizer
        steps = self.trainer.estimated_stepping_batches
        return {"optimizer": optimizer, "lr_scheduler": make_schedule(optimizer, self.schedule, steps)}  # type: ignore[return-value]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what :func:`vsattn.load` needs, and what training needs to go on, in plain types."""
        self._require_finite()
        checkpoint["vsattn"] = payload(self.recipe, self.tokenizer, self.classes)
        checkpoint["vsattn_training"] = training_state(self)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep that until training goes on."""
        self._resumed = checkpoint["vsattn_training"]

    def on_train_start(self) -> None:
        """Go on with random numbers and measures where the checkpoint was written."""
        if self._resumed is not None:
            restore_training_state(self, self._resumed)
            self._resumed = None

    def on_train_epoch_start(self) -> None:
        """Forget the last epoch's measures."""
        self._recent.clear()
        self._reset("train")

    def on_validation_epoch_start(self) -> None:
        """Look at the last training losses before anything is saved, and forget the last measures."""
        self._require_finite()
        self._reset("val")

    def on_test_epoch_start(self) -> None:
        """Forget an earlier test."""
        self.remembered = []

    def on_train_epoch_end(self) -> None:
        """Log the epoch's training measures."""
        self._require_finite()
        self.log_dict(self.results("train"), sync_dist=True)

    def on_validation_epoch_end(self) -> None:
        """Log the validation measures.

        Raises:
            VsattnError: when the loss is not a finite number.
        """
        results = self.results("val")
        if not math.isfinite(results.get("val/loss", 0.0)):
            raise VsattnError(self._lost("validation", results["val/loss"], self.trainer.global_step))
        self.log_dict(results, sync_dist=True)

    def _new_meters(self) -> nn.ModuleDict:
        return nn.ModuleDict({"loss": MeanLoss(), **self.metrics()})

    def _meters(self, stage: Stage) -> dict[str, Metric]:
        return dict((self.train_meters if stage == "train" else self.val_meters).items())  # type: ignore[arg-type]

    def _reset(self, stage: Stage) -> None:
        for meter in self._meters(stage).values():
            meter.reset()

    def _share(self, loss: Tensor, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return what a loss is multiplied by so that the mean over processes is the mean over all their targets.

        Beside it that mean, which is the same in all processes: when it is not finite, all of them end.
        """
        count = torch.tensor(0 if IDLE in batch else self.count(batch), device=loss.device)
        own = torch.stack([count.to(torch.promote_types(loss.dtype, torch.float32)), loss.detach() * count])
        total = own.clone()
        torch.distributed.all_reduce(total)
        total[0].clamp_(min=1)
        return own[0] * self.trainer.world_size / total[0], total[1] / total[0]

    def _measure(self, stage: Stage, loss: Tensor, output: Tensor, batch: dict[str, Tensor]) -> None:
        if IDLE in batch:
            return
        meters = self._meters(stage)
        meters.pop("loss").update(loss.detach(), self.count(batch))
        self.measure(meters, output.detach(), batch)

    def _require_finite(self) -> None:
        if not self._recent or not self.must_be_finite:
            return
        values = torch.stack([loss for _, _, loss in self._recent])
        if not bool(values.isfinite().all()):
            first = int((~values.isfinite()).nonzero()[0])
            _, step, value = self._recent[first]
            raise VsattnError(self._lost("training", float(value), step + 1))
        self._recent.clear()

    def _lost(self, kind: str, value: float, step: int) -> str:
        """Say that the loss is not a number, and where the last good weights are."""
        saver = self.trainer.checkpoint_callback
        good = getattr(saver, "best_model_path", "") or getattr(saver, "last_model_path", "")
        kept = f"the last good checkpoint is {good}" if good else "no checkpoint had been written yet"
        return (
            f"the {kind} loss became {value} in epoch {self.current_epoch + 1}, at step {step}; {kept}. "
            "Try a lower optimizer.lr, trainer.gradient_clip_val=1.0, or trainer.precision=32-true"
        )
