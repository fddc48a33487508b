"""The Transformer encoder."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from torch import nn

from vsattn.attention import MultiHeadAttention
from vsattn.encoders.base import Encoder
from vsattn.errors import ConfigError
from vsattn.layers import FeedForward, LayerNorm, Norm, TransformerBlock
from vsattn.vectorset import VectorSet


class TransformerEncoder(Encoder):
    """A stack of self-attention layers (Vaswani et al. 2017, section 3.1), pre-norm unless told otherwise.

    Args:
        dim: D.
        num_layers: how many layers.
        num_heads: heads of each layer.
        attention: class or partial, called with ``(dim, num_heads)``.
        feed_forward: class or partial, called with ``(dim)``.
        norm: class or partial, called with ``(dim)``.
        norm_placement: ``"pre"`` (and one more norm at the end) or ``"post"``.
        dropout: on the residual branches and on the input.
        drop_path: of the last layer; it grows linearly from 0 at the first.
        num_prefix: learned vectors put before each set: the first is the CLS vector, the others registers.
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
        norm_placement: Literal["pre", "post"] = "pre",
        dropout: float = 0.0,
        drop_path: float = 0.0,
        num_prefix: int = 0,
    ) -> None:
        super().__init__()
        if num_layers < 1 or num_prefix < 0:
            raise ConfigError(f"num_layers is at least 1 and num_prefix at least 0, not {num_layers} and {num_prefix}")
        self.prefix = nn.Parameter(torch.empty(num_prefix, dim).normal_(std=0.02)) if num_prefix else None
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            TransformerBlock(
                attention(dim, num_heads),
                feed_forward(dim),
                norm=partial(norm, dim),
                norm_placement=norm_placement,
                dropout=dropout,
                drop_path=drop_path * layer / (num_layers - 1) if num_layers > 1 else drop_path,
            )
            for layer in range(num_layers)
        )
        self.norm = norm(dim) if norm_placement == "pre" else None

    def forward(self, vector_set: VectorSet) -> VectorSet:
        """Map ``(B, N, D)`` to ``(B, num_prefix + N, D)``."""
        if self.prefix is not None:
            vector_set = vector_set.with_prefix(self.prefix)
        vector_set = vector_set.replace(x=self.dropout(vector_set.x))
        for block in self.blocks:
            vector_set = block(vector_set)
        return vector_set if self.norm is None else vector_set.replace(x=self.norm(vector_set.x, vector_set.mask))
