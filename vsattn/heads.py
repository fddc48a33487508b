"""Heads: from a set of vectors to the answer, one per vector or one per set."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from vsattn.attention import MultiHeadAttention, Observable, attend
from vsattn.encoders.induced import AttentionBlock, beside, learned_vectors
from vsattn.errors import ConfigError, ShapeError
from vsattn.layers import FeedForward, LayerNorm, Norm, NormPlacement
from vsattn.vectorset import VectorSet


class Head(nn.Module):
    """Base of all heads: ``VectorSet -> logits``, ``(B, N, C)`` per vector or ``(B, C)`` per set."""

    def __init__(self, dim: int, num_classes: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.classify = nn.Linear(dim, num_classes)

    def features(self, vector_set: VectorSet) -> Tensor:
        """Return what is classified, ``(B, N, D)`` or ``(B, D)``."""
        raise NotImplementedError(f"{type(self).__name__} must define features(vector_set)")

    def forward(self, vector_set: VectorSet) -> Tensor:
        """Return the logits."""
        return self.classify(self.dropout(self.features(vector_set)))

    def labels(self, logits: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the classes that are answered, ``(B,)`` or ``(B, N)``; ``mask (B, N)`` says which vectors are real."""
        return logits.argmax(-1)

    def probabilities(self, logits: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the probability of each class for each answer, of the shape of ``logits``."""
        return logits.softmax(-1)


class VectorHead(Head):
    """One answer per vector; prefix vectors get none: ``(B, N - num_prefix, C)``."""

    def features(self, vector_set: VectorSet) -> Tensor:
        return vector_set.x[:, vector_set.num_prefix :]


class MultiTaskHead(VectorHead):
    """One answer per vector, and in training those of further columns beside it, each by a linear map of its own.

    What the columns share the encoder must learn once, which is a teacher where labels are few (multi-task learning,
    Caruana 1997; for words Collobert and Weston 2008). The logits are those of the classes alone,
    ``(B, N, C)``; within :meth:`all_columns` those of all columns follow them, ``(B, N, C + C_1 + ... + C_K)``.

    Args:
        dim: D.
        num_classes: C.
        beside: how many labels each further column has, by its name.
        dropout: on the vectors, the same for all columns.

    Raises:
        ConfigError: for no further column, or one without labels.
    """

    def __init__(self, dim: int, num_classes: int, *, beside: Mapping[str, int] | None, dropout: float = 0.0) -> None:
        super().__init__(dim, num_classes, dropout=dropout)
        if not beside or min(beside.values()) < 1:
            raise ConfigError(
                f"MultiTaskHead.beside says how many labels each further column has, such as xpos: 50, not {beside}: "
                "set data.beside (of data=conllu or ud_ewt), or choose head=vector"
            )
        self.num_classes, self.widths = num_classes, dict(beside)
        self.beside = nn.Linear(dim, sum(beside.values()))
        self._all = False

    @contextmanager
    def all_columns(self) -> Iterator[None]:
        """Let :meth:`forward` give the logits of the further columns too."""
        before, self._all = self._all, True
        try:
            yield
        finally:
            self._all = before

    def forward(self, vector_set: VectorSet) -> Tensor:
        """Return the logits."""
        x = self.dropout(self.features(vector_set))
        return torch.cat([self.classify(x), self.beside(x)], dim=-1) if self._all else self.classify(x)

    def split(self, logits: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Part the logits of all columns into those of the classes and those of each further column."""
        own, *others = logits.split([self.num_classes, *self.widths.values()], dim=-1)
        return own, dict(zip(self.widths, others, strict=True))


class TiedHead(VectorHead):
    """One answer per vector, scored by the rows of an embedding: ``x . e_c`` (Press and Wolf 2017)."""

    def __init__(self, dim: int, num_classes: int, *, dropout: float = 0.0) -> None:
        super().__init__(dim, num_classes, dropout=dropout)
        self.classify = nn.Linear(dim, num_classes, bias=False)

    def tie(self, table: nn.Embedding) -> None:
        """Take over the weight ``(C, D)`` of an embedding.

        Raises:
            ShapeError: when it has other classes or another width.
        """
        weight = table.weight
        if weight.shape != self.classify.weight.shape:
            raise ShapeError(
                f"an embedding of {tuple(weight.shape)} cannot score {tuple(self.classify.weight.shape)}: "
                "use head=vector"
            )
        self.classify.weight = weight  # type: ignore[assignment]


class CtcHead(VectorHead):
    """A label or a blank per vector, ``(B, N, C + 1)``, the blank last; CTC makes a shorter sequence of labels of them.

    Source: Graves et al. 2006, section 3.
    """

    def __init__(self, dim: int, num_classes: int, *, dropout: float = 0.0) -> None:
        super().__init__(dim, num_classes + 1, dropout=dropout)


class MeanHead(Head):
    """One answer per set, from the mean of its real vectors (prefix aside); an empty set has the mean 0."""

    def features(self, vector_set: VectorSet) -> Tensor:
        x = vector_set.x[:, vector_set.num_prefix :]
        if vector_set.mask is None:
            return x.sum(1) / max(1, x.shape[1])
        count = vector_set.mask[:, vector_set.num_prefix :].sum(1, keepdim=True)
        return x.sum(1) / count.clamp(min=1).to(x.dtype)


class ClsHead(Head):
    """One answer per set, from its first prefix vector (Devlin et al. 2019; Dosovitskiy et al. 2021, section 3.1)."""

    def features(self, vector_set: VectorSet) -> Tensor:
        if vector_set.num_prefix < 1:
            raise ShapeError("ClsHead reads a prefix vector and the set has none: give the encoder num_prefix >= 1")
        return vector_set.x[:, 0]


class AttentionHead(Head, Observable):
    """One answer per set, pooled by attention: a learned query per head looks at the real vectors themselves.

    ``softmax(q_h . x_h / sqrt(d)) x_h`` with ``x_h`` the head's part of the width. One head is the sequence
    pooling of Hassani et al. 2021, section 3.2 (CCT); learned queries that pool are Lee et al. 2019, section 3.2.

    Args:
        dim: D, a multiple of ``num_heads``.
        num_classes: C.
        num_heads: H.
        dropout: on the pooled vector.
    """

    def __init__(self, dim: int, num_classes: int, *, num_heads: int = 1, dropout: float = 0.0) -> None:
        super().__init__(dim, num_classes, dropout=dropout)
        if num_heads < 1 or dim % num_heads:
            raise ConfigError(f"AttentionHead.num_heads {num_heads} does not divide the width {dim}")
        self.num_heads = num_heads
        self.query = nn.Parameter(torch.empty(1, num_heads, 1, dim // num_heads).normal_())

    def features(self, vector_set: VectorSet) -> Tensor:
        batch, heads = vector_set.x.shape[0], self.query.shape[1]
        real = _without_prefix(vector_set)
        keys = real.x.unflatten(-1, (heads, -1)).transpose(1, 2)  # (B, H, N, d)
        query_set = VectorSet(real.x.new_zeros(batch, 1, 1))
        query = self.query.to(keys.dtype).expand(batch, -1, -1, -1)
        return attend(query, keys, keys, query_set, real, module=self).flatten(1)


class PoolingHead(Head):
    """One answer per set, pooled by attention in full: k learned seeds attend to the real vectors.

    ``PMA(Z) = MAB(S, feed_forward(Z))`` (Set Transformer, Lee et al. 2019, eq. 11); the k vectors that come out are
    joined, ``(B, k D)``, so that each seed can look for something of its own.

    Args:
        dim: D.
        num_classes: C.
        num_heads: H.
        num_seeds: k.
        attention: class or partial, called with ``(dim, num_heads)``; without relation, rotary and structure.
        feed_forward: class or partial, called with ``(dim)``; of the block.
        key_feed_forward: the same, for the vectors before the seeds look at them; None leaves it out.
        norm: class or partial, called with ``(dim)``.
        norm_placement: ``"post"``, as in the paper, ``"pre"`` or ``"sandwich"``.
        dropout: on the pooled vectors.
    """

    def __init__(
        self,
        dim: int,
        num_classes: int,
        *,
        num_heads: int = 4,
        num_seeds: int = 1,
        attention: Callable[..., MultiHeadAttention] = MultiHeadAttention,
        feed_forward: Callable[..., FeedForward] = FeedForward,
        key_feed_forward: Callable[..., FeedForward] | None = FeedForward,
        norm: Callable[..., Norm] = LayerNorm,
        norm_placement: NormPlacement = "post",
        dropout: float = 0.0,
    ) -> None:
        super().__init__(dim * num_seeds, num_classes, dropout=dropout)
        self.seeds = learned_vectors(num_seeds, dim)
        self.key_feed_forward = None if key_feed_forward is None else key_feed_forward(dim)
        block = attention(dim, num_heads), feed_forward(dim)
        self.block = AttentionBlock(*block, norm=norm, norm_placement=norm_placement)

    def features(self, vector_set: VectorSet) -> Tensor:
        real = _without_prefix(vector_set)
        if self.key_feed_forward is not None:
            real = real.replace(x=self.key_feed_forward(real.x))
        return self.block(beside(real, self.seeds), real).x.flatten(1)


def _without_prefix(vector_set: VectorSet) -> VectorSet:
    count = vector_set.num_prefix
    mask = None if vector_set.mask is None else vector_set.mask[:, count:]
    return VectorSet(vector_set.x[:, count:], mask)
