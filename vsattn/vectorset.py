"""The noun: a batch of sets of vectors, with what is real, where it stands, and who may attend to whom."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils._pytree import register_pytree_node, tree_map_only

from vsattn.errors import ShapeError
from vsattn.structure import Full, Structure

Layout = Literal["free", "sequence", "grid"]


@dataclass(frozen=True, eq=False)
class VectorSet:
    """A batch of B sets of N vectors.

    Args:
        x: the vectors, floating point ``(B, N, D)``.
        mask: bool ``(B, N)``, True = real, or None when all are. Padded rows of ``x`` and ``pos`` are
            zero-filled here, so that nothing that stands in them (a NaN, say) can reach a real vector.
        pos: ``(B|1, N, P)`` coordinates, or None; integers become float64, which keeps them; prefix vectors have
            zeros there, which nobody reads.
        structure: who may attend to whom inside this set, used by self-attention.
        layout: ``"sequence"`` (contiguous, in order), ``"grid"`` (row-major ``grid=(H, W)``) or ``"free"``.
            A sequence or grid without ``pos`` has the positions that its layout says.
        grid: ``(H, W)`` of a grid, with ``H * W == N - num_prefix``.
        num_prefix: how many vectors at the front (CLS, registers) stand outside the layout.

    Raises:
        ShapeError: when shapes, dtypes or layout do not fit together.
    """

    x: Tensor
    mask: Tensor | None = None
    pos: Tensor | None = None
    structure: Structure = field(default_factory=lambda: Full())  # a lambda: dynamo cannot trace the class
    layout: Layout = "free"
    grid: tuple[int, int] | None = None
    num_prefix: int = 0

    def __post_init__(self) -> None:
        self._check()
        if self.pos is not None and not self.pos.is_floating_point():
            object.__setattr__(self, "pos", self.pos.to(torch.float64))
        if self.mask is not None:
            padded = ~self.mask[..., None]
            object.__setattr__(self, "x", self.x.masked_fill(padded, 0))
            if self.pos is not None:
                object.__setattr__(self, "pos", self.pos.masked_fill(padded, 0))

    def _check(self) -> None:
        x, mask, pos = self.x, self.mask, self.pos
        if x.ndim != 3 or not x.is_floating_point():
            raise ShapeError(f"x is floating point (B, N, D), not {x.dtype} {tuple(x.shape)}")
        if mask is not None and (mask.dtype != torch.bool or mask.shape != x.shape[:2]):
            raise ShapeError(f"mask is bool {tuple(x.shape[:2])} (True = real), not {mask.dtype} {tuple(mask.shape)}")
        if pos is not None and (pos.ndim != 3 or pos.shape[1] != x.shape[1] or pos.shape[0] not in (1, x.shape[0])):
            raise ShapeError(f"pos is (B, N, P) for x {tuple(x.shape)}, not {tuple(pos.shape)}")
        if self.layout not in ("free", "sequence", "grid"):
            raise ShapeError(f"layout is 'free', 'sequence' or 'grid', not {self.layout!r}")
        if (self.layout == "grid") != (self.grid is not None):
            raise ShapeError(f"layout {self.layout!r} and grid {self.grid} do not fit: a grid layout needs (H, W)")
        if not 0 <= self.num_prefix <= x.shape[1]:
            raise ShapeError(f"num_prefix is {self.num_prefix}; the set has {x.shape[1]} vectors")
        if self.grid is not None and (
            min(self.grid) < 0 or self.grid[0] * self.grid[1] != x.shape[1] - self.num_prefix
        ):
            raise ShapeError(f"grid {self.grid} does not hold {x.shape[1] - self.num_prefix} vectors")
        if self.layout == "sequence" and pos is not None and pos.shape[-1] != 1:
            raise ShapeError(f"a sequence has one coordinate per vector, not {pos.shape[-1]}")

    @property
    def num_vectors(self) -> int:
        """N, prefix and padding included."""
        return self.x.shape[1]

    @property
    def real(self) -> Tensor:
        """Which vectors are real, bool ``(B, N)``: the mask, or all where there is none."""
        return torch.ones(self.x.shape[:2], dtype=torch.bool, device=self.x.device) if self.mask is None else self.mask

    def positions(self) -> Tensor:
        """Return the coordinates ``(B|1, N, P)``: ``pos``, or those that a sequence or a grid implies.

        Raises:
            ShapeError: for a free set without ``pos``.
        """
        if self.pos is not None:
            return self.pos
        device = self.x.device
        if self.layout == "sequence":
            coordinates = torch.arange(self.num_vectors - self.num_prefix, device=device)[:, None]
        elif self.grid is not None:
            rows, columns = (torch.arange(size, device=device) for size in self.grid)
            coordinates = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), -1).flatten(0, 1)
        else:
            raise ShapeError("these vectors have no positions: give pos, or layout='sequence' or 'grid'")
        coordinates = torch.nn.functional.pad(coordinates, (0, 0, self.num_prefix, 0))
        return coordinates[None].to(torch.float32)

    def replace(self, **changes: Any) -> VectorSet:
        """Return a copy with some fields replaced; a new ``pos`` makes the layout free unless one is named."""
        if changes.get("pos") is not None and "layout" not in changes:
            changes = {"layout": "free", "grid": None, **changes}
        return dataclasses.replace(self, **changes)

    def to(self, *args: Any, **kwargs: Any) -> VectorSet:
        """Move tensors to a device; a dtype changes ``x`` alone (mask and indices keep theirs)."""
        x = self.x.to(*args, **kwargs)
        moved = tree_map_only(Tensor, lambda t: t.to(x.device), [self.mask, self.pos, self.structure])
        return dataclasses.replace(self, x=x, mask=moved[0], pos=moved[1], structure=moved[2])

    def with_prefix(self, vectors: Tensor) -> VectorSet:
        """Put learned vectors ``(P, D)`` (CLS, registers) before each set; they are real in every sample."""
        count, batch = vectors.shape[0], self.x.shape[0]
        x = torch.cat([vectors.to(self.x.dtype).expand(batch, -1, -1), self.x], dim=1)
        mask = None if self.mask is None else torch.nn.functional.pad(self.mask, (count, 0), value=True)
        pos = None if self.pos is None else torch.nn.functional.pad(self.pos, (0, 0, count, 0))
        structure = self.structure.shifted(count, self.num_vectors)
        return dataclasses.replace(
            self, x=x, mask=mask, pos=pos, structure=structure, num_prefix=self.num_prefix + count
        )

    @classmethod
    def from_list(cls, items: Sequence[Tensor | VectorSet]) -> VectorSet:
        """Pad sets of different sizes into one batch.

        Args:
            items: tensors ``(N_i, D)``, or single sets (``B = 1``, no padding, no prefix) as :meth:`unbind` gives.
        """
        if not items:
            raise ShapeError("from_list needs at least one set")
        sets = [item if isinstance(item, VectorSet) else cls(item[None]) for item in items]
        for i, item in enumerate(sets):
            if item.x.shape[0] != 1 or item.mask is not None or item.num_prefix:
                raise ShapeError(f"item {i} is not a single set without padding and prefix: x {tuple(item.x.shape)}")
        first, sizes = sets[0], [item.num_vectors for item in sets]
        width = sorted({item.x.shape[-1] for item in sets})
        if len(width) > 1:
            raise ShapeError(f"sets of one batch share their width D; these have {width}")
        total = max(sizes)
        same = all(n == total for n in sizes)
        keeps_layout = len({(item.layout, item.grid) for item in sets}) == 1
        pos = None
        if not keeps_layout or any(item.pos is not None for item in sets):  # each set keeps its own coordinates
            rows = [item.positions()[0] for item in sets]
            if len({row.shape[-1] for row in rows}) > 1:
                raise ShapeError(f"sets of one batch share P; these have {[row.shape[-1] for row in rows]}")
            pos = _pad(rows, total)
        mask = torch.arange(total, device=first.x.device) < torch.tensor(sizes, device=first.x.device)[:, None]
        layout, grid = (first.layout, first.grid) if keeps_layout else ("free", None)
        return cls(
            x=_pad([item.x[0] for item in sets], total),
            mask=None if same else mask,
            pos=pos,
            structure=first.structure.stack([item.structure for item in sets[1:]], sizes, total),
            layout=layout,
            grid=grid,
        )

    def _layout_of(self, keep: Tensor) -> tuple[Layout, tuple[int, int] | None]:
        """Return the layout of ``keep (n,)`` alone: the start of a sequence, the top left of a grid, or free."""
        index = keep - self.num_prefix
        if self.layout == "sequence" and torch.equal(index, torch.arange(len(keep), device=keep.device)):
            return "sequence", None
        if self.grid is not None:
            rows, columns = index // self.grid[1], index % self.grid[1]
            height, width = (int(line.max()) + 1 if len(keep) else 0 for line in (rows, columns))
            corner = torch.arange(height, device=keep.device)[:, None] * self.grid[1]
            corner = (corner + torch.arange(width, device=keep.device)).flatten()
            if torch.equal(index, corner):
                return "grid", (height, width)
        return "free", None

    def unbind(self) -> list[VectorSet]:
        """Return the single sets (``B = 1``) without padding and prefix; edges are re-indexed."""
        positions = None if self.layout == "free" and self.pos is None else self.positions()
        singles = []
        for b in range(self.x.shape[0]):
            if self.mask is None:
                keep = torch.arange(self.num_prefix, self.num_vectors, device=self.x.device)
            else:
                keep = self.num_prefix + self.mask[b, self.num_prefix :].nonzero()[:, 0]
            layout, grid = self._layout_of(keep)
            pos = None if positions is None else positions[b if positions.shape[0] > 1 else 0, keep][None]
            singles.append(
                VectorSet(
                    x=self.x[b, keep][None],
                    pos=None if self.pos is None and layout != "free" else pos,
                    structure=self.structure.select(b, keep, self.num_vectors),
                    layout=layout,
                    grid=grid,
                )
            )
        return singles


def _pad(rows: Sequence[Tensor], length: int) -> Tensor:
    return torch.stack([torch.nn.functional.pad(row, (0, 0, 0, length - len(row))) for row in rows])


_TENSORS, _STATIC = ("x", "mask", "pos", "structure"), ("layout", "grid", "num_prefix")


def _unflatten(values: Any, context: Any) -> VectorSet:
    made = object.__new__(VectorSet)  # a tree's leaves need not be tensors, so nothing is checked here
    for name, value in zip(_TENSORS + _STATIC, [*values, *context]):
        object.__setattr__(made, name, value)
    return made


register_pytree_node(
    VectorSet,
    lambda s: ([getattr(s, n) for n in _TENSORS], tuple(getattr(s, n) for n in _STATIC)),
    _unflatten,
    serialized_type_name="vsattn.VectorSet",
)
