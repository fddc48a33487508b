"""The Transformer encoder."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
from torch import nn

from vsattn.attention import MultiHeadAttention
from vsattn.encoders.base import Encoder
from vsattn.errors import ConfigError
from vsattn.layers import FeedForward, LayerNorm, Norm, TransformerBlock, drop_path_rates
from vsattn.structure import Full
from vsattn.vectorset import VectorSet


class TransformerEncoder(Encoder):
    """A stack of self-attention layers (Vaswani et al. 2017, section 3.1), pre-norm unless told otherwise.

    With ``norm_placement="deepnorm"`` each branch is ``norm(a x + f(x))`` with ``a = (2 L)^(1/4)`` for L layers, and
    values, outputs and feed-forward start ``(8 L)^(-1/4)`` as large, which lets hundreds of layers learn (Wang et
    al. 2022, "DeepNet: Scaling Transformers to 1,000 Layers", section 3, encoder only).

    Args:
        dim: D.
        num_layers: how many layers.
        num_heads: heads of each layer.
        attention: class or partial, called with ``(dim, num_heads)``.
        feed_forward: class or partial, called with ``(dim)``.
        norm: class or partial, called with ``(dim)``.
        norm_placement: ``"pre"`` or ``"sandwich"`` (and one more norm at the end), ``"post"`` or ``"deepnorm"``.
        dropout: on the residual branches and on the input.
        drop_path: of the last layer; it grows linearly from 0 at the first.
        num_prefix: learned vectors put before each set: the first is the CLS vector, the others registers.
        global_every: k, at most ``num_layers``, for a set with `Edges`: layers k, 2k, ... see the whole set, the others
            what its structure allows. None makes no layer global that ``attention`` does not make so.

    Raises:
        ConfigError: for numbers out of range.
    """

    def __init__(
        self,
        dim: int,
        num_layers: int,
        num_heads: int,
        *,
        attention: Callable[..., MultiHeadAttention] = MultiHeadAttention,
        feed_forward: Callable[..., FeedForward] = FeedForward,
        norm: Callable[..., Norm] = LayerNorm,
        norm_placement: Literal["pre", "post", "sandwich", "deepnorm"] = "pre",
        dropout: float = 0.0,
        drop_path: float = 0.0,
        num_prefix: int = 0,
        global_every: int | None = None,
    ) -> None:
        super().__init__()
        if num_layers < 1 or num_prefix < 0:
            raise ConfigError(f"num_layers is at least 1 and num_prefix at least 0, not {num_layers} and {num_prefix}")
        if norm_placement not in ("pre", "post", "sandwich", "deepnorm"):
            raise ConfigError(f"norm_placement is 'pre', 'post', 'sandwich' or 'deepnorm', not {norm_placement!r}")
        if global_every is not None and not 1 <= global_every <= num_layers:
            raise ConfigError(f"global_every is in 1 .. num_layers {num_layers}, or None, not {global_every}")
        self.prefix = nn.Parameter(torch.empty(num_prefix, dim).normal_(std=0.02)) if num_prefix else None
        self.dropout = nn.Dropout(dropout)
        own = [
            {"is_global": True} if global_every and number % global_every == 0 else {}
            for number in range(1, num_layers + 1)
        ]
        self.blocks = nn.ModuleList(
            TransformerBlock(
                attention(dim, num_heads, **arguments),
                feed_forward(dim),
                norm=partial(norm, dim),
                norm_placement="post" if norm_placement == "deepnorm" else norm_placement,
                residual_scale=(2 * num_layers) ** 0.25 if norm_placement == "deepnorm" else 1.0,
                dropout=dropout,
                drop_path=rate,
            )
            for arguments, rate in zip(own, drop_path_rates(drop_path, num_layers), strict=True)
        )
        limits = getattr(self.blocks[0].attention, "structure", Full())
        if global_every and not isinstance(limits, Full):
            raise ConfigError(
                f"global_every drops what the set's own structure forbids, not the {type(limits).__name__} that every "
                "layer has; use structure=full with it"
            )
        self.norm = norm(dim) if norm_placement in ("pre", "sandwich") else None
        if norm_placement == "deepnorm":
            for block in self.blocks:
                _scale_start(block, (8 * num_layers) ** -0.25)

    def forward(self, vector_set: VectorSet) -> VectorSet:
        """Map ``(B, N, D)`` to ``(B, num_prefix + N, D)``."""
        if self.prefix is not None:
            vector_set = vector_set.with_prefix(self.prefix)
        vector_set = vector_set.replace(x=self.dropout(vector_set.x))
        for block in self.blocks:
            vector_set = block(vector_set)
        return vector_set if self.norm is None else vector_set.replace(x=self.norm(vector_set.x, vector_set.mask))


def _scale_start(block: nn.Module, beta: float) -> None:
    """Multiply the weights and biases that DeepNorm starts smaller: values, outputs and feed-forward."""
    names = ("attention.value_proj", "attention.out_proj", "feed_forward.up", "feed_forward.down")
    modules: dict[str, Any] = dict(block.named_modules())
    missing = [name for name in names if not isinstance(modules.get(name), nn.Linear)]
    if missing:
        raise ConfigError(
            f"norm_placement='deepnorm' starts {', '.join(names)} smaller, and these layers have no {missing}; "
            "use 'pre', 'post' or 'sandwich' with them"
        )
    hidden = modules["feed_forward.down"].in_features
    with torch.no_grad():
        for name in names:
            # A gate, the first rows of `up`, keeps its start: what it multiplies is scaled already.
            rows = slice(-hidden, None) if name == "feed_forward.up" else slice(None)
            for parameter in modules[name].parameters():
                parameter[rows] *= beta
