"""Norms, feed-forward, drop path, blocks and encoders against torch's own."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

from vsattn.attention import MultiHeadAttention
from vsattn.encoders import ConvEncoder, TransformerEncoder
from vsattn.errors import ConfigError, ShapeError
from vsattn.layers import BatchNorm, DropPath, FeedForward, LayerNorm, RMSNorm, TransformerBlock
from vsattn.structure import Dense
from vsattn.vectorset import VectorSet


@pytest.mark.parametrize("masked", [False, True])
def test_batch_norm_equals_torch_on_the_valid_vectors(masked):
    torch.manual_seed(0)
    ours, theirs = BatchNorm(5).double(), nn.BatchNorm1d(5).double()
    for norm in (ours, theirs):
        nn.init.constant_(norm.weight, 1.5), nn.init.constant_(norm.bias, 0.3)
    x = torch.randn(4, 6, 5, dtype=torch.float64) * 3 + 1
    mask = torch.rand(4, 6) < 0.6 if masked else torch.ones(4, 6).bool()
    garbage = x.masked_fill(~mask[..., None], 1e6) if masked else x
    for _ in range(3):
        output = ours(garbage, mask if masked else None)
        torch.testing.assert_close(output[mask], theirs(x[mask]), atol=1e-9, rtol=0)
    torch.testing.assert_close(ours.running_mean, theirs.running_mean, atol=1e-9, rtol=0)
    torch.testing.assert_close(ours.running_var, theirs.running_var, atol=1e-9, rtol=0)
    ours.eval(), theirs.eval()
    torch.testing.assert_close(ours(x, mask)[mask], theirs(x[mask]), atol=1e-12, rtol=0)


def test_batch_norm_gradients_equal_torch_with_a_mask():
    torch.manual_seed(0)
    ours, theirs = BatchNorm(3).double(), nn.BatchNorm1d(3).double()
    x = torch.randn(2, 4, 3, dtype=torch.float64)
    mask, probe = torch.rand(2, 4) < 0.7, torch.randn(2, 4, 3).double()
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    (ours(a, mask) * probe)[mask].sum().backward()
    (theirs(b[mask]) * probe[mask]).sum().backward()
    torch.testing.assert_close(a.grad[mask], b.grad[mask], atol=1e-12, rtol=0)


def test_batch_norm_of_nothing_leaves_the_averages_alone():
    norm = BatchNorm(2)
    before = norm.running_mean.clone(), norm.running_var.clone()
    assert norm(torch.zeros(1, 3, 2), torch.zeros(1, 3).bool()).isfinite().all()
    assert torch.equal(norm.running_mean, before[0]) and torch.equal(norm.running_var, before[1])


def test_layer_norms_equal_torch_and_ignore_the_mask():
    x, mask = torch.randn(2, 3, 8), torch.tensor([[True, False, True]] * 2)
    assert torch.equal(LayerNorm(8)(x, mask), nn.LayerNorm(8)(x))
    torch.testing.assert_close(RMSNorm(8)(x, mask), x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt())


@pytest.mark.parametrize("placement", ["pre", "post"])
@pytest.mark.parametrize("activation", ["gelu", "relu"])
def test_encoder_equals_torchs_encoder_layers(placement, activation):
    torch.manual_seed(0)
    ours = TransformerEncoder(
        12, 2, 3, feed_forward=partial(FeedForward, hidden_dim=20, activation=activation), norm_placement=placement
    ).double()
    layer = nn.TransformerEncoderLayer(
        12, 3, 20, dropout=0.0, activation=activation, batch_first=True, norm_first=placement == "pre"
    )
    final = nn.LayerNorm(12) if placement == "pre" else None
    theirs = nn.TransformerEncoder(layer, 2, norm=final, enable_nested_tensor=False).double()
    with torch.no_grad():
        for a, b in zip(ours.blocks, theirs.layers, strict=True):
            for parameter in a.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.1)
            m = a.attention
            b.self_attn.in_proj_weight.copy_(torch.cat([p.weight for p in (m.query_proj, m.key_proj, m.value_proj)]))
            b.self_attn.in_proj_bias.copy_(torch.cat([p.bias for p in (m.query_proj, m.key_proj, m.value_proj)]))
            b.self_attn.out_proj.load_state_dict(m.out_proj.state_dict())
            b.linear1.load_state_dict(a.feed_forward.up.state_dict())
            b.linear2.load_state_dict(a.feed_forward.down.state_dict())
            b.norm1.load_state_dict(a.attention_norm.state_dict())
            b.norm2.load_state_dict(a.feed_forward_norm.state_dict())
    x = torch.randn(3, 5, 12, dtype=torch.float64)
    mask = torch.tensor([[True] * 5, [True] * 3 + [False] * 2, [True] + [False] * 4])
    output = ours(VectorSet(x, mask)).x
    expected = theirs(x, src_key_padding_mask=~mask)
    torch.testing.assert_close(output[mask], expected[mask], atol=1e-12, rtol=0)


def restated(model, x, mask):
    """Compute a one-head encoder by torch's attention and norms, as the papers write the two further placements."""
    layer_norm = partial(nn.functional.layer_norm, normalized_shape=x.shape[-1:])
    alpha = (2 * len(model.blocks)) ** 0.25
    for block in model.blocks:
        m = block.attention
        theirs = nn.MultiheadAttention(x.shape[-1], 1, batch_first=True, dtype=x.dtype)
        projections = (m.query_proj, m.key_proj, m.value_proj)
        theirs.in_proj_weight = nn.Parameter(torch.cat([p.weight for p in projections]))
        theirs.in_proj_bias = nn.Parameter(torch.cat([p.bias for p in projections]))
        theirs.out_proj.load_state_dict(m.out_proj.state_dict())
        mlp = nn.Sequential(block.feed_forward.up, nn.GELU(), block.feed_forward.down)
        branches = [
            (lambda h, f=theirs: f(h, h, h, key_padding_mask=~mask, need_weights=False)[0], "attention"),
            (mlp, "feed_forward"),
        ]
        for branch, name in branches:
            a, b = getattr(block, f"{name}_norm"), getattr(block, f"{name}_out_norm")
            if b is None:
                x = layer_norm(alpha * x + branch(x), weight=a.weight, bias=a.bias)
            else:
                change = branch(layer_norm(x, weight=a.weight, bias=a.bias))
                x = x + layer_norm(change, weight=b.weight, bias=b.bias)
    return x if model.norm is None else layer_norm(x, weight=model.norm.weight, bias=model.norm.bias)


