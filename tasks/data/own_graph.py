"""Your own graph: tables of nodes and edges, an adjacency matrix, or a saved torch-geometric `Data`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from vsattn.errors import ConfigError, DataError
from vsattn.saved import read_saved as load_saved
from vsattn.tokenizers.graph import Graph

from ..classification import IGNORED
from .graphs import SPLITS, GraphData, check_fractions, random_masks, said
from .tables import Table

#: Columns of a node table and of an edge table that are no features.
NODE_COLUMNS, EDGE_COLUMNS = ("id", "label", "split"), ("source", "target")


@dataclass(frozen=True)
class OwnNodes:
    """What is known of the N nodes of one graph.

    Args:
        graph: their features and edges.
        names: what they are called.
        labels: one each, "" for none; None when nothing is said of labels.
        splits: train, val, test or "" each, or None likewise.
    """

    graph: Graph
    names: list[str]
    labels: list[str] | None = None
    splits: list[str] | None = None


class OwnGraph(GraphData):
    """One graph of your own, from files.

    Args:
        nodes: a CSV table with a column ``id``, perhaps ``label`` and ``split`` (train, val or test, or empty), and any
            other columns, which are the features. Features are known by their place, not by name: a table to predict
            from has the same columns in the same order as in training. A node without a label is attended to and not
            judged.
        edges: a CSV table with columns ``source`` and ``target``, ids both, and perhaps features in other columns.
        adjacency: instead of ``edges``, a matrix (N, N) in the order of the nodes: ``.npz`` (dense, or of scipy), or
            ``.pt`` (a tensor, dense or sparse). Numbers other than 0 and 1 become a feature of the edge.
        adjacency_rows: whether its rows are the sources or the targets of edges.
        graph: instead of all those, a ``.pt`` file with a saved torch-geometric ``Data``, or a dict, of ``x``,
            ``edge_index``, ``y`` (below 0: none), perhaps ``edge_attr``, ``edge_weight`` (a feature too),
            ``train_mask``, ``val_mask``, ``test_mask``.
        val_fraction, test_fraction: of each class, where no split is given, drawn by the seed: ``test_fraction`` tests,
            and of the rest ``val_fraction`` validates.
        fan_outs, evaluation_fan_outs: see :class:`~vsattn.tasks.data.graphs.GraphData`.

    Raises:
        ConfigError: unless files are given in one of these ways.
        DataError: in `setup`, naming file, line and value.
    """

    def __init__(
        self,
        *,
        nodes: str | Path | None = None,
        edges: str | Path | None = None,
        adjacency: str | Path | None = None,
        adjacency_rows: Literal["source", "target"] = "source",
        graph: str | Path | None = None,
        val_fraction: float = 0.2,
        test_fraction: float = 0.2,
        fan_outs: Sequence[int] | None = None,
        evaluation_fan_outs: Sequence[int] | None = None,
    ) -> None:
        super().__init__(fan_outs=fan_outs, evaluation_fan_outs=evaluation_fan_outs)
        check_fractions(val_fraction, test_fraction)
        tables = nodes is not None and (edges is None) != (adjacency is None)
        if tables == (graph is not None) or (graph is not None and (nodes or edges or adjacency)):
            raise ConfigError(
                "data=own_graph takes data.graph=FILE.pt, or data.nodes=FILE.csv with either data.edges=FILE.csv or "
                "data.adjacency=FILE"
            )
        if adjacency_rows not in EDGE_COLUMNS:
            raise ConfigError(f"data.adjacency_rows is 'source' or 'target', not {adjacency_rows!r}")
        self.files = {"nodes": nodes, "edges": edges, "adjacency": adjacency, "graph": graph}
        self.adjacency_rows, self.val_fraction, self.test_fraction = adjacency_rows, val_fraction, test_fraction

    def setup(self, seed: int) -> None:
        paths = {name: None if file is None else Path(file).expanduser() for name, file in self.files.items()}
        if paths["graph"] is not None:
            found, source = read_saved(paths["graph"]), paths["graph"]
        else:
            assert paths["nodes"] is not None
            found, source = (
                read_tables(paths["nodes"], paths["edges"], paths["adjacency"], self.adjacency_rows),
                paths["nodes"],
            )
        if found.labels is None:
            raise DataError(f"{source} has no labels to learn from (column label, or y)")
        for node, split in zip(found.names, found.splits or [], strict=False):
            if split not in ("", *SPLITS):
                raise DataError(f"{source}, node {node!r}: the split is train, val, test or empty, not {split!r}")
        numbers = source.suffix == ".pt"
        self.classes = sorted({label for label in found.labels if label}, key=int if numbers else str)
        code = {"": IGNORED} | {name: i for i, name in enumerate(self.classes)}
        labels = torch.tensor([code[label] for label in found.labels])
        if found.splits is None:
            masks, how = random_masks(labels, self.val_fraction, self.test_fraction, seed), f"drawn with seed {seed}"
        else:
            masks, how = {name: torch.tensor([s == name for s in found.splits]) for name in SPLITS}, "as given"
        self.split_nodes(found.graph, labels, masks, how)


def read_graphs(paths: Sequence[Path]) -> Iterator[tuple[str, OwnNodes]]:
    """Yield the name and the nodes of each graph: saved as ``.pt``, or a table of nodes followed by one of edges.

    What they say of labels and splits is not looked at.

    Raises:
        DataError: for a file of another kind, or a table of nodes without its edges.
    """
    remaining = [Path(path) for path in paths]
    while remaining:
        first = remaining.pop(0)
        if first.suffix == ".pt":
            graph, _ = _opened(first)
            yield first.name, OwnNodes(graph, [str(i) for i in range(len(graph.x))])
        elif first.suffix == ".csv" and remaining and remaining[0].suffix == ".csv":
            yield first.name, read_tables(first, remaining.pop(0))
        else:
            raise DataError(f"{first}: graphs are given as GRAPH.pt, or as NODES.csv followed by EDGES.csv")


def read_tables(
    nodes: Path, edges: Path | None, adjacency: Path | None = None, adjacency_rows: str = "source"
) -> OwnNodes:
    """Read a table of nodes, and their edges from a table or a matrix; see :class:`OwnGraph`."""
    table = Table.read(nodes, ("id",), NODE_COLUMNS)
    names = table.text["id"]
    if not names:
        raise DataError(f"{nodes} has no node")
    if not table.features.shape[1]:
        raise DataError(f"{nodes} has no column of features beside {', '.join(table.text)}")
    number: dict[str, int] = {}
    for line, name in zip(table.lines, names, strict=True):
        if name in number:
            raise DataError(f"{nodes}, line {line}: the id {name!r} is there already")
        number[name] = len(number)
    if edges is not None:
        index, attr = _edges(edges, number, nodes)
    else:
        assert adjacency is not None
        index, attr = read_adjacency(adjacency, len(names), adjacency_rows)
    return OwnNodes(Graph(table.features, index, attr), names, table.text.get("label"), table.text.get("split"))


def read_adjacency(path: Path, num_nodes: int, rows: str) -> tuple[Tensor, Tensor | None]:
    """Read a matrix ``(N, N)``: edges ``(2, E)``, and their weights ``(E, 1)`` unless all are 1.

    Raises:
        DataError: for a file that cannot be read, or a matrix that is not square or has another size.
    """
    from scipy import sparse

    if path.suffix not in (".npz", ".pt"):
        raise DataError(f"{path}: an adjacency matrix is a .npz or a .pt file")
    try:
        if path.suffix == ".pt":
            matrix = load_saved(path)
            matrix = (
                matrix if isinstance(matrix, Tensor) and matrix.is_sparse else torch.as_tensor(matrix).to_sparse_coo()
            )
        else:
            with np.load(path, allow_pickle=False) as held:
                scipys = "format" in held
                dense = None if scipys else held[held.files[0]]
            coo = sparse.coo_array(sparse.load_npz(path) if scipys else dense)
            place = torch.from_numpy(np.stack(coo.coords).astype(np.int64))
            values = torch.from_numpy(np.asarray(coo.data, np.float32))
            matrix = torch.sparse_coo_tensor(place, values, coo.shape, check_invariants=True)
    except Exception as error:  # damaged files fail in any way
        raise DataError(f"{path} cannot be read as an adjacency matrix: {said(error)}") from error
    if tuple(matrix.shape) != (num_nodes, num_nodes):
        raise DataError(
            f"{path} holds a matrix {tuple(matrix.shape)}; {num_nodes} nodes need ({num_nodes}, {num_nodes})"
        )
    matrix = matrix.coalesce()
    weights = matrix.values().float()
    if not bool(weights.isfinite().all()):
        raise DataError(f"{path} holds NaN or infinity; every entry must be a finite number")
    index, weights = matrix.indices()[:, weights != 0], weights[weights != 0]
    index = index if rows == "source" else index.flip(0)
    return index, None if bool((weights == 1).all()) else weights[:, None]


def read_saved(path: Path) -> OwnNodes:
    """Read a saved ``Data`` or dict of tensors, running none of its contents; nodes are called 0, 1, ...

    Raises:
        DataError: for a file that is missing, damaged, or holds something else; for labels or masks of another kind.
    """
    graph, held = _opened(path)
    count, y = len(graph.x), held.get("y")
    if y is not None and (not isinstance(y, Tensor) or y.is_floating_point() or y.numel() != count):
        raise DataError(f"{path}: y is one whole number for each of the {count} nodes, not {_kind(y)}")
    masks = {name: held[f"{name}_mask"] for name in SPLITS if held.get(f"{name}_mask") is not None}
    if masks and len(masks) < len(SPLITS):
        lacking = ", ".join(f"{name}_mask" for name in SPLITS if name not in masks)
        raise DataError(f"{path} has {', '.join(f'{m}_mask' for m in masks)} but no {lacking}; give all three, or none")
    for name, mask in masks.items():
        if not isinstance(mask, Tensor) or mask.dtype != torch.bool or mask.shape != (count,):
            raise DataError(f"{path}: masks are bool ({count},); {name}_mask is {_kind(mask)}")
    splits = None
    if masks:
        splits = ["".join(name for name, mask in masks.items() if mask[i]) for i in range(count)]
    labels = None if y is None else [str(c) if c >= 0 else "" for c in y.flatten().long().tolist()]
    return OwnNodes(graph, [str(i) for i in range(count)], labels, splits)


def _opened(path: Path) -> tuple[Graph, dict[str, Any]]:
    """Return the graph of a saved file, and all that the file holds."""
    from torch_geometric.data.data import Data, DataEdgeAttr, DataTensorAttr
    from torch_geometric.data.storage import GlobalStorage

    try:
        with torch.serialization.safe_globals([Data, DataEdgeAttr, DataTensorAttr, GlobalStorage]):
            held: Any = load_saved(path)
        fields = held if isinstance(held, dict) else held.to_dict()
    except Exception as error:
        raise DataError(
            f"{path} cannot be read as a saved graph: {said(error)}; torch.save(Data(x=..., edge_index=..., y=...), "
            "FILE) writes one"
        ) from error
    try:
        return Graph.of(held), fields
    except DataError as error:
        raise DataError(f"{path}: {error}") from None


def _kind(value: Any) -> str:
    return f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"


def _edges(path: Path, number: dict[str, int], nodes: Path) -> tuple[Tensor, Tensor | None]:
    table = Table.read(path, EDGE_COLUMNS, EDGE_COLUMNS)
    for name in EDGE_COLUMNS:
        for line, node in zip(table.lines, table.text[name], strict=True):
            if node not in number:
                raise DataError(f"{path}, line {line}: the {name} {node!r} is not an id of {nodes}")
    index = torch.tensor([[number[node] for node in table.text[name]] for name in EDGE_COLUMNS], dtype=torch.long)
    return index, table.features if table.features.shape[1] else None
