"""What every data set is, and how its training split is augmented."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils.data import Dataset


class Data(ABC):
    """Three splits of ``(item, target)`` pairs; ready after :meth:`setup`.

    Args:
        augment: distorts one item, or None; the loader applies it to the training split alone.

    Attributes:
        classes: names of the classes, in the order of the targets.
        train, val, test: sequences of ``(item, target)``.
    """

    classes: list[str]
    train: Sequence[tuple[Any, Any]]
    val: Sequence[tuple[Any, Any]]
    test: Sequence[tuple[Any, Any]]

    def __init__(self, *, augment: Callable[[Any], Any] | None = None) -> None:
        self.augment = augment

    @property
    def name(self) -> str:
        """What a report calls the data."""
        return type(self).__name__

    @abstractmethod
    def setup(self, seed: int) -> None:
        """Find, check and split the data; ``seed`` decides every random choice of the split.

        Raises:
            DataError: naming what is missing or wrong.
        """

    def fit_items(self, limit: int) -> list[Any]:
        """Return at most ``limit`` training items, evenly spaced, undistorted, for a tokenizer's `fit`."""
        step = max(1, -(-len(self.train) // limit))
        return [self.train[i][0] for i in range(0, len(self.train), step)]


class Augmented(Dataset):
    """A split whose items pass through ``augment`` each time they are read."""

    def __init__(self, items: Sequence[tuple[Any, Any]], augment: Callable[[Any], Any]) -> None:
        self.items, self.augment = items, augment

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        item, target = self.items[index]
        return self.augment(item), target


def split_off(targets: Sequence[int], fraction: float, seed: int) -> tuple[list[int], list[int]]:
    """Return indices ``(rest, part)``: a seeded part of about ``fraction`` of each class, and what is left, in order."""
    generator = torch.Generator().manual_seed(seed)
    by_class: dict[int, list[int]] = {}
    for index, target in enumerate(targets):
        by_class.setdefault(int(target), []).append(index)
    part: list[int] = []
    for _, indices in sorted(by_class.items()):
        count = round(len(indices) * fraction) if len(indices) > 1 else 0
        chosen = torch.randperm(len(indices), generator=generator)[: min(max(1, count), len(indices) - 1)]
        part += [indices[i] for i in chosen.tolist()]
    taken = set(part)
    return [i for i in range(len(targets)) if i not in taken], sorted(part)
