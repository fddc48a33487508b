"""`VectorSet`: what it checks, what it fills, and how sets join and part."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._pytree import tree_flatten, tree_map_only, tree_unflatten

from vsattn.errors import ShapeError
from vsattn.structure import Causal, Dense, Edges, Full, Segments
from vsattn.vectorset import VectorSet


def test_padded_rows_are_zero_filled_so_that_nan_cannot_spread():
    x = torch.full((1, 3, 2), float("nan"))
    x[0, 0] = 1.0
    sets = VectorSet(x, torch.tensor([[True, False, False]]), pos=x.clone())
    assert torch.equal(sets.x, torch.tensor([[[1.0, 1.0], [0, 0], [0, 0]]])) and torch.equal(sets.pos, sets.x)
    with pytest.raises(AttributeError):
        sets.x = x


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"x": torch.zeros(3, 2)}, r"x is floating point \(B, N, D\)"),
        ({"x": torch.zeros(1, 3, 2, dtype=torch.long)}, "not torch.int64"),
        ({"mask": torch.ones(1, 3)}, r"mask is bool \(1, 3\)"),
        ({"mask": torch.ones(1, 4, dtype=torch.bool)}, r"not torch.bool \(1, 4\)"),
        ({"pos": torch.zeros(1, 4, 1)}, r"pos is \(B, N, P\)"),
        ({"layout": "grid"}, "a grid layout needs"),
        ({"layout": "grid", "grid": (2, 2)}, "does not hold 3 vectors"),
        ({"layout": "sequence", "pos": torch.zeros(1, 3, 2)}, "one coordinate per vector"),
        ({"layout": "ring"}, "'free', 'sequence' or 'grid'"),
        ({"num_prefix": 4}, "num_prefix is 4"),
    ],
)
def test_what_does_not_fit_is_named(fields, message):
    with pytest.raises(ShapeError, match=message):
        VectorSet(**{"x": torch.zeros(1, 3, 2), **fields})


def test_positions_follow_the_layout_and_skip_the_prefix():
    grid = VectorSet(torch.zeros(2, 6, 1), layout="grid", grid=(2, 3))
    assert grid.positions()[0].tolist() == [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]]
    sequence = VectorSet(torch.zeros(1, 2, 1), layout="sequence").with_prefix(torch.ones(1, 1))
    assert sequence.positions()[0, :, 0].tolist() == [0, 0, 1] and sequence.num_prefix == 1
    with pytest.raises(ShapeError, match="have no positions"):
        VectorSet(torch.zeros(1, 2, 1)).positions()


def test_new_positions_make_a_set_free():
    sets = VectorSet(torch.zeros(1, 3, 1), layout="sequence")
    assert sets.replace(pos=torch.zeros(1, 3, 1)).layout == "free"
    assert sets.replace(pos=torch.zeros(1, 3, 1), layout="sequence").layout == "sequence"
    assert sets.replace(x=torch.ones(1, 3, 1)).layout == "sequence"


def single(generator, count, kind):
    x = torch.randn(1, count, 3, generator=generator)
    structure = {
        "none": Full(),
        "causal": Causal(),
        "dense": Dense(torch.rand(count, count, generator=generator) < 0.5),
        "segments": Segments(torch.randint(0, 3, (1, count), generator=generator)),
        "edges": Edges(
            (torch.rand(count, count, generator=generator) < 0.5).nonzero().T.contiguous(),
        ),
    }[kind]
    if kind == "edges":
        structure = Edges(structure.edge_index, torch.randn(structure.edge_index.shape[1], 2, generator=generator))
    pos = torch.randn(1, count, 2, generator=generator)
    return VectorSet(x, pos=pos, structure=structure)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**20), st.lists(st.integers(0, 5), min_size=1, max_size=4))
@pytest.mark.parametrize("kind", ["none", "causal", "dense", "segments", "edges"])
def test_from_list_and_unbind_are_inverse(kind, seed, sizes):
    generator = torch.Generator().manual_seed(seed)
    singles = [single(generator, n, kind) for n in sizes]
    batch = VectorSet.from_list(singles)
    for back, one in zip(batch.unbind(), singles, strict=True):
        assert (
            torch.equal(back.x, one.x)
            and torch.equal(back.pos, one.pos)
            and type(back.structure) is type(one.structure)
        )
        if kind != "causal":
            assert torch.equal(back.structure.allowed(back, back), one.structure.allowed(one, one))
        if kind == "edges":
            assert torch.equal(back.structure.edge_attr, one.structure.edge_attr)


def test_unbind_skips_prefix_and_padding_and_moves_edges():
    sets = VectorSet.from_list(
        [VectorSet(torch.ones(1, n, 2), structure=Edges(torch.tensor([[0], [n - 1]]))) for n in (2, 3)]
    ).with_prefix(torch.zeros(2, 2))
    assert sets.structure.edge_index.tolist() == [[2, 7], [3, 9]]
    assert [one.structure.edge_index.tolist() for one in sets.unbind()] == [[[0], [1]], [[0], [2]]]


def test_pictures_of_different_sizes_keep_their_own_coordinates():
    parts = [VectorSet(torch.zeros(1, h * w, 1), layout="grid", grid=(h, w)) for h, w in ((1, 2), (2, 2))]
    batch = VectorSet.from_list(parts)
    assert batch.layout == "free" and batch.pos[0].tolist() == [[0, 0], [0, 1], [0, 0], [0, 0]]
    assert batch.mask.tolist() == [[True, True, False, False], [True] * 4]


def test_from_list_names_what_does_not_join():
    with pytest.raises(ShapeError, match="at least one set"):
        VectorSet.from_list([])
    with pytest.raises(ShapeError, match=r"width D; these have \[2, 3\]"):
        VectorSet.from_list([torch.zeros(1, 2), torch.zeros(1, 3)])
    with pytest.raises(ShapeError, match="item 1 is not a single set"):
        VectorSet.from_list([torch.zeros(1, 2), VectorSet(torch.zeros(2, 1, 2))])
    with pytest.raises(ShapeError, match=r"one kind of structure|one structure"):
        VectorSet.from_list([VectorSet(torch.zeros(1, 1, 2), structure=s) for s in (Full(), Causal())])


def test_is_a_pytree_and_moves_as_a_whole():
    index = torch.tensor([[0], [1]])
    sets = VectorSet(torch.zeros(1, 2, 3), structure=Edges(index) & Causal(), layout="sequence")
    leaves, spec = tree_flatten(sets)
    back = tree_unflatten(leaves, spec)
    assert isinstance(back, VectorSet) and back.layout == "sequence" and len(back.structure.parts) == 2
    doubled = tree_map_only(torch.Tensor, lambda t: t * 2, sets)
    assert doubled.structure.parts[0].edge_index.tolist() == [[0], [2]]
    assert sets.to(torch.float64).x.dtype == torch.float64
    assert sets.to(torch.float64).structure.parts[0].edge_index.dtype == torch.int64


def test_a_padded_batch_of_pictures_parts_into_pictures_and_joins_again():
    mask = torch.zeros(2, 3, 4, dtype=torch.bool)
    mask[0, :2, :3], mask[1] = True, True
    batch = VectorSet(torch.randn(2, 12, 2), mask.flatten(1), layout="grid", grid=(3, 4))
    small, large = batch.unbind()
    assert small.grid == (2, 3) and small.pos is None and large.grid == (3, 4)
    again = VectorSet.from_list([small, large])
    for back, one in zip(again.unbind(), (small, large), strict=True):
        assert torch.equal(back.x, one.x) and torch.equal(back.positions(), one.positions())


def test_a_sequence_with_a_hole_keeps_its_positions():
    batch = VectorSet(torch.randn(2, 3, 1), torch.tensor([[True, False, True], [True] * 3]), layout="sequence")
    holed, whole = batch.unbind()
    assert holed.layout == "free" and holed.pos[0, :, 0].tolist() == [0, 2] and whole.layout == "sequence"
    assert VectorSet.from_list([holed, whole]).pos[:, :, 0].tolist() == [[0, 2, 0], [0, 1, 2]]


def test_whole_numbers_as_positions_become_real():
    assert VectorSet(torch.zeros(1, 2, 1), pos=torch.tensor([[[0], [7]]])).positions().tolist() == [[[0.0], [7.0]]]
