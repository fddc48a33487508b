"""The kernel table: which way a call of attention is computed, and why."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from vsattn.attention.case import Case, is_sparse
from vsattn.attention.dense import fused_dense
from vsattn.attention.reference import reference
from vsattn.errors import ShapeError, nearest

#: A sparse structure is computed with a dense mask only up to this many pairs ``B * Nq * Nk``.
MAX_DENSE_PAIRS = 2**27
#: A score that is no dot product is computed only up to this many numbers ``B * H * Nq * Nk * d``.
MAX_PAIRWISE_ELEMENTS = 2**30


@dataclass(frozen=True)
class Kernel:
    """One way to compute attention. ``refuses`` says what it cannot do, or returns None."""

    run: Callable[[Case], Tensor]
    refuses: Callable[[Case], str | None]
    reason: str


def _dense_refuses(case: Case) -> str | None:
    if not _has_dot(case):
        return f"{type(case.score).__name__} is not a dot product"
    if case.relation is not None and case.relation.parts - {"to_score"}:
        return f"{type(case.relation).__name__} adds to keys or values"
    return None


def _has_dot(case: Case) -> bool:
    return case.score.as_dot(case.query[:0], case.key[:0]) is not None


def _reference_refuses(case: Case) -> str | None:
    if not _has_dot(case) and (elements := case.query.numel() * case.key.shape[2]) > MAX_PAIRWISE_ELEMENTS:
        score = type(case.score).__name__
        return f"{score} compares every pair, {elements} numbers at once (limit {MAX_PAIRWISE_ELEMENTS}); cut the sets"
    return None


#: In order of preference: the first kernel that does not refuse is used.
KERNELS: dict[str, Kernel] = {
    "dense": Kernel(fused_dense, _dense_refuses, "a dot score runs on PyTorch's fused kernel"),
    "reference": Kernel(reference, _reference_refuses, "no fused kernel does this score or relation"),
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
    refusals = {name: entry.refuses(case) for name, entry in KERNELS.items()}
    able = [name for name, refusal in refusals.items() if refusal is None]
    if not able:
        raise ShapeError("no kernel can do this: " + "; ".join(f"{n}: {refusal}" for n, refusal in refusals.items()))
    name = able[0]
    pairs = case.query.shape[0] * case.query.shape[2] * case.key.shape[2]
    if is_sparse(case.structure) and pairs > MAX_DENSE_PAIRS:
        raise ShapeError(
            f"{type(case.structure).__name__} over {pairs} pairs would be computed with a dense mask "
            f"(limit {MAX_DENSE_PAIRS}); cut the batch or the sets, or ask for it by kernel={name!r}"
        )
    return name, KERNELS[name].reason
