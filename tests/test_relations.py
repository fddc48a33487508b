"""Relations against their papers' formulas, the libraries that ship them, and torch-geometric."""

from __future__ import annotations

import math

import pytest
import torch

from vsattn.attention import MultiHeadAttention, attend, explain_kernel
from vsattn.errors import ConfigError, ShapeError
from vsattn.relations import Alibi, EdgeFeatures, Pair, RelativeVectors, T5Buckets
from vsattn.scores import Additive
from vsattn.structure import Causal, Dense, Edges, Full
from vsattn.vectorset import VectorSet


def sequence(count, batch=1):
    return VectorSet(torch.zeros(batch, count, 1), layout="sequence")


def test_alibi_is_the_papers_bias_for_heads_of_any_number():
    assert Alibi(8, 4).slopes.tolist() == [2.0 ** -(i + 1) for i in range(8)]
    expected = [2.0 ** (-8 * (i + 1) / 4) for i in range(4)] + [2.0 ** (-8 * (2 * i + 1) / 8) for i in range(2)]
    torch.testing.assert_close(Alibi(6, 4).slopes, torch.tensor(expected))
    bias = Alibi(2, 4).to_score(torch.zeros(1, 2, 3, 4), Pair(sequence(3), sequence(3)))
    by_hand = torch.tensor([[0.0, 1, 2], [1, 0, 1], [2, 1, 0]])
    torch.testing.assert_close(bias[0], -by_hand[..., None] * torch.tensor([2.0**-4, 2.0**-8]))


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize("buckets, distance", [(32, 128), (16, 20), (8, 40)])
def test_t5_buckets_are_those_of_transformers(bidirectional, buckets, distance):
    t5 = pytest.importorskip("transformers.models.t5.modeling_t5")
    offsets = torch.arange(-200, 201)
    relation = T5Buckets(2, 4, num_buckets=buckets, max_distance=distance, bidirectional=bidirectional)
    expected = t5.T5Attention._relative_position_bucket(offsets, bidirectional, buckets, distance)
    assert torch.equal(relation.bucket(offsets), expected)


def test_t5_refuses_buckets_that_cannot_be_cut():
    with pytest.raises(ConfigError, match="even num_buckets"):
        T5Buckets(2, 4, num_buckets=7)


@pytest.mark.parametrize("values", [False, True])
def test_relative_vectors_equal_shaws_equations_pair_by_pair(values):
    torch.manual_seed(0)
    count, heads, width, reach = 6, 2, 4, 2
    relation = RelativeVectors(heads, width, max_distance=reach, values=values).double()
    q, k, v = (torch.randn(1, heads, count, width).double() for _ in range(3))
    output = attend(q, k, v, sequence(count), sequence(count), relation=relation)
    for h in range(heads):
        for i in range(count):
            index = [min(max(j - i, -reach), reach) + reach for j in range(count)]
            scores = torch.stack(
                [q[0, h, i] @ (k[0, h, j] + relation.key_vectors[index[j]]) / math.sqrt(width) for j in range(count)]
            )
            mixed = [v[0, h, j] + (relation.value_vectors[index[j]] if values else 0) for j in range(count)]
            expected = sum(w * m for w, m in zip(scores.softmax(0), mixed, strict=True))
            torch.testing.assert_close(output[0, h, i], expected, atol=1e-12, rtol=0)


def test_sequence_relations_want_one_coordinate():
    grid = VectorSet(torch.zeros(1, 4, 1), layout="grid", grid=(2, 2))
    q = torch.randn(1, 2, 4, 4)
    for relation in (Alibi(2, 4), T5Buckets(2, 4), RelativeVectors(2, 4)):
        with pytest.raises(ShapeError, match=rf"{type(relation).__name__} needs one coordinate per vector"):
            attend(q, q, q, grid, grid, relation=relation)


def attributed(count, generator):
    chosen = (torch.rand(count, count, generator=generator) < 0.5).nonzero().T
    return Edges(chosen, torch.randn(chosen.shape[1], 3, generator=generator).double())


