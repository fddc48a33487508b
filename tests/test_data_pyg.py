"""Data sets of torch-geometric: their labels, and their masks where they have some."""

from __future__ import annotations

import os
import pickle
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from torch_geometric.data import Data, InMemoryDataset
from torch_geometric.datasets import FakeDataset, KarateClub
from torch_geometric.datasets import Planetoid as TheirPlanetoid

from vsattn.errors import ConfigError, DataError
from vsattn.tasks.classification import IGNORED
from vsattn.tasks.data.pyg import Planetoid, PyG

CORA = Path(__file__).parent.parent.parent / "shared" / "data" / "planetoid"


class Made(InMemoryDataset):
    """A data set that is made of what it is given."""

    def __init__(self, graphs: list[Data]) -> None:
        super().__init__()
        self.data, self.slices = self.collate(graphs)


def set_up(data: Any, seed: int = 0) -> Any:
    data.setup(seed)
    return data


def nodes_of(data: Any, split: str) -> list[int]:
    ((_, target),) = getattr(data, split)
    return (target != IGNORED).nonzero()[:, 0].tolist()


@pytest.mark.skipif(not CORA.is_dir(), reason=f"no Cora in {CORA}")
def test_cora_is_that_of_torch_geometric_and_its_folder_may_be_read_only(tmp_path: Path, monkeypatch) -> None:
    before = sorted(CORA.rglob("*"))
    monkeypatch.setattr(os, "access", lambda path, mode: not (str(path).startswith(str(CORA)) and mode == os.W_OK))
    data = set_up(Planetoid(CORA))
    assert sorted(CORA.rglob("*")) == before
    (tmp_path / "Cora").mkdir()
    (tmp_path / "Cora" / "raw").symlink_to(CORA / "Cora" / "raw")
    theirs = TheirPlanetoid(str(tmp_path), "Cora")[0]
    ((graph, _),) = data.train
    assert torch.equal(graph.x, theirs.x) and torch.equal(graph.edge_index, theirs.edge_index)
    for split in ("train", "val", "test"):
        assert nodes_of(data, split) == theirs[f"{split}_mask"].nonzero()[:, 0].tolist()
    assert data.classes[3] == "neural networks" and len(data.classes) == 7
    assert "140 train, 500 val, 1,000 test nodes (public split)" in data.describe()
    assert pickle.loads(pickle.dumps(data)).describe() == data.describe()


