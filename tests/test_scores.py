"""Scores against their papers' formulas, torch-geometric's GAT and, for sparse weights, the `entmax` package."""

from __future__ import annotations

import math
import sys
from functools import partial

import entmax
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import SCORES
from torch_geometric.nn import GATConv
from torch_geometric.utils import softmax as softmax_by_target

from vsattn.attention import MultiHeadAttention, attend, attention_weights, explain_kernel
from vsattn.attention.reference import masked_weights
from vsattn.errors import ConfigError, ShapeError
from vsattn.scores import Additive, Bilinear, Cosine, Dot, ScaledDot, Score, SplitAdditive
from vsattn.sparse import edge_softmax
from vsattn.structure import Causal, Edges, Segments, Window
from vsattn.vectorset import VectorSet

PLAIN = sorted(set(SCORES) - {"sparsemax"})
SPARSE = {"sparsemax": entmax.sparsemax, "entmax15": entmax.entmax15}
LEAKY = partial(F.leaky_relu, negative_slope=0.2)

#: Each score of one query and one key of head h, as its paper writes it.
FORMULAS = {
    "scaled_dot": lambda s, h, q, k: (q @ k) / math.sqrt(len(q)),
    "dot": lambda s, h, q, k: q @ k,
    "bilinear": lambda s, h, q, k: q @ s.weight[h] @ k / math.sqrt(len(q)),
    "cosine": lambda s, h, q, k: s.log_temperature[h, 0, 0].exp() * F.cosine_similarity(q, k, dim=0),
    "additive": lambda s, h, q, k: s.weight[h] @ torch.tanh(q + k),
    "additive_leaky": lambda s, h, q, k: s.weight[h] @ LEAKY(q + k),
    "split_additive": lambda s, h, q, k: LEAKY(torch.cat([s.query_weight[h], s.key_weight[h]]) @ torch.cat([q, k])),
}


def made(name, heads=3, width=4):
    """Return a score in float64 with no parameter left where it starts."""
    torch.manual_seed(1)
    score = SCORES[name](heads, width).double()
    for parameter in score.parameters():
        torch.nn.init.normal_(parameter)
    return score


def leaves(*shapes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(*s, generator=generator, dtype=torch.float64).requires_grad_() for s in shapes]


def with_gradients(output, inputs):
    """Return the output and its gradients by the inputs, weighted so that no two entries count alike."""
    probe = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view_as(output)
    return [output, *torch.autograd.grad((output * probe).sum(), inputs)]


def as_dot(score, q, k):
    query, key, scale = score.as_dot(q, k)
    return torch.einsum("bhid,bhjd->bhij", query, key) * scale


@pytest.mark.parametrize("name", PLAIN)
def test_every_way_to_compute_a_score_is_its_papers_formula(name):
    score, (q, k) = made(name), leaves((2, 3, 4, 4), (2, 3, 5, 4))
    inputs = [q, k, *score.parameters()]
    rows = [FORMULAS[name](score, h, q[b, h, i], k[b, h, j])
            for b in range(2) for h in range(3) for i in range(4) for j in range(5)]  # fmt: skip
    expected = with_gradients(torch.stack(rows).view(2, 3, 4, 5), inputs)
    query, key = q.transpose(1, 2)[:, :, None], k.transpose(1, 2)[:, None]
    ways = {
        "definition": score.pairwise(query, key).permute(0, 3, 1, 2),
        "of dots by definition": Score.forward(score, q, k),
        "dense": score(q, k),
    }
    if score.is_dot:
        ways["as a dot product"] = as_dot(score, q, k)
    for way, output in ways.items():
        torch.testing.assert_close(with_gradients(output, inputs), expected, atol=1e-12, rtol=0, msg=way)
    assert score.is_dot == (name in ("scaled_dot", "dot", "bilinear", "cosine"))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**20), st.integers(1, 3), st.integers(1, 5), st.integers(1, 5))
