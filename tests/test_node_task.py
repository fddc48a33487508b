"""The task on graphs: training on the whole, on drawn parts and on many graphs; predictions and drawings."""

from __future__ import annotations

import csv
import json
import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch_geometric.data import Data

import vsattn
from vsattn.compose import plain_config
from vsattn.encoders import TransformerEncoder
from vsattn.errors import ConfigError, DataError
from vsattn.heads import MeanHead, VectorHead
from vsattn.model import Model
from vsattn.positions import LaplacianEigenvectors, RandomWalk
from vsattn.predict import main as predict
from vsattn.structure import Edges
from vsattn.tasks.checks import faults
from vsattn.tasks.classification import IGNORED
from vsattn.tasks.consistency import consistency
from vsattn.tasks.data.graphs import DigitsGraph, Karate, labelled_graph
from vsattn.tasks.data.own_graph import OwnGraph
from vsattn.tasks.data.sampling import Seeds
from vsattn.tasks.experiment import run
from vsattn.tasks.node import NodeTask
from vsattn.tasks.node_plots import draw_nodes
from vsattn.tasks.training import train
from vsattn.tokenizers.graph import Graph
from vsattn.tokenizers.graph_nodes import GraphNodes
from vsattn.vectorset import VectorSet

CHOICES = ["data=karate", "data=pyg", "data=digits_graph", "encoder=gcn", "encoder=gat", "encoder=sage", "encoder=mlp",
           "encoder=diffusion", "positions=laplacian", "positions=random_walk", "score=split_additive",
           "encoder.global_every=2", "encoder.num_prefix=1", "norm=batch", "task.consistency=1",
           "data.fan_outs=[4,4] data.evaluation_fan_outs=[-1,-1]"]  # fmt: skip


def config(*words: str) -> dict[str, Any]:
    found, wrong = plain_config(["task=node", "logger=none", "dim=16", *words])
    assert wrong + faults(found) == []
    return found


@pytest.mark.parametrize("choice", CHOICES)
def test_every_choice_runs_from_start_to_end(choice: str, tmp_path: Path) -> None:
    heads = [] if any(f"={k}" in choice for k in ("mlp", "gcn", "sage", "diffusion")) else ["encoder.num_heads=2"]
    run(config("debug=fast", *heads, *choice.split()), tmp_path / "run")
    saved = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert {"test/accuracy", "test/accuracy_low", "floor/accuracy"} <= saved.keys()
    assert math.isfinite(saved["test/loss"])
    assert {p.name for p in (tmp_path / "run" / "plots").iterdir()} == {"curves.png", "confusion.png", "graph.png"}


def test_features_of_edges_that_nothing_reads_are_told(tmp_path: Path, capsys) -> None:
    index = torch.randint(12, (2, 30))
    saved = Data(x=torch.rand(12, 3), edge_index=index, edge_attr=torch.rand(30, 2), y=torch.arange(12) % 2)
    torch.save(saved, tmp_path / "graph.pt")
    words = ["data=own_graph", f"data.graph={tmp_path / 'graph.pt'}", "debug=fast"]
    told = "relation=edge_features relation.edge_dim=2"
    run(config(*words), tmp_path / "a")
    assert told in capsys.readouterr().out
    run(config(*words, *told.split()), tmp_path / "b")
    assert told not in capsys.readouterr().out


def answered(folder: Path, *inputs: Path) -> list[dict[str, str]]:
    """Return the rows that the command writes of graphs."""
    output = folder / "answers.csv"
    assert predict([f"ckpt={folder}", f"input={','.join(map(str, inputs))}", f"output={output}"]) == 0
    return list(csv.DictReader(output.open(encoding="utf-8")))


def test_karate_is_learned_and_loaded_again(tmp_path: Path) -> None:
    result = run(config("data=karate", "encoder=diffusion", "encoder.num_heads=[1,1]", "seed=2"), tmp_path / "k")
    assert result.metrics["test/accuracy"] >= 0.6 > result.metrics["floor/accuracy"]  # four nodes are labelled
    predictor = vsattn.load(tmp_path / "k")
    graph, target = labelled_graph(result.data.test)
    (answer,) = predictor.predict([graph])
    labels = [result.data.classes.index(found.label) for found in answer]
    right = (torch.tensor(labels) == target)[target != IGNORED].float().mean()
    assert float(right) == pytest.approx(result.metrics["test/accuracy"])
    data = Data(x=graph.x, edge_index=graph.edge_index)
    assert [found.label for found in predictor.predict([data])[0]] == [found.label for found in answer]
    torch.save(data, tmp_path / "club.pt")
    rows = answered(tmp_path / "k", tmp_path / "club.pt")
    assert [row["label"] for row in rows] == [found.label for found in answer]
    assert list(rows[3]) == ["graph", "node", "label", "probability"] and rows[3]["graph"] == str(tmp_path / "club.pt")
    assert [row["node"] for row in rows] == [str(i) for i in range(34)]
    with pytest.raises(DataError, match="has 3 features of nodes and 0 of edges; the model was made for 34 and 0"):
        predictor.predict([Graph(torch.rand(2, 3), torch.tensor([[0], [1]]))])


