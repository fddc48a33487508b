"""`attend`, `attention_weights` and `MultiHeadAttention` against torch and a plain float64 loop."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from oracle import naive_attention
from strategies import SCORES, problems

from vsattn.attention import MultiHeadAttention, allowed_pairs, attend, attention_weights, explain_kernel
from vsattn.attention import kernels as kernel_table
from vsattn.encoders import TransformerEncoder
from vsattn.errors import ConfigError, ShapeError
from vsattn.relations import Relative2d
from vsattn.scores import Additive, Bilinear, Cosine, Dot, ScaledDot, SplitAdditive
from vsattn.structure import Causal, Dense, Full, Segments, Window
from vsattn.vectorset import VectorSet


def copy_into_torch(ours: MultiHeadAttention, theirs: torch.nn.MultiheadAttention) -> None:
    with torch.no_grad():
        for name, projection in (("q", ours.query_proj), ("k", ours.key_proj), ("v", ours.value_proj)):
            getattr(theirs, f"{name}_proj_weight").copy_(projection.weight)
        theirs.in_proj_bias.copy_(torch.cat([ours.query_proj.bias, ours.key_proj.bias, ours.value_proj.bias]))
        theirs.out_proj.weight.copy_(ours.out_proj.weight)
        theirs.out_proj.bias.copy_(ours.out_proj.bias)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-6), (torch.float64, 1e-14)])
def test_worked_example_of_different_lengths_and_widths_equals_torch(dtype, tolerance):
    torch.manual_seed(0)
    query, key, value = (torch.randn(10, *s, dtype=dtype) for s in ((9, 8), (7, 4), (7, 3)))
    ours = MultiHeadAttention(8, 2, key_dim=4, value_dim=3).to(dtype)
    theirs = torch.nn.MultiheadAttention(8, 2, kdim=4, vdim=3, batch_first=True).to(dtype)
    for bias in (ours.query_proj.bias, ours.key_proj.bias, ours.value_proj.bias, ours.out_proj.bias):
        torch.nn.init.normal_(bias)
    copy_into_torch(ours, theirs)
    output, weights = ours(query, key, value, return_weights=True)
    expected, expected_weights = theirs(query, key, value)
    assert output.shape == (10, 9, 8) and weights.shape == (10, 2, 9, 7)
    assert weights.mean(1).shape == (10, 9, 7)
    torch.testing.assert_close(output, expected, atol=tolerance, rtol=0)
    torch.testing.assert_close(weights.mean(1), expected_weights, atol=tolerance, rtol=0)


def test_gradients_equal_torch_with_padding():
    torch.manual_seed(0)
    ours = MultiHeadAttention(12, 3).double()
    theirs = torch.nn.MultiheadAttention(12, 3, batch_first=True).double()
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([p.weight for p in (ours.query_proj, ours.key_proj, ours.value_proj)]))
        theirs.in_proj_bias.zero_()
        theirs.out_proj.load_state_dict(ours.out_proj.state_dict())
    mask = torch.tensor([[True] * 5, [True, True, True, False, False]])
    x = torch.randn(2, 5, 12, dtype=torch.float64).masked_fill(~mask[..., None], 0)
    grads = []
    for run in (lambda t: ours(VectorSet(t, mask)).x, lambda t: theirs(t, t, t, key_padding_mask=~mask)[0]):
        leaf = x.clone().requires_grad_()
        (run(leaf)[mask] ** 2).sum().backward()
        grads.append(leaf.grad[mask])
    torch.testing.assert_close(grads[0], grads[1], atol=1e-12, rtol=0)


def test_where_torch_gives_nan_for_a_fully_masked_row_ours_gives_zero():
    theirs = torch.nn.MultiheadAttention(8, 2, batch_first=True)
    x, nothing = torch.randn(1, 3, 8), torch.zeros(1, 3, dtype=torch.bool)
    expected, _ = theirs(x, x, x, key_padding_mask=~nothing)
    assert expected.isnan().any(), "torch now handles this: the README's remark needs an update"
    ours = MultiHeadAttention(8, 2)
    torch.nn.init.zeros_(ours.out_proj.bias)
    output, weights = ours(torch.randn(1, 3, 8), VectorSet(x, nothing), return_weights=True)
    assert torch.equal(output, torch.zeros_like(output)) and torch.equal(weights, torch.zeros_like(weights))


def definition(score):
    """Return each score's formula on two float64 vectors, from its paper."""

    def formula(q, k, h):
        if isinstance(score, ScaledDot):
            return torch.dot(q, k) / math.sqrt(len(q))
        if isinstance(score, Dot):
            return torch.dot(q, k)
        if isinstance(score, Bilinear):
            return q @ score.weight[h].double() @ k / math.sqrt(len(q))
        if isinstance(score, Cosine):
            return score.log_temperature[h, 0, 0].double().exp() * torch.dot(q, k) / (q.norm() * k.norm())
        if isinstance(score, SplitAdditive):
            reduced = torch.dot(score.query_weight[h].double(), q) + torch.dot(score.key_weight[h].double(), k)
            return torch.where(reduced > 0, reduced, 0.2 * reduced)
        assert isinstance(score, Additive)
        added = q + k
        bent = added.tanh() if score.activation == "tanh" else torch.where(added > 0, added, 0.2 * added)
        return torch.dot(score.weight[h].double(), bent)

    return formula


