"""Heads, the whole model, and attention taken apart step by step."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from vsattn.attention import MultiHeadAttention, steps, steps_by_vector
from vsattn.errors import ConfigError, ShapeError
from vsattn.heads import AttentionHead, ClsHead, MeanHead, VectorHead
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


@pytest.mark.parametrize("head", [MeanHead(6, 3), AttentionHead(6, 3)])
def test_an_empty_set_has_a_finite_answer_and_gradient(head, sets):
    x = sets.x.clone().requires_grad_()
    logits = head(VectorSet(x, sets.mask))
    torch.testing.assert_close(logits[2], head.classify.bias)
    logits.sum().backward()
    assert x.grad.isfinite().all() and torch.equal(x.grad[2], torch.zeros(4, 6))


@pytest.mark.parametrize("head", [MeanHead(6, 3), AttentionHead(6, 3, num_heads=2)])
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
