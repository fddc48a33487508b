"""Batches of so many items or vectors: every item once, the same by seed and epoch, shared by processes, resumable."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vsattn.errors import ConfigError, DataError
from vsattn.tasks.data.images import Digits
from vsattn.tasks.loading import Loader, Order, Reader, mixed, seeded

LENGTHS = st.lists(st.integers(1, 30), min_size=1, max_size=60)


def epoch_of(order: Order, epoch: int) -> list[list[int]]:
    order.set_epoch(epoch)
    return order.batches()


@given(lengths=LENGTHS, limit=st.integers(1, 100), seed=st.integers(0, 5), shuffled=st.booleans())
def test_every_item_once_and_never_too_many_vectors(lengths, limit, seed, shuffled) -> None:
    order = Order(len(lengths), lengths=lengths, batch_vectors=limit, seed=seed, shuffle=shuffled)
    for epoch in (0, 1):
        batches = epoch_of(order, epoch)
        assert len(batches) == len(order)
        assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
        assert all(len(b) == 1 or len(b) * max(lengths[i] for i in b) <= limit for b in batches)
    if not shuffled:
        assert [index for batch in batches for index in batch] == list(range(len(lengths)))


def test_like_lengths_go_together_and_epochs_differ() -> None:
    lengths = [1, 50] * 100
    order = Order(200, lengths=lengths, batch_vectors=100, shuffle=True)
    first, second = epoch_of(order, 0), epoch_of(order, 1)
    assert len(order) == 51  # one of the short ones, fifty of two long ones
    assert all(len({lengths[i] for i in batch}) == 1 for batch in first)
    assert first != second and {frozenset(b) for b in first} != {frozenset(b) for b in second}
    again = Order(200, lengths=lengths, batch_vectors=100, shuffle=True)
    assert [epoch_of(again, 1), epoch_of(again, 0)] == [second, first]  # whatever came before
    assert epoch_of(Order(200, lengths=lengths, batch_vectors=100, shuffle=True, seed=1), 0) != first


@given(
    count=st.integers(1, 40),
    size=st.integers(1, 12),
    shuffled=st.booleans(),
    lone=st.booleans(),
    epoch=st.integers(0, 3),
)
def test_every_item_once_in_batches_of_items(count, size, shuffled, lone, epoch) -> None:
    order = Order(count, size, shuffle=shuffled, drop_lone=lone)
    batches = epoch_of(order, epoch)
    dropped = lone and size > 1 and count > 1 and count % size == 1
    assert [len(batch) for batch in batches] == [len(b) for b in torch.arange(count - dropped).split(size)]
    found = [index for batch in batches for index in batch]
    assert len(set(found)) == count - dropped and set(found) <= set(range(count))
    assert shuffled or found == list(range(count - dropped))


@pytest.mark.parametrize("world", [2, 3])
def test_processes_share_each_batch(world: int, monkeypatch: pytest.MonkeyPatch) -> None:
    order = Order(21, 4, seed=3, shuffle=True)
    whole = order.batches()
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    monkeypatch.setattr("torch.distributed.get_world_size", lambda: world)
    shares = []
    for rank in range(world):
        monkeypatch.setattr("torch.distributed.get_rank", lambda rank=rank: rank)
        shares.append(list(order))
    for number, batch in enumerate(whole):
        draws = [share[number] for share in shares]
        assert sorted(i for draw in draws if draw.counts for i in draw.indices) == sorted(batch)
        assert all(draw.counts or draw.indices == batch[:1] for draw in draws)
        assert len({draw.seed for draw in draws}) == world
    assert [draw.counts for draw in (share[-1] for share in shares)] == [True] + [False] * (world - 1)


class Noisy:
    """Items that draw from all random numbers there are."""

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> tuple[int, float]:
        return index, float(torch.rand(())) + float(np.random.rand()) + random.random()


def gather(pairs: list[tuple[int, float]]) -> dict[str, torch.Tensor]:
    return {"index": torch.tensor([i for i, _ in pairs]), "noise": torch.tensor([noise for _, noise in pairs])}


def noisy(num_workers: int = 0) -> Loader:
    return Loader(Reader(Noisy(), gather), Order(10, 3, seed=5, shuffle=True), num_workers=num_workers)


def drawn(loader: Loader, epoch: int) -> list[tuple[float, ...]]:
    loader.sampler.set_epoch(epoch)
    return [(*b["index"].tolist(), *b["noise"].tolist()) for b in loader]


def test_batches_depend_on_seed_and_epoch_alone() -> None:
    one = noisy()
    first, second = drawn(one, 0), drawn(one, 1)
    torch.manual_seed(99)
    before = torch.get_rng_state()
    assert drawn(noisy(2), 1) == second and drawn(noisy(), 0) == first != second
    assert torch.equal(torch.get_rng_state(), before)  # reading leaves the training's own numbers alone
    assert len({noise for batch in first + second for noise in batch[len(batch) // 2 :]}) == 20


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("taken", [0, 1, 3, 4])
def test_a_loader_goes_on_within_an_epoch(taken: int, num_workers: int) -> None:
    loader = noisy()
    whole, after = drawn(loader, 2), drawn(loader, 3)
    stopped = noisy(num_workers)
    stopped.sampler.set_epoch(2)
    batches = iter(stopped)
    for _ in range(taken):
        next(batches)
    state = stopped.state_dict()
    assert state == {"epoch": 2, "taken": taken, "batches": 4}
    resumed = noisy(num_workers)
    resumed.load_state_dict(state)
    assert drawn(resumed, 2) == whole[taken:]
    assert resumed.state_dict() == {"epoch": 2, "taken": 4, "batches": 4}
    assert drawn(resumed, 3) == after and drawn(resumed, 2) == whole  # once alone
    with pytest.raises(DataError, match="an epoch had 5 batches and now has 4"):
        resumed.load_state_dict({**state, "batches": 5})


def test_seeded_numbers_come_back_and_others_go_on() -> None:
    torch.manual_seed(1)
    expected = torch.rand(2).tolist()
    torch.manual_seed(1)
    found = [float(torch.rand(()))]
    with seeded(7):
        inside = torch.rand(3)
    found.append(float(torch.rand(())))
    with seeded(7):
        assert torch.equal(torch.rand(3), inside)
    assert found == expected
    assert len({mixed(0, 1), mixed(1, 0), mixed(0, 1, 0), mixed(0)}) == 4


def test_data_that_cannot_count_vectors_say_so() -> None:
    with pytest.raises(ConfigError, match="Digits cannot tell how many vectors its items have; use batch_size"):
        Digits().lengths("train")
