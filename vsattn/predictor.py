"""A trained model with all it needs to answer about raw items."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vsattn.errors import DataError
from vsattn.model import Model
from vsattn.tokenizers.base import Tokenizer


class Prediction(NamedTuple):
    """The likeliest class of an item, its probability, and those of all classes."""

    label: str
    probability: float
    probabilities: dict[str, float]


class Predictor:
    """Answers about raw items with a trained model; made by `vsattn.load`.

    Args:
        model: put into evaluation mode here.
        tokenizer: fitted.
        classes: names of the classes.
    """

    def __init__(self, model: Model, tokenizer: Tokenizer, classes: list[str]) -> None:
        self.model, self.tokenizer, self.classes = model.eval(), tokenizer, classes

    def logits(self, items: list[Any]) -> Tensor:
        """Return the model's logits for one batch of raw items."""
        device = next(self.model.parameters()).device
        batch = {name: value.to(device) for name, value in self.tokenizer.collate(items).items()}
        with torch.inference_mode():
            return self.model(batch)

    def predict(self, items: Iterable[Any], *, batch_size: int = 64) -> list[Prediction]:
        """Return one prediction per item, in order.

        Args:
            items: raw items as the tokenizer takes them (for pictures: paths, PIL images, arrays, tensors).
            batch_size: how many are computed at once; the answers do not depend on it, but for rounding.

        Raises:
            DataError: naming an item that cannot be read.
        """
        if isinstance(items, (str, bytes)):
            raise DataError(f"predict takes a list of items, not one string; write predict([{items!r}])")
        waiting, predictions = list(items), []
        for start in range(0, len(waiting), batch_size):
            for row in self.logits(waiting[start : start + batch_size]).softmax(-1).tolist():
                best = max(range(len(row)), key=row.__getitem__)
                predictions.append(Prediction(self.classes[best], row[best], dict(zip(self.classes, row, strict=True))))
        return predictions
