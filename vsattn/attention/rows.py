"""Attention weights computed once more, beside the kernel that gave the output, within bounded memory."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from vsattn.attention.case import Case
from vsattn.attention.edges import edge_weights
from vsattn.attention.observing import Call
from vsattn.attention.reference import logits, masked_weights, per_pair
from vsattn.relations import EdgePair
from vsattn.sparse import edge_dot
from vsattn.structure import Full

Part = TypeVar("Part", bound=nn.Module | None)

#: Queries are taken together as long as what lies between needs less than this many bytes.
CHUNK_BYTES = 32 * 2**20

#: Numbers per weight that a chunk takes: four stages live at once, and the allocator keeps as much again.
NUMBERS_PER_WEIGHT = 8

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
        gradients: whether :meth:`gradient` will be asked for.
    """

    def __init__(
        self, call: Call, heads: Sequence[int], queries: Tensor, reduce: str | None, *, limit: float, gradients: bool
    ) -> None:
        self.case, self.mix, self.heads, self.queries, self.reduce = call.case, call.mix, heads, queries, reduce
        batch, num_heads, num_queries, width = self.case.query.shape
        num_keys, size = self.case.key.shape[2], exact_dtype(self.case).itemsize
        self.shape = (batch, 1 if reduce else len(heads), len(queries), num_keys)
        self.num_bytes = math.prod(self.shape) * size
        made = 2 * width if not self.case.score.is_dot or self.case.adds("to_key") or self.case.adds("to_value") else 0
        row = batch * num_keys * (num_heads * size * (NUMBERS_PER_WEIGHT + made) + BYTES_PER_PAIR)
        self.chunk = max(1, min(len(queries), int(min(CHUNK_BYTES, limit / 4)) // max(1, row)))
        hops = 6 * batch * num_heads * num_queries * num_keys * size if gradients and self.mix else 0
        self.overhead = max(self.chunk * row, hops) + exact_bytes(self.case)

    @torch.no_grad()
    def weights(self) -> tuple[Tensor, None]:
        """Return the weights, and no edges."""
        case = exact(self.case)
        found = torch.empty(self.shape, dtype=case.query.dtype)
        with torch.autocast(case.query.device.type, enabled=False):
            for places, part, allowed in self._chunks(case):
                weights = masked_weights(logits(part), allowed, part.score.normalizer)[:, self.heads]
                found[:, :, places] = reduced(weights, self.reduce).cpu()
        return found, None

    @torch.no_grad()
    def gradient(self, grad: Tensor) -> Tensor:
        """Return the gradient of the weights for that of the output, ``(B, H, Nq, dv)``; 0 for pairs not allowed."""
        case = exact(self.case)
        with torch.autocast(case.query.device.type, enabled=False):
            if self.mix is not None:
                return self._gradient_of_mix(case, grad)
            found = torch.empty(self.shape, dtype=case.query.dtype)
            for places, part, allowed in self._chunks(case):
                rows = grad[:, :, part.rows].to(part.value.dtype)
                inner = rows @ part.value.transpose(-2, -1)
                if part.relation is not None and part.adds("to_value"):
                    added = per_pair(part, part.relation.to_value(part.pair))
                    inner = inner + torch.einsum("bhqd,bqkhd->bhqk", rows, added)
                inner = inner if allowed is None else inner.masked_fill(~allowed, 0.0)
                found[:, :, places] = reduced(inner[:, self.heads], self.reduce).cpu()
        return found

    def _gradient_of_mix(self, case: Case, grad: Tensor) -> Tensor:
        assert self.mix is not None
        allowed = case.allowed()
        with torch.enable_grad():
            weights = masked_weights(logits(case), allowed, case.score.normalizer).detach().requires_grad_()
            mixed = self.mix(weights.to(self.case.value.dtype))
            (found,) = torch.autograd.grad(mixed, weights, grad.to(mixed.dtype))
        found = found if allowed is None else found.masked_fill(~allowed, 0.0)
        return reduced(found[:, self.heads][:, :, self.queries.to(found.device)], self.reduce).cpu()

    def _places(self) -> Iterator[tuple[Tensor, int, int]]:
        """Yield places among the queries, and the run of queries ``start <= i < stop`` that stand there."""
        order = self.queries.argsort()
        runs = (self.queries[order].diff() != 1).nonzero().flatten() + 1
        for places in order.tensor_split(runs.tolist()):
            for part in places.split(self.chunk):
                if len(part):
                    start = int(self.queries[part[0]])
                    yield part, start, start + len(part)

    def _chunks(self, case: Case) -> Iterator[tuple[Tensor, Case, Tensor | None]]:
        """Yield places, the case of these queries alone, and which keys they may attend to."""
        for places, start, stop in self._places():
            rows = slice(start, stop)
            part = dataclasses.replace(case, query=case.query[:, :, rows], rows=rows)
            yield places, part, allowed_rows(part)


class EdgeWeights:
    """The weights ``(E, H)`` along the edges of some heads and queries; arguments as in :class:`RowWeights`."""

    def __init__(
        self, call: Call, heads: Sequence[int], queries: Tensor, reduce: str | None, *, limit: float, gradients: bool
    ) -> None:
        self.case, self.mix, self.heads, self.queries, self.reduce = call.case, call.mix, heads, queries, reduce
        edges, num_heads, size = self.case.edges, self.case.query.shape[1], exact_dtype(self.case).itemsize
        assert edges is not None
        prefix = self.case.query_set.num_prefix * self.case.key.shape[2] * len(self.case.query) * 2
        kept = int(self._chosen(edges.query).sum()) + prefix
        self.num_bytes = kept * ((1 if reduce else len(heads)) * size + 16)
        self.overhead = (len(edges.key) + prefix) * (num_heads * size * 3 + BYTES_PER_PAIR) + exact_bytes(self.case)

    @torch.no_grad()
    def weights(self) -> tuple[Tensor, Tensor]:
        """Return the weights and their edges ``(2, E)``."""
        pair, _, weights = edge_weights(exact(self.case))
        kept = self._kept(pair)
        edges = torch.stack([pair.edges.key[kept], pair.edges.query[kept]]).cpu()
        return reduced(weights[kept][:, self.heads], self.reduce).cpu(), edges

    @torch.no_grad()
    def gradient(self, grad: Tensor) -> Tensor:
        """Return the gradient of the weights for that of the output, ``(B, H, Nq, dv)``."""
        case = exact(self.case)
        pair, value, weights = edge_weights(case)
        with torch.autocast(case.query.device.type, enabled=False):
            if self.mix is not None:
                with torch.enable_grad():
                    leaf = weights.requires_grad_()
                    (found,) = torch.autograd.grad(self.mix(leaf), leaf, grad)
            else:
                rows = grad.to(value.dtype).transpose(1, 2).flatten(0, 1)  # (B * Nq, H, dv)
                found = edge_dot(rows, value, pair.edges)
                if case.relation is not None and case.adds("to_value"):
                    added = pair.without_prefix(case.relation.to_value(pair))
                    found = found + (rows.index_select(0, pair.edges.query) * added).sum(-1)
        return reduced(found[self._kept(pair)][:, self.heads], self.reduce).cpu()

    def _chosen(self, query: Tensor) -> Tensor:
        """Tell which pairs are of chosen queries, bool ``(E,)``."""
        count = self.case.query.shape[2]
        chosen = torch.zeros(count, dtype=torch.bool).index_fill_(0, self.queries, True)
        return chosen.to(query.device)[query % max(1, count)]

    def _kept(self, pair: EdgePair) -> Tensor:
        """Tell which pairs are allowed, and of chosen queries, bool ``(E,)``."""
        edges = pair.edges
        return self._chosen(edges.query) & allowed_listed(self.case, edges.key, edges.query)


def exact_dtype(case: Case) -> torch.dtype:
    """Return the type that weights are computed in: single precision at least."""
    return torch.promote_types(case.query.dtype, torch.float32)


def exact(case: Case) -> Case:
    """Return a case in single precision at least, without dropout and apart from any graph of gradients."""
    dtype = exact_dtype(case)
    query, key, value = (t.detach().to(dtype) for t in (case.query, case.key, case.value))
    score, relation = _exact_part(case.score, dtype), _exact_part(case.relation, dtype)
    return dataclasses.replace(case, query=query, key=key, value=value, score=score, relation=relation, dropout=0.0)


def exact_bytes(case: Case) -> int:
    """Return what :func:`exact` and a product's own copy of the keys take."""
    size, given = exact_dtype(case).itemsize, (case.query, case.key, case.value)
    copied = sum(t.numel() for t in given if t.dtype != exact_dtype(case))
    return (copied + case.key.numel()) * size


def _exact_part(part: Part, dtype: torch.dtype) -> Part:
    """Return a score or relation in this type if its own numbers are in half precision."""
    half = (torch.float16, torch.bfloat16)
    if part is None or not any(t.dtype in half for t in (*part.parameters(), *part.buffers())):
        return part
    return copy.deepcopy(part).to(dtype)


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


def reduced(weights: Tensor, reduce: str | None) -> Tensor:
    """Put heads, the second axis, into one by their ``"mean"``, ``"max"`` or ``"min"``; the axis stays."""
    if reduce is None:
        return weights
    return weights.mean(1, keepdim=True) if reduce == "mean" else getattr(weights, f"a{reduce}")(1, keepdim=True)
