"""The Transformer decoder against torch's, and decoding step by step against decoding at once."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils._pytree import tree_map_only

from vsattn.attention import MultiHeadAttention
from vsattn.build import build
from vsattn.decoders import Decoder, DecoderBlock, TransformerDecoder
from vsattn.errors import ConfigError, ShapeError
from vsattn.layers import FeedForward, RMSNorm
from vsattn.positions import Rotary
from vsattn.relations import Alibi, RelativeVectors, T5Buckets
from vsattn.scores import Additive
from vsattn.structure import Causal, Full, Segments, Window
from vsattn.vectorset import VectorSet

DIM, MEMORY = 12, 10
ATTENTIONS = {
    "plain": MultiHeadAttention,
    "window": partial(MultiHeadAttention, structure=Window(2, 1)),
    "alibi": partial(MultiHeadAttention, relation=Alibi),
    "t5": partial(MultiHeadAttention, relation=partial(T5Buckets, num_buckets=4, max_distance=5, bidirectional=False)),
    "vectors": partial(MultiHeadAttention, relation=partial(RelativeVectors, max_distance=2, values=True)),
    "rotary": partial(MultiHeadAttention, rotary=Rotary),
    "additive": partial(MultiHeadAttention, score=Additive),
    "grouped": partial(MultiHeadAttention, num_key_value_heads=1, head_dim=5),
}


def made(attention="plain", **options):
    torch.manual_seed(0)
    model = TransformerDecoder(
        DIM,
        2,
        3,
        memory_dim=MEMORY,
        attention=ATTENTIONS[attention],
        feed_forward=partial(FeedForward, ratio=2),
        **options,
    )
    for parameter in model.parameters():  # biases and relation tables start at zero, where faults would not show
        parameter.data.add_(torch.randn_like(parameter) * 0.1)
    return model.double().eval()


def drawn_sets(seed, batch, count, sources, padded):
    generator = torch.Generator().manual_seed(seed)

    def one(length, width):
        mask = torch.rand(batch, length, generator=generator) < 0.7 if padded else None
        return VectorSet(torch.randn(batch, length, width, generator=generator).double(), mask, layout="sequence")

    return one(count, DIM), one(sources, MEMORY)


def piece(target, rows):
    mask = None if target.mask is None else target.mask[:, rows]
    return VectorSet(target.x[:, rows], mask, layout="sequence")


@pytest.mark.parametrize("placement", ["pre", "post"])
@pytest.mark.parametrize("activation", ["gelu", "relu"])
def test_it_equals_torchs_decoder_forward_and_backward(placement, activation):
    torch.manual_seed(0)
    ours = TransformerDecoder(
        12, 2, 3, feed_forward=partial(FeedForward, hidden_dim=20, activation=activation), norm_placement=placement
    ).double()  # fmt: skip
    layer = nn.TransformerDecoderLayer(
        12, 3, 20, dropout=0.0, activation=activation, batch_first=True, norm_first=placement == "pre"
    )
    theirs = nn.TransformerDecoder(layer, 2, norm=nn.LayerNorm(12) if placement == "pre" else None).double()
    pairs = [] if ours.norm is None else [(ours.norm, theirs.norm)]
    attentions = []
    for a, b in zip(ours.blocks, theirs.layers, strict=True):
        pairs += [(a.self_norm, b.norm1), (a.cross_norm, b.norm2), (a.feed_forward_norm, b.norm3)]
        pairs += [(a.feed_forward.up, b.linear1), (a.feed_forward.down, b.linear2)]
        attentions += [(a.self_attention, b.self_attn), (a.cross_attention, b.multihead_attn)]
    pairs += [(a.out_proj, b.out_proj) for a, b in attentions]
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
        for a, b in pairs:
            b.load_state_dict(a.state_dict())
        for a, b in attentions:
            b.in_proj_weight.copy_(torch.cat([p.weight for p in (a.query_proj, a.key_proj, a.value_proj)]))
            b.in_proj_bias.copy_(torch.cat([p.bias for p in (a.query_proj, a.key_proj, a.value_proj)]))
    x, y = (torch.randn(3, n, 12, dtype=torch.float64, requires_grad=True) for n in (5, 7))
    real = torch.tensor([[True] * 5, [True] * 3 + [False] * 2, [True] + [False] * 4])
    known = torch.arange(7) < torch.tensor([[7], [4], [1]])
    future = nn.Transformer.generate_square_subsequent_mask(5) < 0
    output = ours(VectorSet(x, real, layout="sequence"), VectorSet(y, known)).x
    expected = theirs(x, y, tgt_mask=future, tgt_key_padding_mask=~real, memory_key_padding_mask=~known)
    torch.testing.assert_close(output[real], expected[real], atol=1e-10, rtol=0)
    probe = torch.randn_like(output)

    def gradients(result, model):
        return torch.autograd.grad((result * probe)[real].sum(), [x, y, *model.parameters()])

    (dx, dy, *mine), (ex, ey, *others) = gradients(output, ours), gradients(expected, theirs)
    torch.testing.assert_close((dx[real], dy[known]), (ex[real], ey[known]), atol=1e-10, rtol=0)
    mine = dict(zip(map(id, ours.parameters()), mine, strict=True))
    others = dict(zip(map(id, theirs.parameters()), others, strict=True))
    for a, b in pairs:
        for name, parameter in a.named_parameters():
            torch.testing.assert_close(mine[id(parameter)], others[id(getattr(b, name))], atol=1e-10, rtol=0)
    for a, b in attentions:
        for part, packed in (("weight", b.in_proj_weight), ("bias", b.in_proj_bias)):
            parts = [mine[id(getattr(p, part))] for p in (a.query_proj, a.key_proj, a.value_proj)]
            torch.testing.assert_close(torch.cat(parts), others[id(packed)], atol=1e-10, rtol=0)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**20), st.integers(1, 3), st.lists(st.integers(1, 3), min_size=1, max_size=4), st.booleans())
@pytest.mark.parametrize("placement", ["pre", "post", "sandwich"])
@pytest.mark.parametrize("attention", sorted(ATTENTIONS))
def test_step_by_step_equals_at_once(attention, placement, seed, batch, lengths, padded):
    model = made(attention, norm_placement=placement)
    target, memory = drawn_sets(seed, batch, sum(lengths), 4, padded)
    expected = model(target, memory)
    state, start = model.start(memory), 0
    for length in lengths:
        output, state = model.advance(piece(target, slice(start, start + length)), state)
        torch.testing.assert_close(output.x, expected.x[:, start : start + length], atol=1e-12, rtol=0)
        start += length
        assert state.length == start


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**20), st.lists(st.integers(0, 2), min_size=1, max_size=5), st.booleans())
@pytest.mark.parametrize("attention", sorted(ATTENTIONS))
def test_a_search_goes_on_from_chosen_rows_and_leaves_the_old_state_alone(attention, seed, rows, padded):
    model, rows = made(attention), torch.tensor(rows)
    target, memory = drawn_sets(seed, 3, 5, 4, padded)
    _, first = model.advance(piece(target, slice(0, 3)), model.start(memory))
    again, _ = model.advance(piece(target, slice(3, 5)), first)
    for order in (rows, torch.arange(3)):  # beams that win move into the rows of those that lose
        chosen, source = (s.replace(x=s.x[order], mask=s.mask[order] if padded else None) for s in (target, memory))
        output, _ = model.advance(piece(chosen, slice(3, 5)), first.select(order))
        torch.testing.assert_close(output.x, model(chosen, source).x[:, 3:], atol=1e-12, rtol=0)
    assert torch.equal(model.advance(piece(target, slice(3, 5)), first)[0].x, again.x)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**20), st.lists(st.lists(st.integers(0, 1), min_size=3, max_size=3), max_size=3), st.booleans())
@pytest.mark.parametrize("attention", sorted(ATTENTIONS))
def test_beams_of_a_sample_share_its_memory_and_change_places(attention, seed, lines, padded):
    model, samples = made(attention), torch.arange(len(lines)) % 2
    target, memory = drawn_sets(seed, 2, 4, 4, padded)
    first = torch.tensor([[0, 0], [1, 1]])  # two beams each
    order = samples[:, None] * 2 + torch.tensor(lines, dtype=torch.long).reshape(-1, 3)  # three of these
    wide = VectorSet(target.x[first.flatten()] + torch.randn(4, 4, DIM).double(), layout="sequence")
    state = model.advance(piece(wide, slice(0, 2)), model.start(memory).select(first))[1]
    assert state.memory[0].key.shape[0] == 2 and state.batch == 4
    assert state.select(torch.tensor([[1, 0], [3, 2]])).memory[1].key is state.memory[1].key
    rows = order.flatten()
    chosen, source = (
        wide.replace(x=wide.x[rows]),
        memory.replace(x=memory.x[rows // 2], mask=memory.mask[rows // 2] if padded else None),
    )
    expected = model(chosen, source).x[:, 2:]
    shared, apart = state.select(order), state.select(rows)
    assert shared.memory[0].key.shape[0] == len(lines) and apart.memory[0].key.shape[0] == len(rows)
    for found in (shared, apart, shared.select(torch.arange(len(rows)))):
        for pieces in ([slice(2, 4)], [slice(2, 3), slice(3, 4)]):
            outputs, now = [], found
            for part in pieces:
                output, now = model.advance(piece(chosen, part), now)
                outputs.append(output.x)
            torch.testing.assert_close(torch.cat(outputs, 1), expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("placement", ["pre", "post", "sandwich"])
@pytest.mark.parametrize("attention", sorted(ATTENTIONS))
def test_weights_of_attention_to_the_memory(attention, placement):
    model = made(attention, norm_placement=placement)
    target, memory = drawn_sets(0, 3, 5, 4, padded=True)
    weights = model.attention(target, memory)
    assert weights.shape == (3, 2, 3, 5, 4) and not weights[~memory.mask[:, None, None, None].expand_as(weights)].any()
    real = memory.mask.any(1)
    torch.testing.assert_close(weights.sum(-1)[real], torch.ones_like(weights[real, ..., 0]))
    seen = []
    for block in model.blocks:  # what goes into each attention, and what its own return_weights says of it
        block.cross_attention.register_forward_hook(lambda module, inputs, _: seen.append((module, inputs)))
    model(target, memory)
    for layer, (module, (query, key)) in enumerate(list(seen)):
        torch.testing.assert_close(weights[:, layer], module(query, key, return_weights=True)[1], atol=1e-12, rtol=0)


def test_positions_that_are_given_are_kept():
    model, place = made("alibi"), torch.tensor([[[2.0], [3.0], [7.0], [8.0]], [[0.0], [1.0], [2.0], [9.0]]])
    target, memory = drawn_sets(0, 2, 4, 3, padded=False)
    target = target.replace(pos=place)
    expected, state = model(target, memory), model.start(memory)
    for i in range(4):
        output, state = model.advance(VectorSet(target.x[:, i : i + 1], pos=place[:, i : i + 1]), state)
        torch.testing.assert_close(output.x, expected.x[:, i : i + 1], atol=1e-12, rtol=0)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**20), st.integers(0, 4))
@pytest.mark.parametrize("attention", sorted(ATTENTIONS))
def test_no_vector_sees_a_later_one_and_all_see_the_memory(attention, seed, changed):
    model = made(attention)
    target, memory = drawn_sets(seed, 2, 5, 3, padded=False)
    before = model(target, memory).x
    x = target.x.clone()
    x[:, changed] += 1.0
    after = model(target.replace(x=x), memory).x
    assert torch.equal(before[:, :changed], after[:, :changed])
    assert (before[:, changed] != after[:, changed]).any(-1).all()
    other = model(target, memory.replace(x=memory.x + torch.randn_like(memory.x))).x
    assert (before != other).any(-1).all()


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**20), st.lists(st.tuples(st.integers(1, 5), st.integers(0, 4)), min_size=1, max_size=3))
def test_padding_changes_nothing_and_a_batch_equals_its_samples(seed, sizes):
    generator = torch.Generator().manual_seed(seed)
    pairs = [
        tuple(
            VectorSet(torch.randn(1, n, width, generator=generator).double(), layout="sequence")
            for n, width in zip(size, (DIM, MEMORY))
        )
        for size in sizes
    ]
    model = made("t5")
    targets, memories = (VectorSet.from_list(list(part)) for part in zip(*pairs))
    if memories.mask is not None:
        memories = memories.replace(x=memories.x.masked_fill(~memories.mask[..., None], float("nan")))
    output = model(targets, memories)
    for one, (target, memory) in zip(output.unbind(), pairs, strict=True):
        torch.testing.assert_close(one.x, model(target, memory).x, atol=1e-12, rtol=0)
    assert output.layout == "sequence" and output.mask is targets.mask


def test_no_memory_gives_finite_outputs_and_gradients():
    model = made()
    target, memory = drawn_sets(0, 2, 3, 4, padded=False)
    x = memory.x.clone().requires_grad_()
    output = model(target, VectorSet(x, torch.tensor([[True] * 4, [False] * 4])))
    torch.testing.assert_close(output.x[1:], model(piece(target, slice(0, 3)), VectorSet(x[:, :0])).x[1:])
    output.x.square().sum().backward()
    assert output.x.isfinite().all() and torch.equal(x.grad[1], torch.zeros_like(x[1]))
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_packed_targets_do_not_see_one_another():
    model = made("alibi")
    target, memory = drawn_sets(0, 1, 5, 3, padded=False)
    place, ids = torch.tensor([[[0.0], [1.0], [2.0], [0.0], [1.0]]]), torch.tensor([[0, 0, 0, 1, 1]])
    packed = model(target.replace(pos=place, structure=Segments(ids)), memory).x
    torch.testing.assert_close(packed[:, :3], model(piece(target, slice(0, 3)), memory).x, atol=1e-12, rtol=0)
    torch.testing.assert_close(packed[:, 3:], model(piece(target, slice(3, 5)), memory).x, atol=1e-12, rtol=0)


def test_structure_and_relation_are_those_of_self_attention_alone():
    block = made("window", norm=RMSNorm).blocks[0]
    assert block.self_attention.structure == Window(2, 1) and isinstance(block.cross_norm, RMSNorm)
    assert block.cross_attention.structure == Full()
    for name, part in ("alibi", "relation"), ("rotary", "rotary"):
        block = made(name).blocks[0]
        assert getattr(block.self_attention, part) is not None and getattr(block.cross_attention, part) is None


def test_a_state_is_a_tree_of_tensors():
    model = made("t5")
    target, memory = drawn_sets(0, 2, 4, 3, padded=True)
    expected = model(target, memory).x
    _, state = model.advance(piece(target, slice(0, 3)), model.start(memory))
    copy = tree_map_only(torch.Tensor, torch.clone, state)
    output, _ = model.advance(piece(target, slice(3, 4)), copy)
    torch.testing.assert_close(output.x, expected[:, 3:], atol=1e-12, rtol=0)


def test_it_compiles_without_a_graph_break():
    model = made("alibi")
    target, memory = drawn_sets(0, 2, 4, 3, padded=True)
    advance = torch.compile(model.advance, fullgraph=True, backend="eager", dynamic=True)
    whole = torch.compile(model, fullgraph=True, backend="eager", dynamic=True)
    expected, state = model(target, memory).x, model.start(memory)
    torch.testing.assert_close(whole(target, memory).x, expected)
    for i in range(4):
        output, state = advance(piece(target, slice(i, i + 1)), state)
        torch.testing.assert_close(output.x, expected[:, i : i + 1])


def test_it_is_built_from_a_config():
    part = {"_target_": "vsattn.attention.MultiHeadAttention", "_partial_": True, "head_dim": 8}
    config = {
        "_target_": "vsattn.decoders.TransformerDecoder",
        "num_layers": 2,
        "num_heads": 2,
        "attention": {**part, "relation": {"_target_": "vsattn.relations.Alibi", "_partial_": True}},
    }
    model = build(config, Decoder, dim=DIM)
    assert isinstance(model, TransformerDecoder) and model.blocks[1].cross_attention.head_dim == 8


def test_what_cannot_be_decoded_is_refused():
    model = made()
    target, memory = drawn_sets(0, 2, 3, 4, padded=False)
    state = model.start(memory)
    with pytest.raises(ShapeError, match="no prefix vectors and no structure of its own; this one has 0 and Causal"):
        model.advance(target.replace(structure=Causal()), state)
    with pytest.raises(ShapeError, match="this one has 1 and Full"):
        model.advance(target.with_prefix(torch.zeros(1, DIM)), state)
    with pytest.raises(ShapeError, match="would leak"):
        model(target.with_prefix(torch.zeros(1, DIM)), memory)
    for call in (model.forward, lambda t, m: model.advance(t, state)):
        with pytest.raises(ShapeError, match="no positions"):
            call(VectorSet(target.x), memory)
    with pytest.raises(ShapeError, match="a step of 2 samples does not go on from a state of 1"):
        model.advance(piece(target, slice(0, 1)), state.select(torch.tensor([0])))
    with pytest.raises(ShapeError, match="width 12; this layer was made for 10"):
        model(target, target)
    with pytest.raises(ConfigError, match="num_layers is at least 1"):
        TransformerDecoder(DIM, 0, 1)
    with pytest.raises(ConfigError, match="'pre', 'post' or 'sandwich'"):
        attentions = MultiHeadAttention(4, 1), MultiHeadAttention(4, 1)
        DecoderBlock(*attentions, FeedForward(4), norm=partial(RMSNorm, 4), norm_placement="middle")
