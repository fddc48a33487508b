"""Products along edges: against dense matrices, by gradcheck, on both code paths."""

from __future__ import annotations

import pytest
import torch
import torch_geometric.utils as geometric

from vsattn import sparse
from vsattn.scores import Additive
from vsattn.structure import EdgeList, Edges
from vsattn.vectorset import VectorSet

QUERIES, KEYS, HEADS, WIDTH = 5, 7, 3, 4


@pytest.fixture(params=[True, False], ids=["mkl", "without mkl"])
def edges(request, monkeypatch):
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: request.param)
    generator = torch.Generator().manual_seed(0)
    chosen = torch.rand(QUERIES, KEYS, generator=generator) < 0.5
    chosen[2] = False  # a query without an edge
    query, key = chosen.nonzero().T
    return EdgeList(key, query, QUERIES, KEYS)


def leaf(*shape):
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def test_products_equal_dense_ones_and_their_gradients_pass_gradcheck(edges):
    torch.manual_seed(0)
    q, k, v, w = (leaf(n, HEADS, WIDTH) for n in (QUERIES, KEYS, KEYS, QUERIES))
    scores = torch.einsum("ihd,jhd->ijh", q, k)[edges.query, edges.key]
    torch.testing.assert_close(sparse.edge_dot(q, k, edges), scores)
    weights = leaf(len(edges.key), HEADS)
    dense = torch.zeros(QUERIES, KEYS, HEADS).double().index_put((edges.query, edges.key), weights)
    torch.testing.assert_close(sparse.edge_sum(weights, v, edges), torch.einsum("ijh,jhd->ihd", dense, v))
    assert torch.autograd.gradcheck(lambda a, b: sparse.edge_dot(a, b, edges), (q, k))
    assert torch.autograd.gradcheck(lambda a, b: sparse.edge_sum(a, b, edges), (weights, v))
    assert torch.autograd.gradcheck(lambda a: sparse.edge_softmax(a, edges), (weights,))
    allowed = torch.rand(len(edges.key)) < 0.6
    assert torch.autograd.gradcheck(lambda a: sparse.edge_softmax(a, edges, allowed), (weights,))
    score = Additive(HEADS, WIDTH).double()
    run = lambda a, b, c: sparse.edge_pairwise(score.pairwise, (score.weight,), a, b, edges)  # noqa: E731
    assert torch.autograd.gradcheck(run, (q, k, score.weight))
    assert w.shape == sparse.edge_sum(weights, v, edges).shape


def test_softmax_is_torch_geometrics(edges):
    scores = torch.randn(len(edges.key), HEADS) * 50
    expected = geometric.softmax(scores, edges.query, num_nodes=QUERIES)
    torch.testing.assert_close(sparse.edge_softmax(scores, edges), expected)


def test_pairwise_in_chunks_is_pairwise_at_once(edges, monkeypatch):
    score, q, k = Additive(HEADS, WIDTH).double(), leaf(QUERIES, HEADS, WIDTH), leaf(KEYS, HEADS, WIDTH)
    results = []
    for size in (1, 2**18):
        monkeypatch.setattr(sparse, "CHUNK_ELEMENTS", size)
        out = sparse.edge_pairwise(score.pairwise, tuple(score.parameters()), q, k, edges)
        results.append([out, *torch.autograd.grad(out.square().sum(), (q, k, score.weight))])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other)


def test_second_derivatives_are_refused_rather_than_wrong(edges):
    q, k = leaf(QUERIES, HEADS, WIDTH), leaf(KEYS, HEADS, WIDTH)
    (grad,) = torch.autograd.grad(sparse.edge_dot(q, k, edges).square().sum(), q, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


def test_no_edges_at_all():
    none = torch.zeros(0, dtype=torch.long)
    edges = EdgeList(none, none, QUERIES, KEYS)
    q, k = leaf(QUERIES, HEADS, WIDTH), leaf(KEYS, HEADS, WIDTH)
    weights = sparse.edge_softmax(sparse.edge_dot(q, k, edges), edges)
    output = sparse.edge_sum(weights, k, edges)
    assert weights.shape == (0, HEADS) and torch.equal(output, torch.zeros(QUERIES, HEADS, WIDTH).double())
    output.sum().backward()
    assert torch.equal(k.grad, torch.zeros_like(k))


def test_edges_are_sorted_once_and_kept():
    structure = Edges(torch.tensor([[2, 0, 1], [1, 1, 0]]))
    sets = VectorSet(torch.zeros(1, 3, 1))
    found = structure.edge_list(sets, sets)
    assert (
        found.key.tolist() == [1, 0, 2] and found.query.tolist() == [0, 1, 1] and found.starts.tolist() == [0, 1, 3, 3]
    )
    assert structure.edge_list(sets, sets) is found
    order, query, starts = found.by_key
    assert order.tolist() == [1, 0, 2] and query.tolist() == [1, 0, 1] and starts.tolist() == [0, 1, 2, 3]
    learned = Edges(structure.edge_index, torch.randn(3, 2, requires_grad=True))
    for _ in range(2):  # features that learn are read anew, or the second backward pass would fail
        learned.edge_features(sets, sets).sum().backward()
