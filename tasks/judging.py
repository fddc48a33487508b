"""A trained model, or a program made of it, judged on a split of the data it was trained on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vsattn.build import build
from vsattn.errors import DataError
from vsattn.predictor import Predictor

from .base import Task
from .data.base import Split, of_checkpoint


@dataclass(frozen=True)
class Judge:
    """The task and the items that a model is judged by.

    Args:
        task: knows its measures.
        pairs: ``(item, target)``.
        batch_size: how many of them at once.
    """

    task: Task
    pairs: Split
    batch_size: int

    @classmethod
    def of(cls, predictor: Predictor, split: str) -> Judge:
        """Make the task and find the data again, by the config that the checkpoint keeps.

        Raises:
            ConfigError: see :func:`~vsattn.tasks.data.base.of_checkpoint`.
            DataError: when the config says nothing of them or what no training has, the data are not here, or they have
                other classes now.
        """
        config = predictor.config
        missing = [name for name in ("data", "task", "seed") if config.get(name) is None]
        if missing:
            raise DataError(f"the checkpoint does not say with what {missing[0]} it was trained")
        seed, batch_size = config["seed"], config.get("batch_size") or 1
        known = isinstance(seed, int) and -(2**63) <= seed < 2**63  # what a generator takes
        if not (known and isinstance(batch_size, int) and batch_size > 0):
            raise DataError(f"no training has seed={seed!r} and batch_size={batch_size!r}, as the checkpoint says")
        data = of_checkpoint(config["data"])
        data.setup(seed)
        classes = data.classes if predictor.tokenizer.writes is None else predictor.tokenizer.writes
        if list(classes) != predictor.classes:
            raise DataError(f"the data have the classes {', '.join(classes)} now, not {', '.join(predictor.classes)}")
        given = {"model": predictor.model, "tokenizer": predictor.tokenizer, "classes": predictor.classes}
        task: Task = build(config["task"], Task, path="task", **given)
        pairs: Split = getattr(data, split)
        if not len(pairs):
            raise DataError(f"the {split} split of {data.name} is empty")
        return cls(task.eval(), pairs, batch_size)

    def batches(self) -> Iterator[dict[str, Any]]:
        """Yield all items in batches, with their targets."""
        for start in range(0, len(self.pairs), self.batch_size):
            stop = min(start + self.batch_size, len(self.pairs))
            yield self.task.collate([self.pairs[i] for i in range(start, stop)])

    def measure(self, run: Callable[[dict[str, Any]], Tensor]) -> tuple[dict[str, float], float]:
        """Return the task's measures of logits that ``run`` gives for each batch, and how long it took, ms per item.

        What the task measures of texts that a model writes is left out: a program gives the logits alone.
        """
        meters, seconds = self.task.metrics(), 0.0
        with torch.no_grad():
            for batch in self.batches():
                batch.pop("reference", None)
                start = time.perf_counter()
                logits = run(batch)
                seconds += time.perf_counter() - start
                self.task.measure(meters, logits, batch)
        found = {name: float(meter.compute()) for name, meter in meters.items() if meter.update_count}
        return found, 1000 * seconds / len(self.pairs)
