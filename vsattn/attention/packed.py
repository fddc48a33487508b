"""The kernel for packed sets: several samples in one, each padded only to its like."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from vsattn.attention.case import Case
from vsattn.attention.regroup import goes_by_place, placed, small_dense
from vsattn.structure import And, Full, Segments, Structure

#: Segments are computed together as long as padding them to the longest adds less than this share.
MAX_PADDING = 0.25


def packed_refuses(case: Case) -> str | None:
    """Say why a case is no packed set, or return None."""
    structure = case.structure
    segments, rest = _split(structure)
    if segments is None:
        return f"{type(structure).__name__} is not Segments, alone or with others by &"
    if any(isinstance(leaf, Segments) for leaf in rest.leaves()):
        return f"{type(rest).__name__} holds Segments within |"
    if not goes_by_place(rest):
        return f"{type(rest).__name__} holds a mask or edges, which are not cut into segments"
    if case.query_set is not case.key_set or segments.key_ids is not None:
        return "packed queries and keys must be one set"
    if case.query_set.num_prefix:
        return "prefix vectors would join the segments"
    if case.adds("to_key") or case.adds("to_value"):
        return f"{type(case.relation).__name__} adds to keys or values"
    if torch.compiler.is_compiling():
        return "the lengths of the segments are data, which a compiled graph cannot depend on"
    return None


def packed(case: Case) -> Tensor:
    """Pad segments of like length into one batch, attend, and put the vectors back; ``(B, H, N, dv)``."""
    segments, rest = _split(case.structure)
    assert segments is not None
    batch, _, length, _ = case.query.shape
    real = case.key_set.mask
    needs_place = not isinstance(rest, Full) or case.relation is not None
    place = case.query_set.positions().expand(batch, -1, -1).flatten(0, 1) if needs_place else None
    flat = [t.transpose(1, 2).flatten(0, 1) for t in (case.query, case.key, case.value)]  # (B * N, H, d)
    pieces, indices = [], []
    for rows, valid in _buckets(segments.ids):  # (S, L) indices into B * N, and which of them are vectors
        query, key, value = (t[rows].transpose(1, 2) for t in flat)  # (S, H, L, d)
        mask = valid if real is None else valid & real.flatten()[rows]
        pos = rows.new_zeros(1, rows.shape[1], 1) if place is None else place[rows]
        sets = placed(query, None, pos), placed(key, mask, pos)
        small = dataclasses.replace(
            case, query=query, key=key, value=value, query_set=sets[0], key_set=sets[1], structure=rest
        )
        pieces.append(small_dense(small).transpose(1, 2)[valid])
        indices.append(rows[valid])
    if not pieces:  # no vectors at all
        return small_dense(dataclasses.replace(case, structure=Full()))
    output = torch.empty_like(flat[2]).index_copy(0, torch.cat(indices), torch.cat(pieces))
    return output.unflatten(0, (batch, length)).transpose(1, 2)


def _split(structure: Structure) -> tuple[Segments | None, Structure]:
    """Return the segments, and what else must allow a pair."""
    parts = structure.parts if isinstance(structure, And) else (structure,)
    segments = [part for part in parts if isinstance(part, Segments)]
    if len(segments) != 1:
        return None, structure
    rest: Structure = Full()
    for part in parts:
        rest = rest if part is segments[0] else rest & part
    return segments[0], rest


def _buckets(ids: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Group segments of like length: indices ``(S, L)`` into the flattened vectors, and bool ``(S, L)``, True = one."""
    if not ids.numel():
        return []
    low = ids.min()
    codes = (ids - low + torch.arange(len(ids), device=ids.device)[:, None] * (ids.max() - low + 1)).flatten()
    order = codes.argsort(stable=True)
    lengths = codes[order].unique_consecutive(return_counts=True)[1]
    starts = lengths.cumsum(0) - lengths
    by_length = lengths.argsort(descending=True)
    sizes = lengths[by_length].tolist()
    buckets, first = [], 0
    while first < len(sizes):
        last, total = first + 1, sizes[first]
        while last < len(sizes) and (last + 1 - first) * sizes[first] <= (1 + MAX_PADDING) * (total + sizes[last]):
            total += sizes[last]
            last += 1
        chosen = by_length[first:last]
        step = torch.arange(sizes[first], device=ids.device)
        valid = step < lengths[chosen][:, None]
        index = (starts[chosen][:, None] + step).clamp(max=len(order) - 1)
        buckets.append((order[index], valid))
        first = last
    return buckets
