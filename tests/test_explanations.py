"""Mistakes of popular explanations of attention, each beside the right formula, and what goes wrong by them.

"Right" is this library, which agrees with torch (test_attention.py); each wrong version is written out here.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from vsattn import MultiHeadAttention, TransformerEncoder, VectorSet, attend, attention_weights
from vsattn.scores import ScaledDot
from vsattn.structure import Causal


def vectors(batch, heads, count, width, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(batch, heads, count, width, generator=generator) for _ in range(3)]


def plain(count, batch=1):
    return VectorSet(torch.zeros(batch, count, 1), layout="sequence")


def entropy(weights):
    return -(weights * weights.clamp(min=1e-30).log()).sum(-1).mean()


def test_a_sigmoid_in_the_place_of_the_softmax_makes_outputs_grow_with_the_length():
    norms = {}
    for count in (8, 64):
        q, k, _ = vectors(1, 1, count, 16)
        same = torch.ones(1, 1, count, 16)  # all values equal: any weighted mean of them is that value
        later = torch.ones(count, count).triu(1).bool()
        wrong = (q @ k.mT / 4).masked_fill(later, float("-inf")).sigmoid() @ same
        right = attend(q, k, same, plain(count), plain(count), Causal())
        torch.testing.assert_close(right, same)
        norms[count] = wrong[0, 0, -1].norm() / right[0, 0, -1].norm()
    assert norms[8] > 2 and norms[64] / norms[8] > 6


def test_without_a_softmax_and_divided_by_the_width_attention_is_one_linear_map():
    q, k, v = vectors(1, 1, 20, 16)
    wrong = (q @ k.mT / 16) @ v
    torch.testing.assert_close(wrong, q @ (k.mT @ v / 16))  # the vectors never choose: 16 x 16 numbers say it all
    torch.testing.assert_close((3 * q @ k.mT / 16) @ v, 3 * wrong)
    right = attend(q, k, v, plain(20), plain(20))
    low, high = v.amin(2, keepdim=True), v.amax(2, keepdim=True)
    assert ((right >= low) & (right <= high)).all()  # a mean of values stays among them
    assert ((wrong < low) | (wrong > high)).float().mean() > 0.1
    assert not torch.allclose(attend(3 * q, k, v, plain(20), plain(20)), 3 * right, atol=0.1)


def test_heads_in_a_plain_list_are_never_trained():
    class Wrong(nn.Module):
        def __init__(self):
            super().__init__()
            self.heads = [nn.Linear(8, 4) for _ in range(2)]
            self.out = nn.Linear(8, 8)

        def forward(self, x):
            return self.out(torch.cat([head(x) for head in self.heads], -1))

    torch.manual_seed(0)
    wrong, right, x = Wrong(), MultiHeadAttention(8, 2), torch.randn(4, 5, 8)
    assert sum(p.numel() for p in wrong.parameters()) == 8 * 8 + 8  # the output projection alone
    assert sum(p.numel() for p in right.parameters()) == 4 * (8 * 8 + 8)
    for model, part in ((wrong, wrong.heads[0].weight), (right, right.value_proj.weight)):
        before, optimizer = part.detach().clone(), torch.optim.SGD(model.parameters(), lr=0.1)
        model(x).square().sum().backward()
        optimizer.step()
        assert torch.equal(part, before) == (model is wrong)
    assert wrong.double().heads[0].weight.dtype == torch.float32  # nor moved, nor saved
    assert not any("heads" in name for name in wrong.state_dict())


def test_the_width_that_scales_is_that_of_the_head_and_not_of_the_input():
    embed_dim, heads, count = 512, 8, 64
    width = embed_dim // heads
    q, k, _ = vectors(4, heads, count, width)
    right, wrong = ScaledDot(heads, width)(q, k), q @ k.mT / math.sqrt(embed_dim)
    assert abs(float(right.std()) - 1) < 0.02
    assert abs(float(wrong.std()) - 1 / math.sqrt(heads)) < 0.02  # the more heads, the flatter
    assert math.log(count) - entropy(right.softmax(-1)) > 5 * (math.log(count) - entropy(wrong.softmax(-1)))


def test_divided_by_the_width_and_not_its_root_weights_turn_uniform_as_the_width_grows():
    missing = {}
    for width in (16, 1024):
        q, k, _ = vectors(4, 1, 64, width)
        right = attention_weights(q, k, plain(64, 4), plain(64, 4))
        wrong = (q @ k.mT / width).softmax(-1)
        missing[width] = [float(math.log(64) - entropy(weights)) for weights in (right, wrong)]
    assert abs(missing[1024][0] / missing[16][0] - 1) < 0.2  # as peaked at any width
    assert missing[1024][1] < 0.002 and missing[16][1] / missing[1024][1] > 30


def test_a_softmax_over_the_queries_lets_the_future_leak():
    q, k, v = vectors(1, 1, 6, 8)
    changed = q.clone()
    changed[:, :, 5] += 1  # the last query asks something else

    def wrong(q):
        return (q @ k.mT / math.sqrt(8)).masked_fill(torch.ones(6, 6).triu(1).bool(), -1e9).softmax(-2) @ v

    def right(q):
        return attend(q, k, v, plain(6), plain(6), Causal())

    assert torch.equal(right(q)[:, :, :5], right(changed)[:, :, :5])
    assert (wrong(q)[:, :, :5] - wrong(changed)[:, :, :5]).abs().max() > 0.01
    sums = (q @ k.mT / math.sqrt(8)).softmax(-2).sum(-1)
    assert (sums - 1).abs().max() > 0.2  # a query's weights are no weights: they do not sum to 1
    total = attention_weights(q, k, plain(6), plain(6)).sum(-1)
    torch.testing.assert_close(total, torch.ones_like(total))


def test_weights_shaped_by_the_length_fit_one_length_and_one_order():
    class Wrong(nn.Module):
        def __init__(self, count, width):
            super().__init__()
            self.query, self.key, self.value = (nn.Parameter(torch.randn(count, width)) for _ in range(3))

        def forward(self, x):
            q, k, v = x * self.query, x * self.key, x * self.value
            return (q @ k.mT / math.sqrt(x.shape[-1])).softmax(-1) @ v

    torch.manual_seed(0)
    wrong, right, x = Wrong(5, 8), MultiHeadAttention(8, 1), torch.randn(2, 5, 8)
    with pytest.raises(RuntimeError, match="size"):
        wrong(torch.randn(2, 7, 8))
    assert right(torch.randn(2, 7, 8)).shape == (2, 7, 8)
    order = torch.tensor([3, 0, 4, 1, 2])
    torch.testing.assert_close(right(x[:, order]), right(x)[:, order])
    assert (wrong(x[:, order]) - wrong(x)[:, order]).abs().max() > 0.1


def test_a_softmax_over_words_in_the_encoder_leaves_the_decoder_nothing_to_tell_vectors_apart():
    torch.manual_seed(0)
    encoder, cross = TransformerEncoder(64, 2, 4).eval(), MultiHeadAttention(64, 4)
    memory = encoder(VectorSet(torch.randn(8, 20, 64), layout="sequence"))
    words = memory.replace(x=memory.x.softmax(-1))  # positive, sums to 1: about 1/64 everywhere
    missing = {}
    for name, found in (("right", memory), ("wrong", words)):
        _, weights = cross(torch.randn(8, 10, 64), found.replace(x=found.x.detach()), return_weights=True)
        missing[name] = float(math.log(20) - entropy(weights.detach()))
    assert missing["wrong"] < 0.01 * missing["right"]  # attention that cannot choose
    spread = [float(found.x.detach().std(1).mean()) for found in (memory, words)]
    assert spread[1] < 0.05 * spread[0]
