"""Graphs from files and of scikit-learn, and what is said when something is wrong with them."""

from __future__ import annotations

import os
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import sparse
from sklearn.datasets import load_digits
from sklearn.neighbors import NearestNeighbors
from torch_geometric.data import Data
from torch_geometric.datasets import KarateClub

from vsattn.errors import ConfigError, DataError
from vsattn.tasks.classification import IGNORED
from vsattn.tasks.data.graphs import DigitsGraph, Karate
from vsattn.tasks.data.own_graph import OwnGraph, read_adjacency, read_graphs
from vsattn.tokenizers.graph import Graph

NODES = "id,label,split,a,b\nx,red,train,1,2\ny,blue,val,3,4\nz,red,test,5,6\nw,,,7,8\n"
EDGES = "source,target\nx,y\ny,z\nz,y\n"


def set_up(data: Any, seed: int = 0) -> Any:
    data.setup(seed)
    return data


def nodes_of(data: Any, split: str) -> list[int]:
    ((_, target),) = getattr(data, split)
    return (target != IGNORED).nonzero()[:, 0].tolist()


@pytest.fixture
def write(tmp_path: Path):
    def write(name: str, text: str | bytes) -> Path:
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
        return tmp_path / name

    return write


def own(write, nodes: str = NODES, edges: str = EDGES, **arguments) -> OwnGraph:
    return OwnGraph(nodes=write("nodes.csv", nodes), edges=write("edges.csv", edges), **arguments)


def test_digits_are_joined_to_their_nearest_neighbours() -> None:
    data = set_up(DigitsGraph(neighbors=5))
    ((graph, target),) = data.train
    pixels, labels = load_digits(return_X_y=True)
    neighbours = NearestNeighbors(n_neighbors=6).fit(pixels).kneighbors(pixels[:50], return_distance=False)
    for node in range(50):
        found = graph.edge_index[0, graph.edge_index[1] == node]
        distance = np.linalg.norm(pixels[found] - pixels[node], axis=1)
        assert len(found) == 5 and node not in found
        assert distance.max() <= np.linalg.norm(pixels[neighbours[node][-1]] - pixels[node]) + 1e-9
    parts = [nodes_of(data, split) for split in ("train", "val", "test")]
    assert [len(part) for part in parts] == [200, 200, 1397] and sorted(chain(*parts)) == list(range(1797))
    assert target[parts[0]].bincount().tolist() == [20] * 10
    assert torch.equal(target[parts[0]], torch.from_numpy(labels)[parts[0]].long())
    assert nodes_of(set_up(DigitsGraph(), 0), "train") == nodes_of(set_up(DigitsGraph(), 0), "train")
    assert nodes_of(set_up(DigitsGraph(), 1), "train") != parts[0]
    assert data.train[0][0] is data.val[0][0] is data.test[0][0]
    assert "1,797 nodes" in data.describe() and "200 train, 200 val, 1,397 test nodes" in data.describe()


def test_karate_is_that_of_torch_geometric() -> None:
    data, theirs = set_up(Karate()), KarateClub()[0]
    ((graph, _),) = data.train
    assert torch.equal(graph.edge_index, theirs.edge_index) and torch.equal(graph.x, theirs.x)
    assert nodes_of(data, "train") == theirs.train_mask.nonzero()[:, 0].tolist()
    assert (len(nodes_of(data, "val")), len(nodes_of(data, "test"))) == (10, 20)


def test_tables_of_your_own(write) -> None:
    data = set_up(own(write))
    ((graph, target),) = data.train
    assert data.classes == ["blue", "red"]
    assert graph.x.tolist() == [[1, 2], [3, 4], [5, 6], [7, 8]]
    assert graph.edge_index.tolist() == [[0, 1, 2], [1, 2, 1]] and graph.edge_attr is None
    assert target.tolist() == [1, IGNORED, IGNORED, IGNORED]
    assert [nodes_of(data, split) for split in ("train", "val", "test")] == [[0], [1], [2]]
    weighted = set_up(own(write, edges="weight,target,source\n0.5,y,x\n"))
    ((graph, _),) = weighted.train
    assert graph.edge_index.tolist() == [[0], [1]] and graph.edge_attr.tolist() == [[0.5]]


