"""Products along the edges of a graph, each with a backward pass of its own that keeps only its inputs.

Vectors are ``(N, H, d)``, numbers of edges ``(E, H)``. A weighted sum over a query's edges is PyTorch's embedding bag,
which reads each vector where it lies, so that nothing of shape ``(E, H, d)`` is made.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from vsattn.errors import ShapeError
from vsattn.structure import EdgeList

#: Pairwise scores are computed for so many numbers at a time, few enough to stay in a processor's cache.
CHUNK_ELEMENTS = 2**18


def edge_dot(query: Tensor, key: Tensor, edges: EdgeList) -> Tensor:
    """Return ``q_i . k_j`` for each edge: ``(Nq, H, d)`` and ``(Nk, H, d)`` give ``(E, H)``."""
    return _EdgeDot.apply(query, key, edges)


def edge_pairwise(
    function: Callable[[Tensor, Tensor], Tensor],
    parameters: Sequence[Tensor],
    query: Tensor,
    key: Tensor,
    edges: EdgeList,
) -> Tensor:
    """Return a function of pairs along the edges, ``(E, H)``, without keeping what lies between.

    Args:
        function: maps ``(n, H, d)`` and ``(n, H, d)`` to ``(n, H)``; it is called chunk by chunk, and again in the
            backward pass.
        parameters: what it uses besides, for their gradients.
        query: ``(Nq, H, d)``.
        key: ``(Nk, H, d)``.
    """
    return _EdgePairwise.apply(function, edges, query, key, *parameters)


def edge_sum(weights: Tensor, value: Tensor, edges: EdgeList) -> Tensor:
    """Return ``sum_j w_ij v_j`` over each query's edges: ``(E, H)`` and ``(Nk, H, d)`` give ``(Nq, H, d)``."""
    return _EdgeSum.apply(weights, value, edges)


def edge_softmax(scores: Tensor, edges: EdgeList, allowed: Tensor | None = None) -> Tensor:
    """Return the softmax of ``(E, H)`` over each query's allowed edges; exactly 0 elsewhere."""
    return _EdgeSoftmax.apply(scores, edges, allowed)


def segment_sum(values: Tensor, edges: EdgeList) -> Tensor:
    """Sum ``(E, F)`` over each query's edges: ``(num_queries, F)``."""
    return F.embedding_bag(edges.count, values, edges.starts[:-1], mode="sum")


class _EdgeDot(torch.autograd.Function):
    @staticmethod
    def forward(ctx, query, key, edges):
        query, key = _heads_first(query), _heads_first(key)
        ctx.edges = edges
        ctx.save_for_backward(query, key)
        return _dot(query, key, edges)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        (query, key), edges = ctx.saved_tensors, ctx.edges
        return _sum_by_query(grad, key, edges), _sum_by_key(grad, query, edges), None


class _EdgeSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx, weights, value, edges):
        value = _heads_first(value)
        ctx.edges = edges
        ctx.save_for_backward(weights, value)
        return _sum_by_query(weights, value, edges)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        (weights, value), edges, grad = ctx.saved_tensors, ctx.edges, _heads_first(grad)
        return _dot(grad, value, edges), _sum_by_key(weights, grad, edges), None


class _EdgeSoftmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx, scores, edges, allowed):
        if allowed is not None:
            scores = scores.masked_fill(~allowed[:, None], float("-inf"))
        top = torch.segment_reduce(scores, "max", offsets=edges.starts, axis=0, unsafe=True, initial=float("-inf"))
        top = top.masked_fill_(top == float("-inf"), 0.0)  # no edge, or none allowed
        weights = (scores - top.index_select(0, edges.query)).exp_()
        total = segment_sum(weights, edges)
        weights /= total.masked_fill_(total == 0, 1.0).index_select(0, edges.query)
        ctx.edges = edges
        ctx.save_for_backward(weights)
        return weights

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        (weights,), edges = ctx.saved_tensors, ctx.edges
        product = weights * grad
        return product.sub_(weights * segment_sum(product, edges).index_select(0, edges.query)), None, None


