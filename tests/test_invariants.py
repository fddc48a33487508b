"""The nine invariants of the core, as properties over random sets, structures, scores, relations and encoders.

1 True means real / may attend. 2 Padded rows are zero. 3 A query with no allowed key gives exactly 0, and finite
gradients. 4 Padding changes nothing. 5 Permuting the vectors permutes the output. 6 Every kernel equals the reference
(test_attention.py). 7 Asking for weights changes nothing, nor does training mode without dropout. 8 Causal never sees
the future. 9 The output keeps the query set's mask, positions, structure and layout.
"""

from __future__ import annotations

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import SCORES, problems

from vsattn.attention import MultiHeadAttention, allowed_pairs, attend, attention_weights
from vsattn.attention.functional import make_case
from vsattn.attention.kernels import KERNELS
from vsattn.encoders import ConvEncoder, TransformerEncoder
from vsattn.layers import FeedForward, RMSNorm
from vsattn.relations import Relative2d
from vsattn.structure import Causal, Dense, Edges, Full, Segments, Window
from vsattn.vectorset import VectorSet

WIDTH = 12


def encoder(score="scaled_dot", relation=None, structure=Full(), placement="pre", prefix=0):
    torch.manual_seed(0)
    attention = partial(MultiHeadAttention, score=SCORES[score], relation=relation, structure=structure)
    made = TransformerEncoder(
        WIDTH, 2, 3, attention=attention, feed_forward=partial(FeedForward, ratio=2, activation="swiglu"),
        norm=RMSNorm, norm_placement=placement, num_prefix=prefix,
    )  # fmt: skip
    return made.double().eval()


def tensors(drawn):
    shape = (drawn.vectors.x.shape[0], drawn.heads, drawn.vectors.num_vectors, drawn.head_dim)
    return [drawn.randn(*shape) for _ in range(3)]


def able(drawn, kernel, structure):
    """Return the kernel's name, or "auto" for a problem that it refuses."""
    q, k, v = tensors(drawn)
    case = make_case(q, k, v, drawn.vectors, drawn.vectors, structure, drawn.score, drawn.relation, 0.0)
    return kernel if kernel == "auto" or KERNELS[kernel].refuses(case) is None else "auto"


def run(drawn, q, k, v, sets, structure):
    return attend(q, k, v, sets, sets, structure, score=drawn.score, relation=drawn.relation)


@settings(max_examples=150, deadline=None)
@given(problems())
def test_1_and_7_weights_live_on_allowed_pairs_alone_and_explain_the_output(drawn):
    q, k, v = tensors(drawn)
    sets = drawn.vectors
    weights = attention_weights(q, k, sets, sets, drawn.structure, score=drawn.score, relation=drawn.relation)
    allowed = allowed_pairs(drawn.structure, sets, sets)
    if allowed is not None:
        assert torch.equal(weights.masked_select(~allowed.expand_as(weights)).count_nonzero(), torch.tensor(0))
    total = weights.sum(-1)
    some = torch.ones_like(total).bool() if allowed is None else allowed.any(-1).expand_as(total)
    if sets.num_vectors:
        torch.testing.assert_close(total, some.double())
    if drawn.relation is None or "to_value" not in drawn.relation.parts:
        torch.testing.assert_close(weights @ v, run(drawn, q, k, v, sets, drawn.structure), atol=1e-10, rtol=0)


@settings(max_examples=150, deadline=None)
@given(problems(), st.sampled_from(["auto", *KERNELS]))
def test_3_no_allowed_key_gives_zero_and_finite_gradients(drawn, kernel):
    sets, leaves = drawn.vectors, [t.requires_grad_() for t in tensors(drawn)]
    if not sets.num_prefix:  # a prefix is seen by all
        closed = drawn.structure & Dense(torch.zeros(sets.num_vectors, sets.num_vectors, dtype=torch.bool))
        chosen = able(drawn, kernel, closed)
        output = attend(*leaves, sets, sets, closed, score=drawn.score, relation=drawn.relation, kernel=chosen)
        assert torch.equal(output, torch.zeros_like(output))
    chosen = able(drawn, kernel, drawn.structure)
    output = attend(*leaves, sets, sets, drawn.structure, score=drawn.score, relation=drawn.relation, kernel=chosen)
    allowed = allowed_pairs(drawn.structure, sets, sets)
    if allowed is not None:
        empty = (~allowed.any(-1, keepdim=True)).expand(*output.shape[:1], 1, output.shape[2], 1)
        assert torch.equal(output.masked_select(empty).count_nonzero(), torch.tensor(0))
    (output.square().sum() + output.sum()).backward()
    for tensor in [*leaves, *drawn.score.parameters()]:
        assert tensor.grad is None or tensor.grad.isfinite().all()


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**20), st.lists(st.integers(0, 5), min_size=1, max_size=4), st.sampled_from(sorted(SCORES)))
@pytest.mark.parametrize("structure", [Full(), Causal(), Window(1, 2)])
def test_2_and_4_padding_changes_nothing_and_a_batch_equals_its_samples(structure, seed, sizes, score):
    generator = torch.Generator().manual_seed(seed)
    model = encoder(score, structure=structure)
    singles = [
        VectorSet(torch.randn(1, n, WIDTH, generator=generator, dtype=torch.float64), layout="sequence") for n in sizes
    ]
    batch = VectorSet.from_list(singles)
    poisoned = batch.x.clone()
    if batch.mask is not None:
        poisoned[~batch.mask] = float("nan")
    output = model(batch.replace(x=poisoned))
    for one, single in zip(output.unbind(), singles, strict=True):
        torch.testing.assert_close(one.x, model(single).x, atol=1e-10, rtol=0)
    if output.mask is not None:
        assert torch.equal(output.x[~output.mask].count_nonzero(), torch.tensor(0))
    wider = VectorSet.from_list([*singles, VectorSet(torch.ones(1, 8, WIDTH).double(), layout="sequence")])
    for one, single in zip(model(wider).unbind(), singles, strict=False):
        torch.testing.assert_close(one.x, model(single).x, atol=1e-10, rtol=0)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**20), st.sampled_from(sorted(SCORES)), st.integers(1, 6), st.sampled_from([0, 2]))
