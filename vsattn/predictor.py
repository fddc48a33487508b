"""A trained model with its tokenizer and the names of its answers: raw items in, labels out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vsattn.errors import DataError
from vsattn.tokenizers.base import Tokenizer


@dataclass(frozen=True)
class Prediction:
    """One answer: the likeliest label, its probability, and the probability of every label."""

    label: str
    probability: float
    probabilities: dict[str, float]


class Predictor:
    """Answers for raw items, whatever their number: batches change nothing.

    Args:
        model: batch -> logits ``(B, C)``; put into evaluation mode.
        tokenizer: fitted.
        classes: the C names.
    """

    def __init__(self, model: nn.Module, tokenizer: Tokenizer, classes: Sequence[str]) -> None:
        self.model, self.tokenizer, self.classes = model.eval(), tokenizer, list(classes)

    def predict(self, items: Iterable[Any], *, batch_size: int = 64) -> list[Prediction]:
        """Return one `Prediction` per item, such as image paths, PIL images or arrays.

        Raises:
            DataError: naming the item that cannot be read.
        """
        return [self._answer(row) for logits in self._batches(items, batch_size) for row in logits.softmax(-1).tolist()]

    def logits(self, items: Iterable[Any], *, batch_size: int = 64) -> Tensor:
        """Return the model's output ``(n, C)`` for n items, on the CPU."""
        parts = list(self._batches(items, batch_size))
        return torch.cat(parts) if parts else torch.empty(0, len(self.classes))

    def to(self, device: str | torch.device) -> Predictor:
        """Move the model, and return self."""
        self.model.to(device)
        return self

    def _answer(self, probabilities: list[float]) -> Prediction:
        best = max(range(len(probabilities)), key=probabilities.__getitem__)
        named = dict(zip(self.classes, probabilities, strict=True))
        return Prediction(self.classes[best], probabilities[best], named)

    def _batches(self, items: Iterable[Any], batch_size: int) -> Iterator[Tensor]:
        if isinstance(items, (str, bytes, Path)):
            raise DataError(f"predict takes a list of items, not one: use predict([{items!r}])")
        if batch_size < 1:
            raise DataError(f"batch_size is at least 1, not {batch_size}")
        device = next((p.device for p in self.model.parameters()), torch.device("cpu"))
        remaining, start = iter(items), 0
        while chunk := list(islice(remaining, batch_size)):
            batch = {key: value.to(device) for key, value in self._collate(chunk, start).items()}
            with torch.inference_mode():
                output = self.model.eval()(batch).float().cpu()
            start += len(chunk)
            yield output

    def _collate(self, chunk: list[Any], start: int) -> dict[str, Tensor]:
        try:
            return self.tokenizer.collate(chunk)
        except DataError:
            for offset, item in enumerate(chunk):
                self._collate_one(item, start + offset)
            raise

    def _collate_one(self, item: Any, index: int) -> None:
        """Raise the error of one item alone, with its place among all items."""
        try:
            self.tokenizer.collate([item])
        except DataError as error:
            name = f"item {index} ({item})" if isinstance(item, (str, Path)) else f"item {index}"
            raise DataError(f"{name} cannot be predicted: {error}") from None
