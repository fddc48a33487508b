"""Batches of so many vectors instead of so many items."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import Sampler


class VectorBatches(Sampler[list[int]]):
    """Batches of at most ``batch_vectors`` vectors, padding counted; a longer item is a batch of its own.

    Without a generator the items keep their order. With one, items of like length go together; which ones of
    equal length is drawn anew each epoch, and so is the order of the batches, whose number stays the same.

    Args:
        lengths: number of vectors of each item.
        batch_vectors: at least 1.
        generator: shuffles; None keeps the order.
    """

    def __init__(self, lengths: Sequence[int], batch_vectors: int, *, generator: torch.Generator | None = None) -> None:
        self.lengths, self.generator = torch.as_tensor(lengths), generator
        order = self.lengths if generator is None else self.lengths.sort().values
        self.sizes = _packed(order.tolist(), batch_vectors)

    def __len__(self) -> int:
        return len(self.sizes)

    def __iter__(self) -> Iterator[list[int]]:
        if self.generator is None:
            batches = torch.arange(len(self.lengths)).split(self.sizes)
            yield from (batch.tolist() for batch in batches)
            return
        drawn = torch.randperm(len(self.lengths), generator=self.generator)
        batches = drawn[self.lengths[drawn].argsort(stable=True)].split(self.sizes)
        for index in torch.randperm(len(batches), generator=self.generator).tolist():
            yield batches[index].tolist()


def _packed(lengths: Sequence[int], batch_vectors: int) -> list[int]:
    """Return how many items each batch takes, in order."""
    sizes, longest = [0], 0
    for length in lengths:
        longest = max(longest, length)
        if sizes[-1] and (sizes[-1] + 1) * longest > batch_vectors:
            sizes.append(0)
            longest = length
        sizes[-1] += 1
    return sizes
