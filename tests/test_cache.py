"""Keys and values projected once: decoding piece by piece equals attending at once, also after a search has chosen."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import SCORES, SEQUENCE_RELATIONS
from torch.utils._pytree import tree_map_only

from vsattn.attention import MultiHeadAttention
from vsattn.attention.cache import KeyValue
from vsattn.errors import ShapeError
from vsattn.positions import Rotary
from vsattn.relations import Alibi, T5Buckets
from vsattn.scores import Additive, Cosine
from vsattn.structure import Causal, Full, Window
from vsattn.vectorset import VectorSet

DIM = 12
T5 = partial(T5Buckets, num_buckets=4, max_distance=5, bidirectional=False)
LAYERS = {
    **{name: {"score": score} for name, score in SCORES.items()},
    **{f"relation_{name}": {"relation": relation} for name, relation in SEQUENCE_RELATIONS.items()},
    "rotary": {"rotary": Rotary},
    "rotary_halves": {"rotary": partial(Rotary, pairing="halves", max_wavelength=20.0)},
    "window": {"structure": Window(3, 0)},
    "grouped": {"num_key_value_heads": 1},
    "wide_heads": {"head_dim": DIM, "num_key_value_heads": 1, "out_dim": 5},
    "window_additive_t5": {"structure": Window(3, 0), "score": Additive, "relation": T5},
    "grouped_cosine_alibi": {"num_key_value_heads": 1, "score": Cosine, "relation": Alibi},
    "grouped_rotary_window": {"num_key_value_heads": 1, "rotary": Rotary, "structure": Window(2, 0)},
}
PADDING = st.sampled_from(["none", "left", "right", "anywhere", "everything"])
PIECES = st.lists(st.integers(1, 3), min_size=1, max_size=5)
SEEDS = st.integers(0, 2**20)


def made(name, **options):
    torch.manual_seed(0)
    layer = MultiHeadAttention(DIM, 3, **{**LAYERS[name], **options}).double()
    for parameter in layer.parameters():  # biases and tables start at 0, where faults would not show
        parameter.data.add_(torch.randn_like(parameter) * 0.1)
    return layer


def drawn(seed, batch, count, padding):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, count, DIM, generator=generator, dtype=torch.float64)
    lengths = torch.randint(0, count + 1, (batch, 1), generator=generator)
    mask = {
        "none": None,
        "left": torch.arange(count) >= count - lengths,
        "right": torch.arange(count) < lengths,
        "anywhere": torch.rand(batch, count, generator=generator) < 0.6,
        "everything": torch.zeros(batch, count, dtype=torch.bool),
    }[padding]
    return VectorSet(x, mask, layout="sequence")


def piece(sets, start, stop):
    mask = None if sets.mask is None else sets.mask[:, start:stop]
    pos = sets.positions()[:, start:stop]
    return VectorSet(sets.x[:, start:stop], mask, pos)


def step(layer, sets, start, stop, cache):
    """Read off what vectors ``start .. stop`` find among themselves and those before; return the longer cache too."""
    new = piece(sets, start, stop)
    found = layer.keys_and_values(new)
    cache = found if cache is None else cache.append(found)
    return layer.read(new, cache, structure=Causal()), cache


def decoded(layer, sets, lengths):
    cache, start, outputs = None, 0, []
    for length in lengths:
        output, cache = step(layer, sets, start, start + length, cache)
        outputs.append(output.x)
        start += length
    return torch.cat(outputs, 1)


@settings(max_examples=15, deadline=None)
@given(SEEDS, st.integers(1, 3), PIECES, PADDING)
@pytest.mark.parametrize("name", LAYERS)
def test_piece_by_piece_equals_at_once(name, seed, batch, lengths, padding):
    layer, sets = made(name), drawn(seed, batch, sum(lengths), padding)
    expected = layer(sets, structure=Causal()).x
    torch.testing.assert_close(decoded(layer, sets, lengths), expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("padding", ["none", "left", "right"])
@pytest.mark.parametrize("name", LAYERS)
def test_gradients_of_one_by_one_equal_those_of_at_once(name, padding):
    layer, x, gradients = made(name), drawn(1, 2, 6, "none").x, []
    mask = drawn(1, 2, 6, padding).mask
    for run in (lambda s: decoded(layer, s, [1] * 6), lambda s: layer(s, structure=Causal()).x):
        leaf = x.clone().requires_grad_()
        output = run(VectorSet(leaf, mask, layout="sequence"))
        inputs = [leaf, *layer.parameters()]
        gradients.append(torch.autograd.grad((output * output.detach().cos()).sum(), inputs))
    torch.testing.assert_close(*gradients, atol=1e-12, rtol=0)


@pytest.mark.parametrize("padding", ["left", "right"])
@pytest.mark.parametrize("name", LAYERS)
def test_a_padded_sample_is_decoded_as_if_it_were_alone(name, padding):
    """Nothing here depends on where a sequence starts, so that padding before it changes nothing either."""
    layer, sets = made(name), drawn(2, 4, 6, padding)
    output = decoded(layer, sets, [2, 1, 3])
    for b in range(4):
        alone = VectorSet(sets.x[b : b + 1, sets.mask[b]], layout="sequence")
        expected = layer(alone, structure=Causal()).x
        torch.testing.assert_close(output[b : b + 1, sets.mask[b]], expected, atol=1e-12, rtol=0)


@settings(max_examples=10, deadline=None)
@given(SEEDS, st.lists(st.integers(0, 2), min_size=0, max_size=5), PADDING, st.booleans())
@pytest.mark.parametrize("name", LAYERS)
def test_chosen_rows_go_on_and_the_old_cache_stays(name, seed, rows, padding, own_positions):
    layer, sets, rows = made(name), drawn(seed, 3, 6, padding), torch.tensor(rows, dtype=torch.long)
    pos = sets.positions()
    if own_positions:  # each sample counts from a place of its own
        pos = pos + torch.tensor([0.0, 7.0, 2.0])[:, None, None]
        sets = sets.replace(pos=pos)
    chosen = VectorSet(sets.x[rows], None if sets.mask is None else sets.mask[rows], pos.expand(3, -1, -1)[rows])
    expected = layer(chosen, structure=Causal()).x[:, 4:]
    cache = step(layer, sets, 0, 4, None)[1]
    before, again = tree_map_only(torch.Tensor, torch.clone, cache), step(layer, sets, 4, 6, cache)[0].x
    output, longer = step(layer, chosen, 4, 6, cache.select(rows))
    torch.testing.assert_close(output.x, expected, atol=1e-12, rtol=0)
    assert longer.key.shape[0] == len(rows) and torch.equal(cache.key, before.key)
    assert torch.equal(cache.key_set.positions(), before.key_set.positions())
    assert torch.equal(step(layer, sets, 4, 6, cache)[0].x, again)


def test_each_vector_is_projected_once():
    layer, seen = made("grouped"), []
    for projection in (layer.key_proj, layer.value_proj):
        projection.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].shape[1]))
    decoded(layer, drawn(0, 2, 7, "none"), [1, 3, 1, 2])
    assert seen == [1, 1, 3, 3, 1, 1, 2, 2]


@pytest.mark.parametrize("name", ["scaled_dot", "additive", "rotary", "relation_alibi", "relation_vectors_values"])
def test_a_memory_is_read_as_cross_attention_reads_it(name):
    layer = made(name, key_dim=8, value_dim=5, structure=Window(4, 4))
    generator = torch.Generator().manual_seed(0)
    x, y, z = (torch.randn(2, *s, generator=generator).double() for s in ((3, DIM), (6, 8), (6, 5)))
    mask = torch.tensor([[True] * 6, [False, True, True, False, True, False]])
    z[~mask] = float("nan")  # what stands in padding reaches nothing
    memory, query = VectorSet(y, mask, layout="sequence", structure=Causal()), VectorSet(x, layout="sequence")
    cache = layer.keys_and_values(memory, z)
    for rows in (slice(0, 3), slice(1, 2)):
        part = query.replace(x=x[:, rows], pos=query.positions()[:, rows])
        output = layer.read(part, cache)
        torch.testing.assert_close(output.x, layer(query, memory, z).x[:, rows], atol=1e-12, rtol=0)
        assert output.x.isfinite().all() and output.pos is part.pos
    assert cache.key_set.x.shape == (2, 6, 0) and cache.key_set.structure == Full()


@pytest.mark.parametrize("name", ["window", "window_additive_t5", "grouped_rotary_window"])
def test_a_prefix_in_the_cache_is_seen_by_all_that_come_later(name):
    layer, sets = made(name), drawn(0, 2, 5, "anywhere")
    whole = sets.with_prefix(drawn(1, 1, 2, "none").x[0])
    expected = layer(whole).x[:, 2:]
    cache = layer.keys_and_values(whole.replace(x=whole.x[:, :2], mask=whole.mask[:, :2]))
    for start in range(5):
        new = piece(sets, start, start + 1)
        cache = cache.append(layer.keys_and_values(new))
        torch.testing.assert_close(layer.read(new, cache).x, expected[:, start : start + 1], atol=1e-12, rtol=0)


def kept(batch, count, mask=None, pos=None, **fields):
    x = torch.randn(batch, count, DIM, dtype=torch.float64)
    return made("scaled_dot").keys_and_values(VectorSet(x, mask, pos, **fields))


def test_what_is_appended_stands_behind_with_its_mask_and_positions():
    nothing, first = kept(2, 0, layout="sequence"), kept(2, 3, layout="sequence")
    later = kept(2, 2, torch.tensor([[True, False], [True, True]]), torch.tensor([[[3], [0]], [[5], [9]]]))
    joined = nothing.append(first).append(later)
    assert torch.equal(joined.key, torch.cat([first.key, later.key], 2))
    assert torch.equal(joined.value, torch.cat([first.value, later.value], 2))
    assert torch.equal(joined.key_set.mask, torch.tensor([[True] * 4 + [False], [True] * 5]))
    assert torch.equal(joined.key_set.positions()[..., 0], torch.tensor([[0, 1, 2, 3, 0], [0, 1, 2, 5, 9]]).double())
    free = kept(1, 2).append(kept(1, 1))
    assert free.key_set.pos is None and free.key_set.mask is None and free.key_set.num_vectors == 3


def test_a_cache_is_a_pytree():
    moved = tree_map_only(torch.Tensor, lambda t: t.to("meta"), kept(2, 3, torch.ones(2, 3).bool(), layout="sequence"))
    assert isinstance(moved, KeyValue) and moved.key_set.layout == "sequence"
    assert moved.key.is_meta and moved.value.is_meta and moved.key_set.mask.is_meta


def test_what_cannot_be_appended_or_read_is_refused():
    first = kept(2, 3, layout="sequence")
    with pytest.raises(ShapeError, match="vectors that go on a sequence need pos"):
        first.append(kept(2, 1, layout="sequence"))
    with pytest.raises(ShapeError, match="vectors that go on a grid need pos"):
        kept(2, 4, layout="grid", grid=(2, 2)).append(kept(2, 2, layout="grid", grid=(1, 2)))
    with pytest.raises(ShapeError, match="for the same 2 samples, without prefix; these are for 3, with 0 prefix"):
        first.append(kept(3, 1, pos=torch.zeros(1, 1, 1)))
    with pytest.raises(ShapeError, match="these are for 2, with 1 prefix vectors"):
        first.append(kept(2, 1, pos=torch.zeros(1, 1, 1), num_prefix=1))
    with pytest.raises(ShapeError, match="these vectors have no positions"):
        first.append(kept(2, 1))
    layer, new = made("scaled_dot"), VectorSet(torch.zeros(2, 1, DIM).double(), pos=torch.zeros(1, 1, 1))
    with pytest.raises(ShapeError, match=r"the same heads and widths, not \[.*\(2, 3, 3, 4\), \(2, 1, 1, 4\)"):
        first.append(made("grouped").keys_and_values(new))
    with pytest.raises(ShapeError, match="share B"):
        layer.read(VectorSet(torch.zeros(1, 1, DIM).double()), first)
    with pytest.raises(ShapeError, match="query has width 3; this layer was made for 12"):
        layer.read(VectorSet(torch.zeros(2, 1, 3).double()), first)
