"""What every data set is, and how its training split is augmented."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch.utils.data import Dataset

from vsattn.build import build
from vsattn.errors import ConfigError


class Split(Protocol):
    """Pairs ``(item, target)`` by index; a list is one, and so is a torch `Dataset` with a length."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> tuple[Any, Any]: ...


class Augment(ABC):
    """Base of what distorts one training item; a plain picklable callable that draws from torch's random numbers."""

    @abstractmethod
    def __call__(self, item: Any) -> Any:
        """Return the item, distorted."""


class Data(ABC):
    """Three splits of ``(item, target)`` pairs; ready after :meth:`setup`.

    Args:
        augment: distorts one item, or None; the loader applies it to the training split alone.

    Attributes:
        classes: names of the classes, in the order of the targets.
        train, val, test: the splits, of ``(item, target)``.
    """

    #: Whether what is read is plain data, whatever a config says; if not, a checkpoint's config alone is not enough.
    plain = True

    classes: list[str]
    train: Split
    val: Split
    test: Split

    def __init__(self, *, augment: Augment | None = None) -> None:
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

    def describe(self) -> str:
        """Say how much there is, for the first lines of a run."""
        sizes = ", ".join(f"{len(getattr(self, split))} {split}" for split in ("train", "val", "test"))
        return f"{self.name}: {sizes}, {len(self.classes)} classes"

    def lengths(self, split: str) -> Sequence[int]:
        """Return the number of vectors of each item of a split, by which ``batch_vectors`` makes batches.

        Raises:
            ConfigError: for data that cannot tell.
        """
        raise ConfigError(f"batch_vectors: {self.name} cannot tell how many vectors its items have; use batch_size")

    def fit_items(self, limit: int) -> Items:
        """Return at most ``limit`` training items, evenly spaced, undistorted, for a tokenizer's `fit`."""
        step = max(1, -(-len(self.train) // limit))
        return Items(self.train, range(0, len(self.train), step))


def of_checkpoint(config: dict[str, Any]) -> Data:
    """Build the data that a checkpoint names.

    Raises:
        ConfigError: for data that may run code, which a person must name.
    """
    data: Data = build(config, Data, path="data")
    if not data.plain:
        raise ConfigError(
            f"data: {type(data).__name__} reads pickles, which can run code, where the checkpoint's config says; if "
            f"you trust it, name the data yourself, as in data.{next(iter(set(config) - {'_target_'}), 'root')}=..."
        )
    return data


class Items(Sequence[Any]):
    """The items of a split, without targets, at ``indices``; each is read when it is asked for."""

    def __init__(self, pairs: Split, indices: Sequence[int]) -> None:
        self.pairs, self.indices = pairs, indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return Items(self.pairs, self.indices[index])
        return self.pairs[self.indices[index]][0]


class Augmented(Dataset):
    """A split whose items pass through ``augment`` each time they are read."""

    def __init__(self, items: Split, augment: Augment) -> None:
        self.items, self.augment = items, augment

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        item, target = self.items[index]
        return self.augment(item), target


def split_off(targets: Sequence[int], fraction: float, seed: int) -> tuple[list[int], list[int]]:
    """Return indices ``(rest, part)``: a seeded ``fraction`` of each class, and what is left, in order."""
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
