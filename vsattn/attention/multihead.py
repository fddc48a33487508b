"""The module: attention with weights, in heads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from vsattn.attention.functional import attend, attention_weights
from vsattn.errors import ConfigError, ShapeError
from vsattn.relations import Relation
from vsattn.scores import ScaledDot, Score
from vsattn.structure import Full, Structure
from vsattn.vectorset import VectorSet


def as_set(vectors: VectorSet | Tensor) -> VectorSet:
    """Return a set as it is, and a tensor ``(B, N, D)`` as a free set without padding."""
    return vectors if isinstance(vectors, VectorSet) else VectorSet(vectors)


class MultiHeadAttention(nn.Module):
    """``concat(head_1 .. head_H) W_o`` with ``head_h = attend(Q W_q, K W_k, V W_v)``.

    Args:
        embed_dim: width of the queries and of the output.
        num_heads: H.
        head_dim: width of each head; None is ``embed_dim / num_heads``, and ``embed_dim`` gives heads of full width.
        key_dim: width of the keys before projection; None is ``embed_dim``.
        value_dim: the same for the values; None is ``key_dim``.
        score: class or partial, called with ``(num_heads, head_dim)``.
        relation: class or partial, called with ``(num_heads, head_dim)``, or None.
        structure: who may attend to whom by this layer. Self-attention adds the set's own structure by ``&``;
            cross-attention uses the layer's alone.
        dropout: probability of dropping a weight in training.
        bias: whether the projections have biases.

    Raises:
        ConfigError: when ``embed_dim`` is not a multiple of ``num_heads`` and no ``head_dim`` is given.

    Source: Vaswani et al. 2017, section 3.2.2.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        *,
        head_dim: int | None = None,
        key_dim: int | None = None,
        value_dim: int | None = None,
        score: Callable[..., Score] = ScaledDot,
        relation: Callable[..., Relation] | None = None,
        structure: Structure = Full(),
        dropout: float = 0.0,
        bias: bool = True,
    ) -> None:
        super().__init__()
        if num_heads < 1 or (head_dim is None and embed_dim % num_heads):
            raise ConfigError(
                f"embed_dim {embed_dim} cannot be cut into {num_heads} equal heads; "
                "change one of them, or give head_dim"
            )
        if head_dim is not None and head_dim < 1:
            raise ConfigError(f"head_dim is at least 1, not {head_dim}")
        if not 0.0 <= dropout < 1.0:
            raise ConfigError(f"MultiHeadAttention.dropout is in [0, 1), not {dropout}")
        head_dim = embed_dim // num_heads if head_dim is None else head_dim
        key_dim = embed_dim if key_dim is None else key_dim
        value_dim = key_dim if value_dim is None else value_dim
        self.embed_dim, self.num_heads, self.head_dim = embed_dim, num_heads, head_dim
        self.structure, self.dropout = structure, dropout
        width = num_heads * head_dim
        self.query_proj = nn.Linear(embed_dim, width, bias=bias)
        self.key_proj = nn.Linear(key_dim, width, bias=bias)
        self.value_proj = nn.Linear(value_dim, width, bias=bias)
        self.out_proj = nn.Linear(width, embed_dim, bias=bias)
        self.score = score(num_heads, head_dim)
        self.relation = None if relation is None else relation(num_heads, head_dim)
        for projection in (self.query_proj, self.key_proj, self.value_proj, self.out_proj):
            nn.init.xavier_uniform_(projection.weight)
            if bias:
                nn.init.zeros_(projection.bias)

    def forward(
        self,
        query: VectorSet | Tensor,
        key: VectorSet | Tensor | None = None,
        value: VectorSet | Tensor | None = None,
        *,
        structure: Structure | None = None,
        return_weights: bool = False,
    ) -> Any:
        """Attend from ``query`` to ``key`` and take from ``value``.

        Args:
            query: ``(B, Nq, embed_dim)``, a tensor or a set.
            key: ``(B, Nk, key_dim)``; None is self-attention.
            value: ``(B, Nk, value_dim)``; None is the keys.
            structure: one more restriction, for this call alone.
            return_weights: return ``(output, weights)`` with weights ``(B, H, Nq, Nk)``.

        Returns:
            What ``query`` was, tensor or set, with width ``embed_dim``; a set keeps mask, pos, structure, layout.

        Raises:
            ShapeError: when lengths, widths or batch sizes do not fit.
        """
        query_set, key_set, (q, k, v), combined = self.prepare(query, key, value)
        combined = combined if structure is None else combined & structure
        heads = attend(
            q, k, v, query_set, key_set, combined,
            score=self.score, relation=self.relation, dropout=self.dropout if self.training else 0.0,
        )  # fmt: skip
        mixed = self.out_proj(heads.transpose(1, 2).flatten(2))
        output = query_set.replace(x=mixed) if isinstance(query, VectorSet) else mixed
        if not return_weights:
            return output
        weights = attention_weights(q, k, query_set, key_set, combined, score=self.score, relation=self.relation)
        return output, weights

    def prepare(
        self, query: VectorSet | Tensor, key: VectorSet | Tensor | None, value: VectorSet | Tensor | None
    ) -> tuple[VectorSet, VectorSet, tuple[Tensor, Tensor, Tensor], Structure]:
        """Return the two sets, the projected ``(q, k, v)``, and who may attend to whom by layer and set."""
        query_set = as_set(query)
        is_self = key is None or key is query
        key_set = query_set if key is None or is_self else as_set(key)
        values = key_set.x if value is None else value.x if isinstance(value, VectorSet) else value
        self._check(query_set.x, key_set.x, values)
        structure = self.structure & query_set.structure if is_self else self.structure
        return query_set, key_set, self.project(query_set.x, key_set.x, values), structure

    def project(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Project and cut into heads: three tensors ``(B, H, N, head_dim)``."""
        split = (self.num_heads, self.head_dim)
        q = self.query_proj(query).unflatten(-1, split).transpose(1, 2)
        k = self.key_proj(key).unflatten(-1, split).transpose(1, 2)
        v = self.value_proj(value).unflatten(-1, split).transpose(1, 2)
        return q, k, v

    def _check(self, query: Tensor, key: Tensor, value: Tensor) -> None:
        if query.shape[0] != key.shape[0] or key.shape[:2] != value.shape[:2]:
            raise ShapeError(
                "query, key, value share B, and key and value share N; "
                f"got {tuple(query.shape)}, {tuple(key.shape)}, {tuple(value.shape)}"
            )
        projections = (
            ("query", query, self.query_proj),
            ("key", key, self.key_proj),
            ("value", value, self.value_proj),
        )
        for name, given, projection in projections:
            if given.shape[-1] != projection.in_features:
                raise ShapeError(
                    f"{name} has width {given.shape[-1]}; this layer was made for {projection.in_features} "
                    "(embed_dim, key_dim, value_dim)"
                )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> MultiHeadAttention:
        super()._apply(fn, recurse)
        self.structure = tree_map_only(Tensor, fn, self.structure)  # its tensors move with the weights
        return self

    def extra_repr(self) -> str:
        return f"embed_dim={self.embed_dim}, num_heads={self.num_heads}, head_dim={self.head_dim}"
