"""The kernel for graphs: work and memory grow with the edges, not with the pairs."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from vsattn.attention.case import Case
from vsattn.relations import EdgePair
from vsattn.sparse import edge_dot, edge_softmax, edge_sum, segment_sum
from vsattn.structure import EdgeList, Edges


def edges_refuses(case: Case) -> str | None:
    """Say why a case has no list of edges, or return None."""
    if case.edges is None:
        return f"{type(case.structure).__name__} is no graph: Edges, alone or with others by &, or | of Edges"
    if case.score.normalizer != "softmax":
        return f"{case.score.normalizer} is computed for dense rows alone"
    return None


def edge_attention(case: Case) -> Tensor:
    """Gather, softmax among each query's edges, and sum; ``(B, H, Nq, dv)``; 0 for a query without an edge.

    Half precision is computed in float32: sparse products do not exist there.
    """
    pair, value, weights = edge_weights(case)
    with torch.autocast(case.query.device.type, enabled=False):
        weights = F.dropout(weights, case.dropout, training=case.dropout > 0)
        output = edge_sum(weights, value, pair.edges)  # (B * Nq, H, dv)
        if case.relation is not None and case.adds("to_value"):
            added = pair.without_prefix(case.relation.to_value(pair)) * weights[..., None]  # (E, H, dv)
            output = output + segment_sum(added.flatten(1), pair.edges).unflatten(-1, added.shape[1:])
    return by_head(output, case)


def edge_weights(case: Case) -> tuple[EdgePair, Tensor, Tensor]:
    """Return the pairs, the values ``(B * Nk, H, dv)``, and the weights ``(E, H)`` by which each query mixes them."""
    edges, features, allowed = listed_pairs(case)
    exact = torch.float64 if case.query.dtype == torch.float64 else torch.float32
    with torch.autocast(case.query.device.type, enabled=False):
        query, key, value = (t.to(exact).transpose(1, 2).flatten(0, 1) for t in (case.query, case.key, case.value))
        pair = EdgePair(case.query_set, case.key_set, edges, features, case.structure)
        return pair, value, edge_softmax(_scores(case, query, key, pair, exact), edges, allowed)


def by_head(output: Tensor, case: Case) -> Tensor:
    """Return ``(B * Nq, H, dv)`` as ``(B, H, Nq, dv)``, in the type of the queries."""
    return output.unflatten(0, (len(case.query), case.query.shape[2])).transpose(1, 2).to(case.query.dtype)


def listed_pairs(case: Case) -> tuple[EdgeList, Tensor | None, Tensor | None]:
    """Return the pairs to compute, their features ``(E, F)``, and which are allowed, bool ``(E,)`` (None is all)."""
    structure, query_set, key_set = case.structure, case.query_set, case.key_set
    edges, features = case.edges, structure.edge_features(query_set, key_set)
    assert edges is not None, "the kernel table sends only structures with edges here"
    allowed = None if isinstance(structure, Edges) else structure.permits(query_set, key_set, edges.edge_index)
    if query_set.num_prefix or key_set.num_prefix:
        if allowed is not None:
            edges = EdgeList(edges.key[allowed], edges.query[allowed], edges.num_queries, edges.num_keys)
            features, allowed = None if features is None else features[allowed], None
        joined = edges.union(_prefix_pairs(case))
        edges, features = joined, None if features is None else joined.spread(features, edges)
    if key_set.mask is not None:
        real = key_set.mask.flatten()[edges.key]
        allowed = real if allowed is None else allowed & real
    return edges, features, allowed


def _scores(case: Case, query: Tensor, key: Tensor, pair: EdgePair, dtype: torch.dtype) -> Tensor:
    """Return the scores with what the relation adds, ``(E, H)``."""
    edges, relation = pair.edges, case.relation
    if relation is not None and case.adds("to_key"):
        keys = key.index_select(0, edges.key) + pair.without_prefix(relation.to_key(pair))
        scores = case.score.pairwise(query.index_select(0, edges.query), keys)
    elif (dot := case.score.as_dot(query.transpose(0, 1)[None], key.transpose(0, 1)[None])) is not None:
        q, k = (t.squeeze(0).transpose(0, 1) for t in dot[:2])
        scores = edge_dot(q, k, edges) * dot[2]
    else:
        scores = case.score.along(query, key, edges)
    if relation is not None and case.adds("to_score"):
        scores = scores + pair.without_prefix(relation.to_score(query, pair)).to(dtype)
    return scores


def _prefix_pairs(case: Case) -> EdgeList:
    """Return the pairs in which a prefix vector takes part: it sees all, and all see it."""
    batch, num_queries, num_keys = len(case.query), case.query_set.num_vectors, case.key_set.num_vectors
    device = case.query.device
    query, key = torch.arange(num_queries, device=device), torch.arange(num_keys, device=device)
    seeing = torch.cartesian_prod(query[: case.query_set.num_prefix], key)
    seen = torch.cartesian_prod(query[case.query_set.num_prefix :], key[: case.key_set.num_prefix])
    pairs = torch.cat([seeing, seen]).T  # (2, P): query, key of one sample
    sample = torch.arange(batch, device=device)[:, None]
    query, key = (sample * num_queries + pairs[0]).flatten(), (sample * num_keys + pairs[1]).flatten()
    return EdgeList(key, query, batch * num_queries, batch * num_keys)
