"""The kernel for windows over long sequences: linear in N."""

from __future__ import annotations

import dataclasses

import torch
import torch.nn.functional as F
from torch import Tensor

from vsattn.attention.case import Case
from vsattn.attention.regroup import Cut, goes_by_place, placed, regrouped, small_dense
from vsattn.structure import Full, Structure

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
    if sets.num_prefix != case.key_set.num_prefix:
        return "queries and keys have different prefix vectors"
    if case.adds("to_key") or case.adds("to_value"):
        return f"{type(case.relation).__name__} adds to keys or values"
    return None


def banded(case: Case) -> Tensor:
    """Let each chunk of queries attend to the keys it can reach; ``(B, H, N, dv)``.

    A chunk of C queries meets ``left + C + right`` keys (Beltagy et al. 2020, "Longformer", section 3.1), each chunk
    as one small dense set, under the same structure by position. Prefix vectors join every chunk's keys, and see all.
    """
    prefix = case.query_set.num_prefix
    batch, _, length, _ = case.query.shape
    mask = case.key_set.mask
    real = torch.ones(batch, length, dtype=torch.bool, device=case.query.device) if mask is None else mask
    query, key, value = (t.transpose(1, 2) for t in (case.query, case.key, case.value))  # (B, N, H, d)
    count, chunks, spans = _cutters(case.structure, length - prefix)
    chunk, span = chunks(real[:, prefix:]).shape[1], spans(real[:, prefix:]).shape[1]
    left = case.structure.reach()[0] or 0

    def near(values: Tensor) -> Tensor:
        """Cut ``(B, N, ...)`` into each chunk's keys, the prefix first, ``(B * count, prefix + span, ...)``."""
        if not prefix:
            return spans(values)
        first = values[:, :prefix].repeat_interleave(count, 0)
        return torch.cat([first, spans(values[:, prefix:])], 1)

    small_query = chunks(query[:, prefix:]).transpose(1, 2)  # (B * count, H, chunk, d)
    small_key, small_value = near(key).transpose(1, 2), near(value).transpose(1, 2)
    place = torch.arange(-prefix, span, device=query.device)[None, :, None]  # the same for every chunk
    small = dataclasses.replace(
        case,
        query=small_query,
        key=small_key,
        value=small_value,
        query_set=placed(small_query, None, place[:, prefix + left : prefix + left + chunk]),
        key_set=placed(small_key, near(real), place, prefix),
        structure=regrouped(case.structure, lambda ids: chunks(ids[:, prefix:]), near),
    )
    output = small_dense(small).transpose(1, 2)  # (B * count, chunk, H, dv)
    output = output.unflatten(0, (batch, count)).flatten(1, 2)[:, : length - prefix].transpose(1, 2)
    return torch.cat([_seeing_all(case, prefix), output], 2) if prefix else output


def _cutters(structure: Structure, length: int) -> tuple[int, Cut, Cut]:
    """Return the number of chunks, and how to cut ``(B, N, ...)`` into chunks and into the spans they reach."""
    left, right = structure.reach()
    assert left is not None and right is not None
    chunk = max(MIN_CHUNK, _rounded(left + right))
    count = length // chunk + 1  # one too many for some lengths, so that all lengths share one compiled graph
    after, span = count * chunk - length, left + chunk + right

    def chunks(values: Tensor) -> Tensor:
        padded = F.pad(values, (*(0, 0) * (values.ndim - 2), 0, after))
        return padded.unflatten(1, (count, chunk)).flatten(0, 1)  # (B * count, chunk, ...)

    def spans(values: Tensor) -> Tensor:
        padded = F.pad(values, (*(0, 0) * (values.ndim - 2), left, after + right))
        return padded.unfold(1, span, chunk).movedim(-1, 2).flatten(0, 1)  # (B * count, span, ...)

    return count, chunks, spans


def _seeing_all(case: Case, prefix: int) -> Tensor:
    """Return the outputs of the prefix vectors, ``(B, H, prefix, dv)``."""
    query = case.query[:, :, :prefix]
    sets = placed(query, None, torch.zeros(1, prefix, 1, device=query.device))
    return small_dense(dataclasses.replace(case, query=query, query_set=sets, structure=Full(), relation=None))


def _rounded(reach: int) -> int:
    """Return the multiple of ``MIN_CHUNK`` next above half the reach: chunks half as long as what they see beside."""
    return -(-reach // (2 * MIN_CHUNK)) * MIN_CHUNK