@pytest.mark.parametrize("kernel", ["edges", "reference"])
def test_edge_features_in_keys_and_values_equal_transformer_conv(kernel):
    geometric = pytest.importorskip("torch_geometric.nn")
    torch.manual_seed(0)
    structure = attributed(7, torch.Generator().manual_seed(0))
    conv = geometric.TransformerConv(5, 4, heads=2, edge_dim=3, root_weight=False).double()
    relation = EdgeFeatures(2, 4, edge_dim=3).double()
    relation.project.load_state_dict(conv.lin_edge.state_dict())
    x = torch.randn(7, 5).double()
    q, k, v = (getattr(conv, f"lin_{n}")(x).view(1, 7, 2, 4).transpose(1, 2) for n in ("query", "key", "value"))
    sets = VectorSet(torch.zeros(1, 7, 1))
    output = attend(q, k, v, sets, sets, structure, relation=relation, kernel=kernel)
    expected = conv(x, structure.edge_index, structure.edge_attr)
    torch.testing.assert_close(output.transpose(1, 2).reshape(7, 8), expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("kernel", ["edges", "reference"])
def test_edge_features_inside_the_activation_equal_gatv2(kernel):
    geometric = pytest.importorskip("torch_geometric.nn")
    torch.manual_seed(0)
    structure = attributed(7, torch.Generator().manual_seed(0))
    conv = geometric.GATv2Conv(5, 4, heads=2, edge_dim=3, add_self_loops=False, bias=False).double()
    relation, score = (
        EdgeFeatures(2, 4, edge_dim=3, to="key").double(),
        Additive(2, 4, activation="leaky_relu").double(),
    )
    relation.project.load_state_dict(conv.lin_edge.state_dict())
    with torch.no_grad():
        score.weight.copy_(conv.att[0])
    x = torch.randn(7, 5).double()
    q, k = (getattr(conv, f"lin_{n}")(x).view(1, 7, 2, 4).transpose(1, 2) for n in ("r", "l"))
    sets = VectorSet(torch.zeros(1, 7, 1))
    output = attend(q, k, k, sets, sets, structure, score=score, relation=relation, kernel=kernel)
    expected = conv(x, structure.edge_index, structure.edge_attr)
    torch.testing.assert_close(output.transpose(1, 2).reshape(7, 8), expected, atol=1e-12, rtol=0)


def test_edge_features_need_features_of_their_width():
    sets, q = VectorSet(torch.zeros(1, 3, 1)), torch.randn(1, 2, 3, 4)
    for structure, message in (
        (Full(), "reads edge_attr, and Full has none"),
        (Edges(torch.tensor([[0], [1]])), "reads edge_attr, and Edges has none"),
        (Edges(torch.tensor([[0], [1]]), torch.ones(1, 2)), "edge_attr has width 2; EdgeFeatures was made for 3"),
    ):
        for to in ("score", "key_value"):
            with pytest.raises(ShapeError, match=message):
                attend(q, q, q, sets, sets, structure, relation=EdgeFeatures(2, 4, edge_dim=3, to=to))
    with pytest.raises(ConfigError, match="score, key, key_value"):
        EdgeFeatures(2, 4, edge_dim=3, to="values")


def test_a_kernel_that_cannot_add_to_keys_or_values_refuses():
    sets, q = sequence(4), torch.randn(1, 2, 4, 4)
    relation = RelativeVectors(2, 4, values=True)
    with pytest.raises(ShapeError, match="kernel 'dense' cannot do this: RelativeVectors adds to keys or values"):
        attend(q, q, q, sets, sets, relation=relation, kernel="dense")
    assert explain_kernel(q, q, q, sets, sets, relation=relation).startswith("reference:")


def test_edges_keep_their_features_under_and_and_zero_where_or_adds_a_pair():
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    structure, count = attributed(5, generator), 5
    sets = VectorSet(torch.zeros(1, count, 1))
    relation = EdgeFeatures(1, 4, edge_dim=3).double()
    q, k, v = (torch.randn(1, 1, count, 4).double() for _ in range(3))
    dense = Dense(torch.rand(count, count, generator=generator) < 0.6)
    more = Edges((torch.rand(count, count, generator=generator) < 0.3).nonzero().T.flip(0))
    for combined in (structure & dense, structure | more):
        kernels = [attend(q, k, v, sets, sets, combined, relation=relation, kernel=n) for n in ("edges", "reference")]
        torch.testing.assert_close(*kernels, atol=1e-12, rtol=0)
    with pytest.raises(ShapeError, match="ambiguous"):
        structure & attributed(5, generator)


def test_relations_in_a_module_get_gradients_and_causal_stays_causal():
    torch.manual_seed(0)
    for relation in (T5Buckets, RelativeVectors):
        layer = MultiHeadAttention(8, 2, relation=relation, structure=Causal())
        x = VectorSet(torch.randn(1, 5, 8), layout="sequence")
        output = layer(x).x
        output.square().sum().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in layer.relation.parameters())
        changed = layer(x.replace(x=x.x + torch.eye(5)[4][:, None])).x
        assert torch.equal(output[0, :4], changed[0, :4]) and not torch.equal(output[0, 4], changed[0, 4])