@settings(max_examples=120, deadline=None)
@given(problems(relations=False, scores=[name for name in SCORES if name != "sparsemax"]))
def test_every_score_and_structure_equals_the_plain_loop(drawn):
    sets, structure = drawn.vectors, drawn.structure
    if isinstance(drawn.score, Bilinear):
        torch.nn.init.normal_(drawn.score.weight)
    shape = (sets.x.shape[0], drawn.heads, sets.num_vectors, drawn.head_dim)
    q, k, v = drawn.randn(*shape), drawn.randn(*shape), drawn.randn(*shape)
    pairs = structure.allowed(sets, sets).expand(shape[0], 1, shape[2], shape[2])

    def allowed(b, i, j):
        return bool(pairs[b, 0, i, j]) and (sets.mask is None or bool(sets.mask[b, j]))

    with torch.no_grad():
        expected, expected_weights = naive_attention(q, k, v, definition(drawn.score), allowed)
        output = attend(q, k, v, sets, sets, structure, score=drawn.score)
        weights = attention_weights(q, k, sets, sets, structure, score=drawn.score, chunk_size=2)
    torch.testing.assert_close(output, expected, atol=1e-10, rtol=0)
    torch.testing.assert_close(weights, expected_weights, atol=1e-10, rtol=0)


@settings(max_examples=120, deadline=None)
@given(problems())
def test_every_kernel_equals_the_reference_forward_and_backward(drawn):
    sets = drawn.vectors
    shape = (sets.x.shape[0], drawn.heads, sets.num_vectors, drawn.head_dim)
    q, k, v, probe = (drawn.randn(*shape) for _ in range(4))
    results = {}
    for name in kernel_table.KERNELS:
        leaves = [t.clone().requires_grad_() for t in (q, k, v)]
        parameters = [*drawn.score.parameters(), *(drawn.relation.parameters() if drawn.relation else ())]
        try:
            output = attend(
                *leaves, sets, sets, drawn.structure, score=drawn.score, relation=drawn.relation, kernel=name
            )
        except ShapeError as error:
            assert name != "reference" and "cannot do this" in str(error)
            continue
        inputs = [*leaves, *parameters]
        gradients = torch.autograd.grad((output * probe).sum(), inputs, allow_unused=True, materialize_grads=True)
        results[name] = [output, *gradients]
    for name, values in results.items():
        for value, expected in zip(values, results["reference"], strict=True):
            assert value.isfinite().all(), name
            torch.testing.assert_close(value, expected, atol=1e-10, rtol=0, msg=lambda m: f"{name}: {m}")  # noqa: B023


