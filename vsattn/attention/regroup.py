"""A case cut into many small dense ones: what the banded and the packed kernel share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from vsattn.attention.case import Case
from vsattn.attention.dense import dense_refuses, fused_dense
from vsattn.attention.reference import reference
from vsattn.structure import And, Causal, Full, Or, Segments, Structure, Window
from vsattn.vectorset import VectorSet

#: Cuts ``(B, N, ...)`` into groups ``(G, n, ...)``.
Cut = Callable[[Tensor], Tensor]


def small_dense(case: Case) -> Tensor:
    """Compute a case whose sets are small: fused if a fused kernel can do it, by the definition otherwise."""
    return fused_dense(case) if dense_refuses(case) is None else reference(case)


def placed(like: Tensor, mask: Tensor | None, pos: Tensor, num_prefix: int = 0) -> VectorSet:
    """Return a set that says only what is real and where it stands; ``pos (G|1, n, P)``, ``like (G, H, n, d)``."""
    vectors = like.new_zeros(()).expand(like.shape[0], like.shape[2], 0)
    pos = pos if pos.is_floating_point() else pos.to(torch.float32)  # small numbers, counted within a group
    return VectorSet(vectors, mask, pos, num_prefix=num_prefix)


def regrouped(structure: Structure, query: Cut, key: Cut) -> Structure:
    """Return the structure for the groups; ``query`` and ``key`` cut ``(B, N)`` into ``(G, n)``."""
    if isinstance(structure, (And, Or)):
        return replace(structure, parts=tuple(regrouped(part, query, key) for part in structure.parts))
    if isinstance(structure, Segments):
        keys = structure.ids if structure.key_ids is None else structure.key_ids
        return Segments(query(structure.ids), key(keys))
    return structure


def goes_by_place(structure: Structure) -> bool:
    """Tell whether a structure can be cut: it asks for positions and segments alone, not for indices of pairs."""
    return all(isinstance(leaf, (Full, Causal, Window, Segments)) for leaf in structure.leaves())
