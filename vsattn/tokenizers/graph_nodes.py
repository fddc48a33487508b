"""Each node of a graph is a vector; the edges say which others it may attend to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from vsattn.errors import ConfigError, DataError
from vsattn.structure import EdgeList, Edges
from vsattn.tokenizers.base import Tokenizer
from vsattn.tokenizers.graph import Graph, PreparedGraph, add_remaining_self_loops, coalesce
from vsattn.vectorset import VectorSet

Direction = Literal["as_is", "reversed", "both"]
Normalize = Literal["none", "rows", "standard"]

#: Features of which at most this share is not 0 are kept, dropped and multiplied sparse.
SPARSE_SHARE = 0.1


class GraphNodes(Tokenizer):
    """Each node is a vector, a linear map of its features; it attends along the edges that come in.

    Edges given more than once count once, with the mean of their features. A virtual node that sees all and is seen by
    all is a prefix vector of the encoder (``num_prefix=1``); attention that leaves the edges is a matter of the encoder
    too (``is_global``, ``global_every``). Several graphs in a batch are one padded set.

    Args:
        direction: ``"both"`` lets both ends of an edge attend to each other, ``"as_is"`` the target to the source,
            ``"reversed"`` the source to the target.
        self_loops: let each node attend to itself. Loops that are there stay as they are; new ones have the mean of the
            features of the edges that come in, 0 where none does.
        normalize: ``"rows"`` divides the features of each node by the sum of their absolute values, ``"standard"``
            takes off each feature's mean and divides by its deviation among the nodes seen by `fit`.
        feature_dropout: of single features, in training; sparse ones are dropped before they are multiplied.

    Raises:
        ConfigError: for values outside those.
    """

    def __init__(
        self,
        *,
        direction: Direction = "both",
        self_loops: bool = True,
        normalize: Normalize = "none",
        feature_dropout: float = 0.0,
    ) -> None:
        if direction not in ("as_is", "reversed", "both"):
            raise ConfigError(f"GraphNodes.direction is 'as_is', 'reversed' or 'both', not {direction!r}")
        if normalize not in ("none", "rows", "standard"):
            raise ConfigError(f"GraphNodes.normalize is 'none', 'rows' or 'standard', not {normalize!r}")
        if not 0 <= feature_dropout < 1:
            raise ConfigError(f"GraphNodes.feature_dropout is in [0, 1), not {feature_dropout}")
        self.direction, self.self_loops, self.normalize = direction, self_loops, normalize
        self.feature_dropout = feature_dropout
        self._batches: WeakKeyDictionary[Graph, dict[str, Tensor]] = WeakKeyDictionary()  # a graph is prepared once

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_batches"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _batches=WeakKeyDictionary())

    def fit(self, items: Iterable[Any]) -> GraphNodes:
        """Learn the number of features, whether they are sparse, and with ``"standard"`` their mean and deviation.

        Raises:
            DataError: for no graph, or graphs of different widths.
        """
        graphs = list({id(graph): graph for graph in map(Graph.of, items)}.values())
        widths = sorted({(g.x.shape[1], 0 if g.edge_attr is None else g.edge_attr.shape[1]) for g in graphs})
        if len(widths) != 1:
            raise DataError(
                f"graphs share their numbers of features (of nodes, of edges); these have {widths or 'none'}"
            )
        cells = sum(g.x.numel() for g in graphs)
        filled = sum(len(g.x.values()) if g.x.is_sparse else int((g.x != 0).sum()) for g in graphs)
        sparse = self.normalize != "standard" and filled <= SPARSE_SHARE * cells
        self._state = {"num_features": widths[0][0], "edge_dim": widths[0][1], "sparse": sparse}
        if self.normalize == "standard":
            rows = torch.cat([_dense(g.x) for g in graphs]).double()
            deviation = rows.std(0, unbiased=False)
            self._state |= {"mean": rows.mean(0).tolist(), "std": torch.where(deviation > 0, deviation, 1.0).tolist()}
        self._batches.clear()
        return self

    def load_state(self, state: dict[str, Any]) -> Tokenizer:
        """Take over what another tokenizer learned, and return self."""
        self._batches.clear()
        return super().load_state(state)

    @property
    def sizes(self) -> dict[str, Any]:
        """Nothing that the parts of a model need: positions of nodes come from the graph itself."""
        return {}

    def prepare(self, item: Any) -> PreparedGraph:
        """Return the graph as attention takes it: edges directed, each once and in order, with loops; ``x`` normalised.

        Raises:
            DataError: for another number of features than `fit` has seen.
        """
        graph = Graph.of(item)
        state, width = self.state, 0 if graph.edge_attr is None else graph.edge_attr.shape[1]
        if (graph.x.shape[1], width) != (state["num_features"], state["edge_dim"]):
            raise DataError(
                f"this graph has {graph.x.shape[1]} features of nodes and {width} of edges; the model was made for "
                f"{state['num_features']} and {state['edge_dim']}"
            )
        if isinstance(graph, PreparedGraph):
            return graph
        index, attr = graph.edge_index, graph.edge_attr
        if self.direction == "reversed":
            index = index.flip(0)
        elif self.direction == "both":
            index, attr = torch.cat([index, index.flip(0)], 1), None if attr is None else torch.cat([attr, attr])
        index, attr = coalesce(index, attr, len(graph.x))
        if self.self_loops:
            index, attr = add_remaining_self_loops(index, attr, len(graph.x))
        return PreparedGraph(self._normalized(graph.x), index, attr)

    def collate(self, items: Sequence[Any], train: bool = False) -> dict[str, Tensor]:
        """Turn B graphs into a batch.

        A `Graph` that was seen before is not prepared again; any other item, such as torch-geometric's ``Data``, is.

        Returns:
            ``"x" (B, N, F)``, or its numbers that are not 0, row by row: how many each row has in ``"feature_count"
            (B, N)``, their columns and values in ``"feature_column"`` and ``"feature_value" (n,)``; ``"edge_index"
            (2, E)`` of indices into the ``B * N`` nodes; ``"edge_attr" (E, F_e)`` where edges have features, and
            ``"mask" (B, N)`` where graphs differ in size.
        """
        with torch.inference_mode(False):  # what is kept must serve training too
            batches = [self._single(Graph.of(item)) for item in items]
            return dict(batches[0]) if len(batches) == 1 else _joined(batches)

    def decode(self, batch: dict[str, Tensor]) -> list[PreparedGraph]:
        """Turn a batch back into graphs, as `prepare` made them."""
        count = next(batch[name] for name in ("x", "feature_count") if name in batch)
        (number, size), index, attr = count.shape[:2], batch["edge_index"], batch.get("edge_attr")
        real = batch["mask"].sum(1).tolist() if "mask" in batch else [size] * number
        x = batch["x"] if "x" in batch else _sparse_rows(batch, self.state["num_features"]).to_dense()
        x = x.view(number, size, -1)
        graphs = []
        for b, nodes in enumerate(real):
            own = index[1] // size == b
            own_attr = None if attr is None else attr[own]
            graphs.append(PreparedGraph(x[b, :nodes], index[:, own] - b * size, own_attr))
        return graphs

    def embedder(self, dim: int) -> nn.Module:
        """Make the module ``batch -> VectorSet (B, N, dim)`` with `Edges`."""
        return NodeEmbedder(self.state["num_features"], dim, feature_dropout=self.feature_dropout)

    def _single(self, graph: Graph) -> dict[str, Tensor]:
        if graph not in self._batches:
            ready = self.prepare(graph)
            x, batch = ready.x, {"edge_index": ready.edge_index}
            if self.state["sparse"]:
                x = x if x.is_sparse else x.to_sparse_coo().coalesce()
                batch["feature_count"] = x.indices()[0].bincount(minlength=len(x))[None]
                batch |= {"feature_column": x.indices()[1].contiguous(), "feature_value": x.values()}
            else:
                batch["x"] = _dense(x)[None]
            self._batches[graph] = batch if ready.edge_attr is None else {**batch, "edge_attr": ready.edge_attr}
        return self._batches[graph]

    def _normalized(self, x: Tensor) -> Tensor:
        if self.normalize == "standard":
            return (_dense(x) - torch.tensor(self.state["mean"])) / torch.tensor(self.state["std"])
        if self.normalize == "none":
            return x
        if not x.is_sparse:
            return x / _divisor(x.abs().sum(1))[:, None]
        row = x.indices()[0]
        total = x.values().new_zeros(len(x)).index_add_(0, row, x.values().abs())
        return torch.sparse_coo_tensor(x.indices(), x.values() / _divisor(total)[row], x.shape, is_coalesced=True)


class NodeEmbedder(nn.Module):
    """A linear map of each node's features, of which some are dropped in training.

    Edges that come again, the same tensors unchanged, are not sorted again; nor are sparse features.
    """

    def __init__(self, num_features: int, dim: int, *, feature_dropout: float = 0.0) -> None:
        super().__init__()
        self.project, self.dropout = nn.Linear(num_features, dim), nn.Dropout(feature_dropout)
        nn.init.xavier_uniform_(self.project.weight)
        self._kept: dict[str, tuple[tuple[Tensor | None, ...], list[int], Any]] = {}

    def forward(self, batch: dict[str, Tensor]) -> VectorSet:
        """Map a batch of graphs to a set ``(B, N, dim)``."""
        edges = self._once("edges", Edges, batch["edge_index"], batch.get("edge_attr"))
        if "x" in batch:
            x = self.project(self.dropout(batch["x"].to(self.project.weight.dtype)))
        else:
            entries = self._once("entries", self._entries, batch["feature_count"], batch["feature_column"])
            product = SparseProduct.apply(self.dropout(batch["feature_value"]), self.project.weight.T, entries)
            x = (product + self.project.bias).unflatten(0, batch["feature_count"].shape)
        return VectorSet(x, batch.get("mask"), structure=edges)

    def _once(self, name: str, make: Callable[..., Any], *tensors: Tensor | None) -> Any:
        """Return ``make(*tensors)``, or what it was when the same tensors came last, unchanged since."""
        versions = [-1 if t is None or t.is_inference() else t._version for t in tensors]
        kept = self._kept.get(name)
        if kept is None or kept[1] != versions or any(a is not b for a, b in zip(kept[0], tensors, strict=True)):
            with torch.inference_mode(False):
                kept = tensors, versions, make(*tensors)
            self._kept[name] = kept
        return kept[2]

    def _entries(self, count: Tensor, column: Tensor) -> EdgeList:
        row = torch.repeat_interleave(count.flatten())
        return EdgeList(column, row, count.numel(), self.project.in_features)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": {}}


class SparseProduct(torch.autograd.Function):
    """``X W`` for a sparse X ``(n, F)``, given by its values and where they stand, and W ``(F, D)``: ``(n, D)``.

    Only W has a gradient, which is summed column by column of X, in order.
    """

    @staticmethod
    def forward(ctx: Any, values: Tensor, weight: Tensor, entries: EdgeList) -> Tensor:
        ctx.entries = entries
        ctx.save_for_backward(values)
        starts = entries.starts[:-1]
        return F.embedding_bag(
            entries.key, weight.contiguous(), starts, mode="sum", per_sample_weights=values.to(weight.dtype)
        )

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor, None]:
        (values,), (order, row, starts) = ctx.saved_tensors, ctx.entries.by_key
        weights = values[order].to(grad.dtype)
        return None, F.embedding_bag(row, grad, starts[:-1], mode="sum", per_sample_weights=weights), None


def _divisor(total: Tensor) -> Tensor:
    return torch.where(total > 0, total, 1.0)


def _dense(x: Tensor) -> Tensor:
    return x.to_dense() if x.is_sparse else x


def _sparse_rows(batch: dict[str, Tensor], num_features: int) -> Tensor:
    count = batch["feature_count"].flatten()
    place = torch.stack([torch.repeat_interleave(count), batch["feature_column"]])
    return torch.sparse_coo_tensor(place, batch["feature_value"], (len(count), num_features), check_invariants=False)


def _joined(batches: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Pad single graphs to one size N, and count their nodes from ``b * N``."""
    rows = "x" if "x" in batches[0] else "feature_count"
    sizes = torch.tensor([batch[rows].shape[1] for batch in batches])
    total = int(sizes.max())
    padded = [F.pad(b[rows], (0, 0) * (b[rows].ndim - 2) + (0, total - b[rows].shape[1])) for b in batches]
    joined = {rows: torch.cat(padded)}
    joined["edge_index"] = torch.cat([batch["edge_index"] + i * total for i, batch in enumerate(batches)], 1)
    for name in ("feature_column", "feature_value", "edge_attr"):
        if name in batches[0]:
            joined[name] = torch.cat([batch[name] for batch in batches])
    if bool((sizes < total).any()):
        joined["mask"] = torch.arange(total) < sizes[:, None]
    return joined
