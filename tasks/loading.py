"""From a split to batches: in which order, by which random numbers, and which share of them is this process's."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler

from vsattn.errors import ConfigError, DataError

from .base import IDLE, Task
from .data.base import Augmented, Data, Split


class Draw(NamedTuple):
    """One batch of one process: the seed of all that is random about it, its items, and whether it counts."""

    seed: int
    indices: list[int]
    counts: bool = True


class Order(Sampler[Draw]):
    """The batches of an epoch, which depend on the seed and the epoch's number alone.

    Several processes share each batch: process r of R takes its items r, r + R, ... A batch with fewer items than
    processes leaves some idle: those take its first item, which does not count, because all must go the same way.

    Args:
        count: number of items.
        batch_size: items of a batch, over all processes.
        lengths: instead, the number of vectors of each item, and
        batch_vectors: how many a batch has at most, padding counted; a longer item is a batch of its own. Shuffled,
            items of like length go together; which ones of equal length is drawn anew each epoch, and so is the order
            of the batches, whose number stays the same.
        seed: of the order and of what is random about the items.
        shuffle: whether the order is drawn, anew each epoch.
        drop_lone: leave out a last batch of one item.
        shared: whether processes share the batches; otherwise one of them has all.
    """

    def __init__(
        self,
        count: int,
        batch_size: int | None = None,
        *,
        lengths: Sequence[int] | None = None,
        batch_vectors: int | None = None,
        seed: int = 0,
        shuffle: bool = False,
        drop_lone: bool = False,
        shared: bool = True,
    ) -> None:
        self.count, self.seed, self.shuffle, self.shared = count, seed, shuffle, shared
        self.lengths = None if lengths is None else torch.as_tensor(lengths)
        if self.lengths is not None:
            assert batch_vectors is not None
            order = self.lengths.sort().values if shuffle else self.lengths
            self.sizes = packed(order.tolist(), batch_vectors)
        else:
            assert batch_size is not None
            self.sizes = [min(batch_size, count - start) for start in range(0, count, batch_size)]
            if drop_lone and batch_size > 1 and count % batch_size == 1 and count > 1:
                del self.sizes[-1]
        self.epoch = self.start = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of an epoch, counted from 0; each is the same whenever it comes."""
        self.epoch = epoch if self.shuffle else 0

    def batches(self) -> list[list[int]]:
        """Return the items of each batch, over all processes."""
        total = sum(self.sizes)
        if not self.shuffle:
            return [batch.tolist() for batch in torch.arange(total).split(self.sizes)]
        generator = torch.Generator().manual_seed(mixed(self.seed, self.epoch))
        drawn = torch.randperm(self.count, generator=generator)
        if self.lengths is None:
            return [batch.tolist() for batch in drawn[:total].split(self.sizes)]
        batches = drawn[self.lengths[drawn].argsort(stable=True)].split(self.sizes)
        return [batches[i].tolist() for i in torch.randperm(len(batches), generator=generator).tolist()]

    def __len__(self) -> int:
        return len(self.sizes)

    def __iter__(self) -> Iterator[Draw]:
        parallel = self.shared and torch.distributed.is_available() and torch.distributed.is_initialized()
        rank = torch.distributed.get_rank() if parallel else 0
        world = torch.distributed.get_world_size() if parallel else 1
        for number, batch in enumerate(self.batches()[self.start :], self.start):
            own = batch[rank::world]
            yield Draw(mixed(self.seed, self.epoch, number, rank), own or batch[:1], bool(own))


class Reader(Dataset):
    """Makes a whole batch of a `Draw`: reads its items, distorts and collates them, all by the draw's seed.

    So a batch is the same however many processes read, and whatever was read before it.
    """

    def __init__(self, items: Split | Augmented, collate: Callable[[list[Any]], dict[str, Tensor]]) -> None:
        self.items, self.collate = items, collate

    def __getitem__(self, draw: Draw) -> dict[str, Tensor]:
        with seeded(draw.seed):
            batch = self.collate([self.items[index] for index in draw.indices])
        return batch if draw.counts else {**batch, IDLE: torch.tensor(True)}