@pytest.mark.parametrize("name", PLAIN)
def test_along_edges_it_is_the_dense_score_of_those_pairs(name, seed, batch, num_queries, num_keys):
    score, (q, k) = made(name), leaves((batch, 3, num_queries, 4), (batch, 3, num_keys, 4), seed=seed)
    generator = torch.Generator().manual_seed(seed)
    sample, query, key = (torch.rand(batch, num_queries, num_keys, generator=generator) < 0.5).nonzero().T
    structure = Edges(torch.stack([sample * num_keys + key, sample * num_queries + query]))
    sets = (VectorSet(torch.zeros(batch, n, 1)) for n in (num_queries, num_keys))
    edges, inputs = structure.edge_list(*sets), [q, k, *score.parameters()]
    flat = (t.transpose(1, 2).flatten(0, 1) for t in (q, k))
    found = with_gradients(score.along(*flat, edges), inputs)  # sorted by query, as `nonzero` gives them
    expected = with_gradients(score(q, k)[sample, :, query, key], inputs)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("self_loops", [True, False])
def test_split_additive_gives_gats_coefficients(self_loops):
    torch.manual_seed(0)
    peer = GATConv(5, 4, heads=3, add_self_loops=self_loops, negative_slope=0.3).double()
    x = torch.randn(7, 5, dtype=torch.float64)
    edge_index = (torch.rand(7, 7) < 0.4).nonzero().T
    _, (edge_index, alpha) = peer(x, edge_index, return_attention_weights=True)
    score = SplitAdditive(3, 4, negative_slope=0.3).double()
    with torch.no_grad():
        score.key_weight.copy_(peer.att_src[0])  # a source is a key, a target a query
        score.query_weight.copy_(peer.att_dst[0])
    projected = peer.lin(x).view(7, 3, 4)
    sets, structure = VectorSet(x[None]), Edges(edge_index)
    heads = projected.transpose(0, 1)[None]
    weights = attention_weights(heads, heads, sets, sets, structure, score=score)[0]  # (H, target, source)
    torch.testing.assert_close(weights[:, edge_index[1], edge_index[0]].T, alpha, atol=1e-14, rtol=0)
    edges = structure.edge_list(sets, sets)
    scores = score.along(projected, projected, edges)
    expected = softmax_by_target(scores, edges.query, num_nodes=7)
    torch.testing.assert_close(edge_softmax(scores, edges), expected, atol=1e-14, rtol=0)
    dense = torch.zeros(7, 7, 3, dtype=torch.float64).index_put((edge_index[1], edge_index[0]), alpha)
    torch.testing.assert_close(expected, dense[edges.query, edges.key], atol=1e-14, rtol=0)


def test_split_additive_ranks_the_keys_alike_for_all_queries_and_gatv2_does_not():
    torch.manual_seed(0)
    q, k = torch.randn(1, 1, 20, 8), torch.randn(1, 1, 20, 8)
    orders = [score(q, k)[0, 0].argsort(-1) for score in (SplitAdditive(1, 8), Additive(1, 8, activation="leaky_relu"))]
    assert (orders[0] == orders[0][0]).all() and not (orders[1] == orders[1][0]).all()


def test_additive_is_bahdanaus_alignment():
    torch.manual_seed(0)
    layer = MultiHeadAttention(6, 1, head_dim=9, key_dim=5, score=Additive, bias=False).double()
    state, annotations = torch.randn(2, 3, 6, dtype=torch.float64), torch.randn(2, 4, 5, dtype=torch.float64)
    _, weights = layer(state, annotations, return_weights=True)
    w, u, v = layer.query_proj.weight, layer.key_proj.weight, layer.score.weight[0]
    for b in range(2):
        for i in range(3):
            energies = torch.stack([v @ torch.tanh(w @ state[b, i] + u @ h) for h in annotations[b]])
            torch.testing.assert_close(weights[b, 0, i], energies.softmax(0), atol=1e-14, rtol=0)


def test_cosine_stays_within_its_temperature_however_long_the_vectors():
    torch.manual_seed(0)
    score = Cosine(2, 4, temperature=3.0)
    vectors = torch.randn(1, 2, 50, 4) * torch.logspace(-20, 10, 50)[:, None]
    scores = score(vectors, vectors).detach()
    assert scores.abs().max() <= 3.0 * (1 + 1e-6)
    torch.testing.assert_close(scores.diagonal(dim1=-2, dim2=-1)[..., 25:], torch.full((1, 2, 25), 3.0))
    zero = torch.zeros(1, 2, 1, 4, requires_grad=True)
    (gradient,) = torch.autograd.grad(score(zero, vectors[:, :, 25:]).sum(), zero)
    assert torch.equal(score(zero, vectors), torch.zeros(1, 2, 1, 50)) and gradient.isfinite().all()
    with pytest.raises(ConfigError, match="temperature must be positive, not 0"):
        Cosine(1, 4, temperature=0)


