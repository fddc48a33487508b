"""A convolution written as attention: every head looks at one tap of the kernel."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vsattn.attention import MultiHeadAttention
from vsattn.errors import ConfigError, ShapeError
from vsattn.relations import Relative2d
from vsattn.vectorset import VectorSet

#: The bias of offsets that a head does not look at; its exponential is exactly 0 in every floating-point type.
FLOOR = -1e4


class ConvAsAttention(nn.Module):
    """Multi-head attention in the place of a convolution; made by :func:`conv_as_attention`.

    The keys are all cells of the padded picture, the queries the cells under the kernel's centre, one for each output.

    Args:
        attention: the layer, of width C.
        conv: says how the kernel moves; it is not kept.
    """

    def __init__(self, attention: MultiHeadAttention, conv: nn.Conv2d) -> None:
        super().__init__()
        self.attention = attention
        self.padding = _padding(conv)
        self.padding_mode = "constant" if conv.padding_mode == "zeros" else conv.padding_mode
        self.stride, self.span, self.centre = conv.stride, _span(conv), _centre(conv)

    def forward(self, maps: Tensor) -> Tensor:
        """Map ``(B, C, H, W)`` to ``(B, C', H', W')``.

        Raises:
            ShapeError: for another number of axes or channels, or a picture that the kernel does not fit into.
        """
        if maps.ndim != 4 or maps.shape[1] != self.attention.embed_dim:
            raise ShapeError(f"maps are (B, {self.attention.embed_dim}, H, W), not {tuple(maps.shape)}")
        maps = F.pad(maps, self.padding, mode=self.padding_mode)  # zero vectors around, for heads that look outside
        grid = maps.shape[2:]
        if any(size < span for size, span in zip(grid, self.span)):
            raise ShapeError(f"a padded picture of {tuple(grid)} cells does not hold a kernel that spans {self.span}")
        rows, columns = (
            torch.arange(centre, centre + size - span + 1, stride, device=maps.device)
            for size, span, centre, stride in zip(grid, self.span, self.centre, self.stride)
        )
        keys = VectorSet(maps.flatten(2).transpose(1, 2), layout="grid", grid=(grid[0], grid[1]))  # (B, H * W, C)
        under = maps[:, :, rows][:, :, :, columns].flatten(2).transpose(1, 2)  # (B, H' * W', C)
        queries = VectorSet(under, pos=torch.cartesian_prod(rows, columns)[None])
        return self.attention(queries, keys).x.transpose(1, 2).unflatten(2, (len(rows), len(columns)))


def conv_as_attention(conv: nn.Conv2d) -> ConvAsAttention:
    """Return an attention layer that computes what a convolution computes, to rounding.

    ``conv(x)_i = sum_t W_t x_{i + t} + b``, with one head for each tap t of the kernel. Queries and keys are zero, so
    that a head's scores are its bias for each 2-D offset (`Relative2d`), and that is 0 at t and ``FLOOR`` everywhere
    else: the softmax gives all weight to the one cell at ``i + t``. The value projection copies that cell, and the
    output projection holds ``W_t`` in the columns of that head.

    So attention with relative positions can be any convolution that has no more taps than it has heads, if its
    heads are as wide as its input. ``Relative2d(start="convolution")`` begins near such a layer and may leave it.
    Stride, dilation, groups, bias, every padding and padding mode, and even kernels are handled. Weights are copied.

    Args:
        conv: with C channels and a kernel of ``kh * kw`` taps.

    Returns:
        a module that maps ``(B, C, H, W)`` as ``conv`` does; its ``attention`` is the layer, of ``kh * kw`` heads of
        width C. It compares all cells with all: an explanation, not a way to compute convolutions.

    Raises:
        ConfigError: when ``conv`` is not an `nn.Conv2d`.

    Source: Cordonnier et al. 2020, "On the Relationship between Self-Attention and Convolutional Layers", theorem 1.
    """
    if not isinstance(conv, nn.Conv2d):
        raise ConfigError(f"conv_as_attention takes an nn.Conv2d, not {type(conv).__name__}")
    channels, kernel = conv.in_channels, conv.weight.detach().flatten(2)  # (C', C / groups, taps)
    taps = _offsets(conv)
    reach = int(taps.abs().max()) + 1  # offsets beyond it share the outermost bias, so no tap may lie there
    attention = MultiHeadAttention(
        channels,
        len(taps),
        head_dim=channels,
        out_dim=conv.out_channels,
        relation=partial(Relative2d, max_distance=reach),
        bias=conv.bias is not None,
    )
    biases = torch.full((2 * reach + 1, 2 * reach + 1, len(taps)), FLOOR)
    rows, columns = (taps + reach).unbind(1)
    biases[rows, columns, torch.arange(len(taps))] = 0.0
    state = attention.state_dict()
    state |= {
        "query_proj.weight": torch.zeros_like(state["query_proj.weight"]),
        "key_proj.weight": torch.zeros_like(state["key_proj.weight"]),
        "value_proj.weight": torch.eye(channels).repeat(len(taps), 1),
        "out_proj.weight": torch.cat([torch.block_diag(*tap.chunk(conv.groups)) for tap in kernel.unbind(2)], dim=1),
        "relation.bias": biases.flatten(0, 1),
    }
    if conv.bias is not None:
        state["out_proj.bias"] = conv.bias.detach()
    attention.to(conv.weight).load_state_dict(state)
    return ConvAsAttention(attention, conv)


def _offsets(conv: nn.Conv2d) -> Tensor:
    """Return ``(kh * kw, 2)``, where each tap lies from the kernel's centre, row by row."""
    lines = [
        torch.arange(size) * dilation - centre
        for size, dilation, centre in zip(conv.kernel_size, conv.dilation, _centre(conv))
    ]
    return torch.cartesian_prod(*lines)


def _span(conv: nn.Conv2d) -> tuple[int, ...]:
    return tuple(dilation * (size - 1) + 1 for size, dilation in zip(conv.kernel_size, conv.dilation))


def _centre(conv: nn.Conv2d) -> tuple[int, ...]:
    return tuple(dilation * ((size - 1) // 2) for size, dilation in zip(conv.kernel_size, conv.dilation))


def _padding(conv: nn.Conv2d) -> tuple[int, int, int, int]:
    """Return what is added left, right, above and below."""
    if isinstance(conv.padding, str):  # "valid" adds nothing; "same" as much as a kernel spans, the odd cell behind
        around = [0 if conv.padding == "valid" else span - 1 for span in _span(conv)]
        (above, below), (left, right) = ((total // 2, total - total // 2) for total in around)
        return left, right, above, below
    rows, columns = conv.padding
    return columns, columns, rows, rows