@pytest.mark.parametrize("placement", ["sandwich", "deepnorm"])
def test_further_placements_are_their_formulas(placement):
    torch.manual_seed(0)
    model = TransformerEncoder(8, 3, 1, norm_placement=placement).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    x, mask = torch.randn(2, 5, 8, dtype=torch.float64), torch.tensor([[True] * 5, [True] * 2 + [False] * 3])
    output = model(VectorSet(x, mask)).x
    torch.testing.assert_close(output[mask], restated(model, x, mask)[mask], atol=1e-12, rtol=0)
    assert (model.norm is None) == (placement == "deepnorm")


def test_deepnorm_scales_residuals_and_start_by_the_papers_numbers():
    """Wang et al. 2022, encoder of 18 layers: alpha = 36^(1/4), beta = 144^(-1/4); queries and keys start as ever."""

    def make(placement, activation):
        torch.manual_seed(0)
        return TransformerEncoder(
            8, 18, 2, norm_placement=placement, feed_forward=partial(FeedForward, activation=activation)
        )

    for activation in ("gelu", "swiglu"):
        deep, post = make("deepnorm", activation), make("post", activation)
        for a, b in zip(deep.blocks, post.blocks, strict=True):
            assert a.residual_scale == pytest.approx(36**0.25) and b.residual_scale == 1.0
            ratio = {n: (p / q).flatten() for (n, p), q in zip(a.named_parameters(), b.parameters(), strict=True)}
            for name, found in ratio.items():
                found = found[~found.isnan()]  # a bias that starts at 0
                scaled = any(
                    part in name for part in ("value_proj", "out_proj", "feed_forward.up", "feed_forward.down")
                )
                expected = torch.full_like(found, 144**-0.25 if scaled else 1.0)
                if name.startswith("feed_forward.up") and activation == "swiglu":
                    expected[: len(expected) // 2] = 1.0  # the gate
                torch.testing.assert_close(found, expected, msg=name)


def test_deepnorm_keeps_the_first_step_of_a_hundred_layers_small():
    """Section 3 of the paper: the output moves by a bounded amount, where post-norm's explodes with depth."""

    def first_step(placement, num_layers):
        torch.manual_seed(0)
        model = TransformerEncoder(16, num_layers, 2, norm_placement=placement)
        sets, target = VectorSet(torch.randn(8, 5, 16)), torch.randn(8, 5, 16)
        before = model(sets).x
        (before * target).mean().backward()
        first, last = (model.blocks[i].feed_forward.up.weight.grad.norm() for i in (0, -1))
        torch.optim.SGD(model.parameters(), lr=1e-3).step()
        return float((model(sets).x - before).detach().square().mean().sqrt()), float(first / last)

    deep, ratio = first_step("deepnorm", 100)
    assert 0.5 < ratio < 2.0  # the gradient is as large at the first layer as at the last
    assert deep < 2 * first_step("post", 6)[0]
    assert first_step("post", 100)[0] > 20 * deep


@pytest.mark.parametrize("placement", ["pre", "post", "sandwich", "deepnorm"])
def test_every_placement_hands_the_mask_to_its_norms(placement):
    torch.manual_seed(0)
    model = TransformerEncoder(4, 2, 2, norm=BatchNorm, norm_placement=placement).double()
    x = torch.randn(3, 4, 4, dtype=torch.float64)
    expected = model(VectorSet(x)).x
    padded = torch.cat([x, torch.full((3, 2, 4), 1e3, dtype=torch.float64)], 1)
    output = model(VectorSet(padded, torch.tensor([[True] * 4 + [False] * 2] * 3))).x
    torch.testing.assert_close(output[:, :4], expected, atol=1e-10, rtol=0)


class Mean(nn.Module):
    """The mean of the real vectors for each: no attention at all, but a set in and a set out."""

    def forward(self, vector_set):
        return vector_set.replace(x=vector_set.x.mean(1, keepdim=True).expand_as(vector_set.x))


def test_attention_may_be_any_module_from_a_set_to_a_set():
    torch.manual_seed(0)
    make = partial(TransformerEncoder, 6, 1, 1, attention=lambda dim, heads: Mean())
    x = torch.randn(2, 3, 6)
    norm = partial(nn.functional.layer_norm, normalized_shape=(6,))
    model = make(norm_placement="post")
    mixed = norm(x + x.mean(1, keepdim=True))
    torch.testing.assert_close(model(VectorSet(x)).x, norm(mixed + model.blocks[0].feed_forward(mixed)))
    with pytest.raises(ConfigError, match=r"no \['attention.value_proj', 'attention.out_proj'\]"):
        make(norm_placement="deepnorm")


def test_swiglu_is_its_formula():
    torch.manual_seed(0)
    layer, x = FeedForward(4, hidden_dim=3, activation="swiglu"), torch.randn(2, 4)
    gate, hidden = (x @ layer.up.weight.T + layer.up.bias).split(3, -1)
    torch.testing.assert_close(layer(x), layer.down(gate * torch.sigmoid(gate) * hidden))


def test_drop_path_skips_whole_samples_and_keeps_the_mean():
    torch.manual_seed(0)
    layer, x = DropPath(0.25), torch.ones(4000, 2, 3)
    output = layer(x)
    per_sample = output.flatten(1)
    assert all(len(row.unique()) == 1 for row in per_sample)
    assert abs(float((per_sample[:, 0] == 0).float().mean()) - 0.25) < 0.03
    assert abs(float(output.mean()) - 1) < 0.04
    assert torch.equal(layer.eval()(x), x)


def test_drop_path_grows_with_depth_and_registers_come_first():
    model = TransformerEncoder(8, 3, 2, drop_path=0.2, num_prefix=2)
    assert [block.drop_path.p for block in model.blocks] == pytest.approx([0.0, 0.1, 0.2])
    output = model(VectorSet(torch.randn(2, 4, 8), layout="grid", grid=(2, 2)))
    assert output.num_prefix == 2 and output.x.shape == (2, 6, 8) and output.grid == (2, 2)


def test_encoder_uses_the_norm_and_attention_it_is_given():
    model = TransformerEncoder(8, 1, 2, norm=BatchNorm, attention=partial(MultiHeadAttention, head_dim=8))
    assert isinstance(model.norm, BatchNorm) and isinstance(model.blocks[0].attention_norm, BatchNorm)
    assert model.blocks[0].attention.head_dim == 8


def test_conv_encoder_equals_torchs_convolutions_and_padding_is_a_border():
    torch.manual_seed(0)
    model = ConvEncoder(4, 2).double()
    model.train()(VectorSet(torch.randn(8, 12, 4).double(), layout="grid", grid=(3, 4)))  # moves the averages
    model.eval()
    small = torch.randn(1, 4, 2, 3, dtype=torch.float64)
    expected = small
    for convolution, norm in zip(model.convolutions, model.norms, strict=True):
        reference = nn.BatchNorm2d(4).double().eval()
        reference.load_state_dict(norm.state_dict(), strict=False)
        expected = expected + reference(convolution(expected)).relu()
    alone = model(VectorSet(small.flatten(2).transpose(1, 2), layout="grid", grid=(2, 3)))
    torch.testing.assert_close(alone.x.transpose(1, 2).unflatten(2, (2, 3)), expected, atol=1e-12, rtol=0)
    padded = nn.functional.pad(small, (0, 2, 0, 1))
    mask = nn.functional.pad(torch.ones(1, 2, 3).bool(), (0, 2, 0, 1))
    wide = model(VectorSet(padded.flatten(2).transpose(1, 2), mask.flatten(1), layout="grid", grid=(3, 5)))
    torch.testing.assert_close(wide.x[wide.mask], alone.x[0], atol=1e-12, rtol=0)


def test_impossible_layers_are_refused():
    with pytest.raises(ConfigError, match="'gelu', 'relu' or 'swiglu'"):
        FeedForward(4, activation="tanh")
    with pytest.raises(ConfigError, match="kernel_size odd"):
        ConvEncoder(4, 1, kernel_size=2)
    with pytest.raises(ConfigError, match="'pre', 'post', 'sandwich' or 'deepnorm', not 'middle'"):
        TransformerEncoder(4, 1, 1, norm_placement="middle")
    with pytest.raises(ConfigError, match="'pre', 'post' or 'sandwich', not 'deepnorm'"):
        TransformerBlock(nn.Identity(), nn.Identity(), norm=lambda: LayerNorm(4), norm_placement="deepnorm")
    with pytest.raises(ConfigError, match="drop_path"):
        DropPath(1.0)
    with pytest.raises(ShapeError, match="needs a grid"):
        ConvEncoder(4, 1)(VectorSet(torch.randn(1, 3, 4), layout="sequence"))


def test_batch_norm_of_one_value_is_finite_in_both_shapes():
    norm = BatchNorm(3)
    assert norm(torch.ones(1, 1, 3)).isfinite().all() and norm.on_maps(torch.ones(1, 3, 1, 1)).isfinite().all()


def test_what_would_be_ignored_is_refused():
    closed = Dense(torch.zeros(4, 4).bool())
    with pytest.raises(ShapeError, match="itself decides who sees whom"):
        ConvEncoder(4, 1)(VectorSet(torch.randn(1, 4, 4), layout="grid", grid=(2, 2), structure=closed))
    with pytest.raises(ConfigError, match="num_layers is at least 1"):
        TransformerEncoder(4, 0, 1)
    assert TransformerEncoder(4, 1, 1, drop_path=0.3).blocks[0].drop_path.p == 0.3
