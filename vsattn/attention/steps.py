"""Attention taken apart, for whoever wants to follow one head by hand."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from vsattn.attention.functional import make_case
from vsattn.attention.multihead import MultiHeadAttention
from vsattn.attention.reference import logits, reference, reference_weights
from vsattn.errors import ShapeError
from vsattn.vectorset import VectorSet


class Steps(NamedTuple):
    """What one head computes, in order: q, k, v, scores before the softmax, weights, output."""

    query: Tensor
    key: Tensor
    value: Tensor
    scores: Tensor
    weights: Tensor
    output: Tensor


def steps(
    attention: MultiHeadAttention,
    query: VectorSet | Tensor,
    key: VectorSet | Tensor | None = None,
    value: VectorSet | Tensor | None = None,
    *,
    head: int = 0,
) -> Steps:
    """Return what one head of ``attention`` does with these inputs, in matrices.

    Returns:
        :class:`Steps` with query ``(B, Nq, d)``, key and value ``(B, Nk, d)``, scores and weights
        ``(B, Nq, Nk)`` and output ``(B, Nq, d)``, before the heads are joined and projected.
    """
    if not 0 <= head < attention.num_heads:
        raise ShapeError(f"head is 0 .. {attention.num_heads - 1}, not {head}")
    query_set, key_set, (q, k, v), structure = attention.prepare(query, key, value)
    case = make_case(q, k, v, query_set, key_set, structure, attention.score, attention.relation, 0.0)
    parts = (case.query, case.key, case.value, logits(case), reference_weights(case), reference(case))
    return Steps(*(part[:, head] for part in parts))


def steps_by_vector(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Scaled dot-product attention one vector at a time, as one would do it by hand.

    ``out_i = sum_j w_ij v_j``, ``w_ij = exp(s_ij) / sum_l exp(s_il)``, ``s_ij = q_i . k_j / sqrt(d)``

    Args:
        query: ``(Nq, d)``.
        key: ``(Nk, d)``.
        value: ``(Nk, dv)``.

    Returns:
        ``(Nq, dv)``, the same as the matrix form.
    """
    outputs = []
    for q in query:
        scores = torch.stack([torch.dot(q, k) / q.numel() ** 0.5 for k in key])
        exponentials = (scores - scores.max()).exp()
        weights = exponentials / exponentials.sum()
        outputs.append(sum((w * v for w, v in zip(weights, value)), torch.zeros_like(value[0])))
    return torch.stack(outputs)