@pytest.mark.parametrize("name", ["full", "relation", "window", "edges", "segments"])
def test_5_permuting_the_vectors_permutes_the_output(name, seed, score, count, prefix):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2, count, WIDTH, generator=generator, dtype=torch.float64)
    mask = torch.rand(2, count, generator=generator) < 0.8
    order = torch.randperm(count, generator=generator)
    inverse = order.argsort()
    pos = torch.randint(0, 4, (2, count, 2 if name == "relation" else 1), generator=generator).float()
    structure, permuted, prefix = Full(), Full(), 0 if name == "segments" else prefix
    if name == "edges":
        chosen = (torch.rand(2, count, count, generator=generator) < 0.5).nonzero().T
        structure = Edges(torch.stack([chosen[0] * count + chosen[2], chosen[0] * count + chosen[1]]))
        permuted = Edges(torch.stack([chosen[0] * count + inverse[chosen[2]], chosen[0] * count + inverse[chosen[1]]]))
    elif name == "segments":
        ids = torch.randint(0, 2, (2, count), generator=generator)
        structure, permuted = Segments(ids), Segments(ids[:, order])
    relation = partial(Relative2d, max_distance=2, start="convolution") if name == "relation" else None
    model = encoder(score, relation, Window(1, 1) if name == "window" else Full(), prefix=prefix)
    output = model(VectorSet(x, mask, pos, structure))
    moved = model(VectorSet(x[:, order], mask[:, order], pos[:, order], permuted))
    torch.testing.assert_close(moved.x[:, prefix:], output.x[:, prefix:][:, order], atol=1e-10, rtol=0)
    torch.testing.assert_close(moved.x[:, :prefix], output.x[:, :prefix], atol=1e-10, rtol=0)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**20), st.sampled_from(sorted(SCORES)), st.integers(1, 6), st.integers(0, 5))
@pytest.mark.parametrize("kind", ["sequence", "positions", "window", "and"])
def test_8_causal_never_sees_a_later_vector(kind, seed, score, count, changed):
    generator = torch.Generator().manual_seed(seed)
    changed = changed % count
    x = torch.randn(1, count, WIDTH, generator=generator, dtype=torch.float64)
    place = torch.randperm(count, generator=generator) if kind == "positions" else torch.arange(count)
    pos = place[None, :, None].float() if kind == "positions" else None
    own = Dense(torch.rand(count, count, generator=generator) < 0.7) if kind == "and" else Full()
    structure = Window(2, 0) if kind == "window" else Causal()
    model = encoder(score, structure=structure)
    sets = VectorSet(x, None, pos, own, layout="free" if kind == "positions" else "sequence")
    other = x.clone()
    other[0, changed] += 1.0
    earlier = place < place[changed]
    before, after = model(sets).x[0], model(sets.replace(x=other)).x[0]
    assert torch.equal(before[earlier], after[earlier])


@pytest.mark.parametrize("make", [lambda: encoder(), lambda: encoder(prefix=1), lambda: ConvEncoder(WIDTH, 2).double()])
def test_7_and_9_modes_agree_and_the_output_keeps_what_the_set_was(make):
    model = make()
    mask = torch.tensor([[True] * 6, [True] * 4 + [False] * 2])
    structure = Full() if isinstance(model, ConvEncoder) else Dense(torch.eye(6) < 2)
    sets = VectorSet(torch.randn(2, 6, WIDTH).double(), mask, layout="grid", grid=(2, 3), structure=structure)
    if not isinstance(model, ConvEncoder):  # batch statistics differ between the modes by design
        assert torch.equal(model.train()(sets).x, model.eval()(sets).x)
    output = model.eval()(sets)
    added = output.num_vectors - 6
    assert torch.equal(output.mask[:, added:], mask) and output.mask[:, :added].all()
    assert output.layout == "grid" and output.grid == (2, 3) and output.num_prefix == added
    assert type(output.structure) is type(structure)
