"""Structures of order: `Causal` and `Window` compare positions, not indices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vsattn.errors import ShapeError
from vsattn.structure.base import Full, Structure, of_edges, register

if TYPE_CHECKING:
    from vsattn.vectorset import VectorSet


class _Ordered(Structure):
    """Allows by the offset of positions; both sets need one coordinate."""

    def allows_offset(self, offset: Tensor) -> Tensor:
        """Return bool of the same shape for ``offset``, key position minus query position."""
        raise NotImplementedError

    def allowed(self, query_set: VectorSet, key_set: VectorSet) -> Tensor:
        query, key = self._coordinates(query_set, key_set)
        return self.allows_offset(key[:, None, :] - query[:, :, None])[:, None]

    def permits(self, query_set: VectorSet, key_set: VectorSet, edge_index: Tensor) -> Tensor:
        query, key = self._coordinates(query_set, key_set)
        batch = len(query_set.x)
        return self.allows_offset(of_edges(key, batch, edge_index[0]) - of_edges(query, batch, edge_index[1]))

    def _coordinates(self, query_set: VectorSet, key_set: VectorSet) -> tuple[Tensor, Tensor]:
        query, key = query_set.positions(), key_set.positions()
        if query.shape[-1] != 1 or key.shape[-1] != 1:
            raise ShapeError(
                f"{type(self).__name__} needs one coordinate per vector (a sequence); "
                f"these positions have {query.shape[-1]} and {key.shape[-1]} (query, key)"
            )
        return query[..., 0], key[..., 0]


@dataclass(frozen=True)
class Window(_Ordered):
    """A query at position p attends to keys at positions ``p - left .. p + right``; None means no limit."""

    left: int | None
    right: int | None

    def __post_init__(self) -> None:
        for name, value in (("left", self.left), ("right", self.right)):
            if value is not None and (not isinstance(value, int) or value < 0):
                raise ShapeError(f"Window.{name} counts positions and must be an integer >= 0 or None, not {value}")

    def allows_offset(self, offset: Tensor) -> Tensor:
        allowed = torch.ones_like(offset, dtype=torch.bool)
        if self.left is not None:
            allowed = allowed & (offset >= -self.left)
        if self.right is not None:
            allowed = allowed & (offset <= self.right)
        return allowed

    def unbounded(self) -> Structure:
        return Full()

    def reach(self) -> tuple[int | None, int | None]:
        return self.left, self.right


@dataclass(frozen=True)
class Causal(_Ordered):
    """A query attends to keys at its own position and earlier: positions are compared, not indices."""

    def allows_offset(self, offset: Tensor) -> Tensor:
        return offset <= 0

    def reach(self) -> tuple[int | None, int | None]:
        return None, 0


register(Window, (), ("left", "right"))
register(Causal)
