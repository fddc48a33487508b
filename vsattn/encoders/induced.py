"""The Set Transformer: vectors meet through a few learned ones, so that the work is linear in their number."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from vsattn.attention import MultiHeadAttention
from vsattn.encoders.base import Encoder
from vsattn.errors import ConfigError, ShapeError
from vsattn.layers import DropPath, FeedForward, LayerNorm, Norm
from vsattn.structure import Full
from vsattn.vectorset import VectorSet


class AttentionBlock(nn.Module):
    """A set X attends to a set Y: ``norm(H + feed_forward(H))`` with ``H = norm(X + attention(X, Y))``.

    This is MAB, the one primitive that the Set Transformer is made of (Lee et al. 2019, eqs. 6 and 7). With pre-norm,
    ``H + feed_forward(norm(H))`` with ``H = X + attention(norm(X), norm(Y))``, it is the cross-attention of the
    Perceiver (Jaegle et al. 2021, section 3.1).

    Args:
        attention: its ``embed_dim`` is the width of X, its ``key_dim`` that of Y.
        feed_forward: maps ``(B, N, D)`` to ``(B, N, D)``.
        norm: class or partial, called with a width.
        norm_placement: ``"post"`` or ``"pre"``.
        dropout: on each branch, before the residual sum.
        drop_path: probability of skipping a branch for a sample.

    Raises:
        ConfigError: when the attention asks for positions or a structure: learned vectors have none.
    """

    def __init__(
        self,
        attention: MultiHeadAttention,
        feed_forward: nn.Module,
        *,
        norm: Callable[..., Norm] = LayerNorm,
        norm_placement: Literal["pre", "post"] = "post",
        dropout: float = 0.0,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        if norm_placement not in ("pre", "post"):
            raise ConfigError(f"norm_placement is 'pre' or 'post', not {norm_placement!r}")
        for part in (attention.relation, attention.rotary, attention.structure):
            if part is not None and not isinstance(part, Full):
                raise ConfigError(
                    "learned vectors (inducing, latent, seed) have no positions and see all; leave out "
                    f"{type(part).__name__}"
                )
        width, key_width = attention.embed_dim, attention.key_proj.in_features
        self.attention, self.feed_forward = attention, feed_forward
        self.attention_norm, self.feed_forward_norm = norm(width), norm(width)
        self.key_norm = norm(key_width) if norm_placement == "pre" else None
        self.dropout, self.drop_path = nn.Dropout(dropout), DropPath(drop_path)

    def forward(self, query: VectorSet, key: VectorSet) -> VectorSet:
        """Map X ``(B, Nq, D)`` to ``(B, Nq, D)``, given Y ``(B, Nk, Dk)``."""
        if self.key_norm is not None:
            key = key.replace(x=self.key_norm(key.x, key.mask))

        def attention(x: Tensor) -> Tensor:
            return self.attention(query.replace(x=x), key).x

        x = self._residual(query.x, attention, self.attention_norm, query.mask)
        return query.replace(x=self._residual(x, self.feed_forward, self.feed_forward_norm, query.mask))

    def _residual(self, x: Tensor, branch: Callable[[Tensor], Tensor], norm: nn.Module, mask: Tensor | None) -> Tensor:
        if self.key_norm is not None:
            return x + self.drop_path(self.dropout(branch(norm(x, mask))))
        return norm(x + self.drop_path(self.dropout(branch(x))), mask)


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
        norm_placement: ``"post"``, as in the paper, or ``"pre"`` (and one more norm at the end).
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
        norm_placement: Literal["pre", "post"] = "post",
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
        self.norm = norm(dim) if norm_placement == "pre" else None

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


def drop_path_rates(last: float, num_layers: int) -> list[float]:
    """Return the drop path of each layer, which grows linearly from 0 to that of the last."""
    return [last * layer / (num_layers - 1) if num_layers > 1 else last for layer in range(num_layers)]


def refuse_structure(vector_set: VectorSet, encoder: Encoder) -> None:
    """Raise ShapeError for a set with a structure of its own, which learned vectors cannot keep."""
    if not isinstance(vector_set.structure, Full):
        name, structure = type(encoder).__name__, type(vector_set.structure).__name__
        raise ShapeError(f"{name} joins all vectors through learned ones, whatever the set's {structure} says; "
                         "give it a Full set")  # fmt: skip
