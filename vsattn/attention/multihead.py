"""The module: attention with weights, in heads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from vsattn.attention.cache import KeyValue
from vsattn.attention.functional import attention_weights, make_case, run_case
from vsattn.attention.observing import Observable
from vsattn.errors import ConfigError, ShapeError
from vsattn.positions import Rotary
from vsattn.relations import Relation
from vsattn.scores import ScaledDot, Score
from vsattn.structure import Full, Structure
from vsattn.vectorset import VectorSet


def as_set(vectors: VectorSet | Tensor) -> VectorSet:
    """Return a set as it is, and a tensor ``(B, N, D)`` as a free set without padding."""
    return vectors if isinstance(vectors, VectorSet) else VectorSet(vectors)


def _without_padding(values: Tensor, key_set: VectorSet) -> Tensor:
    """Zero the padded rows of values that did not come as a set, which does it when it is made."""
    return values if key_set.mask is None else values.masked_fill(~key_set.mask[..., None], 0.0)


class MultiHeadAttention(nn.Module, Observable):
    """``concat(head_1 .. head_H) W_o`` with ``head_h = attend(Q W_q, K W_k, V W_v)``.

    Args:
        embed_dim: width of the queries.
        num_heads: H.
        head_dim: width of each head; None is ``embed_dim / num_heads``, and ``embed_dim`` gives heads of full width.
        num_key_value_heads: heads of keys and values, a divisor of H that groups of query heads share; None is H.
        key_dim: width of the keys before projection; None is ``embed_dim``.
        value_dim: the same for the values; None is ``key_dim``.
        out_dim: width of the output; None is ``embed_dim``.
        score: class or partial, called with ``(num_heads, head_dim)``.
        relation: class or partial, called with ``(num_heads, head_dim)``, or None.
        rotary: class or partial, called with ``(head_dim)``, or None; turns queries and keys by their positions.
        structure: who may attend to whom by this layer. Self-attention adds the set's own structure by ``&``;
            cross-attention uses the layer's alone.
        is_global: this layer drops the set's `Edges` and `Window`, so that all see all, within mask and `Segments`.
        dropout: probability of dropping a weight in training.
        bias: whether the projections have biases.

    Raises:
        ConfigError: when ``embed_dim`` is not a multiple of ``num_heads`` and no ``head_dim`` is given, or other sizes
            do not divide.

    Source: Vaswani et al. 2017, section 3.2.2.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        *,
        head_dim: int | None = None,
        num_key_value_heads: int | None = None,
        key_dim: int | None = None,
        value_dim: int | None = None,
        out_dim: int | None = None,
        score: Callable[..., Score] = ScaledDot,
        relation: Callable[..., Relation] | None = None,
        rotary: Callable[..., Rotary] | None = None,
        structure: Structure = Full(),
        is_global: bool = False,
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
        shared = num_heads if num_key_value_heads is None else num_key_value_heads
        if shared < 1 or num_heads % shared:
            raise ConfigError(f"num_key_value_heads divides num_heads {num_heads}; {shared} does not")
        for name, width in (("key_dim", key_dim), ("value_dim", value_dim), ("out_dim", out_dim)):
            if width is not None and width < 1:
                raise ConfigError(f"{name} is at least 1, not {width}")
        if not 0.0 <= dropout < 1.0:
            raise ConfigError(f"MultiHeadAttention.dropout is in [0, 1), not {dropout}")
        head_dim = embed_dim // num_heads if head_dim is None else head_dim
        key_dim = embed_dim if key_dim is None else key_dim
        value_dim = key_dim if value_dim is None else value_dim
        self.embed_dim, self.num_heads, self.head_dim, self.num_key_value_heads = embed_dim, num_heads, head_dim, shared
        self.structure, self.is_global, self.dropout = structure, is_global, dropout
        self.query_proj = nn.Linear(embed_dim, num_heads * head_dim, bias=bias)
        self.key_proj = nn.Linear(key_dim, shared * head_dim, bias=bias)
        self.value_proj = nn.Linear(value_dim, shared * head_dim, bias=bias)
        self.out_proj = nn.Linear(num_heads * head_dim, embed_dim if out_dim is None else out_dim, bias=bias)
        self.score = score(num_heads, head_dim)
        self.relation = None if relation is None else relation(num_heads, head_dim)
        self.rotary = None if rotary is None else rotary(head_dim)
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
            What ``query`` was, tensor or set, with width ``out_dim``; a set keeps mask, pos, structure, layout.

        Raises:
            ShapeError: when lengths, widths or batch sizes do not fit.
        """
        query_set, key_set, (q, k, v), combined = self.prepare(query, key, value)
        combined = combined if structure is None else combined & structure
        mixed = self._mix(q, k, v, query_set, key_set, combined)
        output = query_set.replace(x=mixed) if isinstance(query, VectorSet) else mixed
        if not return_weights:
            return output
        weights = attention_weights(q, k, query_set, key_set, combined, score=self.score, relation=self.relation)
        return output, weights

    def keys_and_values(self, key: VectorSet, value: Tensor | None = None) -> KeyValue:
        """Project the keys and values of a set once, to be read by :meth:`read` as often as needed."""
        values = key.x if value is None else value
        self._check(None, key.x, values)
        values = values if value is None else _without_padding(values, key)
        k, v = self._rotated(self._heads(key.x, self.key_proj), key), self._heads(values, self.value_proj)
        return KeyValue(k, v, key.replace(x=key.x[..., :0], structure=Full()))

    def read(self, query: VectorSet, cache: KeyValue, *, structure: Structure | None = None) -> VectorSet:
        """Attend from ``query`` to cached keys and values, by the layer's structure and the one given."""
        self._check(query.x, cache.key.transpose(1, 2), None)
        q = self._rotated(self._heads(query.x, self.query_proj), query)
        combined = self.structure if structure is None else self.structure & structure
        return query.replace(x=self._mix(q, cache.key, cache.value, query, cache.key_set, combined))

    def prepare(
        self, query: VectorSet | Tensor, key: VectorSet | Tensor | None, value: VectorSet | Tensor | None
    ) -> tuple[VectorSet, VectorSet, tuple[Tensor, Tensor, Tensor], Structure]:
        """Return the two sets, the projected ``(q, k, v)``, and who may attend to whom by layer and set."""
        query_set = as_set(query)
        is_self = key is None or key is query
        key_set = query_set if key is None or is_self else as_set(key)
        if isinstance(value, VectorSet) and value is not key_set and value.mask is not None:
            raise ShapeError("the mask belongs to the keys: give key=VectorSet(x, mask), and value as a tensor")
        values = key_set.x if value is None else value.x if isinstance(value, VectorSet) else value
        self._check(query_set.x, key_set.x, values)
        values = values if value is None else _without_padding(values, key_set)
        structure = self.structure
        if is_self:
            structure = structure & (query_set.structure.unbounded() if self.is_global else query_set.structure)
        q, k, v = self.project(query_set.x, key_set.x, values)
        return query_set, key_set, (self._rotated(q, query_set), self._rotated(k, key_set), v), structure

    def project(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Project and cut into heads: ``(B, H, N, head_dim)``; keys and values have ``num_key_value_heads``."""
        return (
            self._heads(query, self.query_proj),
            self._heads(key, self.key_proj),
            self._heads(value, self.value_proj),
        )

    def _heads(self, vectors: Tensor, projection: nn.Linear) -> Tensor:
        return projection(vectors).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)

    def _rotated(self, heads: Tensor, vector_set: VectorSet) -> Tensor:
        return heads if self.rotary is None else self.rotary(heads, vector_set)

    def _mix(
        self, q: Tensor, k: Tensor, v: Tensor, query_set: VectorSet, key_set: VectorSet, structure: Structure
    ) -> Tensor:
        dropout = self.dropout if self.training else 0.0
        case = make_case(q, k, v, query_set, key_set, structure, self.score, self.relation, dropout)
        heads = run_case(case, module=self)
        return self.out_proj(heads.transpose(1, 2).flatten(2))

    def _check(self, query: Tensor | None, key: Tensor, value: Tensor | None) -> None:
        given = [t for t in (query, key, value) if t is not None]
        if any(t.shape[0] != key.shape[0] for t in given) or (value is not None and key.shape[:2] != value.shape[:2]):
            raise ShapeError(
                "query, key, value share B, and key and value share N; "
                f"got {', '.join(str(tuple(t.shape)) for t in given)}"
            )
        projections = [("query", query, self.query_proj)]
        if value is not None:
            projections += [("key", key, self.key_proj), ("value", value, self.value_proj)]
        for name, vectors, projection in projections:
            if vectors is not None and vectors.shape[-1] != projection.in_features:
                raise ShapeError(
                    f"{name} has width {vectors.shape[-1]}; this layer was made for {projection.in_features} "
                    "(embed_dim, key_dim, value_dim)"
                )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> MultiHeadAttention:
        super()._apply(fn, recurse)
        with torch.no_grad():  # a structure's tensors move with the weights
            self.structure = tree_map_only(
                Tensor, lambda t: fn(t.detach()).requires_grad_(t.requires_grad), self.structure
            )
        return self

    def extra_repr(self) -> str:
        return f"embed_dim={self.embed_dim}, num_heads={self.num_heads}, head_dim={self.head_dim}"
