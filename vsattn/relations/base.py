"""The base of all relations, and the pairs that they are asked about."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from vsattn.errors import ShapeError
from vsattn.structure import EdgeList, Full, Structure
from vsattn.structure.base import of_edges
from vsattn.vectorset import VectorSet


class Pairs:
    """What both forms of pairs share; S is their shape."""

    def beyond_prefix(self) -> Tensor | None:
        """Return bool, False where a prefix vector takes part, that broadcasts to S; None when none does."""
        raise NotImplementedError(f"{type(self).__name__} must define beyond_prefix()")

    def without_prefix(self, values: Tensor) -> Tensor:
        """Return what a relation says of the pairs, ``(*S, ...)``, 0 where a prefix vector takes part."""
        keep = self.beyond_prefix()
        if keep is None:
            return values
        return values.masked_fill(~keep.reshape(keep.shape + (1,) * (values.ndim - keep.ndim)), 0.0)


@dataclass(frozen=True)
class Pair(Pairs):
    """All pairs of a query set and a key set, S = ``(B|1, Nq, Nk)``; ``rows`` restricts the queries."""

    query_set: VectorSet
    key_set: VectorSet
    rows: slice = field(default_factory=lambda: slice(None))
    structure: Structure = field(default_factory=Full)

    def offsets(self) -> Tensor:
        """Return key position minus query position, ``(*S, P)``."""
        query, key = _positions(self.query_set, self.key_set)
        return key[:, None, :, :] - query[:, self.rows, None, :]

    def edge_attr(self) -> Tensor:
        """Return the features of the edges that join the pairs, ``(*S, F)``, zero where none does."""
        edges = self.structure.edge_list(self.query_set, self.key_set)
        attr = _known(self.structure.edge_features(self.query_set, self.key_set), self.structure)
        assert edges is not None
        batch, num_queries, num_keys = len(self.query_set.x), self.query_set.num_vectors, self.key_set.num_vectors
        sample, query = edges.query // num_queries, edges.query % num_queries
        start, stop, _ = self.rows.indices(num_queries)
        if (start, stop) != (0, num_queries):
            inside = (query >= start) & (query < stop)
            sample, query, attr = sample[inside], query[inside] - start, attr[inside]
            key = edges.key[inside] % num_keys
        else:
            key = edges.key % num_keys
        return attr.new_zeros(batch, stop - start, num_keys, attr.shape[1]).index_put((sample, query, key), attr)

    def beyond_prefix(self) -> Tensor | None:
        num_query, num_key = self.query_set.num_prefix, self.key_set.num_prefix
        if not num_query and not num_key:
            return None
        device = self.query_set.x.device
        query = torch.arange(self.query_set.num_vectors, device=device)[self.rows] >= num_query
        key = torch.arange(self.key_set.num_vectors, device=device) >= num_key
        return (query[:, None] & key[None, :])[None]

    def match(self, query: Tensor, table: Tensor, index: Tensor) -> Tensor:
        """Return ``q_i . table[index_ij]``, ``(*S, H)``, for ``table (R, d)`` and ``index`` of shape S.

        Each query meets each row of the table once, so nothing of shape ``(*S, d)`` is made.
        """
        scores = query @ table.to(query.dtype).T  # (B, H, Nq, R)
        where = index[:, None].expand(*scores.shape[:3], -1)
        return scores.gather(-1, where).permute(0, 2, 3, 1)


@dataclass(frozen=True)
class EdgePair(Pairs):
    """The pairs of an edge list, S = ``(E,)``, asked as :class:`Pair` is."""

    query_set: VectorSet
    key_set: VectorSet
    edges: EdgeList
    features: Tensor | None
    structure: Structure

    def offsets(self) -> Tensor:
        query, key = _positions(self.query_set, self.key_set)
        batch = len(self.query_set.x)
        return of_edges(key, batch, self.edges.key) - of_edges(query, batch, self.edges.query)

    def edge_attr(self) -> Tensor:
        return _known(self.features, self.structure)

    def beyond_prefix(self) -> Tensor | None:
        num_query, num_key = self.query_set.num_prefix, self.key_set.num_prefix
        if not num_query and not num_key:
            return None
        query = self.edges.query % self.query_set.num_vectors >= num_query
        return query & (self.edges.key % self.key_set.num_vectors >= num_key)

    def match(self, query: Tensor, table: Tensor, index: Tensor) -> Tensor:
        scores = query @ table.to(query.dtype).T  # (Nq, H, R)
        return scores[self.edges.query, :, index]


class Relation(nn.Module):
    """Base of all relations.

    A relation overrides any of ``to_score``, ``to_key`` and ``to_value``; ``parts`` names those it has.
    A kernel that does not support one of them refuses the relation. Pairs with a prefix vector get zero.
    Pairs come dense, S = ``(B|1, Nq, Nk)``, or along edges, S = ``(E,)``; the same lines serve both.

    Args:
        num_heads: H.
        head_dim: d.
    """

    parts: frozenset[str] = frozenset()

    def __init__(self, num_heads: int, head_dim: int) -> None:
        super().__init__()
        self.num_heads, self.head_dim = num_heads, head_dim

    def to_score(self, query: Tensor, pair: Pair | EdgePair) -> Tensor:
        """Return what is added to the scores, ``(*S, H)``; ``query`` is ``(B, H, Nq, d)``, for edges ``(Nq, H, d)``."""
        raise NotImplementedError(f"{type(self).__name__} adds nothing to the scores")

    def to_key(self, pair: Pair | EdgePair) -> Tensor:
        """Return what is added to each query's keys, ``(*S, H|1, d)``."""
        raise NotImplementedError(f"{type(self).__name__} adds nothing to the keys")

    def to_value(self, pair: Pair | EdgePair) -> Tensor:
        """Return what is added to each query's values, ``(*S, H|1, d)``."""
        raise NotImplementedError(f"{type(self).__name__} adds nothing to the values")


def _positions(query_set: VectorSet, key_set: VectorSet) -> tuple[Tensor, Tensor]:
    query, key = query_set.positions(), key_set.positions()
    if query.shape[-1] != key.shape[-1]:
        raise ShapeError(f"queries have {query.shape[-1]} coordinates, keys {key.shape[-1]}")
    return query, key


def _known(features: Tensor | None, structure: Structure) -> Tensor:
    if features is None:
        raise ShapeError(
            f"this relation reads edge_attr, and {type(structure).__name__} has none: give Edges(edge_index, edge_attr)"
        )
    return features
