"""The kernel for windows over long sequences: linear in N."""

from __future__ import annotations

import dataclasses

import torch
import torch.nn.functional as F
from torch import Tensor

from vsattn.attention.case import Case
from vsattn.attention.regroup import goes_by_place, placed, regrouped, small_dense

#: Chunks of queries are this long at least; a shorter window does not pay for shorter ones.
MIN_CHUNK = 64


def banded_refuses(case: Case) -> str | None:
    """Say why a case has no band, or return None."""
    structure, sets = case.structure, case.query_set
    left, right = structure.reach()
    if left is None or right is None:
        return f"{type(structure).__name__} has no limit on both sides; give Window(left, right)"
    if not goes_by_place(structure):
        return f"{type(structure).__name__} holds a mask or edges, which are not cut into a band"
    if not (sets is case.key_set or (sets.pos is None and case.key_set.pos is None)):
        return "queries and keys have positions of their own; a band needs one sequence"
    if not sets.layout == case.key_set.layout == "sequence" or sets.num_vectors != case.key_set.num_vectors:
        return "a band needs layout='sequence' and as many keys as queries"
    if sets.num_prefix or case.key_set.num_prefix:
        return "prefix vectors see the whole sequence; use num_prefix=0"
    if case.adds("to_key") or case.adds("to_value"):
        return f"{type(case.relation).__name__} adds to keys or values"
    return None


def banded(case: Case) -> Tensor:
    """Let each chunk of queries attend to the keys it can reach; ``(B, H, N, dv)``.

    A chunk of C queries meets ``left + C + right`` keys (Beltagy et al. 2020, "Longformer", section 3.1), each chunk
    as one small dense set, under the same structure by position.
    """
    left, right = case.structure.reach()
    assert left is not None and right is not None
    batch, _, length, _ = case.query.shape
    chunk = max(MIN_CHUNK, _rounded(left + right))
    count = length // chunk + 1  # one too many for some lengths, so that all lengths share one compiled graph
    after = count * chunk - length
    span = left + chunk + right

    def chunks(values: Tensor) -> Tensor:
        """Cut ``(B, N, ...)`` into ``(B * count, chunk, ...)``."""
        padded = F.pad(values, (*(0, 0) * (values.ndim - 2), 0, after))
        return padded.unflatten(1, (count, chunk)).flatten(0, 1)

    def spans(values: Tensor) -> Tensor:
        """Cut ``(B, N, ...)`` into the keys in reach of each chunk, ``(B * count, span, ...)``."""
        padded = F.pad(values, (*(0, 0) * (values.ndim - 2), left, after + right))
        return padded.unfold(1, span, chunk).movedim(-1, 2).flatten(0, 1)

    mask = case.key_set.mask
    real = torch.ones(batch, length, dtype=torch.bool, device=case.query.device) if mask is None else mask
    query = chunks(case.query.transpose(1, 2)).transpose(1, 2)  # (B * count, H, chunk, d)
    key, value = (spans(t.transpose(1, 2)).transpose(1, 2) for t in (case.key, case.value))
    place = torch.arange(span, device=query.device)[None, :, None]  # the same for every chunk
    small = dataclasses.replace(
        case,
        query=query,
        key=key,
        value=value,
        query_set=placed(query, None, place[:, left : left + chunk]),
        key_set=placed(key, spans(real), place),
        structure=regrouped(case.structure, chunks, spans),
    )
    output = small_dense(small)  # (B * count, H, chunk, dv)
    return output.transpose(1, 2).unflatten(0, (batch, count)).flatten(1, 2)[:, :length].transpose(1, 2)


def _rounded(reach: int) -> int:
    """Return the multiple of ``MIN_CHUNK`` next above half the reach: chunks half as long as what they see beside."""
    return -(-reach // (2 * MIN_CHUNK)) * MIN_CHUNK
