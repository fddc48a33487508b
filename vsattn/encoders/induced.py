"""The Set Transformer: vectors meet through a few learned ones, so that the work is linear in their number."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from vsattn.attention import MultiHeadAttention
from vsattn.encoders.base import Encoder, refuse_structure
from vsattn.errors import ConfigError
from vsattn.layers import FeedForward, LayerNorm, Norm, NormPlacement, ResidualBlock, drop_path_rates
from vsattn.structure import Full
from vsattn.vectorset import VectorSet


class AttentionBlock(ResidualBlock):
    """A set X attends to a set Y: ``norm(H + feed_forward(H))`` with ``H = norm(X + attention(X, Y))``.

    This is MAB, the one primitive that the Set Transformer is made of (Lee et al. 2019, eqs. 6 and 7). With pre-norm,
    ``H + feed_forward(norm(H))`` with ``H = X + attention(norm(X), norm(Y))``, it is the cross-attention of the
    Perceiver (Jaegle et al. 2021, section 3.1).

    Args:
        attention: its ``embed_dim`` is the width of X, its ``key_dim`` that of Y.
        feed_forward: maps ``(B, N, D)`` to ``(B, N, D)``.
        norm: class or partial, called with a width.
        norm_placement, dropout, drop_path: see :class:`vsattn.layers.ResidualBlock`.

    Raises:
        ConfigError: when the attention asks for positions or a structure: learned vectors have none.
    """

    def __init__(
        self,
        attention: MultiHeadAttention,
        feed_forward: nn.Module,
        *,
        norm: Callable[..., Norm] = LayerNorm,
        norm_placement: NormPlacement = "post",
        dropout: float = 0.0,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__(norm_placement, dropout=dropout, drop_path=drop_path)
        for part in (attention.relation, attention.rotary, attention.structure):
            if part is not None and not isinstance(part, Full):
                raise ConfigError(
                    "learned vectors (inducing, latent, seed) have no positions and see all; leave out "
                    f"{type(part).__name__}"
                )
        width, key_width = attention.embed_dim, attention.key_proj.in_features
        self.attention, self.feed_forward = attention, feed_forward
        make = partial(norm, width)
        self.attention_norm, self.feed_forward_norm = make(), make()
        self.attention_out_norm, self.feed_forward_out_norm = self.out_norm(make), self.out_norm(make)
        self.key_norm = None if norm_placement == "post" else norm(key_width)

    def forward(self, query: VectorSet, key: VectorSet) -> VectorSet:
        """Map X ``(B, Nq, D)`` to ``(B, Nq, D)``, given Y ``(B, Nk, Dk)``."""
        if self.key_norm is not None:
            key = key.replace(x=self.key_norm(key.x, key.mask))

        def attention(x: Tensor) -> Tensor:
            return self.attention(query.replace(x=x), key).x

        x = self.residual(query.x, attention, self.attention_norm, self.attention_out_norm, query.mask)
        x = self.residual(x, self.feed_forward, self.feed_forward_norm, self.feed_forward_out_norm, query.mask)
        return query.replace(x=x)


class InducedBlock(nn.Module):
    """``ISAB(X) = MAB(X, H)`` with ``H = MAB(I, X)`` and I a few learned vectors (Lee et al. 2019, eqs. 9 and 10).

    Args:
        num_inducing: M, the number of learned vectors.
        inducing: the block in which they attend to the set.
        outer: the block in which the set attends to what they found.
    """

    def __init__(self, num_inducing: int, *, inducing: AttentionBlock, outer: AttentionBlock) -> None:
        super().__init__()
        self.vectors = learned_vectors(num_inducing, inducing.attention.embed_dim)
        self.inducing, self.outer = inducing, outer

    def forward(self, vector_set: VectorSet) -> VectorSet:
        """Map ``(B, N, D)`` to ``(B, N, D)`` in ``2 B N M`` comparisons."""
        return self.outer(vector_set, self.inducing(beside(vector_set, self.vectors), vector_set))


class InducedEncoder(Encoder):
    """A stack of induced set attention blocks, linear in N (Set Transformer, Lee et al. 2019, section 3.1).

    Args:
        dim: D.
        num_layers: how many blocks, of two attentions each.
        num_heads: heads of each attention.
        num_inducing: M, learned vectors of each block, through which all others meet.
        attention: class or partial, called with ``(dim, num_heads)``; without relation, rotary and structure.
        feed_forward: class or partial, called with ``(dim)``.
        norm: class or partial, called with ``(dim)``.
        norm_placement: ``"post"``, as in the paper, ``"pre"`` or ``"sandwich"`` (and one more norm at the end).
        dropout: on the residual branches and on the input.
        drop_path: of the last layer, on the set's own branches; it grows linearly from 0 at the first.
    """

    def __init__(
        self,
        dim: int,
        num_layers: int,
        num_heads: int,
        *,
        num_inducing: int = 16,
        attention: Callable[..., MultiHeadAttention] = MultiHeadAttention,
        feed_forward: Callable[..., FeedForward] = FeedForward,
        norm: Callable[..., Norm] = LayerNorm,
        norm_placement: NormPlacement = "post",
        dropout: float = 0.0,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        if num_layers < 1:
            raise ConfigError(f"InducedEncoder.num_layers is at least 1, not {num_layers}")

        def block(drop_path: float = 0.0) -> AttentionBlock:
            return AttentionBlock(
                attention(dim, num_heads),
                feed_forward(dim),
                norm=norm,
                norm_placement=norm_placement,
                dropout=dropout,
                drop_path=drop_path,
            )

        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            InducedBlock(num_inducing, inducing=block(), outer=block(rate))
            for rate in drop_path_rates(drop_path, num_layers)
        )
        self.norm = None if norm_placement == "post" else norm(dim)

    def forward(self, vector_set: VectorSet) -> VectorSet:
        """Map ``(B, N, D)`` to ``(B, N, D)``; prefix vectors are vectors like the others.

        Raises:
            ShapeError: for a set that has a structure of its own.
        """
        refuse_structure(vector_set, self)
        vector_set = vector_set.replace(x=self.dropout(vector_set.x))
        for block in self.blocks:
            vector_set = block(vector_set)
        return vector_set if self.norm is None else vector_set.replace(x=self.norm(vector_set.x, vector_set.mask))


def learned_vectors(count: int, dim: int) -> nn.Parameter:
    """Return ``(count, dim)`` learned vectors."""
    if count < 1:
        raise ConfigError(f"there is at least one learned vector (inducing, latent, seed), not {count}")
    return nn.Parameter(nn.init.xavier_uniform_(torch.empty(count, dim)))


def beside(vector_set: VectorSet, vectors: Tensor) -> VectorSet:
    """Return learned vectors ``(M, D)`` as a set for each sample of another set."""
    return VectorSet(vectors.to(vector_set.x.dtype).expand(vector_set.x.shape[0], -1, -1))
