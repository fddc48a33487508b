"""Structures: their definitions, their algebra, and what they refuse."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import STRUCTURES, WITH_PREFIX, make_structure
from torch_geometric.utils import to_dense_adj

from vsattn.errors import ShapeError
from vsattn.structure import And, Causal, Dense, Edges, Full, Or, Segments, Structure, Window
from vsattn.vectorset import VectorSet


def sequence(count, start=0.0):
    return VectorSet(
        torch.zeros(1, count, 1), pos=start + torch.arange(count)[None, :, None].float(), layout="sequence"
    )


def attributed_edge(query):
    return Edges(torch.tensor([[0], [query]]), torch.ones(1, 1))


def matrix(structure, queries, keys=None):
    return structure.allowed(queries, keys or queries)[0, 0]


def test_causal_is_lower_triangular_and_compares_positions_not_indices():
    assert torch.equal(matrix(Causal(), sequence(4)), torch.ones(4, 4).tril().bool())
    later = matrix(Causal(), sequence(2, start=3.0), sequence(5))  # two new queries against five cached keys
    assert torch.equal(later, torch.ones(5, 5).tril().bool()[3:])


@pytest.mark.parametrize("left, right", [(0, 0), (1, 2), (None, 1), (2, None), (None, None)])
def test_window_equals_the_band(left, right):
    band = torch.ones(6, 6).bool()
    band &= torch.ones(6, 6).triu(-left).bool() if left is not None else band
    band &= torch.ones(6, 6).tril(right).bool() if right is not None else band
    assert torch.equal(matrix(Window(left, right), sequence(6)), band)


def test_edges_equal_torch_geometrics_adjacency():
    index = torch.tensor([[0, 1, 3, 4], [1, 2, 4, 4]])  # key -> query over two samples of three vectors
    batch = VectorSet(torch.zeros(2, 3, 1))
    expected = to_dense_adj(index, batch=torch.tensor([0, 0, 0, 1, 1, 1]), max_num_nodes=3).transpose(1, 2)
    assert torch.equal(Edges(index).allowed(batch, batch)[:, 0], expected.bool())


def test_segments_are_block_diagonal_and_serve_cross_attention():
    ids = torch.tensor([[0, 0, 1]])
    assert torch.equal(matrix(Segments(ids), sequence(3)), torch.block_diag(torch.ones(2, 2), torch.ones(1, 1)).bool())
    cross = Segments(ids, torch.tensor([[1, 0]]))
    assert matrix(cross, sequence(3), sequence(2)).tolist() == [[False, True], [False, True], [True, False]]


def test_algebra_is_logical_and_full_is_its_neutral_element():
    s, rand = sequence(4), Dense(torch.rand(4, 4) < 0.5)
    assert torch.equal(matrix(Causal() & rand, s), matrix(Causal(), s) & matrix(rand, s))
    assert torch.equal(matrix(Causal() | rand, s), matrix(Causal(), s) | matrix(rand, s))
    assert Full() & Causal() == Causal() and Causal() & Full() == Causal() and Full() & Full() == Full()
    assert Full() | Causal() == Full()
    assert isinstance(Causal() & rand & Window(1, 1), And) and len((Causal() & rand & Window(1, 1)).parts) == 3
    assert isinstance(Causal() | rand | Window(1, 1), Or) and len((Causal() | rand | Window(1, 1)).leaves()) == 3


def test_positions_of_two_coordinates_have_no_order():
    grid = VectorSet(torch.zeros(1, 4, 1), layout="grid", grid=(2, 2))
    for structure in (Causal(), Window(1, 1)):
        with pytest.raises(ShapeError, match=f"{type(structure).__name__} needs one coordinate"):
            structure.allowed(grid, grid)
    with pytest.raises(ShapeError, match="have no positions"):
        Causal().allowed(VectorSet(torch.zeros(1, 2, 1)), VectorSet(torch.zeros(1, 2, 1)))


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Edges(torch.tensor([[0, 0], [1, 1]])), r"1 edges are given more than once \(first: key 0 -> query"),
        (lambda: Edges(torch.tensor([[-1], [0]])), "negative index -1"),
        (lambda: Edges(torch.zeros(3, 2, dtype=torch.long)), r"integer \(2, E\)"),
        (lambda: Edges(torch.zeros(2, 2)), "not torch.float32"),
        (lambda: Edges(torch.tensor([[0], [1]]), torch.zeros(2, 3)), r"1 edges need \(E, F\)"),
        (lambda: Dense(torch.ones(2, 2)), "bool mask"),
        (lambda: Dense(torch.ones(1, 3, 2, 2, dtype=torch.bool)), "not \\(1, 3, 2, 2\\)"),
        (lambda: Window(-1, 0), "Window.left"),
        (lambda: attributed_edge(1) | attributed_edge(0), "ambiguous"),
    ],
)  # fmt: skip
def test_impossible_structures_are_refused_when_made(make, message):
    with pytest.raises(ShapeError, match=message):
        make()


def test_structures_that_do_not_fit_the_sets_are_refused_when_used():
    s = sequence(3)
    with pytest.raises(ShapeError, match="Dense mask is"):
        Dense(torch.ones(2, 2).bool()).allowed(s, s)
    with pytest.raises(ShapeError, match=r"Segments.ids is .* the set is \(1, 3\)"):
        Segments(torch.zeros(1, 2).long()).allowed(s, s)
    with pytest.raises(ShapeError, match="hold 3 keys"):
        Edges(torch.tensor([[5], [0]])).allowed(s, s)
    two = VectorSet(torch.zeros(2, 3, 1))
    with pytest.raises(ShapeError, match="joins two samples"):
        Edges(torch.tensor([[0], [4]])).allowed(two, two)


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from(STRUCTURES), st.integers(1, 3), st.integers(1, 5), st.integers(0, 2**20), st.sampled_from([0, 1])
)
def test_permits_answers_for_listed_pairs_what_allowed_answers_for_all(name, batch, count, seed, prefix):
    generator = torch.Generator().manual_seed(seed)
    structure = make_structure(name, batch, count, generator)
    sets = VectorSet(torch.zeros(batch, count, 1), structure=structure, layout="sequence")
    if prefix and name in WITH_PREFIX:
        sets = sets.with_prefix(torch.zeros(prefix, 1))
    structure, total = sets.structure, sets.num_vectors
    allowed = structure.allowed(sets, sets).expand(batch, 1, total, total)[:, 0]
    sample, query, key = torch.ones(batch, total, total).nonzero().T
    pairs = torch.stack([sample * total + key, sample * total + query])
    assert torch.equal(structure.permits(sets, sets, pairs), allowed[sample, query, key])
    assert torch.equal(Structure.permits(structure, sets, sets, pairs), allowed[sample, query, key])
    edges = structure.edge_list(sets, sets)
    if edges is not None:  # the list holds every allowed pair, once, in order
        codes = edges.query * edges.num_keys + edges.key
        assert (codes[1:] > codes[:-1]).all()
        listed = torch.zeros(batch, total, total, dtype=torch.bool)
        listed[edges.query // total, edges.query % total, edges.key % total] = True
        assert bool((listed | ~allowed).all())


def test_reach_is_what_all_or_the_widest_part_allows():
    segments, edges = Segments(torch.zeros(1, 3).long()), Edges(torch.tensor([[0], [1]]))
    for structure, reach in (
        (Window(3, 5) & Causal(), (3, 0)),
        (Window(3, 5) & segments, (3, 5)),
        (Window(3, 5) | Window(4, 1), (4, 5)),
        (Window(3, 5) | Causal(), (None, 5)),
        (Causal() & Window(2, None), (2, 0)),
        (edges, (None, None)),
    ):
        assert structure.reach() == reach


def test_a_global_layer_drops_edges_and_windows_alone():
    segments, edges, dense = (
        Segments(torch.zeros(1, 3).long()),
        Edges(torch.tensor([[0], [1]])),
        Dense(torch.eye(3) > 0),
    )
    assert (edges & segments).unbounded() is segments
    assert (Window(1, 1) & dense & Causal()).unbounded().leaves() == (dense, Causal())
    assert isinstance((edges | dense).unbounded(), Full) and isinstance(Window(1, 1).unbounded(), Full)
