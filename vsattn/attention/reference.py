"""Attention as the papers write it; every kernel is tested against these lines."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from vsattn.attention.case import Case
from vsattn.errors import ConfigError
from vsattn.scores import Normalizer


def reference(case: Case) -> Tensor:
    """``softmax(score(q, k) + relation) v`` over the allowed keys; ``(B, H, Nq, dv)``."""
    weights = F.dropout(reference_weights(case), case.dropout, training=case.dropout > 0)
    output = weights @ case.value
    if case.relation is not None and case.adds("to_value"):
        values = per_pair(case, case.relation.to_value(case.pair))
        output = output + torch.einsum("bhqk,bqkhd->bhqd", weights, values)
    return output


def reference_weights(case: Case) -> Tensor:
    """Return the attention weights ``(B, H, Nq, Nk)``: each row sums to 1, or is 0 where nothing is allowed."""
    return masked_weights(logits(case), case.allowed(), case.score.normalizer)


def logits(case: Case) -> Tensor:
    """Return the scores with what the relation adds, before the mask, ``(B, H, Nq, Nk)``."""
    if case.relation is not None and case.adds("to_key"):
        keys = case.key.transpose(1, 2)[:, None] + per_pair(case, case.relation.to_key(case.pair))
        scores = case.score.pairwise(case.query.transpose(1, 2)[:, :, None], keys).permute(0, 3, 1, 2)
    else:
        scores = case.score(case.query, case.key)
    bias = case.bias()
    return scores if bias is None else scores + bias.to(scores.dtype)


def masked_weights(scores: Tensor, allowed: Tensor | None, normalizer: Normalizer = "softmax") -> Tensor:
    """Normalise the last axis among the allowed; a row with nothing allowed is exactly 0, with finite gradients."""
    if allowed is None:
        return _normalized(scores, normalizer)
    empty = ~allowed.any(-1, keepdim=True)
    scores = scores.masked_fill(~allowed, float("-inf")).masked_fill(empty, 0.0)
    return _normalized(scores, normalizer).masked_fill(~allowed, 0.0)


def _normalized(scores: Tensor, normalizer: Normalizer) -> Tensor:
    if normalizer == "softmax" or not scores.shape[-1]:
        return scores.softmax(-1)
    try:
        import entmax
    except ImportError as error:
        raise ConfigError(f"{normalizer} needs the entmax package: pip install 'vsattn[entmax]'") from error
    wide = scores.to(torch.promote_types(scores.dtype, torch.float32))  # in half precision rows would not sum to 1
    sparse = entmax.sparsemax if normalizer == "sparsemax" else entmax.entmax15
    return sparse(wide, dim=-1).to(scores.dtype)


def per_pair(case: Case, vectors: Tensor) -> Tensor:
    """Return a relation's ``(B|1, Nq, Nk, H|1, d)`` for all samples and heads, zero where a prefix takes part."""
    batch, heads = case.query.shape[:2]
    return case.pair.without_prefix(vectors).to(case.query.dtype).expand(batch, -1, -1, heads, -1)