def test_float32_kernel_is_close_to_the_float64_reference():
    torch.manual_seed(0)
    sets = VectorSet(torch.zeros(2, 50, 1), layout="sequence")
    q, k, v = (torch.randn(2, 4, 50, 16) for _ in range(3))
    output = attend(q, k, v, sets, sets, Causal())
    wide = attend(q.double(), k.double(), v.double(), sets, sets, Causal(), kernel="reference")
    torch.testing.assert_close(output.double(), wide, atol=2e-6, rtol=0)


def test_head_width_free_or_shared():
    assert MultiHeadAttention(8, 2).head_dim == 4
    full = MultiHeadAttention(8, 2, head_dim=8)
    assert full.query_proj.weight.shape == (16, 8) and full(torch.randn(1, 3, 8)).shape == (1, 3, 8)
    with pytest.raises(ConfigError, match="8 cannot be cut into 3 equal heads"):
        MultiHeadAttention(8, 3)


def test_structure_has_one_owner_per_use():
    torch.manual_seed(0)
    layer = MultiHeadAttention(4, 1, structure=Window(1, 1))
    dense = Dense(torch.rand(4, 4) < 0.5)
    own = VectorSet(torch.randn(1, 4, 4), layout="sequence", structure=dense)
    _, weights = layer(own, return_weights=True)
    assert torch.equal(weights[0, 0] > 0, (Window(1, 1) & dense).allowed(own, own)[0, 0])
    _, weights = layer(own, own.replace(x=own.x + 1), return_weights=True)  # cross-attention: the layer's alone
    assert torch.equal(weights[0, 0] > 0, Window(1, 1).allowed(own, own)[0, 0])
    extra = Dense(torch.eye(4, dtype=torch.bool))
    _, weights = layer(own.replace(structure=Full()), structure=extra, return_weights=True)
    assert torch.equal(weights[0, 0], torch.eye(4))


def test_output_keeps_mask_positions_structure_and_layout():
    sets = VectorSet(
        torch.randn(1, 4, 8), torch.tensor([[True, True, True, False]]), structure=Causal(), layout="sequence"
    )
    output = MultiHeadAttention(8, 2)(sets)
    assert output.mask is sets.mask and output.layout == "sequence" and output.structure == Causal()
    assert torch.equal(output.x[0, 3], torch.zeros(8))


def test_asking_for_weights_changes_nothing():
    torch.manual_seed(0)
    layer, sets = MultiHeadAttention(8, 2), VectorSet(torch.randn(2, 5, 8))
    for mode in (layer.train(), layer.eval()):
        assert torch.equal(mode(sets).x, mode(sets, return_weights=True)[0].x)


def test_attention_dropout_acts_in_training_alone():
    torch.manual_seed(0)
    layer, x = MultiHeadAttention(8, 2, dropout=0.5), torch.randn(2, 5, 8)
    assert not torch.equal(layer(x), layer(x))
    layer.eval()
    assert torch.equal(layer(x), layer(x))


def test_prefix_sees_all_and_is_seen_by_all_and_gets_no_relation():
    sets = VectorSet(torch.randn(1, 4, 4), layout="grid", grid=(2, 2), structure=Dense(torch.zeros(4, 4).bool()))
    sets = sets.with_prefix(torch.randn(2, 4))
    allowed = allowed_pairs(sets.structure, sets, sets)[0, 0]
    assert allowed[:2].all() and allowed[:, :2].all() and not allowed[2:, 2:].any()
    relation = Relative2d(1, 4, start="convolution")
    q = torch.zeros(1, 1, 6, 4)
    weights = attention_weights(q, q, sets, sets, Full(), relation=relation)[0, 0]
    torch.testing.assert_close(weights[0], torch.full((6,), 1 / 6))
    torch.testing.assert_close(weights[3, 0], weights[3, 1])
    torch.testing.assert_close(attend(q, q, q, sets, sets, relation=relation), q)