def test_tables_in_and_a_table_of_answers_out(tmp_path: Path) -> None:
    """Two cliques, one of each class; a node without a label is answered too, and a new graph (inductive)."""
    names, generator = [f"n{i}" for i in range(20)], torch.Generator().manual_seed(0)
    x = torch.randn(20, 3, generator=generator) + 3 * (torch.arange(20) // 10)[:, None]
    rows = [
        f"{n},{'' if i == 7 else 'ab'[i // 10]},{','.join(f'{v:.3f}' for v in x[i].tolist())}"
        for i, n in enumerate(names)
    ]
    (tmp_path / "nodes.csv").write_text("\n".join(["id,label,p,q,r", *rows]) + "\n")
    edges = [f"n{i},n{j}" for i in range(20) for j in range(i) if i // 10 == j // 10]
    (tmp_path / "edges.csv").write_text("\n".join(["source,target", *edges]) + "\n")
    words = [f"data.nodes={tmp_path / 'nodes.csv'}", f"data.edges={tmp_path / 'edges.csv'}"]
    run(
        config("data=own_graph", *words, "trainer.max_epochs=30", "optimizer.lr=0.01", "encoder.num_heads=2"),
        tmp_path / "r",
    )
    (tmp_path / "new.csv").write_text("id,p,q,r\nu,3.1,2.9,3\nv,0,0.1,-0.1\n")
    (tmp_path / "none.csv").write_text("source,target\n")
    found = answered(tmp_path / "r", *(tmp_path / name for name in ("nodes.csv", "edges.csv", "new.csv", "none.csv")))
    assert [row["label"] for row in found] == [*"a" * 10, *"b" * 10, "b", "a"]
    assert found[7]["node"] == "n7" and found[20]["graph"] == str(tmp_path / "new.csv") and found[20]["node"] == "u"


def test_one_label_per_graph(tmp_path: Path) -> None:
    """Triangles against paths of the same random features: only the edges tell them apart."""
    torch.manual_seed(0)
    cliques, paths = torch.tensor([[0, 1, 2, 0], [1, 2, 0, 3]]), torch.tensor([[0, 1, 2], [1, 2, 3]])
    data = Karate()
    data.setup(0)
    items: list[Any] = [(Graph(torch.ones(4, 2), (paths, cliques)[i % 2]), i % 2) for i in range(48)]
    items[5] = items[41] = (Graph(torch.ones(4, 2), cliques), IGNORED)  # a graph without a label
    data.classes, data.train, data.val, data.test = ["path", "triangle"], items[:32], items[32:40], items[40:]
    tokenizer = GraphNodes(self_loops=False).fit(data.fit_items(100))
    model = Model(
        tokenizer.embedder(16), TransformerEncoder(16, 2, 2), MeanHead(16, 2), positions=RandomWalk(16, num_steps=4)
    )
    task = NodeTask(model, tokenizer, data.classes, optimizer=partial(torch.optim.Adam, lr=0.01))
    result = train(task, data, folder=tmp_path, batch_size=8, trainer={"max_epochs": 15, "accelerator": "cpu"})
    assert result.metrics["test/accuracy"] == 1.0
    floor = task.floor(data)
    assert len(floor) == 7 and floor.mean() <= 0.75  # features alone say nothing
    assert [path.name for path in task.draw(tmp_path, data)] == ["confusion.png"]


def test_the_floor_is_that_of_scikit_learn() -> None:
    data = DigitsGraph()
    data.setup(0)
    tokenizer = GraphNodes().fit(data.fit_items(1))
    task = NodeTask(
        Model(tokenizer.embedder(4), TransformerEncoder(4, 1, 1), VectorHead(4, 10)), tokenizer, data.classes
    )
    ((graph, train_target),), ((_, test_target),) = data.train, data.test
    x, scaler = graph.x.numpy(), StandardScaler()
    own = [(t != IGNORED).numpy() for t in (train_target, test_target)]
    machine = LogisticRegression(max_iter=1000).fit(scaler.fit_transform(x[own[0]]), train_target[own[0]])
    expected = machine.predict(scaler.transform(x[own[1]])) == test_target[own[1]].numpy()
    assert np.array_equal(task.floor(data), expected)
    sampled = DigitsGraph(fan_outs=[3], evaluation_fan_outs=[3])
    sampled.setup(0)
    assert np.array_equal(task.floor(sampled), expected)


def test_sampled_evaluation_with_all_neighbours_equals_the_whole_graph(tmp_path: Path) -> None:
    torch.manual_seed(0)
    results = []
    for fan_outs in (None, [-1, -1]):
        data = DigitsGraph(evaluation_fan_outs=fan_outs)
        data.setup(0)
        tokenizer = GraphNodes().fit(data.fit_items(1))
        torch.manual_seed(1)
        task = NodeTask(
            Model(tokenizer.embedder(8), TransformerEncoder(8, 2, 1), VectorHead(8, 10)), tokenizer, data.classes
        )
        trainer = {"max_epochs": 2, "accelerator": "cpu"}
        results.append(train(task, data, folder=tmp_path, batch_size=100, trainer=trainer).metrics)
    assert results[0] == pytest.approx(results[1], rel=1e-4)


def test_a_step_on_a_graph_seen_before_sorts_nothing(monkeypatch) -> None:
    data = DigitsGraph()
    data.setup(0)
    tokenizer = GraphNodes().fit(data.fit_items(1))
    task = NodeTask(
        Model(tokenizer.embedder(8), TransformerEncoder(8, 2, 1), VectorHead(8, 10)), tokenizer, data.classes
    )
    task.training_loss(task(batch := task.collate(data.train, train=True)), batch).backward()

    def refuse(*args, **kwargs):
        raise AssertionError("sorted again")

    monkeypatch.setattr(torch.Tensor, "argsort", refuse)
    monkeypatch.setattr(torch.Tensor, "unique", refuse)
    monkeypatch.setattr(torch, "searchsorted", refuse)
    for split in ("train", "val", "test", "train"):
        batch = task.collate(getattr(data, split), train=split == "train")
        task.training_loss(task(batch), batch).backward()


def test_sampled_parts_train_as_well_as_the_whole(tmp_path: Path) -> None:
    words = ["dim=32", "trainer.max_epochs=20", "encoder.num_heads=2", "optimizer.lr=0.005"]
    whole = run(config(*words), tmp_path / "whole").metrics["test/accuracy"]
    drawn = run(config(*words, "data.fan_outs=[5,5]", "batch_size=50", "trainer.max_epochs=8"), tmp_path / "drawn")
    assert isinstance(drawn.data.train, Seeds) and not isinstance(drawn.data.val, Seeds)
    assert whole > 0.9 and drawn.metrics["test/accuracy"] > whole - 0.02


@pytest.mark.parametrize("fan_outs", [{"fan_outs": [3]}, {"evaluation_fan_outs": [-1, -1]}])
def test_positions_of_the_graph_need_it_whole(fan_outs: dict[str, list[int]], tmp_path: Path) -> None:
    data = DigitsGraph(**fan_outs)
    data.setup(0)
    tokenizer = GraphNodes().fit(data.fit_items(1))
    for positions in (RandomWalk(8, num_steps=2), LaplacianEigenvectors(8, num_eigenvectors=2)):
        model = Model(tokenizer.embedder(8), TransformerEncoder(8, 1, 1), VectorHead(8, 10), positions=positions)
        task = NodeTask(model, tokenizer, data.classes)
        with pytest.raises(ConfigError, match=r"data\.fan_outs .*use positions=none, or leave both null"):
            train(task, data, folder=tmp_path, batch_size=50, trainer={"max_epochs": 1, "accelerator": "cpu"})


def test_layers_that_see_the_whole_graph() -> None:
    """With ``global_every=2`` the second of two layers joins what no edge joins; without it neither does."""
    torch.manual_seed(0)
    x, structure = torch.randn(1, 4, 8), Edges(torch.tensor([[0, 1, 2, 3], [0, 1, 2, 3]]))
    for every, sees in ((None, False), (2, True)):
        encoder = TransformerEncoder(8, 2, 2, global_every=every).eval()
        other = x.clone()
        other[0, 0] = torch.randn(8)
        before, after = (encoder(VectorSet(vectors, structure=structure)).x for vectors in (x, other))
        assert bool(((before - after)[0, 1:].abs() > 1e-6).any()) is sees
    with pytest.raises(ConfigError, match="global_every is in 1"):
        TransformerEncoder(8, 1, 1, global_every=0)


def test_consistency_of_two_passes_is_a_quarter_of_their_squared_distance() -> None:
    """At temperature 1 the target is the mean of two, from which each is half their distance away."""
    logits = torch.randn(2, 3, 5, 4, dtype=torch.float32, requires_grad=True)
    first, second = logits.softmax(-1)
    mask = torch.rand(3, 5) < 0.5
    for chosen in (None, mask):
        squares = (first - second).square().sum(-1) / 4
        expected = (squares if chosen is None else squares[chosen]).mean()
        assert torch.allclose(consistency(list(logits), temperature=1.0, mask=chosen), expected)
    sure = consistency([logits[0], logits[0]], temperature=0.5)  # one answer, and the same sharpened
    target = first.square() / first.square().sum(-1, keepdim=True)
    assert torch.allclose(sure, (first - target).square().sum(-1).mean())
    wanted = torch.autograd.grad((first - target.detach()).square().sum(-1).mean(), logits, retain_graph=True)[0]
    assert torch.allclose(torch.autograd.grad(sure, logits)[0], wanted, atol=1e-7)
    logits = torch.tensor([[1.0, 0.0, 0.0, -1.0]])
    surest = consistency([logits, logits], temperature=1e-3)  # whose powers are all too small for a float
    assert torch.allclose(surest, (logits.softmax(-1) - torch.tensor([1.0, 0, 0, 0])).square().sum())


def test_consistency_learns_from_nodes_without_a_label() -> None:
    """Nodes whom no edge joins to a labelled one: only what passes answer differently teaches anything of them."""
    graph = Graph(torch.eye(6), torch.tensor([[0, 1, 3, 4], [1, 0, 4, 5]]))
    target = torch.tensor([0, 1, *[IGNORED] * 4])
    tokenizer = GraphNodes(feature_dropout=0.5).fit([graph])
    for weight in (0.0, 1.0):
        torch.manual_seed(0)
        model = Model(tokenizer.embedder(8), TransformerEncoder(8, 1, 1), VectorHead(8, 2))
        task = NodeTask(model, tokenizer, ["a", "b"], consistency=weight, draws=3)
        batch = task.collate([(graph, target)], train=True)
        task.training_loss(task(batch), batch).backward()
        moved = model.embedder.project.weight.grad[:, 3:].abs().sum()
        assert bool(moved > 0) is (weight > 0)
    plain = task.cross_entropy(task.eval()(batch), batch["target"], 0.0)
    task.teach_plainly()
    assert torch.equal(task.training_loss(task(batch), batch), plain)


@pytest.mark.parametrize("wrong", [{"consistency": -1.0}, {"draws": 1}, {"temperature": 0.0}, {"temperature": 1.5}])
def test_values_of_consistency_out_of_range(wrong: dict[str, float]) -> None:
    words = [f"task.{name}={value}" for name, value in wrong.items()]
    with pytest.raises(ConfigError, match=r"task\.consistency is at least 0"):
        run(config("debug=fast", *words), Path("unused"))


def test_a_drawing_of_a_large_graph_changes_no_random_number(tmp_path: Path) -> None:
    graph = Graph(torch.rand(3000, 1), torch.randint(3000, (2, 9000)))
    answers = torch.where(torch.rand(3000) < 0.5, torch.randint(12, (3000,)), IGNORED)
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    path = draw_nodes(
        graph, answers, answers.clone(), [f"class number {i} with a long name" for i in range(12)], tmp_path / "g.png"
    )
    assert path.stat().st_size > 10_000 and torch.equal(torch.random.get_rng_state(), before)


def test_own_graph_without_splits_is_drawn_by_the_seed(tmp_path: Path) -> None:
    torch.save(
        {"x": torch.rand(50, 2), "edge_index": torch.randint(50, (2, 80)), "y": torch.arange(50) % 2}, tmp_path / "g.pt"
    )
    targets = []
    for seed in (0, 0, 1):
        data = OwnGraph(graph=tmp_path / "g.pt")
        data.setup(seed)
        targets.append(data.train[0][1])
    assert torch.equal(targets[0], targets[1]) and not torch.equal(targets[0], targets[2])
