"""Heads, the whole model, and attention taken apart step by step."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch_geometric.nn.aggr.utils import PoolingByMultiheadAttention

from vsattn.attention import MultiHeadAttention, steps, steps_by_vector
from vsattn.build import build
from vsattn.compose import plain_config
from vsattn.errors import ConfigError, ShapeError
from vsattn.heads import AttentionHead, ClsHead, Head, MeanHead, PoolingHead, VectorHead
from vsattn.structure import Causal
from vsattn.vectorset import VectorSet


@pytest.fixture
def sets():
    torch.manual_seed(0)
    mask = torch.tensor([[True] * 4, [True, False, True, False], [False] * 4])
    return VectorSet(torch.randn(3, 4, 6), mask)


def test_heads_see_real_vectors_alone_and_skip_the_prefix(sets):
    prefixed = sets.with_prefix(torch.randn(2, 6))
    mean = MeanHead(6, 3)
    torch.testing.assert_close(mean.features(prefixed)[1], sets.x[1, [0, 2]].mean(0))
    torch.testing.assert_close(mean(prefixed), mean(sets))
    pooled = AttentionHead(6, 3, num_heads=2)
    torch.testing.assert_close(pooled(prefixed), pooled(sets))
    assert VectorHead(6, 3)(prefixed).shape == (3, 4, 3)
    assert torch.equal(ClsHead(6, 3).features(prefixed), prefixed.x[:, 0])
    with pytest.raises(ShapeError, match="num_prefix >= 1"):
        ClsHead(6, 3)(sets)


def test_attention_pooling_is_its_formula(sets):
    head = AttentionHead(6, 3)
    real = sets.x[1, [0, 2]]
    weights = F.softmax(real @ head.query.view(6) / 6**0.5, dim=0)
    torch.testing.assert_close(head.features(sets)[1], weights @ real)
    with pytest.raises(ConfigError, match="does not divide"):
        AttentionHead(6, 3, num_heads=4)


@pytest.mark.parametrize("seeds", [1, 3])
def test_pooling_head_equals_torch_geometrics(seeds):
    def one_linear(dim):  # torch-geometric's rFF
        return nn.Sequential(nn.Linear(dim, dim), nn.ReLU())

    torch.manual_seed(0)
    head = PoolingHead(6, 4, num_heads=2, num_seeds=seeds, feed_forward=one_linear, key_feed_forward=one_linear)
    theirs, block = PoolingByMultiheadAttention(6, seeds, heads=2), head.block
    for parameter in head.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.1)
    head, theirs, projections = head.double(), theirs.double(), block.attention
    projections = (projections.query_proj, projections.key_proj, projections.value_proj)
    with torch.no_grad():
        theirs.seed.copy_(head.seeds[None])
        theirs.mab.attn.in_proj_weight.copy_(torch.cat([p.weight for p in projections]))
        theirs.mab.attn.in_proj_bias.copy_(torch.cat([p.bias for p in projections]))
    theirs.mab.attn.out_proj.load_state_dict(block.attention.out_proj.state_dict())
    theirs.lin.load_state_dict(head.key_feed_forward[0].state_dict())
    theirs.mab.lin.load_state_dict(block.feed_forward[0].state_dict())
    theirs.mab.layer_norm1.load_state_dict(block.attention_norm.state_dict())
    theirs.mab.layer_norm2.load_state_dict(block.feed_forward_norm.state_dict())
    x, mask = torch.randn(3, 5, 6, dtype=torch.float64), torch.arange(5) < torch.tensor([[5], [3], [1]])
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    features, pooled = head.features(VectorSet(a, mask)), theirs(b, mask).flatten(1)
    torch.testing.assert_close(features, pooled, atol=1e-12, rtol=0)
    torch.testing.assert_close(head(VectorSet(x, mask)), pooled @ head.classify.weight.T + head.classify.bias)
    probe = torch.randn_like(features)
    (features * probe).sum().backward(), (pooled * probe).sum().backward()
    torch.testing.assert_close(a.grad[mask], b.grad[mask], atol=1e-12, rtol=0)
    torch.testing.assert_close(head.seeds.grad, theirs.seed.grad[0], atol=1e-12, rtol=0)


def test_pooling_head_without_its_first_feed_forward_looks_at_the_vectors_themselves(sets):
    torch.manual_seed(0)
    head = PoolingHead(6, 4, num_heads=1, key_feed_forward=None, norm_placement="pre")
    attention, norm = head.block.attention, head.block.key_norm
    real = norm(sets.x[1, [0, 2]])
    query = attention.query_proj(head.block.attention_norm(head.seeds))
    mixed = F.softmax(query @ attention.key_proj(real).T / 6**0.5, -1) @ attention.value_proj(real)
    attended = head.seeds + attention.out_proj(mixed)
    expected = attended + head.block.feed_forward(head.block.feed_forward_norm(attended))
    torch.testing.assert_close(head.features(sets)[1:2], expected)


def test_pooling_head_is_built_from_its_config():
    head = build(plain_config(["head=pooling"])[0]["head"], Head, path="head", dim=8, num_classes=3)
    assert isinstance(head, PoolingHead) and head.classify.in_features == 8
    with pytest.raises(ConfigError, match="at least one learned vector"), pytest.warns(UserWarning):
        PoolingHead(8, 3, num_seeds=0)


@pytest.mark.parametrize("head", [PoolingHead(6, 3, num_heads=2), PoolingHead(6, 3, num_heads=2, num_seeds=2)])
def test_pooling_head_skips_the_prefix_and_an_empty_set_is_finite(head, sets):
    torch.testing.assert_close(head(sets.with_prefix(torch.randn(2, 6))), head(sets))
    x = sets.x.clone().requires_grad_()
    head(VectorSet(x, sets.mask)).square().sum().backward()
    assert x.grad.isfinite().all() and torch.equal(x.grad[2], torch.zeros(4, 6))
    assert all(parameter.grad.isfinite().all() for parameter in head.parameters())
    torch.testing.assert_close(head(sets)[2:], head(VectorSet(sets.x[2:, :0])))


@pytest.mark.parametrize("head", [MeanHead(6, 3), AttentionHead(6, 3)])
def test_an_empty_set_has_a_finite_answer_and_gradient(head, sets):
    x = sets.x.clone().requires_grad_()
    logits = head(VectorSet(x, sets.mask))
    torch.testing.assert_close(logits[2], head.classify.bias)
    logits.sum().backward()
    assert x.grad.isfinite().all() and torch.equal(x.grad[2], torch.zeros(4, 6))


@pytest.mark.parametrize("head", [MeanHead(6, 3), AttentionHead(6, 3, num_heads=2), PoolingHead(6, 3, num_heads=2)])
def test_pooling_does_not_depend_on_order_or_padding(head, sets):
    order = torch.tensor([2, 0, 3, 1])
    moved = VectorSet(sets.x[:, order], sets.mask[:, order])
    torch.testing.assert_close(head(moved), head(sets))
    torch.testing.assert_close(head(VectorSet(sets.x[1:2, [0, 2]])), head(sets)[1:2])


def test_steps_show_what_the_module_computes():
    torch.manual_seed(0)
    layer = MultiHeadAttention(6, 2, key_dim=4).double()
    query, key = torch.randn(1, 3, 6).double(), torch.randn(1, 5, 4).double()
    output, weights = layer(query, key, return_weights=True)
    shown = [steps(layer, query, key, head=h) for h in range(2)]
    for h, head in enumerate(shown):
        rows = slice(3 * h, 3 * h + 3)
        projected = query @ layer.query_proj.weight[rows].T + layer.query_proj.bias[rows]
        torch.testing.assert_close(head.query, projected)
        torch.testing.assert_close(head.scores, head.query @ head.key.transpose(1, 2) / 3**0.5)
        torch.testing.assert_close(head.weights, weights[:, h])
        torch.testing.assert_close(head.output[0], steps_by_vector(head.query[0], head.key[0], head.value[0]))
    torch.testing.assert_close(layer.out_proj(torch.cat([head.output for head in shown], -1)), output)
    with pytest.raises(ShapeError, match=r"head is 0 \.\. 1"):
        steps(layer, query, key, head=2)


def test_steps_by_vector_equals_torch():
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 4).double(), torch.randn(5, 4).double(), torch.randn(5, 2).double()
    torch.testing.assert_close(steps_by_vector(q, k, v), F.scaled_dot_product_attention(q[None], k[None], v[None])[0])


def test_steps_follow_the_set_as_the_module_does():
    torch.manual_seed(0)
    sets = VectorSet(torch.randn(1, 3, 6), layout="sequence", structure=Causal())
    layer = MultiHeadAttention(6, 2)
    _, weights = layer(sets, sets, return_weights=True)
    assert torch.equal(steps(layer, sets, sets, head=1).weights, weights[:, 1]) and weights[0, 0, 0, 1] == 0
