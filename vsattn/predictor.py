"""A trained model with its tokenizer and the names of its answers: raw items in, answers out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vsattn.errors import DataError
from vsattn.heads import CtcHead, VectorHead
from vsattn.model import Model
from vsattn.tokenizers.base import Tokenizer


@dataclass(frozen=True)
class Prediction:
    """One answer: the label, its probability, and the probability of every label."""

    label: str
    probability: float
    probabilities: dict[str, float]


class Predictor:
    """Answers for raw items, whatever their number: batches change nothing.

    Args:
        model: put into evaluation mode.
        tokenizer: fitted.
        classes: the C names.
        config: what the run was made from, where that is known.
    """

    def __init__(
        self, model: Model, tokenizer: Tokenizer, classes: Sequence[str], *, config: dict[str, Any] | None = None
    ) -> None:
        self.model, self.tokenizer, self.classes = model.eval(), tokenizer, list(classes)
        self.config = config or {}

    def predict(self, items: Iterable[Any], *, batch_size: int = 64) -> list[Any]:
        """Answer for items, such as image paths, lists of words, sound files or graphs.

        Returns:
            For each item one `Prediction`; a list of them, one a vector, from a head that answers per vector; or a
            :class:`~vsattn.ctc.Transcript` from a head for CTC, by the search of the task that trained it.

        Raises:
            DataError: naming the item that cannot be read.
        """
        return [self._answer(logits) for logits in self._each(items, batch_size)]

    def logits(self, items: Iterable[Any], *, batch_size: int = 64) -> Tensor | list[Tensor]:
        """Return the model's output on the CPU: ``(n, C)`` for n items, or n times ``(N_i, C)``, without padding."""
        parts = list(self._each(items, batch_size))
        if isinstance(self.model.head, VectorHead):
            return parts
        return torch.stack(parts) if parts else torch.empty(0, len(self.classes))

    def to(self, device: str | torch.device) -> Predictor:
        """Move the model, and return self."""
        self.model.to(device)
        return self

    def _answer(self, logits: Tensor) -> Any:
        if isinstance(self.model.head, CtcHead):
            from vsattn.ctc import transcript

            settings = self.config.get("task") or {}
            search = {name: settings[name] for name in ("beam_width", "length_bonus") if name in settings}
            borders = self.tokenizer.borders(len(logits)).tolist() if hasattr(self.tokenizer, "borders") else None
            return transcript(logits, self.classes, borders=borders, **search)
        head = self.model.head
        labels: Any = head.labels(logits[None])[0].tolist()
        probabilities = head.probabilities(logits[None])[0].tolist()
        if logits.ndim == 1:
            return self._prediction(labels, probabilities)
        return [self._prediction(label, row) for label, row in zip(labels, probabilities, strict=True)]

    def _prediction(self, label: int, probabilities: list[float]) -> Prediction:
        named = dict(zip(self.classes, probabilities, strict=True))
        return Prediction(self.classes[label], probabilities[label], named)

    def _each(self, items: Iterable[Any], batch_size: int) -> Iterator[Tensor]:
        """Yield the logits of each item, ``(C,)`` or ``(N_i, C)``."""
        if isinstance(items, (str, bytes, Path)) or hasattr(items, "edge_index"):
            raise DataError(f"predict takes a list of items, not one: use predict([{items!r}])")
        if batch_size < 1:
            raise DataError(f"batch_size is at least 1, not {batch_size}")
        device = next((p.device for p in self.model.parameters()), torch.device("cpu"))
        remaining, start = iter(items), 0
        while chunk := list(islice(remaining, batch_size)):
            batch = {key: value.to(device) for key, value in self._collate(chunk, start).items()}
            with torch.inference_mode():
                vector_set = self.model.eval().encode(batch)
                output = self.model.head(vector_set).float().cpu()
            start += len(chunk)
            if output.ndim == 2 or vector_set.mask is None:
                yield from output
            else:
                real = vector_set.mask[:, vector_set.num_prefix :].cpu()
                yield from (logits[mask] for logits, mask in zip(output, real, strict=True))

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