def allowed_pairs(seed, *shape):
    """Return a random mask with a row of one key, a row of none, and a row of all."""
    allowed = torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) < 0.6
    allowed[..., :3, :] = False
    allowed[..., 0, -1] = allowed[..., 2, :] = True
    return allowed


def row_by_row(scores, allowed, normalize):
    """Normalize the allowed scores of each row alone, by hand."""
    rows = [
        torch.zeros_like(row).masked_scatter(keys, normalize(row[keys], dim=-1)) if keys.any() else 0.0 * row
        for row, keys in zip(scores.flatten(0, -2), allowed.expand_as(scores).flatten(0, -2), strict=True)
    ]
    return torch.stack(rows).view_as(scores)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0, 1e6])
@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-6), (torch.float64, 1e-14)])
@pytest.mark.parametrize("name", SPARSE)
def test_sparse_weights_are_those_of_the_allowed_scores_alone(name, dtype, tolerance, scale):
    allowed = allowed_pairs(0, 2, 8, 9)
    scores = (torch.randn(2, 8, 9, generator=torch.Generator().manual_seed(0)) * scale).to(dtype).requires_grad_()
    weights = masked_weights(scores, allowed, name)
    found = with_gradients(weights, [scores])
    expected = with_gradients(row_by_row(scores, allowed, SPARSE[name]), [scores])
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=0)
    sums = allowed.any(-1).to(dtype)
    torch.testing.assert_close(weights.sum(-1), sums, atol=tolerance, rtol=0)
    assert torch.equal(weights[:, 0, -1], torch.ones(2, dtype=dtype))  # the only key has it all
    assert torch.equal(weights[:, 1], torch.zeros(2, 9, dtype=dtype))
    assert torch.equal(weights.masked_fill(allowed, 0.0), torch.zeros_like(weights))
    if scale >= 1:
        assert (weights[allowed] == 0).any(), "no allowed key was left out"