@pytest.mark.parametrize("structure", [Causal(), Segments(torch.zeros(1, 4, dtype=torch.long))])
def test_prefix_with_causal_or_segments_would_leak_and_is_refused(structure):
    sets = VectorSet(torch.randn(1, 3, 4), layout="sequence").with_prefix(torch.randn(1, 4))
    with pytest.raises(ShapeError, match="would leak"):
        allowed_pairs(structure, sets, sets)
    own = VectorSet(torch.randn(1, 4, 4), layout="sequence", structure=structure)
    with pytest.raises(ShapeError, match="would leak"):
        TransformerEncoder(4, 1, 1, num_prefix=1)(own)


def test_kernel_choice_is_explained_and_can_be_forced():
    sets, q = VectorSet(torch.zeros(1, 3, 1)), torch.randn(1, 1, 3, 4)
    assert explain_kernel(q, q, q, sets, sets).startswith("dense: ")
    assert explain_kernel(q, q, q, sets, sets, score=Additive(1, 4)).startswith("reference: ")
    assert explain_kernel(q, q, q, sets, sets, kernel="reference") == "reference: asked for by name"
    with pytest.raises(ShapeError, match="not a dot product"):
        attend(q, q, q, sets, sets, score=Additive(1, 4), kernel="dense")
    with pytest.raises(ShapeError, match="did you mean 'dense'"):
        attend(q, q, q, sets, sets, kernel="dens")


def test_a_sparse_structure_never_turns_quadratic_in_silence(monkeypatch):
    monkeypatch.setattr(kernel_table, "MAX_DENSE_PAIRS", 8)
    sets, q = VectorSet(torch.zeros(1, 3, 1), layout="sequence"), torch.randn(1, 1, 3, 4)
    free = VectorSet(torch.zeros(1, 3, 1), pos=torch.arange(3.0)[None, :, None])
    with pytest.raises(ShapeError, match="limit 8"):
        attend(q, q, q, free, free, Window(1, 1))
    assert attend(q, q, q, free, free, Window(1, 1), kernel="dense").shape == q.shape
    assert attend(q, q, q, sets, sets, Causal()).shape == q.shape


def test_causal_flag_is_used_only_where_it_means_the_same(monkeypatch):
    flags = []
    real = F.scaled_dot_product_attention
    monkeypatch.setattr(
        F, "scaled_dot_product_attention", lambda *a, **k: flags.append(k.get("is_causal", False)) or real(*a, **k)
    )
    sequence, q = VectorSet(torch.zeros(1, 3, 1), layout="sequence"), torch.randn(1, 1, 3, 4)
    shifted = VectorSet(torch.zeros(1, 3, 1), pos=torch.tensor([[[2.0], [1.0], [0.0]]]))
    plain = attend(q, q, q, sequence, sequence, Causal())
    attend(q, q, q, shifted, shifted, Causal())
    attend(q[:, :, :2], q, q, VectorSet(torch.zeros(1, 2, 1), layout="sequence"), sequence, Causal())
    assert flags == [True, False, False]
    torch.testing.assert_close(plain, attend(q, q, q, sequence, sequence, Causal(), kernel="reference"))


def test_wrong_shapes_are_named():
    sets, q = VectorSet(torch.zeros(2, 3, 1)), torch.randn(2, 1, 3, 4)
    with pytest.raises(ShapeError, match=r"value \(B, H, Nk, dv\)"):
        attend(q, q, q[:, :, :2], sets, sets)
    with pytest.raises(ShapeError, match="does not fit its set"):
        attend(q, q, q, sets, VectorSet(torch.zeros(2, 4, 1)))
    layer = MultiHeadAttention(8, 2, key_dim=4)
    with pytest.raises(ShapeError, match="key has width 8; this layer was made for 4"):
        layer(torch.randn(1, 2, 8), torch.randn(1, 2, 8))
    with pytest.raises(ShapeError, match="share B"):
        layer(torch.randn(2, 2, 8), torch.randn(1, 2, 4))


