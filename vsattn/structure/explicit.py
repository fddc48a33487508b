"""Structures that are given outright: packed `Segments` and any boolean mask, `Dense`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from vsattn.errors import ShapeError
from vsattn.structure.base import Structure, register, same_type

if TYPE_CHECKING:
    from vsattn.vectorset import VectorSet


@dataclass(frozen=True, eq=False)
class Segments(Structure):
    """Several samples packed into one set: vectors attend within their own segment.

    Args:
        ids: integer ``(B, N)``, the segment of each vector.
        key_ids: the same for the keys of cross-attention; None when query and key set are one.
    """

    ids: Tensor
    key_ids: Tensor | None = None

    def __post_init__(self) -> None:
        for name, ids in (("ids", self.ids), ("key_ids", self.key_ids)):
            if ids is None:
                continue
            if ids.ndim != 2 or ids.is_floating_point() or ids.dtype == torch.bool:
                raise ShapeError(f"Segments.{name} is integer (B, N), not {ids.dtype} {tuple(ids.shape)}")
            object.__setattr__(self, name, ids.long())

    def allowed(self, query_set: VectorSet, key_set: VectorSet) -> Tensor:
        query, key = self._ids(query_set, key_set)
        return (query[:, :, None] == key[:, None, :])[:, None]

    def permits(self, query_set: VectorSet, key_set: VectorSet, edge_index: Tensor) -> Tensor:
        query, key = self._ids(query_set, key_set)
        return query.flatten()[edge_index[1]] == key.flatten()[edge_index[0]]

    def _ids(self, query_set: VectorSet, key_set: VectorSet) -> tuple[Tensor, Tensor]:
        keys = self.ids if self.key_ids is None else self.key_ids
        for name, ids, found in (("ids", self.ids, query_set), ("key_ids", keys, key_set)):
            if tuple(ids.shape) != tuple(found.x.shape[:2]):
                raise ShapeError(f"Segments.{name} is {tuple(ids.shape)}; the set is {tuple(found.x.shape[:2])}")
        return self.ids, keys

    def select(self, sample: int, keep: Tensor, num_vectors: int) -> Structure:
        if self.key_ids is not None:
            raise ShapeError(
                "Segments with key_ids belong to cross-attention, not to a set; give the set Segments(ids)"
            )
        return Segments(self.ids[sample, keep][None])

    def stack(self, others: Sequence[Structure], sizes: Sequence[int], num_vectors: int) -> Structure:
        rows = [same_type(self, s).ids[0] for s in (self, *others)]
        return Segments(torch.stack([F.pad(row, (0, num_vectors - len(row)), value=-1) for row in rows]))


@dataclass(frozen=True, eq=False)
class Dense(Structure):
    """Any boolean mask: ``allowed`` is ``(Nq, Nk)``, ``(B, Nq, Nk)`` or ``(B|1, 1, Nq, Nk)``, True = may attend."""

    mask: Tensor

    def __post_init__(self) -> None:
        mask = self.mask
        if mask.dtype != torch.bool:
            raise ShapeError(f"Dense needs a bool mask (True = may attend), not {mask.dtype}; convert explicitly")
        if mask.ndim in (2, 3):
            object.__setattr__(self, "mask", mask[None, None] if mask.ndim == 2 else mask[:, None])
        elif mask.ndim != 4 or mask.shape[1] != 1:
            raise ShapeError(f"Dense takes (Nq, Nk), (B, Nq, Nk) or (B, 1, Nq, Nk), not {tuple(mask.shape)}")

    def allowed(self, query_set: VectorSet, key_set: VectorSet) -> Tensor:
        expected = (query_set.num_vectors, key_set.num_vectors)
        if tuple(self.mask.shape[-2:]) != expected or self.mask.shape[0] not in (1, query_set.x.shape[0]):
            raise ShapeError(f"Dense mask is {tuple(self.mask.shape)}; the sets are {expected} (queries, keys)")
        return self.mask

    def permits(self, query_set: VectorSet, key_set: VectorSet, edge_index: Tensor) -> Tensor:
        mask = self.allowed(query_set, key_set)[:, 0]
        (key, query), num_keys, num_queries = edge_index, key_set.num_vectors, query_set.num_vectors
        sample = query // num_queries if mask.shape[0] > 1 else torch.zeros_like(query)
        return mask[sample, query % num_queries, key % num_keys]

    def shifted(self, num_prefix: int, num_vectors: int) -> Structure:
        return Dense(F.pad(self.mask, (num_prefix, 0, num_prefix, 0), value=False))

    def select(self, sample: int, keep: Tensor, num_vectors: int) -> Structure:
        mask = self.mask[min(sample, self.mask.shape[0] - 1), 0]
        return Dense(mask[keep][:, keep])

    def stack(self, others: Sequence[Structure], sizes: Sequence[int], num_vectors: int) -> Structure:
        masks = [same_type(self, s).mask[0, 0] for s in (self, *others)]
        padded = [F.pad(m, (0, num_vectors - n, 0, num_vectors - n)) for m, n in zip(masks, sizes)]
        return Dense(torch.stack(padded))


register(Segments, ("ids", "key_ids"))
register(Dense, ("mask",))