@pytest.mark.parametrize("name", SPARSE)
def test_sparse_weights_of_long_rows_are_those_of_bisection(name):
    """The threshold t with ``sum (z - t)_+^p = 1`` found by halving: no sorting, no infinities."""
    power, z = {"sparsemax": (1, 1.0), "entmax15": (2, 0.5)}[name]
    torch.manual_seed(0)
    allowed, scores = torch.rand(6, 5000) < 0.5, torch.randn(6, 5000) * torch.tensor([[1e-2, 1, 3, 1e2, 1e4, 1e30]]).T
    scaled = (scores.double() * z).masked_fill(~allowed, -math.inf)
    scaled = scaled - scaled.amax(-1, keepdim=True)
    low, high = -torch.ones(6, 1).double(), torch.zeros(6, 1).double()
    for _ in range(100):
        middle = (low + high) / 2
        above = ((scaled - middle).clamp(min=0) ** power).sum(-1, keepdim=True) > 1
        low, high = torch.where(above, middle, low), torch.where(above, high, middle)
    expected = (scaled - low).clamp(min=0) ** power
    torch.testing.assert_close(masked_weights(scores, allowed, name).double(), expected, atol=2e-6, rtol=0)
    torch.testing.assert_close(masked_weights(scores.double(), allowed, name), expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("name", SPARSE)
def test_sparse_weights_pass_gradcheck(name):
    (scores,), allowed = leaves((3, 8, 7)), allowed_pairs(3, 3, 8, 7)
    assert torch.autograd.gradcheck(lambda s: masked_weights(s, allowed, name), scores)


@pytest.mark.parametrize("score", [ScaledDot, Cosine, Additive, SplitAdditive])
@pytest.mark.parametrize("name", SPARSE)
def test_attention_with_sparse_weights(name, score):
    score = score(2, 4, normalizer=name).double()
    mask = torch.tensor([[True] * 6, [True, True, False, True, False, False], [False] * 6])
    sets = VectorSet(torch.zeros(3, 6, 1), mask, layout="sequence")
    q, k, v = leaves(*[(3, 2, 6, 4)] * 3)
    allowed = Causal().allowed(sets, sets) & mask[:, None, None]
    expected = row_by_row(score(q, k), allowed, SPARSE[name])
    weights = attention_weights(q, k, sets, sets, Causal(), score=score, chunk_size=4)
    torch.testing.assert_close(weights, expected, atol=1e-12, rtol=0)
    inputs = [q, k, v, *score.parameters()]
    found = with_gradients(attend(q, k, v, sets, sets, Causal(), score=score), inputs)
    torch.testing.assert_close(found, with_gradients(expected @ v, inputs), atol=1e-12, rtol=0)
    assert all(t.isfinite().all() for t in found) and torch.equal(found[0][2], torch.zeros(2, 6, 4).double())


@pytest.mark.parametrize("name", SPARSE)
def test_no_fused_or_edge_kernel_has_sparse_weights(name):
    score, q = ScaledDot(1, 4, normalizer=name), torch.randn(1, 1, 600, 4)
    sets = VectorSet(torch.zeros(1, 600, 1), layout="sequence")
    ring = Edges(torch.stack([torch.arange(600), torch.arange(600).roll(1)]))
    for structure, kernel, reason in ((None, "dense", "is not a softmax"), (ring, "edges", "for dense rows alone")):
        assert explain_kernel(q, q, q, sets, sets, structure, score=score).startswith("reference: ")
        with pytest.raises(ShapeError, match=f"kernel '{kernel}' cannot do this: {name} .*{reason}"):
            attend(q, q, q, sets, sets, structure, score=score, kernel=kernel)
    output = attend(q, q, q, sets, sets, ring, score=score)
    assert torch.equal(output[0, 0], q[0, 0].roll(-1, 0))  # one key for each query


@pytest.mark.parametrize("name", SPARSE)
def test_bands_and_packed_sets_have_the_same_sparse_weights(name):
    torch.manual_seed(0)
    score = ScaledDot(2, 4, normalizer=name).double()
    sets = VectorSet(torch.zeros(2, 600, 1), torch.rand(2, 600) < 0.9, layout="sequence")
    q, k, v = leaves(*[(2, 2, 600, 4)] * 3)
    for structure, kernel in ((Window(3, 2), "banded"), (Segments(torch.arange(1200).view(2, -1) // 45), "packed")):
        assert explain_kernel(q, k, v, sets, sets, structure, score=score).startswith(kernel)
        found, expected = (
            with_gradients(attend(4 * q, k, v, sets, sets, structure, score=score, kernel=one), [q, k, v])
            for one in (kernel, "reference")
        )
        torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("name", SPARSE)
def test_sparse_weights_without_their_package(name, monkeypatch):
    monkeypatch.setitem(sys.modules, "entmax", None)
    with pytest.raises(ConfigError, match=rf"{name} needs the entmax package: pip install 'vsattn\[entmax\]'"):
        MultiHeadAttention(4, 1, score=partial(Dot, normalizer=name))(torch.randn(1, 2, 4))
    MultiHeadAttention(4, 1, score=Dot)(torch.randn(1, 2, 4))


@pytest.mark.parametrize("score", [ScaledDot, Dot, Bilinear, Cosine, Additive, SplitAdditive])
def test_wrong_names_are_refused_when_made(score):
    with pytest.raises(ConfigError, match=rf"{score.__name__}.normalizer is one of .*'entmax15'.*, not 'sparse'"):
        score(2, 4, normalizer="sparse")
    with pytest.raises(ConfigError, match="activation is 'tanh' or 'leaky_relu', not 'relu'"):
        Additive(2, 4, activation="relu")


@pytest.mark.parametrize("name", SPARSE)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sparse_weights_are_found_in_single_precision(name, dtype):
    torch.manual_seed(0)
    sets, q = VectorSet(torch.zeros(1, 1000, 1)), torch.randn(1, 2, 1000, 16).to(dtype)
    weights = attention_weights(q, q, sets, sets, score=ScaledDot(2, 16, normalizer=name))
    assert weights.dtype == dtype and (weights.float().sum(-1) - 1).abs().max() < 0.01