class _EdgePairwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx, function, edges, query, key, *parameters):
        ctx.function, ctx.edges = function, edges
        ctx.save_for_backward(query, key, *parameters)
        out = query.new_empty(len(edges.key), query.shape[1])
        for part in _chunks(edges, query):
            out[part] = function(query[edges.query[part]], key[edges.key[part]])
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        (query, key, *parameters), edges = ctx.saved_tensors, ctx.edges
        learned = [p for p, needed in zip(parameters, ctx.needs_input_grad[4:]) if needed]
        totals = [torch.zeros_like(t, memory_format=torch.contiguous_format) for t in (query, key, *learned)]
        for part in _chunks(edges, query):
            where = edges.query[part], edges.key[part]
            leaves = [t[index].requires_grad_() for t, index in zip((query, key), where)]
            with torch.enable_grad():
                scores = ctx.function(*leaves)
            found = torch.autograd.grad(scores, [*leaves, *learned], grad[part], allow_unused=True)
            if any(part_grad is None for part_grad in found):
                raise ShapeError(
                    "a score along edges does not use its query, its key or one of its parameters, or these were "
                    "swapped for the call (torch.func.functional_call), unseen by the backward pass; use "
                    "kernel='reference'"
                )
            for total, index, part_grad in zip(totals, where, found):
                total.index_add_(0, index, part_grad)
            for total, part_grad in zip(totals[2:], found[2:]):
                total += part_grad
        rest = iter(totals[2:])
        return None, None, *totals[:2], *(next(rest) if needed else None for needed in ctx.needs_input_grad[4:])


def _chunks(edges: EdgeList, like: Tensor) -> list[slice]:
    step = max(1, CHUNK_ELEMENTS // max(1, like[:1].numel()))
    return [slice(start, start + step) for start in range(0, len(edges.key), step)]


def _heads_first(vectors: Tensor) -> Tensor:
    return vectors.transpose(0, 1).contiguous()  # (H, N, d)


def _dot(query: Tensor, key: Tensor, edges: EdgeList) -> Tensor:
    """Multiply ``(H, Nq, d)`` and ``(H, Nk, d)`` along the edges, ``(E, H)``, head by head."""
    out = query.new_empty(len(edges.key), len(query))
    if not out.numel():
        return out
    pattern = _pattern(edges, query.dtype) if torch.backends.mkl.is_available() and query.is_cpu else None
    for head, (q, k) in enumerate(zip(query, key)):
        if pattern is not None:
            torch.sparse.sampled_addmm(pattern, q, k.T, beta=0.0, out=pattern)
            out[:, head] = pattern.values()
        else:
            out[:, head] = torch.ops.aten._embedding_bag_per_sample_weights_backward(
                q, k, edges.key, edges.starts[:-1], edges.query, 0, -1
            )
    return out


def _pattern(edges: EdgeList, dtype: torch.dtype) -> Tensor:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse")
        zeros = torch.zeros(len(edges.key), dtype=dtype)
        size = (edges.num_queries, edges.num_keys)
        return torch.sparse_csr_tensor(edges.starts, edges.key, zeros, size, check_invariants=False)


def _sum_by_query(weights: Tensor, value: Tensor, edges: EdgeList) -> Tensor:
    """Sum ``value (H, Nk, d)`` by ``weights (E, H)`` over each query's edges: ``(Nq, H, d)``."""
    return _bags(edges.key, value, edges.starts, weights.T.contiguous())


def _sum_by_key(weights: Tensor, value: Tensor, edges: EdgeList) -> Tensor:
    """Sum ``value (H, Nq, d)`` by ``weights (E, H)`` over each key's edges: ``(Nk, H, d)``."""
    order, query, starts = edges.by_key
    return _bags(query, value, starts, weights.index_select(0, order).T.contiguous())


def _bags(index: Tensor, value: Tensor, starts: Tensor, weights: Tensor) -> Tensor:
    """Sum ``value (H, M, d)`` at ``index (E,)`` by ``weights (H, E)`` between starts ``(n + 1,)``: ``(n, H, d)``."""
    out = value.new_empty(len(starts) - 1, len(value), value.shape[-1])
    for head, vectors in enumerate(value):
        out[:, head] = F.embedding_bag(index, vectors, starts[:-1], mode="sum", per_sample_weights=weights[head])
    return out
