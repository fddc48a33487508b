"""The parts of a Transformer, made from the linear maps and norms of a peer's."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from vsattn.attention import MultiHeadAttention
from vsattn.convert.transfer import Transfer
from vsattn.encoders import TransformerEncoder
from vsattn.layers import FeedForward, LayerNorm, TransformerBlock

Activation = Literal["gelu", "relu"]


def attention(
    transfer: Transfer, num_heads: int, query: Any, key: Any, value: Any, out: Any, *, dropout: float
) -> MultiHeadAttention:
    """Return scaled dot-product attention with the four projections, each ``(D, D)``."""
    ours = MultiHeadAttention(query.in_features, num_heads, dropout=dropout)
    pairs = ((ours.query_proj, query), (ours.key_proj, key), (ours.value_proj, value), (ours.out_proj, out))
    for own, theirs in pairs:
        transfer.copy(own, theirs)
    return ours


def feed_forward(transfer: Transfer, up: Any, down: Any, activation: Activation, dropout: float) -> FeedForward:
    """Return ``down(activation(up(x)))``."""
    ours = FeedForward(up.in_features, hidden_dim=up.out_features, activation=activation, dropout=dropout)
    transfer.copy(ours.up, up)
    transfer.copy(ours.down, down)
    return ours


def layer_norm(transfer: Transfer, theirs: Any) -> LayerNorm:
    """Return the same norm, with its ``eps``; either of its weights may be missing."""
    transfer.require(theirs, nn.LayerNorm)
    return transfer.copy(LayerNorm(theirs.normalized_shape[-1], eps=theirs.eps), theirs)


def activation_of(transfer: Transfer, module: nn.Module, function: Any) -> Activation:
    """Return our name of the activation that ``module`` of the peer's uses."""
    if function is F.relu or isinstance(function, nn.ReLU):
        return "relu"
    exact = function is F.gelu or getattr(function, "approximate", None) == "none"
    transfer.refuse(module, not exact, f"has the activation {function!r}, where relu and the exact gelu are known")
    return "gelu"


def same_dropout(transfer: Transfer, module: nn.Module, *rates: float) -> float:
    """Return the rate that all branches of a layer share."""
    transfer.refuse(module, len(set(rates)) > 1, f"has branches of different dropout {rates}, where one rate is known")
    return rates[0]


def block(
    attention: MultiHeadAttention,
    feed_forward: FeedForward,
    norms: tuple[LayerNorm, LayerNorm],
    *,
    is_pre_norm: bool,
    dropout: float,
) -> TransformerBlock:
    """Return a layer made of these parts."""
    placement: Literal["pre", "post"] = "pre" if is_pre_norm else "post"
    ours = TransformerBlock(
        attention, feed_forward, norm=partial(LayerNorm, 1), norm_placement=placement, dropout=dropout
    )
    ours.attention_norm, ours.feed_forward_norm = norms
    return ours


def encoder(
    blocks: Sequence[nn.Module], *, norm: LayerNorm | None, dropout: float = 0.0, prefix: Tensor | None = None
) -> TransformerEncoder:
    """Return an encoder of these layers.

    Args:
        norm: after the last layer; peers have it, or not, with either placement of the norms.
        dropout: on the input.
        prefix: learned vectors before each set ``(P, D)``.
    """
    ours = TransformerEncoder(1, 1, 1)
    ours.blocks, ours.norm, ours.dropout = nn.ModuleList(blocks), norm, nn.Dropout(dropout)
    ours.prefix = None if prefix is None else nn.Parameter(prefix.detach().clone(), prefix.requires_grad)
    return ours
