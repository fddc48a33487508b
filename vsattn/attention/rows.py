"""Attention weights computed once more, beside the kernel that gave the output, within bounded memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from vsattn.attention.case import Case
from vsattn.attention.edges import edge_weights
from vsattn.attention.observing import Call
from vsattn.attention.reference import logits, masked_weights, per_pair
from vsattn.relations import EdgePair
from vsattn.sparse import edge_dot
from vsattn.structure import Full

#: Queries are taken together as long as what lies between needs less than this many bytes.
CHUNK_BYTES = 32 * 2**20

#: Bytes per pair that the list of pairs and the mask take while they are made.
BYTES_PER_PAIR = 64


class RowWeights:
    """The weights ``(B, H, n, Nk)`` of some heads and queries, and their gradient.

    Args:
        call: whose.
        heads: numbers of heads.
        queries: numbers ``(n,)`` of queries.
        reduce: how heads become one, or None.
        limit: bytes that may be used.
    """

    def __init__(self, call: Call, heads: Sequence[int], queries: Tensor, reduce: str | None, *, limit: float) -> None:
        self.case, self.mix, self.heads, self.queries, self.reduce = exact(call.case), call.mix, heads, queries, reduce
        batch, num_heads, _, width = self.case.query.shape
        num_keys = self.case.key.shape[2]
        kept = 1 if reduce else len(heads)
        size = self.case.query.element_size()
        self.num_bytes = batch * kept * len(queries) * num_keys * size
        made = 2 * width if not self.case.score.is_dot or self.case.adds("to_key") else 0
        row = batch * num_keys * (num_heads * size * (4 + made) + BYTES_PER_PAIR)
        self.chunk = max(1, min(len(queries), int(min(CHUNK_BYTES, limit / 4)) // max(1, row)))
        self.overhead = self.chunk * row

    @torch.no_grad()
    def weights(self) -> tuple[Tensor, None]:
        """Return the weights, and no edges."""
        shape = (len(self.case.query), 1 if self.reduce else len(self.heads), len(self.queries), self.case.key.shape[2])
        found = torch.empty(shape, dtype=self.case.query.dtype)
        with torch.autocast(self.case.query.device.type, enabled=False):
            for places, part, allowed in self._chunks():
                weights = masked_weights(logits(part), allowed, part.score.normalizer)[:, self.heads]
                found[:, :, places] = reduced(weights, self.reduce, 1).cpu()
        return found, None

    @torch.no_grad()
    def gradient(self, grad: Tensor) -> Tensor:
        """Return the gradient of the weights for that of the output, ``(B, H, Nq, dv)``; 0 for pairs not allowed."""
        if self.mix is not None:
            return self._gradient_of_mix(grad)
        parts = []
        grad = grad.to(self.case.value.dtype)
        for _, part, allowed in self._chunks():
            rows = grad[:, :, part.rows]
            found = rows @ part.value.transpose(-2, -1)
            if part.relation is not None and part.adds("to_value"):
                added = per_pair(part, part.relation.to_value(part.pair))
                found = found + torch.einsum("bhqd,bqkhd->bhqk", rows, added)
            found = found if allowed is None else found.masked_fill(~allowed, 0.0)
            parts.append(reduced(found[:, self.heads], self.reduce, 1).cpu())
        back = torch.cat([places for places, _, _ in self._places()]).argsort()
        return torch.cat(parts, dim=2)[:, :, back]

    def _gradient_of_mix(self, grad: Tensor) -> Tensor:
        assert self.mix is not None
        with torch.enable_grad():
            weights = masked_weights(logits(self.case), self.case.allowed(), self.case.score.normalizer)
            weights = weights.detach().requires_grad_()
            (found,) = torch.autograd.grad(self.mix(weights), weights, grad)
        allowed = self.case.allowed()
        found = found if allowed is None else found.masked_fill(~allowed, 0.0)
        return reduced(found[:, self.heads][:, :, self.queries.to(found.device)], self.reduce, 1).cpu()

    def _places(self) -> Iterator[tuple[Tensor, int, int]]:
        """Yield places among the queries, and the run of queries ``start <= i < stop`` that stand there."""
        order = self.queries.argsort()
        runs = (self.queries[order].diff() != 1).nonzero().flatten() + 1
        for places in order.tensor_split(runs.tolist()):
            for part in places.split(self.chunk):
                if len(part):
                    start = int(self.queries[part[0]])
                    yield part, start, start + len(part)

    def _chunks(self) -> Iterator[tuple[Tensor, Case, Tensor | None]]:
        """Yield places, the case of these queries alone, and which keys they may attend to."""
        for places, start, stop in self._places():
            rows = slice(start, stop)
            part = dataclasses.replace(self.case, query=self.case.query[:, :, rows], rows=rows)
            yield places, part, allowed_rows(part)


class EdgeWeights:
    """The weights ``(E, H)`` along the edges of some heads and queries; arguments as in :class:`RowWeights`."""

    def __init__(self, call: Call, heads: Sequence[int], queries: Tensor, reduce: str | None, *, limit: float) -> None:
        self.case, self.mix, self.heads, self.queries, self.reduce = exact(call.case), call.mix, heads, queries, reduce
        edges, num_heads = self.case.edges, self.case.query.shape[1]
        assert edges is not None
        prefix = self.case.query_set.num_prefix * self.case.key.shape[2] * len(self.case.query) * 2
        count, size = len(edges.key) + prefix, self.case.query.element_size()
        self.num_bytes = count * ((1 if reduce else len(heads)) * size + 16)
        self.overhead = count * (num_heads * size * 3 + BYTES_PER_PAIR)

    @torch.no_grad()
    def weights(self) -> tuple[Tensor, Tensor]:
        """Return the weights and their edges ``(2, E)``."""
        pair, _, weights = edge_weights(self.case)
        kept = self._kept(pair)
        edges = torch.stack([pair.edges.key[kept], pair.edges.query[kept]]).cpu()
        return reduced(weights[kept][:, self.heads], self.reduce, 1).cpu(), edges

    @torch.no_grad()
    def gradient(self, grad: Tensor) -> Tensor:
        """Return the gradient of the weights for that of the output, ``(B, H, Nq, dv)``."""
        pair, value, weights = edge_weights(self.case)
        if self.mix is not None:
            with torch.enable_grad():
                leaf = weights.requires_grad_()
                (found,) = torch.autograd.grad(self.mix(leaf), leaf, grad)
        else:
            rows = grad.to(value.dtype).transpose(1, 2).flatten(0, 1)  # (B * Nq, H, dv)
            found = edge_dot(rows, value, pair.edges)
            if self.case.relation is not None and self.case.adds("to_value"):
                added = pair.without_prefix(self.case.relation.to_value(pair))
                found = found + (rows.index_select(0, pair.edges.query) * added).sum(-1)
        return reduced(found[self._kept(pair)][:, self.heads], self.reduce, 1).cpu()

    def _kept(self, pair: EdgePair) -> Tensor:
        """Tell which pairs are allowed, and of chosen queries, bool ``(E,)``."""
        case, edges = self.case, pair.edges
        chosen = torch.zeros(case.query.shape[2], dtype=torch.bool).index_fill_(0, self.queries, True)
        kept = chosen.to(edges.query.device)[edges.query % case.query.shape[2]]
        return kept & allowed_listed(case, edges.key, edges.query)


def exact(case: Case) -> Case:
    """Return a case in single precision at least, unless the score's or relation's own weights are in half."""
    parts = [part for part in (case.score, case.relation) if part is not None]
    if any(p.dtype in (torch.float16, torch.bfloat16) for part in parts for p in part.parameters()):
        return case
    dtype = torch.promote_types(case.query.dtype, torch.float32)
    query, key, value = (t.detach().to(dtype) for t in (case.query, case.key, case.value))
    return dataclasses.replace(case, query=query, key=key, value=value, dropout=0.0)


def allowed_rows(case: Case) -> Tensor | None:
    """Return which keys the queries of ``case.rows`` may attend to, bool ``(B|1, 1, n|1, Nk)``; None is all."""
    if isinstance(case.structure, Full):
        return case.allowed()
    batch, num_queries, num_keys = len(case.query), case.query_set.num_vectors, case.key_set.num_vectors
    device = case.query.device
    sample = torch.arange(batch, device=device)[:, None, None]
    query = sample * num_queries + torch.arange(num_queries, device=device)[case.rows][:, None]
    key = sample * num_keys + torch.arange(num_keys, device=device)
    query, key = torch.broadcast_tensors(query, key)
    return allowed_listed(case, key.flatten(), query.flatten()).view(query.shape)[:, None]


def allowed_listed(case: Case, key: Tensor, query: Tensor) -> Tensor:
    """Return which listed pairs are allowed by structure, prefix vectors and the key mask, bool ``(E,)``."""
    query_set, key_set = case.query_set, case.key_set
    allowed = case.structure.permits(query_set, key_set, torch.stack([key, query]))
    if query_set.num_prefix or key_set.num_prefix:
        allowed = allowed | (query % query_set.num_vectors < query_set.num_prefix)
        allowed = allowed | (key % key_set.num_vectors < key_set.num_prefix)
    return allowed if key_set.mask is None else allowed & key_set.mask.flatten()[key]


def reduced(weights: Tensor, reduce: str | None, dim: int) -> Tensor:
    """Put heads into one, which stays an axis."""
    if reduce is None:
        return weights
    return weights.mean(dim, keepdim=True) if reduce == "mean" else getattr(weights, f"a{reduce}")(dim, keepdim=True)