class Loader(DataLoader):
    """Batches of one split; between two of them its state says how to go on within the epoch."""

    def __init__(self, reader: Reader, order: Order, *, num_workers: int = 0) -> None:
        super().__init__(
            reader,
            batch_size=None,
            sampler=order,
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            generator=torch.Generator(),  # or the training's own random numbers would seed the processes
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=_leave_signals,
        )
        self.order = order
        self._taken, self._resumed = 0, (0, 0)

    def __iter__(self) -> Any:  # a generator: it starts when the epoch is known
        epoch, taken = self._resumed
        self._taken = self.order.start = taken if epoch == self.order.epoch else 0
        self._resumed = 0, 0
        for batch in super().__iter__():
            self._taken += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Return the epoch, and how many of its batches were taken."""
        return {"epoch": self.order.epoch, "taken": self._taken, "batches": len(self.order)}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on in that epoch, once, after the batches that were taken.

        Raises:
            DataError: when the number of batches is another one.
        """
        if state["batches"] != len(self.order):
            raise DataError(
                f"the data have changed: an epoch had {state['batches']} batches and now has {len(self.order)}, so "
                "that training cannot go on in it; start a new run, init_from=FOLDER with these weights"
            )
        self.order.set_epoch(state["epoch"])
        self._resumed = state["epoch"], state["taken"]


def make_loaders(
    task: Task,
    data: Data,
    *,
    batch_size: int,
    batch_vectors: int | None = None,
    num_workers: int,
    seed: int,
    shuffle: bool = True,
    splits: Sequence[str] = ("train", "val", "test"),
) -> dict[str, Loader]:
    """Make the loaders of splits; only training is shuffled and augmented.

    Raises:
        ConfigError: for a batch size below 1, a negative number of workers, or data whose vectors cannot be counted.
        DataError: for an empty split, or one with items that the task's model cannot take.
    """
    if batch_size < 1 or num_workers < 0:
        raise ConfigError(f"batch_size is at least 1 and num_workers at least 0, not {batch_size} and {num_workers}")
    if batch_vectors is not None and batch_vectors < 1:
        raise ConfigError(f"batch_vectors is at least 1, or None for batches of batch_size items, not {batch_vectors}")
    loaders = {}
    for split in splits:
        items: Any = getattr(data, split)
        if not len(items):
            raise DataError(f"the {split} split of {data.name} is empty")
        task.check(data, split)
        training = split == "train"
        lengths = None if batch_vectors is None else task.lengths(data, split)
        order = Order(
            len(items),
            batch_size,
            lengths=lengths,
            batch_vectors=batch_vectors,
            seed=seed,
            shuffle=training and shuffle,
            drop_lone=training and _has_batch_norm(task),  # one item alone has no batch statistics
            shared=split != "test",
        )
        items = Augmented(items, data.augment) if training and data.augment is not None else items
        loaders[split] = Loader(Reader(items, task.collator(training)), order, num_workers=num_workers)
    return loaders


def packed(lengths: Sequence[int], batch_vectors: int) -> list[int]:
    """Return how many items each batch of at most ``batch_vectors`` vectors takes, in order."""
    sizes, longest = [0], 0
    for length in lengths:
        longest = max(longest, length)
        if sizes[-1] and (sizes[-1] + 1) * longest > batch_vectors:
            sizes.append(0)
            longest = length
        sizes[-1] += 1
    return sizes


def mixed(*numbers: int) -> int:
    """Return one seed made of several numbers, none negative."""
    return int(np.random.SeedSequence([len(numbers), *numbers]).generate_state(1, np.uint64)[0]) >> 1


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Let torch, NumPy and Python draw by a seed meanwhile, on the CPU, and go on after it as if nothing had been."""
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()
    torch.default_generator.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])
        random.setstate(states[2])


def _leave_signals(_: int) -> None:
    """Let signals that go to all processes end the training alone: it needs its readers until then.

    A terminal sends Ctrl-C so, `timeout` and Slurm SIGTERM, and Slurm its warning. A second SIGTERM ends a reader too.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.signal(signal.SIGTERM, signal.SIG_DFL))


def _has_batch_norm(module: nn.Module) -> bool:
    return any("BatchNorm" in type(part).__name__ for part in module.modules())
