"""Attention as the papers write it; every kernel is tested against these lines."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from vsattn.attention.case import Case


def reference(case: Case) -> Tensor:
    """``softmax(score(q, k) + relation) v`` over the allowed keys; ``(B, H, Nq, dv)``."""
    weights = reference_weights(case)
    weights = F.dropout(weights, case.dropout, training=case.dropout > 0)
    output = weights @ case.value
    if case.relation is not None and "to_value" in case.relation.parts:
        output = output + torch.einsum("bhqk,bhqkd->bhqd", weights, beyond_prefix(case, case.relation.to_value))
    return output


def reference_weights(case: Case) -> Tensor:
    """Return the attention weights ``(B, H, Nq, Nk)``: each row sums to 1, or is 0 where nothing is allowed."""
    return masked_softmax(logits(case), case.allowed())


def logits(case: Case) -> Tensor:
    """Return the scores with what the relation adds, before the mask, ``(B, H, Nq, Nk)``."""
    scores, bias, relation = case.score(case.query, case.key), case.bias(), case.relation
    scores = scores if bias is None else scores + bias.to(scores.dtype)
    if relation is not None and "to_key" in relation.parts:
        scores = scores + torch.einsum("bhqd,bhqkd->bhqk", case.query, beyond_prefix(case, relation.to_key))
    return scores


def masked_softmax(scores: Tensor, allowed: Tensor | None) -> Tensor:
    """Softmax over the last axis among the allowed; a row with nothing allowed is exactly 0, with finite gradients."""
    if allowed is None:
        return scores.softmax(-1)
    empty = ~allowed.any(-1, keepdim=True)
    scores = scores.masked_fill(~allowed, float("-inf")).masked_fill(empty, 0.0)
    return scores.softmax(-1).masked_fill(~allowed, 0.0)


def beyond_prefix(case: Case, part) -> Tensor:
    """Return a relation's ``(.., Nq, Nk, d)`` part with zero where a prefix vector takes part."""
    values, keep = part(case.pair), case.pair.beyond_prefix()
    values = values if keep is None else values.masked_fill(~keep[..., None], 0.0)
    return values.to(case.query.dtype).expand(*case.query.shape[:2], *values.shape[2:])