@pytest.mark.parametrize("kernel", ["dense", "reference"])
def test_nan_in_padded_keys_and_values_reaches_nothing(kernel):
    torch.manual_seed(0)
    sets = VectorSet(torch.randn(1, 3, 4), torch.tensor([[True, True, False]]))
    q, k, v = (torch.randn(1, 2, 3, 4) for _ in range(3))
    expected = attend(q, k, v, sets, sets, kernel=kernel)
    k[:, :, 2], v[:, :, 2] = float("nan"), float("nan")
    assert torch.equal(attend(q, k, v, sets, sets, kernel=kernel), expected)
    assert attention_weights(q, k, sets, sets).isfinite().all()
    values = torch.randn(1, 3, 4)
    values[:, 2] = float("nan")
    assert MultiHeadAttention(4, 2)(sets, sets, values).x.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("score", [ScaledDot, Dot, Bilinear, Cosine, Additive])
def test_half_precision_is_finite_and_close(dtype, score):
    torch.manual_seed(0)
    layer = MultiHeadAttention(8, 2, score=score)
    sets = VectorSet(torch.randn(2, 5, 8), torch.tensor([[True] * 5, [True] * 2 + [False] * 3]))
    expected = layer(sets).x
    half = layer.to(dtype)(sets.to(dtype)).x
    assert half.dtype == dtype and half.isfinite().all()
    torch.testing.assert_close(half.float(), expected, atol=0.05, rtol=0.05)


def test_autocast_gives_close_outputs_and_finite_gradients():
    torch.manual_seed(0)
    layer = MultiHeadAttention(8, 2, relation=Relative2d)
    sets = VectorSet(torch.randn(2, 4, 8), torch.tensor([[True] * 4, [False] * 4]), layout="grid", grid=(2, 2))
    expected = layer(sets).x
    with torch.autocast("cpu", torch.bfloat16):
        output = layer(sets).x
    output.float().square().sum().backward()
    torch.testing.assert_close(output.float(), expected, atol=0.05, rtol=0.05)
    assert all(p.grad.isfinite().all() for p in layer.parameters())


def test_a_pairwise_score_never_takes_all_memory_in_silence(monkeypatch):
    monkeypatch.setattr(kernel_table, "MAX_PAIRWISE_ELEMENTS", 35)
    sets, q = VectorSet(torch.zeros(1, 3, 1)), torch.randn(1, 1, 3, 4)
    with pytest.raises(ShapeError, match=r"Additive compares every pair, 36 numbers at once \(limit 35\)"):
        attend(q, q, q, sets, sets, score=Additive(1, 4))
    assert attend(q, q, q, sets, sets, kernel="reference").shape == q.shape


def test_the_layers_structure_moves_with_its_weights():
    layer = MultiHeadAttention(4, 1, structure=Dense(torch.ones(2, 2).bool()) & Window(1, 1))
    moved = layer.to("meta").structure.parts
    assert moved[0].mask.device.type == "meta" and moved[0].mask.dtype == torch.bool and moved[1] == Window(1, 1)


def test_encoder_compiles_without_a_graph_break():
    torch.manual_seed(0)
    model = TransformerEncoder(8, 2, 2, attention=partial(MultiHeadAttention, relation=Relative2d), num_prefix=1)
    compiled = torch.compile(model, fullgraph=True, backend="eager", dynamic=True)
    for batch, grid in ((2, (2, 3)), (3, (4, 2))):
        count = grid[0] * grid[1]
        mask = torch.rand(batch, count) < 0.7
        sets = VectorSet(torch.randn(batch, count, 8), mask, layout="grid", grid=grid)
        torch.testing.assert_close(compiled(sets).x, model(sets).x)
