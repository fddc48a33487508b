"""The kernel table: which way a call of attention is computed, and why."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from vsattn.attention.banded import banded, banded_refuses
from vsattn.attention.case import Case, is_sparse
from vsattn.attention.dense import dense_refuses, fused_dense
from vsattn.attention.edges import edge_attention, edges_refuses
from vsattn.attention.packed import packed, packed_refuses
from vsattn.attention.reference import reference
from vsattn.errors import ShapeError, nearest

#: A sparse structure is computed with a dense mask only up to this many pairs ``B * Nq * Nk``.
MAX_DENSE_PAIRS = 2**27
#: Scores that are no dot products, and vectors that a relation adds, are computed for so many numbers at most,
#: ``B * H * Nq * Nk * d``.
MAX_PAIRWISE_ELEMENTS = 2**29
#: A band is worth its cutting from sequences of this length, and from this many times the window.
MIN_BANDED_LENGTH = 512
#: Edges are worth their gathering when there are so many times fewer of them than pairs, and packing from this length.
MIN_PAIRS_PER_EDGE = 16
MIN_PACKED_LENGTH = 256


@dataclass(frozen=True)
class Kernel:
    """One way to compute attention.

    ``refuses`` says what it cannot do, or returns None; ``waives`` tells whether another does a case better that it
    could do too (no size is put into words there: that would fix it in a compiled graph).
    """

    run: Callable[[Case], Tensor]
    refuses: Callable[[Case], str | None]
    waives: Callable[[Case], bool]
    reason: str


def _edges_waive(case: Case) -> bool:
    """Too dense a graph."""
    assert case.edges is not None
    return len(case.edges.key) * MIN_PAIRS_PER_EDGE > num_pairs(case) and _reference_refuses(case) is None


def _banded_waives(case: Case) -> bool:
    """Too short a sequence."""
    length, (left, right) = case.query.shape[2], case.structure.reach()
    return length < MIN_BANDED_LENGTH or length < 2 * ((left or 0) + (right or 0))


def _packed_waives(case: Case) -> bool:
    """Too short a set."""
    return case.query.shape[2] < MIN_PACKED_LENGTH


def _reference_refuses(case: Case) -> str | None:
    makes_pairs = not case.score.is_dot or case.adds("to_key") or case.adds("to_value")
    if makes_pairs and (elements := case.query.numel() * case.key.shape[2]) > MAX_PAIRWISE_ELEMENTS:
        who = type(case.score if not case.score.is_dot else case.relation).__name__
        return f"{who} compares every pair, {elements} numbers at once (limit {MAX_PAIRWISE_ELEMENTS}); cut the sets"
    return None


def _never(case: Case) -> bool:
    return False


#: In order of preference: the first kernel that neither refuses nor waives is used.
KERNELS: dict[str, Kernel] = {
    "edges": Kernel(edge_attention, edges_refuses, _edges_waive, "few pairs are edges, and work grows with the edges"),
    "banded": Kernel(banded, banded_refuses, _banded_waives, "a window over a long sequence is linear in its length"),
    "packed": Kernel(packed, packed_refuses, _packed_waives, "segments are computed apart, padded to their like"),
    "dense": Kernel(fused_dense, dense_refuses, _never, "a dot score runs on PyTorch's fused kernel"),
    "reference": Kernel(reference, _reference_refuses, _never, "no fused kernel does this score or relation"),
}


def choose(case: Case, kernel: str = "auto") -> tuple[str, str]:
    """Return the kernel's name and why it is the one.

    Raises:
        ShapeError: when the named kernel is unknown or cannot do the case, or when a sparse structure would
            need a dense mask of more than ``MAX_DENSE_PAIRS`` pairs.
    """
    if kernel != "auto":
        if kernel not in KERNELS:
            raise ShapeError(f"there is no kernel {kernel!r}; {nearest(kernel, ['auto', *KERNELS])}")
        refusal = KERNELS[kernel].refuses(case)
        if refusal:
            raise ShapeError(f"kernel {kernel!r} cannot do this: {refusal}")
        return kernel, "asked for by name"
    refusals, pairs = {}, num_pairs(case)
    for name, entry in KERNELS.items():
        refusals[name] = entry.refuses(case)
        if refusals[name] is None and (pairs > MAX_DENSE_PAIRS or not entry.waives(case)):
            break
    else:
        raise ShapeError("no kernel can do this: " + "; ".join(f"{n}: {r}" for n, r in refusals.items() if r))
    if name in ("dense", "reference") and is_sparse(case.structure) and pairs > MAX_DENSE_PAIRS:
        kinds = "; ".join(f"{n}: {refusals[n]}" for n in ("edges", "banded", "packed") if refusals[n])
        raise ShapeError(
            f"{type(case.structure).__name__} over {pairs} pairs would be computed with a dense mask "
            f"(limit {MAX_DENSE_PAIRS}), because no sparse kernel can do it ({kinds}); cut the batch or the sets, or "
            f"ask for it by kernel={name!r}"
        )
    return name, KERNELS[name].reason


def num_pairs(case: Case) -> int:
    """Return ``B * Nq * Nk``."""
    return case.query.shape[0] * case.query.shape[2] * case.key.shape[2]
