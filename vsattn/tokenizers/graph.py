"""One graph: what its nodes are and which are joined; its edges once each, and with loops."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vsattn.errors import DataError


@dataclass(frozen=True, eq=False)
class Graph:
    """What the nodes of a graph are, and which are joined.

    Args:
        x: features of the nodes ``(N, F)``, dense or a sparse tensor.
        edge_index: integer ``(2, E)``: row 0 the source, row 1 the target, which attends to the source.
        edge_attr: features of the edges ``(E, F_e)``, or None.
        ready: the edges are already what :meth:`GraphNodes.prepare` makes of them.

    Raises:
        DataError: for wrong shapes, no node at all, a node that does not exist, NaN or infinity.
    """

    x: Tensor
    edge_index: Tensor
    edge_attr: Tensor | None = None
    ready: bool = False

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
        """Return a graph as it is, and anything with ``x`` and ``edge_index``, such as torch-geometric's ``Data``."""
        if isinstance(item, Graph):
            return item
        x, index = getattr(item, "x", None), getattr(item, "edge_index", None)
        if not isinstance(x, Tensor) or not isinstance(index, Tensor):
            raise DataError(
                f"a graph has x (N, F) and edge_index (2, E), both tensors; this {type(item).__name__} lacks them"
            )
        attr = getattr(item, "edge_attr", None)
        return cls(x, index, attr[:, None] if isinstance(attr, Tensor) and attr.ndim == 1 else attr)


def coalesce(edge_index: Tensor, edge_attr: Tensor | None, num_nodes: int) -> tuple[Tensor, Tensor | None]:
    """Return each edge ``(2, E')`` once, by target and then source, with the mean of its features ``(E', F)``."""
    codes, where = (edge_index[1] * num_nodes + edge_index[0]).unique(return_inverse=True)
    index = torch.stack([codes % num_nodes, codes // num_nodes])
    return index, None if edge_attr is None else _mean_by(where, edge_attr, len(codes))


def add_remaining_self_loops(
    edge_index: Tensor, edge_attr: Tensor | None, num_nodes: int
) -> tuple[Tensor, Tensor | None]:
    """Add an edge to itself for each node that has none, with the mean of the features of the edges that come in."""
    lacking = torch.ones(num_nodes, dtype=torch.bool)
    lacking[edge_index[0, edge_index[0] == edge_index[1]]] = False
    loops = lacking.nonzero()[:, 0].expand(2, -1)
    if edge_attr is not None:
        edge_attr = torch.cat([edge_attr, _mean_by(edge_index[1], edge_attr, num_nodes)[lacking]])
    return coalesce(torch.cat([edge_index, loops], 1), edge_attr, num_nodes)


def _mean_by(where: Tensor, rows: Tensor, count: int) -> Tensor:
    total = rows.new_zeros(count, rows.shape[1]).index_add_(0, where, rows)
    return total / where.bincount(minlength=count).clamp(min=1)[:, None]
