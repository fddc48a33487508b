"""One graph: what its nodes are and which are joined; its edges once each, and with loops."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vsattn.errors import DataError


@dataclass(frozen=True, eq=False)
class Graph:
    """What the nodes of a graph are, and which are joined.

    Neither it nor its tensors are to be changed: what is made of a graph is kept, and found again by its identity.

    Args:
        x: features of the nodes ``(N, F)``, dense or a sparse tensor.
        edge_index: integer ``(2, E)``: row 0 the source, row 1 the target, which attends to the source.
        edge_attr: features of the edges ``(E, F_e)``, or None.

    Raises:
        DataError: for wrong shapes, no node at all, a node that does not exist, NaN or infinity.
    """

    x: Tensor
    edge_index: Tensor
    edge_attr: Tensor | None = None

    def __post_init__(self) -> None:
        x, index, attr = self.x, self.edge_index, self.edge_attr
        if x.ndim != 2 or not len(x):
            raise DataError(f"x holds one row of features for each node, (N, F) with N >= 1, not {tuple(x.shape)}")
        if index.ndim != 2 or index.shape[0] != 2 or index.is_floating_point() or index.dtype == torch.bool:
            raise DataError(f"edge_index is integer (2, E), not {index.dtype} {tuple(index.shape)}")
        if index.numel() and not 0 <= int(index.min()) <= int(index.max()) < len(x):
            raise DataError(
                f"edge_index names nodes {int(index.min())} .. {int(index.max())}; there are nodes 0 .. {len(x) - 1}"
            )
        if attr is not None and (attr.ndim != 2 or len(attr) != index.shape[1]):
            raise DataError(f"edge_attr is (E, F) for {index.shape[1]} edges, not {tuple(attr.shape)}")
        numbers = x if x.layout == torch.strided else x.to_sparse_coo().coalesce().values()
        for name, values in (("x", numbers), ("edge_attr", attr)):
            if values is not None and not bool(values.isfinite().all()):
                raise DataError(f"{name} holds NaN or infinity; every feature must be a finite number")
        sparse = x.layout != torch.strided
        object.__setattr__(self, "x", (x.to_sparse_coo().coalesce() if sparse else x).float())
        object.__setattr__(self, "edge_index", index.long())
        object.__setattr__(self, "edge_attr", None if attr is None else attr.float())

    @classmethod
    def of(cls, item: Any) -> Graph:
        """Return a graph as it is; make one of a dict, or of an object such as torch-geometric's ``Data``.

        Args:
            item: with ``x`` and ``edge_index``, and perhaps ``edge_attr`` and ``edge_weight``, each ``(E, F)`` or
                ``(E,)``, which are joined as features of the edges.

        Raises:
            DataError: for what lacks the first two or has other shapes, and see :class:`Graph`.
        """
        if isinstance(item, Graph):
            return item

        def held(name: str) -> Any:
            return item.get(name) if isinstance(item, Mapping) else getattr(item, name, None)

        x, index = held("x"), held("edge_index")
        if not isinstance(x, Tensor) or not isinstance(index, Tensor):
            raise DataError(
                f"a graph has x (N, F) and edge_index (2, E), both tensors; this {type(item).__name__} lacks them"
            )
        columns = []
        for name in ("edge_attr", "edge_weight"):
            value = held(name)
            if value is None:
                continue
            if not isinstance(value, Tensor) or value.ndim not in (1, 2) or value.shape[:1] != index.shape[-1:]:
                found = f"{tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
                raise DataError(f"{name} is (E,) or (E, F) for edge_index {tuple(index.shape)}, not {found}")
            columns.append(value[:, None] if value.ndim == 1 else value)
        return cls(x, index, torch.cat(columns, 1) if columns else None)


@dataclass(frozen=True, eq=False)
class PreparedGraph(Graph):
    """A graph whose edges are what :meth:`GraphNodes.prepare` makes of them, or a part of one; made nowhere else."""


def coalesce(edge_index: Tensor, edge_attr: Tensor | None, num_nodes: int) -> tuple[Tensor, Tensor | None]:
    """Return each edge ``(2, E')`` once, by target and then source, with the mean of its features ``(E', F)``."""
    from torch_geometric import utils

    return utils.coalesce(edge_index, edge_attr, num_nodes, reduce="mean", sort_by_row=False)


def add_remaining_self_loops(
    edge_index: Tensor, edge_attr: Tensor | None, num_nodes: int
) -> tuple[Tensor, Tensor | None]:
    """Add a loop to each node that has none, with the mean of its incoming edges' features; edges must be coalesced."""
    from torch_geometric import utils

    index, attr = utils.add_remaining_self_loops(edge_index, edge_attr, "mean", num_nodes)
    return coalesce(index, attr, num_nodes)
