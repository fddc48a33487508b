"""Batches of so many vectors: every item once, never too many vectors, new company each epoch."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vsattn.errors import ConfigError
from vsattn.tasks.batching import VectorBatches
from vsattn.tasks.data.images import Digits

LENGTHS = st.lists(st.integers(1, 30), min_size=1, max_size=60)


@given(lengths=LENGTHS, limit=st.integers(1, 100), seed=st.integers(0, 5), shuffled=st.booleans())
def test_every_item_once_and_never_too_many_vectors(lengths, limit, seed, shuffled) -> None:
    generator = torch.Generator().manual_seed(seed) if shuffled else None
    batches = VectorBatches(lengths, limit, generator=generator)
    first, second = list(batches), list(batches)
    assert len(first) == len(second) == len(batches)
    for epoch in (first, second):
        assert sorted(index for batch in epoch for index in batch) == list(range(len(lengths)))
        assert all(len(b) == 1 or len(b) * max(lengths[i] for i in b) <= limit for b in epoch)
    if not shuffled:
        assert [index for batch in first for index in batch] == list(range(len(lengths)))


def test_like_lengths_go_together_and_epochs_differ() -> None:
    lengths = [1, 50] * 100
    batches = VectorBatches(lengths, 100, generator=torch.Generator().manual_seed(0))
    first, second = list(batches), list(batches)
    assert len(batches) == 51  # one of the short ones, fifty of two long ones
    assert all(len({lengths[i] for i in batch}) == 1 for batch in first)
    assert first != second and {frozenset(b) for b in first} != {frozenset(b) for b in second}
    again = VectorBatches(lengths, 100, generator=torch.Generator().manual_seed(0))
    assert [list(again), list(again)] == [first, second]


def test_data_that_cannot_count_vectors_say_so() -> None:
    with pytest.raises(ConfigError, match="Digits cannot tell how many vectors its items have; use batch_size"):
        Digits().lengths("train")
