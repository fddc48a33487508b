"""The fused dense kernel: `scaled_dot_product_attention` under our masking rules."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from vsattn.attention.case import Case
from vsattn.structure import Causal

#: On a CPU the fused kernel's backward pass takes up to ten times as long in half precision as in single precision
#: where keys are this few or fewer, so that there it is worth computing in the latter.
MAX_SINGLE_PRECISION = 512


def is_plain_causal(case: Case) -> bool:
    """Tell whether the kernel's own causal flag means what `Causal` means: one sequence with itself, no other mask."""
    one_set, sets = case.query_set is case.key_set, case.query_set
    sequence = sets.layout == "sequence" and sets.pos is None and not sets.num_prefix and sets.mask is None
    return isinstance(case.structure, Causal) and one_set and sequence and case.relation is None


def dense_refuses(case: Case) -> str | None:
    """Say why a case cannot run on the fused kernel, or return None."""
    if not case.score.is_dot:
        return f"{type(case.score).__name__} is not a dot product"
    if case.score.normalizer != "softmax":
        return f"{case.score.normalizer} is not a softmax"
    if case.adds("to_key") or case.adds("to_value"):
        return f"{type(case.relation).__name__} adds to keys or values"
    return None


def fused_dense(case: Case) -> Tensor:
    """Attention by PyTorch's fused kernels, for scores that are dot products; ``(B, H, Nq, dv)``.

    A query with nothing allowed is let see everything and its output is then set to 0: that keeps NaN out
    of both directions on every backend.
    """
    dot = case.dot
    assert dot is not None, "the kernel table sends only dot scores here"
    query, key, scale = dot
    if _slow_in_half(query, key):
        with torch.autocast(query.device.type, enabled=False):
            return _fused(case, query.float(), key.float(), case.value.float(), scale).to(query.dtype)
    return _fused(case, query, key, case.value, scale)


def _slow_in_half(query: Tensor, key: Tensor) -> bool:
    half = query.dtype in (torch.bfloat16, torch.float16) and query.device.type == "cpu"
    return half and torch.is_grad_enabled() and key.shape[2] <= MAX_SINGLE_PRECISION


def _fused(case: Case, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    if is_plain_causal(case):
        return F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scale, dropout_p=case.dropout)
    allowed, empty = case.allowed(), None
    if allowed is not None:
        empty = ~allowed.any(-1, keepdim=True)
        allowed = allowed | empty
    mask, bias = allowed, case.bias()
    if bias is not None:
        bias = bias.to(query.dtype)
        mask = bias if allowed is None else torch.where(allowed, bias, float("-inf"))
    output = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale, dropout_p=case.dropout)
    return output if empty is None else output.masked_fill(empty, 0.0)