def test_planetoid_that_is_missing_or_damaged(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(TheirPlanetoid, "download", lambda self: (_ for _ in ()).throw(OSError("no network")))
    with pytest.raises(
        DataError, match=r"Cora could not be read or downloaded \(OSError: no network\).*lacks ind.cora.x,.*VSATTN_DATA"
    ):
        set_up(Planetoid(tmp_path / "none"))
    raw = tmp_path / "Cora" / "raw"
    raw.mkdir(parents=True)
    for end in ("x", "tx", "allx", "y", "ty", "ally", "graph", "test.index"):
        (raw / f"ind.cora.{end}").write_bytes(b"damaged")
    with pytest.raises(DataError, match="has every file, and one may be damaged"):
        set_up(Planetoid(tmp_path))
    with pytest.raises(ConfigError, match="Cora, CiteSeer, PubMed, not 'cora'"):
        Planetoid(tmp_path, name="cora")


def test_a_data_set_with_masks_and_one_without() -> None:
    torch.manual_seed(0)
    graph = Data(x=torch.randn(60, 3), edge_index=torch.randint(60, (2, 90)), y=torch.arange(60) % 3)
    data = set_up(PyG(partial(Made, [graph])))
    parts = {split: nodes_of(data, split) for split in ("train", "val", "test")}
    assert sorted(chain(*parts.values())) == list(range(60))
    assert [(graph.y[part] == 0).sum().item() for part in parts.values()] == [13, 3, 4]
    assert "drawn with seed 0" in data.describe()
    draws = torch.rand(60, 2).argsort(0) // 20
    for i, split in enumerate(("train", "val", "test")):
        graph[f"{split}_mask"] = draws == i
    found = set_up(PyG(partial(Made, [graph]), mask_column=1))
    assert nodes_of(found, "val") == (draws[:, 1] == 1).nonzero()[:, 0].tolist()
    graph.y = torch.rand(60, 4)
    with pytest.raises(DataError, match="no single class per node or graph"):
        set_up(PyG(partial(Made, [graph])))


def test_public_masks_are_kept_and_the_others_drawn() -> None:
    draws, known = torch.arange(90) % 3, torch.arange(90) != 3
    labels = torch.where(known, torch.arange(90) // 45, -1)
    graph = Data(x=torch.randn(90, 3), edge_index=torch.randint(90, (2, 99)), y=labels)
    train, val, test = ((draws == i).nonzero()[:, 0].tolist() for i in range(3))
    train.remove(3)  # it has no label

    graph.train_mask, graph.test_mask = draws == 0, draws == 2
    data = set_up(PyG(partial(Made, [graph])))
    assert nodes_of(data, "test") == test and "public train and test masks, val drawn with seed 0" in data.describe()
    assert sorted(nodes_of(data, "train") + nodes_of(data, "val")) == train and len(nodes_of(data, "val")) == 6
    assert nodes_of(set_up(PyG(partial(Made, [graph])), 1), "val") != nodes_of(data, "val")

    del graph.test_mask
    data = set_up(PyG(partial(Made, [graph])))
    assert nodes_of(data, "train") == train and len(nodes_of(data, "val")) == 12
    assert sorted(nodes_of(data, "val") + nodes_of(data, "test")) == sorted(val + test)

    graph.val_mask = draws == 1
    data = set_up(PyG(partial(Made, [graph])))
    assert [nodes_of(data, split) for split in ("train", "val", "test")] == [train, val, test]

    del graph.train_mask
    with pytest.raises(DataError, match="has val_mask but no train_mask"):
        set_up(PyG(partial(Made, [graph])))


@pytest.mark.parametrize("column", [3, -1])
def test_a_public_split_that_is_not_there(column: int) -> None:
    graph = Data(x=torch.randn(9, 3), edge_index=torch.randint(9, (2, 9)), y=torch.arange(9) % 3)
    said = f"data.mask_column is {column}; Made has"
    with pytest.raises(ConfigError, match=f"{said} no several public splits, use 0"):
        set_up(PyG(partial(Made, [graph]), mask_column=column))
    for i, split in enumerate(("train", "val", "test")):
        graph[f"{split}_mask"] = torch.arange(9) // 3 == i
    with pytest.raises(ConfigError, match=f"{said} no several"):
        set_up(PyG(partial(Made, [graph]), mask_column=column))
    graph.train_mask, graph.val_mask = (mask[:, None].expand(-1, 3) for mask in (graph.train_mask, graph.val_mask))
    with pytest.raises(ConfigError, match=f"{said} 3 public splits, 0 .. 2"):
        set_up(PyG(partial(Made, [graph]), mask_column=column))
    assert nodes_of(set_up(PyG(partial(Made, [graph]), mask_column=2)), "test") == [6, 7, 8]  # one mask for all splits


def test_many_graphs_with_a_class_each() -> None:
    torch.manual_seed(0)
    data = set_up(PyG(partial(FakeDataset, num_graphs=50, avg_num_nodes=12, num_classes=3)))
    labels = [[label for _, label in split] for split in (data.train, data.val, data.test)]
    assert sum(map(len, labels)) == 50 and all(isinstance(label, int) for label in chain(*labels))
    for label in range(3):
        assert labels[2].count(label) == round(0.2 * list(chain(*labels)).count(label))
    assert list(data.lengths("val")) == [len(graph.x) for graph, _ in data.val]
    assert "50 graphs" in data.describe()
    with pytest.raises(ConfigError, match="FakeDataset has 50 graphs, which are batched whole: leave both null"):
        set_up(PyG(partial(FakeDataset, num_graphs=50), fan_outs=[3]))


def test_a_data_set_that_cannot_be_made() -> None:
    with pytest.raises(DataError, match=r"KarateClub could not be read or downloaded \(TypeError"):
        set_up(PyG(partial(KarateClub, nodes=3)))
    with pytest.raises(ConfigError, match="between 0 and 1"):
        PyG(KarateClub, val_fraction=1.0)
