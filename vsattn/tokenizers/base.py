"""What every tokenizer is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor, nn

from vsattn.errors import DataError


class Tokenizer(ABC):
    """Raw items to a batch and back; a plain picklable object that loader workers can be given.

    ``fit`` learns from the training items what must be known before the model can be made (a vocabulary,
    normalisation, sizes). What it learned is :attr:`state`, which JSON can hold and a checkpoint keeps.
    The weights that turn a batch into vectors are another object, made by :meth:`embedder`.
    """

    _state: dict[str, Any] | None = None

    @abstractmethod
    def fit(self, items: Iterable[Any]) -> Tokenizer:
        """Learn from the training items, and return self."""

    @abstractmethod
    def collate(self, items: Sequence[Any], train: bool = False) -> dict[str, Tensor]:
        """Turn raw items into one batch; ``train`` allows what is random (word dropout, say)."""

    @abstractmethod
    def decode(self, batch: dict[str, Tensor]) -> list[Any]:
        """Turn a batch back into items that a person can look at."""

    @abstractmethod
    def embedder(self, dim: int) -> nn.Module:
        """Make the module ``batch -> VectorSet (B, N, dim)``."""

    @property
    @abstractmethod
    def sizes(self) -> dict[str, Any]:
        """Sizes known after fitting, such as ``{"grid": (8, 8)}``, which the model's parts receive by name."""

    @property
    def writes(self) -> list[str] | None:
        """What a decoder can write, row by row, or None: the answers of these items are no text."""
        return None

    def summary(self, item: Any) -> Sequence[float] | None:
        """Return figures of an item, always as many, from which a trivial baseline learns; None for no baseline."""
        return None

    @property
    def state(self) -> dict[str, Any]:
        """What `fit` learned, as plain JSON values.

        Raises:
            DataError: before `fit` or `load_state`.
        """
        if self._state is None:
            raise DataError(f"{type(self).__name__} has not seen data yet: call fit(items) or load_state(state)")
        return self._state

    def load_state(self, state: dict[str, Any]) -> Tokenizer:
        """Take over what another tokenizer learned, and return self."""
        self._state = dict(state)
        return self