@pytest.mark.parametrize("rows", ["source", "target"])
@pytest.mark.parametrize("kind", ["dense.npz", "sparse.npz", "dense.pt", "sparse.pt"])
def test_an_adjacency_matrix(tmp_path: Path, kind: str, rows: str) -> None:
    matrix = np.array([[0, 1, 0], [0, 0, 2], [0, 0, 0]], dtype=np.float32)
    path = tmp_path / kind
    match kind:
        case "dense.npz":
            np.savez(path, matrix)
        case "sparse.npz":
            sparse.save_npz(path, sparse.csr_array(matrix))
        case "dense.pt":
            torch.save(torch.from_numpy(matrix), path)
        case _:
            torch.save(torch.from_numpy(matrix).to_sparse_coo(), path)
    index, attr = read_adjacency(path, 3, rows)
    assert index.tolist() == ([[0, 1], [1, 2]] if rows == "source" else [[1, 2], [0, 1]])
    assert attr is not None and attr.tolist() == [[1], [2]]


def test_a_saved_graph(tmp_path: Path, write) -> None:
    masks = {f"{split}_mask": torch.arange(6) // 2 == i for i, split in enumerate(("train", "val", "test"))}
    whole = Data(
        x=torch.rand(6, 2), edge_index=torch.randint(6, (2, 9)), y=torch.tensor([0, 10, 2, 2, 10, -1]), **masks
    )
    for held in (whole, whole.to_dict()):
        torch.save(held, tmp_path / "graph.pt")
        data = set_up(OwnGraph(graph=tmp_path / "graph.pt"))
        assert torch.equal(data.train[0][0].edge_index, whole.edge_index)
        assert data.classes == ["0", "2", "10"]
        assert [nodes_of(data, split) for split in ("train", "val", "test")] == [[0, 1], [2, 3], [4]]
    torch.save(Data(edge_index=whole.edge_index), tmp_path / "without.pt")
    with pytest.raises(DataError, match=r"without.pt: a graph has x .* this Data lacks them"):
        set_up(OwnGraph(graph=tmp_path / "without.pt"))
    named = list(read_graphs([tmp_path / "graph.pt", write("n.csv", NODES), write("e.csv", EDGES)]))
    assert [(name, found.names) for name, found in named] == [("graph.pt", list("012345")), ("n.csv", list("xyzw"))]


@pytest.mark.parametrize(
    "said", [{"y": torch.tensor([1])}, {"y": torch.rand(3)}, {"train_mask": torch.ones(3, dtype=torch.bool)}]
)
def test_what_is_predicted_needs_no_labels_or_splits(tmp_path: Path, write, said: dict[str, torch.Tensor]) -> None:
    torch.save(Data(x=torch.rand(3, 2), edge_index=torch.tensor([[0], [1]]), **said), tmp_path / "graph.pt")
    new = write("n.csv", NODES.replace("val", "new"))
    (_, found), (_, table) = read_graphs([tmp_path / "graph.pt", new, write("e.csv", EDGES)])
    assert found.names == list("012") and len(found.graph.x) == 3 and table.names == list("xyzw")


def test_weights_of_edges_are_features() -> None:
    index, attr, weight = torch.tensor([[0, 1], [1, 2]]), torch.tensor([[1.0, 2], [3, 4]]), torch.tensor([5.0, 6])
    for held, expected in (
        ({"edge_weight": weight}, [[5], [6]]),
        ({"edge_weight": weight, "edge_attr": attr}, [[1, 2, 5], [3, 4, 6]]),
        ({"edge_weight": weight[:, None], "edge_attr": attr[:, 0]}, [[1, 5], [3, 6]]),
    ):
        held |= {"x": torch.ones(3, 1), "edge_index": index}
        for item in (held, Data(**held)):
            assert Graph.of(item).edge_attr.tolist() == expected


def test_batches_of_so_many_vectors_are_for_whole_graphs() -> None:
    data = set_up(DigitsGraph(fan_outs=[3]))
    assert list(data.lengths("val")) == [1797]
    with pytest.raises(ConfigError, match=r"batch_vectors: DigitsGraph cannot tell .*; use batch_size"):
        data.lengths("train")


class Evil:
    """What a pickle could run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.system, (f"echo run > '{self.path}'",)


def test_a_saved_graph_runs_nothing(tmp_path: Path) -> None:
    evil = Evil(tmp_path / "it ran")
    torch.save({"x": torch.rand(2, 2), "edge_index": torch.zeros(2, 1).long(), "y": evil}, tmp_path / "evil.pt")
    with pytest.raises(DataError, match="cannot be read as a saved graph"):
        set_up(OwnGraph(graph=tmp_path / "evil.pt"))
    torch.save(evil, tmp_path / "evil.pt")
    with pytest.raises(DataError, match="cannot be read as an adjacency matrix"):
        read_adjacency(tmp_path / "evil.pt", 2, "source")
    assert not evil.path.exists()


@pytest.mark.parametrize(
    ("nodes", "edges", "said"),
    [
        ("name,label,a\nx,r,1\n", EDGES, r"nodes.csv, line 1: the header 'name,label,a' lacks id"),
        ("id,label,a,a\nx,r,1,1\n", EDGES, "names a column twice"),
        (NODES, "from,to\nx,y\n", r"edges.csv, line 1.*lacks source, target"),
        (NODES, EDGES + "y,q\n", r"edges.csv, line 5: the target 'q' is not an id of"),
        (NODES.replace("3,4", "nan,4"), EDGES, r"nodes.csv, line 3, column a: a finite number is expected, not 'nan'"),
        (NODES.replace("3,4", "3,four"), EDGES, r"line 3, column b: a number is expected, not 'four'"),
        (NODES.replace("3,4", "3"), EDGES, r"line 3: 4 cells; the header has 5"),
        (NODES.replace("y,blue", "x,blue"), EDGES, r"line 3: the id 'x' is there already"),
        (NODES.replace("val", "valid"), EDGES, r"node 'y': the split is train, val, test or empty, not 'valid'"),
        (NODES.replace("val", "train"), EDGES, "the val split has no labelled node"),
        ("id,label,a\n", EDGES, "has no node"),
        ("", EDGES, r"nodes.csv is empty"),
        (NODES.replace("a,b", ",b"), EDGES, r"line 1: .* has a column without a name"),
        (NODES.replace("3,4", '3,"4'), EDGES, r"nodes.csv, line \d: no row of a CSV table"),
        (NODES.replace("3,4", "3,1e39"), EDGES, r"line 3, column b: a finite number is expected, not '1e39'"),
        (NODES.replace("3,4", "3,1_0"), EDGES, r"line 3, column b: a number is expected, not '1_0'"),
        ("id,label\nx,r\n", EDGES, "no column of features"),
        ("id,a\nx,1\ny,2\nz,3\n", EDGES, "has no labels to learn from"),
        (b"id,label,a\nx,\xff,1\n".decode("latin-1").encode("latin-1"), EDGES, "nodes.csv, line 2: not UTF-8"),
    ],
)
def test_wrong_tables(write, nodes: Any, edges: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        set_up(own(write, nodes, edges))


def test_wrong_matrices_and_saved_graphs(tmp_path: Path, write) -> None:
    np.savez(tmp_path / "a.npz", np.zeros((3, 4)))
    with pytest.raises(DataError, match=r"a.npz holds a matrix \(3, 4\); 4 nodes need \(4, 4\)"):
        set_up(OwnGraph(nodes=write("nodes.csv", NODES), adjacency=tmp_path / "a.npz"))
    for path in (write("b.npz", b"PK damaged"), write("b.pt", b"damaged"), tmp_path / "none.npz"):
        with pytest.raises(DataError, match="cannot be read as an adjacency matrix"):
            read_adjacency(path, 3, "source")
    with pytest.raises(DataError, match=r"is a .npz or a .pt file"):
        read_adjacency(write("b.txt", "0 1"), 3, "source")
    with pytest.raises(DataError, match="cannot be read as a saved graph"):
        set_up(OwnGraph(graph=write("damaged.pt", b"damaged")))
    good = {"x": torch.rand(3, 2), "edge_index": torch.zeros(2, 1).long(), "y": torch.tensor([0, 1, 0])}
    for change, said in (
        ({"train_mask": torch.ones(3, dtype=torch.bool)}, "has train_mask but no val_mask, test_mask"),
        (
            {f"{s}_mask": torch.ones(2, dtype=torch.bool) for s in ("train", "val", "test")},
            r"masks are bool \(3,\); train_mask is torch.bool \(2,\)",
        ),
        ({f"{s}_mask": [True] * 3 for s in ("train", "val", "test")}, r"\(3,\); train_mask is a list"),
        ({"y": torch.rand(3)}, r"y is one whole number for each of the 3 nodes, not torch.float32 \(3,\)"),
        ({"y": torch.tensor([1])}, r"each of the 3 nodes, not torch.int64 \(1,\)"),
        ({"y": [1, 0, 1]}, "each of the 3 nodes, not a list"),
        ({"x": None}, "both tensors; this dict lacks them"),
        ({"edge_weight": torch.ones(2)}, r"edge_weight is \(E,\) or \(E, F\) for edge_index \(2, 1\), not \(2,\)"),
        ({"edge_attr": [1.0]}, r"edge_attr is .*, not a list"),
        ({"x": torch.full((3, 2), torch.nan)}, "graph.pt: x holds NaN"),
        ({"x": torch.zeros(0, 2)}, "graph.pt: x holds one row"),
    ):
        torch.save(good | change, tmp_path / "graph.pt")
        with pytest.raises(DataError, match=said):
            set_up(OwnGraph(graph=tmp_path / "graph.pt"))
    with pytest.raises(DataError, match=r"NODES\.csv followed by EDGES\.csv"):
        list(read_graphs([write("nodes.csv", NODES)]))


@pytest.mark.parametrize(
    "files",
    [{}, {"nodes": "n.csv"}, {"graph": "g.pt", "nodes": "n.csv"}, {"nodes": "n", "edges": "e", "adjacency": "a"}],
)
def test_files_that_do_not_go_together(files: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=r"data=own_graph takes data\.graph=FILE\.pt, or data\.nodes"):
        OwnGraph(**files)


def test_wrong_masks_and_numbers() -> None:
    data = set_up(Karate())
    ((graph, target),) = data.train
    masks = {name: torch.zeros(34, dtype=torch.bool) for name in ("train", "val", "test")}
    masks["train"][:5] = masks["val"][4:] = masks["test"][0] = True
    with pytest.raises(DataError, match=r"2 nodes are in two splits \(first: node 0\)"):
        data.split_nodes(graph, torch.zeros(34).long(), masks, "")
    with pytest.raises(DataError, match=r"the train mask is torch.bool \(5,\); 34 nodes need bool \(34,\)"):
        data.split_nodes(graph, target, {**masks, "train": torch.ones(5, dtype=torch.bool)}, "")
    for wrong in ({"neighbors": 0}, {"labelled": 0}, {"fan_outs": [0]}, {"evaluation_fan_outs": []}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            DigitsGraph(**wrong)
    with pytest.raises(ConfigError, match="between 0 and 1"):
        OwnGraph(graph="g.pt", val_fraction=1.0)
