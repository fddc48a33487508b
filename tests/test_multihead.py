"""Heads: shared by groups, of any width, global, rotated; against torch's attention and plain loops over the heads."""

from __future__ import annotations

import dataclasses
import math
from functools import partial
from unittest.mock import patch

import pytest
import torch
import torch.nn.functional as F
from strategies import SCORES, SEQUENCE_RELATIONS

from vsattn.attention import MultiHeadAttention, attend, attention_weights, kernels
from vsattn.errors import ConfigError, ShapeError
from vsattn.positions import Rotary
from vsattn.scores import ScaledDot
from vsattn.structure import Causal, Dense, Edges, Full, Segments, Window
from vsattn.vectorset import VectorSet

COUNT = 7
MASK = torch.arange(COUNT) < torch.tensor([[7], [4]])
IDS = torch.tensor([[0, 0, 1, 1, 1, 0, 2], [0, 1, 1, 1, 2, 2, 2]])


def edges():
    """Return a graph on two samples in which every vector has an edge to itself."""
    chosen = torch.rand(2, COUNT, COUNT, generator=torch.Generator().manual_seed(0)) < 0.4
    sample, query, key = (chosen | torch.eye(COUNT, dtype=torch.bool)).nonzero().T
    return Edges(torch.stack([sample * COUNT + key, sample * COUNT + query]))


#: A structure for each kernel, or two.
CASES = {
    "dense": Full(), "dense_causal": Causal(), "reference": Causal(), "edges": edges(), "banded": Window(2, 1),
    "packed": Segments(IDS), "packed_causal": Segments(IDS) & Causal(),
}  # fmt: skip


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def sequence(x, mask=None, **fields):
    return VectorSet(x, mask, layout="sequence", **fields)


def made(*sizes, seed=0, **options):
    """Return a layer in float64 with no weight left at 0."""
    torch.manual_seed(seed)
    layer = MultiHeadAttention(*sizes, **options).double()
    for parameter in layer.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.1)
    return layer


def with_gradients(output, inputs):
    return [output, *torch.autograd.grad((output * output.detach().cos()).sum(), inputs)]


def only_kernel(name):
    """Let attention run by one kernel alone, however short the set."""
    willing = dataclasses.replace(kernels.KERNELS[name], waives=lambda case: False)
    return patch.dict(kernels.KERNELS, {name: willing}, clear=True)


