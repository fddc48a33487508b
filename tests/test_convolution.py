"""Attention that is a convolution, against torch's convolution."""

from __future__ import annotations

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from vsattn.attention import MultiHeadAttention
from vsattn.errors import ConfigError, ShapeError
from vsattn.layers.conv_as_attention import conv_as_attention
from vsattn.vectorset import VectorSet

SIZES = st.tuples(st.integers(1, 5), st.integers(1, 5))


@settings(max_examples=120, deadline=None)
@given(
    st.integers(0, 2**20),
    st.sampled_from([(torch.float64, 1e-12), (torch.float32, 1e-5)]),
    SIZES,
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.tuples(st.integers(1, 2), st.integers(1, 2)),
    st.one_of(st.sampled_from(["same", "valid"]), st.tuples(st.integers(0, 3), st.integers(0, 3))),
    st.sampled_from([(1, 1, 1), (3, 2, 1), (4, 6, 2), (2, 4, 2)]),
    st.booleans(),
    st.sampled_from(["zeros", "zeros", "reflect", "replicate", "circular"]),
)
def test_it_computes_what_torchs_convolution_computes(
    seed, precision, kernel, stride, dilation, padding, channels, bias, mode
):
    torch.manual_seed(seed)
    (dtype, tolerance), (inward, outward, groups) = precision, channels
    stride = 1 if padding == "same" else stride
    conv = nn.Conv2d(
        inward, outward, kernel, stride, padding, dilation, groups, bias, padding_mode=mode, dtype=dtype
    )  # fmt: skip
    maps = torch.randn(2, inward, *torch.randint(1, 8, (2,)).tolist(), dtype=dtype, requires_grad=True)
    try:
        expected = conv(maps)
    except RuntimeError:  # the kernel does not fit into the picture, or the picture cannot be reflected so far
        assume(False)
    computed = conv_as_attention(conv)(maps)
    scale = float(expected.detach().abs().max())
    torch.testing.assert_close(computed, expected, atol=tolerance * max(1.0, scale), rtol=0)
    probe = torch.randn_like(expected)
    (gradient,), (wanted,) = (torch.autograd.grad((out * probe).sum(), maps) for out in (computed, expected))
    torch.testing.assert_close(gradient, wanted, atol=10 * tolerance * max(1.0, scale), rtol=0)


def test_each_head_looks_at_one_tap_of_the_kernel_and_outside_at_the_zero_border():
    torch.manual_seed(0)
    module = conv_as_attention(nn.Conv2d(2, 3, 3, padding=1).double())
    assert isinstance(module.attention, MultiHeadAttention) and module.attention.num_heads == 9
    padded = VectorSet(torch.randn(1, 25, 2).double(), layout="grid", grid=(5, 5))  # a picture of 3x3 and its border
    corner = VectorSet(padded.x[:, [6]], pos=torch.tensor([[[1.0, 1.0]]]))  # its top left cell
    _, weights = module.attention(corner, padded, return_weights=True)  # (1, 9, 1, 25)
    around = [row * 5 + column for row in range(3) for column in range(3)]
    assert torch.equal(weights[0, :, 0], torch.eye(25).double()[around])


def test_its_output_projection_learns_what_the_kernel_would():
    torch.manual_seed(0)
    conv = nn.Conv2d(2, 3, (3, 5), padding="same").double()
    module, maps, target = conv_as_attention(conv), torch.randn(4, 2, 5, 6).double(), torch.randn(4, 3, 5, 6).double()
    for layer in (conv, module):
        (layer(maps) - target).square().mean().backward()
    gradient = module.attention.out_proj.weight.grad.unflatten(1, (3, 5, 2)).movedim(-1, 1)
    torch.testing.assert_close(gradient, conv.weight.grad, atol=1e-12, rtol=0)
    torch.testing.assert_close(module.attention.out_proj.bias.grad, conv.bias.grad, atol=1e-12, rtol=0)


def test_what_is_no_2d_convolution_or_does_not_fit_is_refused():
    with pytest.raises(ConfigError, match=r"takes an nn\.Conv2d, not Conv1d"):
        conv_as_attention(nn.Conv1d(2, 2, 3))
    module = conv_as_attention(nn.Conv2d(2, 3, 3, padding=1, dilation=2))
    with pytest.raises(ShapeError, match=r"maps are \(B, 2, H, W\), not \(1, 3, 5, 5\)"):
        module(torch.randn(1, 3, 5, 5))
    with pytest.raises(ShapeError, match=r"picture of \(4, 7\) cells does not hold a kernel that spans \(5, 5\)"):
        module(torch.randn(1, 2, 2, 5))
