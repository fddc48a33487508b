"""Products along the edges of a graph, each with a backward pass of its own that keeps only its inputs.

Vectors lie heads first, ``(H, N, d)``; numbers of edges ``(E, H)``. A weighted sum over a query's edges is PyTorch's
embedding bag, which reads each vector where it lies and makes nothing of shape ``(E, d)``.
"""

from __future__ import annotations

import warnings

import torch
import torch.nn.functional as F
from torch import Tensor

from vsattn.structure import EdgeList


def edge_dot(query: Tensor, key: Tensor, edges: EdgeList) -> Tensor:
    """Return ``q_i . k_j`` for each edge: ``(H, Nq, d)`` and ``(H, Nk, d)`` give ``(E, H)``."""
    return _EdgeDot.apply(query, key, edges)


def edge_sum(weights: Tensor, value: Tensor, edges: EdgeList) -> Tensor:
    """Return ``sum_j w_ij v_j`` over each query's edges: ``(E, H)`` and ``(H, Nk, d)`` give ``(H, Nq, d)``."""
    return _EdgeSum.apply(weights, value, edges)


def edge_softmax(scores: Tensor, edges: EdgeList, allowed: Tensor | None = None) -> Tensor:
    """Return the softmax of ``(E, H)`` over each query's allowed edges; exactly 0 elsewhere."""
    return _EdgeSoftmax.apply(scores, edges, allowed)


class _EdgeDot(torch.autograd.Function):
    @staticmethod
    def forward(ctx, query, key, edges):
        ctx.edges = edges
        ctx.save_for_backward(query, key)
        return _dot(query, key, edges)

    @staticmethod
    def backward(ctx, grad):
        (query, key), edges = ctx.saved_tensors, ctx.edges
        return _sum_by_query(grad, key, edges), _sum_by_key(grad, query, edges), None


class _EdgeSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx, weights, value, edges):
        ctx.edges = edges
        ctx.save_for_backward(weights, value)
        return _sum_by_query(weights, value, edges)

    @staticmethod
    def backward(ctx, grad):
        (weights, value), edges = ctx.saved_tensors, ctx.edges
        grad = grad.contiguous()
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
    def backward(ctx, grad):
        (weights,), edges = ctx.saved_tensors, ctx.edges
        product = weights * grad
        return product.sub_(weights * segment_sum(product, edges).index_select(0, edges.query)), None, None


def segment_sum(values: Tensor, edges: EdgeList) -> Tensor:
    """Sum ``(E, F)`` over each query's edges: ``(num_queries, F)``."""
    return F.embedding_bag(edges.count, values, edges.starts[:-1], mode="sum")


def _dot(query: Tensor, key: Tensor, edges: EdgeList) -> Tensor:
    """Sampled dense-dense product, head by head."""
    out = query.new_empty(len(edges.key), len(query))
    if not out.numel():
        return out
    use_mkl = torch.backends.mkl.is_available() and query.device.type == "cpu" and query.shape[-1] > 0
    for head, (q, k) in enumerate(zip(query.contiguous(), key.contiguous())):
        if use_mkl:
            out[:, head] = torch.sparse.sampled_addmm(_csr(edges, q.dtype), q, k.T, beta=0.0).values()
        else:
            out[:, head] = torch.ops.aten._embedding_bag_per_sample_weights_backward(
                q, k, edges.key, edges.starts[:-1], edges.query, 0, -1
            )
    return out


def _sum_by_query(weights: Tensor, value: Tensor, edges: EdgeList) -> Tensor:
    return _bags(edges.key, value, edges.starts, weights.T.contiguous())


def _sum_by_key(weights: Tensor, value: Tensor, edges: EdgeList) -> Tensor:
    order, query, starts = edges.by_key
    return _bags(query, value, starts, weights.index_select(0, order).T.contiguous())


def _bags(index: Tensor, value: Tensor, starts: Tensor, weights: Tensor) -> Tensor:
    out = value.new_empty(len(value), len(starts) - 1, value.shape[-1])
    for head, vectors in enumerate(value.contiguous()):
        out[head] = F.embedding_bag(index, vectors, starts[:-1], mode="sum", per_sample_weights=weights[head])
    return out


def _csr(edges: EdgeList, dtype: torch.dtype) -> Tensor:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse")
        zeros = torch.zeros(len(edges.key), dtype=dtype, device=edges.key.device)
        size = (edges.num_queries, edges.num_keys)
        return torch.sparse_csr_tensor(edges.starts, edges.key, zeros, size, check_invariants=False)