@pytest.mark.parametrize("shared", [1, 2, 3, 6])
@pytest.mark.parametrize("case", sorted(CASES))
def test_grouped_heads_equal_torchs_on_every_kernel(case, shared):
    sets, structure = sequence(torch.zeros(2, COUNT, 1)), CASES[case]
    sizes = [(6, COUNT, 4), (shared, COUNT, 4), (shared, COUNT, 5)]
    inputs = [randn(2, *size, seed=i).requires_grad_() for i, size in enumerate(sizes)]
    output = attend(*inputs, sets, sets, structure, kernel=case.split("_")[0])
    expected = F.scaled_dot_product_attention(*inputs, attn_mask=structure.allowed(sets, sets), enable_gqa=True)
    torch.testing.assert_close(with_gradients(output, inputs), with_gradients(expected, inputs), atol=1e-12, rtol=0)
    weights = attention_weights(*inputs[:2], sets, sets, structure)
    values = inputs[2].repeat_interleave(6 // shared, 1)
    torch.testing.assert_close(weights @ values, expected, atol=1e-12, rtol=0)


def repeated(grouped, **options):
    """Return the layer that has each shared head of keys and values once for each query head that reads it."""
    groups = grouped.num_heads // grouped.num_key_value_heads
    plain = made(grouped.embed_dim, grouped.num_heads, **options)
    state = grouped.state_dict()
    for name in ("key_proj", "value_proj"):
        for part in ("weight", "bias"):
            heads = state[f"{name}.{part}"].unflatten(0, (-1, grouped.head_dim))
            state[f"{name}.{part}"] = heads.repeat_interleave(groups, 0).flatten(0, 1)
    plain.load_state_dict(state)
    return plain


def summed(name, gradient, grouped):
    """Return the gradient of a repeated head's weights as that of the head: the sum over its copies."""
    if name.split(".")[0] not in ("key_proj", "value_proj"):
        return gradient
    heads = gradient.unflatten(0, (grouped.num_key_value_heads, -1, grouped.head_dim))
    return heads.sum(1).flatten(0, 1)


def same_as_repeated(shared, kernel, structure, **options):
    grouped = made(12, 6, num_key_value_heads=shared, **options)
    x, results = randn(2, COUNT, 12), []
    for layer in (grouped, repeated(grouped, **options)):
        leaf = x.clone().requires_grad_()
        with only_kernel(kernel):
            output = layer(sequence(leaf, MASK, structure=structure)).x
        names, parameters = zip(*layer.named_parameters())
        output, by_x, *by_weights = with_gradients(output, [leaf, *parameters])
        if layer is not grouped:
            by_weights = [summed(n, g, grouped) for n, g in zip(names, by_weights, strict=True)]
        results.append([output, by_x, *by_weights])
    torch.testing.assert_close(*results, atol=1e-12, rtol=0)


@pytest.mark.parametrize("shared", [1, 3])
@pytest.mark.parametrize("case", sorted(CASES))
def test_shared_heads_are_heads_with_equal_weights_on_every_kernel(case, shared):
    same_as_repeated(shared, case.split("_")[0], CASES[case])


@pytest.mark.parametrize("score", sorted(SCORES))
@pytest.mark.parametrize("relation", [None, *SEQUENCE_RELATIONS])
def test_shared_heads_keep_every_score_and_relation_of_their_own(score, relation):
    relation = None if relation is None else SEQUENCE_RELATIONS[relation]
    same_as_repeated(2, "reference", Causal(), score=SCORES[score], relation=relation)


def test_shared_heads_save_their_weights():
    sizes = [sum(p.numel() for p in made(12, 6, num_key_value_heads=n).parameters()) for n in (6, 2, 1)]
    full, one_head = 4 * (12 * 12 + 12), 2 * (12 * 2 + 2)
    assert sizes == [full, full - 4 * one_head, full - 5 * one_head]


def by_hand(layer, query, key, value, turn=lambda heads, which: heads):
    """Compute ``concat(head_1 .. head_H) W_o``, one head after another, from the layer's weights."""
    d, groups = layer.head_dim, layer.num_heads // layer.num_key_value_heads

    def head(projection, vectors, h):
        rows = slice(h * d, (h + 1) * d)
        return vectors @ projection.weight[rows].T + projection.bias[rows]

    heads = []
    for h in range(layer.num_heads):
        q = turn(head(layer.query_proj, query, h), 0)
        k, v = turn(head(layer.key_proj, key, h // groups), 1), head(layer.value_proj, value, h // groups)
        heads.append((q @ k.transpose(-2, -1) / math.sqrt(d)).softmax(-1) @ v)
    return torch.cat(heads, -1) @ layer.out_proj.weight.T + layer.out_proj.bias


@pytest.mark.parametrize(
    ("options", "width"),
    [
        ({}, 12),
        ({"head_dim": 12}, 12),  # each head sees the whole width
        ({"head_dim": 5}, 12),
        ({"out_dim": 9}, 9),
        ({"key_dim": 8}, 12),
        ({"key_dim": 8, "value_dim": 5, "out_dim": 3}, 3),
        ({"value_dim": 5, "head_dim": 12, "num_key_value_heads": 1}, 12),
        ({"key_dim": 8, "value_dim": 5, "out_dim": 20, "head_dim": 7, "num_key_value_heads": 2}, 20),
    ],
)
def test_widths_of_all_kinds_equal_a_plain_loop_over_the_heads(options, width):
    layer = made(12, 4, **options)
    key_dim = options.get("key_dim", 12)
    widths = (12, key_dim, options.get("value_dim", key_dim))
    inputs = [randn(2, n, w, seed=n).requires_grad_() for n, w in zip((6, 5, 5), widths)]
    leaves = [*inputs, *layer.parameters()]
    expected = with_gradients(by_hand(layer, *inputs), leaves)
    torch.testing.assert_close(with_gradients(layer(*inputs), leaves), expected, atol=1e-12, rtol=0)
    assert expected[0].shape == (2, 6, width) and layer.out_proj.out_features == width
    if len(set(widths)) == 1:
        x = inputs[0]
        torch.testing.assert_close(layer(x), by_hand(layer, x, x, x), atol=1e-12, rtol=0)
    if widths[1] == widths[2]:
        torch.testing.assert_close(layer(*inputs[:2]), by_hand(layer, *inputs[:2], inputs[1]), atol=1e-12, rtol=0)


FIXED = Dense(torch.rand(COUNT, COUNT, generator=torch.Generator().manual_seed(3)) < 0.7)


@pytest.mark.parametrize(
    ("of_the_set", "left"),
    [
        (edges(), Full()),
        (Window(1, 0), Full()),
        (edges() & Window(3, 3), Full()),
        (edges() | Window(1, 1), Full()),
        (Segments(IDS), Segments(IDS)),
        (edges() & Segments(IDS), Segments(IDS)),
        (Window(1, 1) & Segments(IDS), Segments(IDS)),
        (Causal() & Window(2, 0), Causal()),
        (FIXED & edges(), FIXED),
    ],
)
@pytest.mark.parametrize("own", [Full(), Window(2, 2)])
def test_a_global_layer_drops_edges_and_window_of_the_set_alone(of_the_set, left, own):
    sets = sequence(randn(2, COUNT, 4), MASK, structure=of_the_set)
    for is_global, structure in ((True, left), (False, of_the_set)):
        layer = made(4, 2, is_global=is_global, structure=own)
        output, weights = layer(sets, return_weights=True)
        allowed = (own & structure).allowed(sets, sets) & MASK[:, None, None]
        assert torch.equal(weights > 0, allowed.expand(2, 2, -1, -1))
        torch.testing.assert_close(output.x, layer(sets.replace(structure=structure)).x, atol=1e-12, rtol=0)
        assert output.structure is of_the_set and output.mask is sets.mask


def turned(vectors, place, wavelength=10000.0):
    """Turn neighbours ``a + ib`` of ``(..., N, d)`` by ``exp(i p w^(-2i/d))`` for ``place (N,)``."""
    pairs = torch.view_as_complex(vectors.unflatten(-1, (-1, 2)).contiguous())
    angle = torch.outer(place, wavelength ** (-torch.arange(pairs.shape[-1]).double() / pairs.shape[-1]))
    return torch.view_as_real(pairs * torch.polar(torch.ones_like(angle), angle)).flatten(-2)


@pytest.mark.parametrize("options", [{}, {"num_key_value_heads": 1}, {"head_dim": 12}, {"key_dim": 8, "value_dim": 5}])
def test_rotary_turns_queries_and_keys_and_nothing_else(options):
    layer = made(12, 3, rotary=partial(Rotary, max_wavelength=50.0), **options)
    key_dim = options.get("key_dim", 12)
    x, y, z = randn(2, 6, 12), randn(2, 4, key_dim, seed=1), randn(2, 4, options.get("value_dim", key_dim), seed=2)
    places = (torch.tensor([0.0, 3, 1, 7, 20, 2]).double(), torch.tensor([5.0, 2, 2, 9]).double())
    sets = [VectorSet(t, pos=p[None, :, None]) for t, p in zip((x, y), places)]
    expected = by_hand(layer, x, y, z, lambda heads, which: turned(heads, places[which], 50.0))
    torch.testing.assert_close(layer(*sets, z).x, expected, atol=1e-12, rtol=0)
    assert not torch.allclose(expected, by_hand(layer, x, y, z), atol=1e-3)
    if key_dim == 12:
        count = torch.arange(6).double()
        expected = by_hand(layer, x, x, x, lambda heads, which: turned(heads, count, 50.0))
        torch.testing.assert_close(layer(sequence(x)).x, expected, atol=1e-12, rtol=0)


def test_rotary_of_a_grid_turns_by_rows_and_by_columns():
    layer, x = made(16, 2, rotary=Rotary), randn(2, 6, 16)
    rows, columns = torch.arange(2).repeat_interleave(3).double(), torch.arange(3).repeat(2).double()

    def turn(heads, which):
        return torch.cat([turned(heads[..., :4], rows), turned(heads[..., 4:], columns)], -1)

    output = layer(VectorSet(x, layout="grid", grid=(2, 3))).x
    torch.testing.assert_close(output, by_hand(layer, x, x, x, turn), atol=1e-12, rtol=0)


@pytest.mark.parametrize(
    ("sizes", "options", "message"),
    [
        ((12, 5), {}, "embed_dim 12 cannot be cut into 5 equal heads; .* give head_dim"),
        ((12, 0), {}, "cannot be cut into 0 equal heads"),
        ((12, 3), {"head_dim": 0}, "head_dim is at least 1, not 0"),
        ((12, 6), {"num_key_value_heads": 4}, "num_key_value_heads divides num_heads 6; 4 does not"),
        ((12, 6), {"num_key_value_heads": 12}, "num_key_value_heads divides num_heads 6; 12 does not"),
        ((12, 6), {"num_key_value_heads": 0}, "num_key_value_heads divides num_heads 6; 0 does not"),
        ((12, 6), {"dropout": 1.0}, r"dropout is in \[0, 1\), not 1.0"),
        ((12, 4), {"rotary": Rotary}, "Rotary.head_dim must be even, not 3"),
    ],
)
def test_sizes_that_do_not_divide_are_refused_when_made(sizes, options, message):
    with pytest.raises(ConfigError, match=message):
        MultiHeadAttention(*sizes, **options)


def test_inputs_that_do_not_fit_are_refused_when_used():
    x, free = torch.randn(2, 4, 12), VectorSet(torch.randn(2, 4, 12))
    with pytest.raises(ShapeError, match="these vectors have no positions"):
        MultiHeadAttention(12, 3, rotary=Rotary)(free)
    with pytest.raises(ShapeError, match="2 coordinates need heads of a width divisible by 4, not 6; change num_heads"):
        MultiHeadAttention(12, 2, rotary=Rotary)(VectorSet(x, layout="grid", grid=(2, 2)))
    with pytest.raises(ShapeError, match="key has width 12; this layer was made for 8"):
        MultiHeadAttention(12, 3, key_dim=8)(x, x.clone())
    with pytest.raises(ShapeError, match="the mask belongs to the keys"):
        MultiHeadAttention(12, 3)(x, x.clone(), VectorSet(x, torch.ones(2, 4).bool()))
    q, k = torch.randn(2, 6, 4, 2), torch.randn(2, 4, 4, 2)
    for heads in ((k, k), (q[:, :2], q[:, :3]), (q[:, :0], q[:, :0])):
        with pytest.raises(ShapeError, match=r"a divisor of (the queries|H)"):
            attend(q, *heads, free, free)
    with pytest.raises(ShapeError, match="ScaledDot was made for 2 heads of width 2; these are 6 of width 2"):
        attend(q, q[:, :2], q[:, :2], free, free, score=ScaledDot(2, 2))
