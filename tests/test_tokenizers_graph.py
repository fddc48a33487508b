"""Graphs to sets: against torch-geometric's own utilities, and graphs in a batch against graphs alone."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch_geometric import utils
from torch_geometric.data import Batch, Data

from vsattn.encoders import TransformerEncoder
from vsattn.errors import ConfigError, DataError
from vsattn.heads import MeanHead, VectorHead
from vsattn.model import Model
from vsattn.positions import RandomWalk
from vsattn.structure import Edges
from vsattn.tokenizers.graph import Graph, add_remaining_self_loops, coalesce
from vsattn.tokenizers.graph_nodes import GraphNodes


@st.composite
def graphs(draw: st.DrawFn, *, features: int = 3, edge_features: int | None = 2, most: int = 9) -> Graph:
    """A small graph with loops, edges given twice and isolated nodes."""
    nodes, edges = draw(st.integers(1, most)), draw(st.integers(0, 20))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))
    index = torch.randint(nodes, (2, edges), generator=generator)
    attr = None if edge_features is None else torch.randn(edges, edge_features, generator=generator)
    return Graph(torch.randn(nodes, features, generator=generator), index, attr)


def model_of(tokenizer: GraphNodes, head: type, *, layers: int = 2, positions: bool = False) -> Model:
    torch.manual_seed(0)
    encoder = TransformerEncoder(8, layers, 2)
    where = RandomWalk(8, num_steps=3) if positions else None
    return Model(tokenizer.embedder(8), encoder, head(8, 3), positions=where).eval()


def same(one: tuple, other: tuple) -> None:
    """Compare edges with features, in any order."""
    count = 1 + max((int(i.max()) for i, _ in (one, other) if i.numel()), default=0)
    (index, attr), (index2, attr2) = (
        (i[:, order], None if a is None else a[order])
        for i, a in (one, other)
        for order in [(i[1] * count + i[0]).argsort()]
    )
    assert torch.equal(index, index2)
    assert attr is attr2 is None or torch.allclose(attr, attr2, atol=1e-6)


@given(graphs())
def test_edges_equal_those_of_torch_geometric(graph: Graph) -> None:
    count = len(graph.x)
    index, attr = coalesce(graph.edge_index, graph.edge_attr, count)
    same((index, attr), utils.coalesce(graph.edge_index, graph.edge_attr, count, reduce="mean"))
    expected = utils.add_remaining_self_loops(index, torch.ones(index.shape[1]), num_nodes=count)[0]
    looped, looped_attr = add_remaining_self_loops(index, attr, count)
    same((looped, None), (expected, None))
    assert int((looped[0] == looped[1]).sum()) == count
    lacking = utils.remove_self_loops(index, attr)
    if lacking[0].shape[1] == index.shape[1]:  # no loop was there: the fill is torch-geometric's "mean"
        same((looped, looped_attr), utils.add_remaining_self_loops(index, attr, "mean", count))


@given(graphs())
def test_directions(graph: Graph) -> None:
    index, attr, count = graph.edge_index, graph.edge_attr, len(graph.x)
    expected = {
        "as_is": utils.coalesce(index, attr, count, reduce="mean"),
        "reversed": utils.coalesce(index.flip(0), attr, count, reduce="mean"),
        "both": utils.to_undirected(index, attr, count, reduce="mean"),
    }
    for direction, edges in expected.items():
        found = GraphNodes(direction=direction, self_loops=False).fit([graph]).prepare(graph)
        same((found.edge_index, found.edge_attr), edges)
        if direction == "both":
            assert utils.is_undirected(found.edge_index, num_nodes=count)


def test_the_target_of_an_edge_attends_to_its_source() -> None:
    graph = Graph(torch.eye(3), torch.tensor([[0], [1]]))
    tokenizer = GraphNodes(direction="as_is").fit([graph])
    model, other = model_of(tokenizer, VectorHead, layers=1), torch.eye(3)
    other[0] = 5.0
    changed = (model(tokenizer.collate([graph])) != model(tokenizer.collate([Graph(other, graph.edge_index)])))[0].any(
        1
    )
    assert changed.tolist() == [True, True, False]


@pytest.mark.parametrize("sparse", [False, True])
def test_rows_are_normalised_as_by_torch_geometric(sparse: bool) -> None:
    from torch_geometric.transforms import NormalizeFeatures

    x = (torch.rand(6, 30) < 0.08) * (1 + torch.rand(6, 30))  # it leaves rows alone whose sum is below 1
    x[2] = 0
    expected = NormalizeFeatures()(Data(x=x)).x
    tokenizer = GraphNodes(normalize="rows")
    graph = Graph(x.to_sparse_coo() if sparse else x, torch.zeros(2, 0, dtype=torch.long))
    assert torch.allclose(tokenizer.fit([graph]).prepare(graph).x.to_dense(), expected, atol=1e-6)
    assert torch.allclose(tokenizer.decode(tokenizer.collate([graph]))[0].x, expected, atol=1e-6)


def test_standard_features_have_mean_0_and_deviation_1() -> None:
    x = torch.randn(50, 4) * 3 + 7
    x[:, 1] = 2.0
    graph = Graph(x, torch.zeros(2, 0, dtype=torch.long))
    found = GraphNodes(normalize="standard").fit([graph]).prepare(graph).x
    assert found.mean(0).abs().max() < 1e-5
    assert torch.allclose(found.std(0, unbiased=False), torch.tensor([1.0, 0.0, 1.0, 1.0]), atol=1e-5)


@given(st.lists(graphs(), min_size=1, max_size=4), st.booleans())
def test_a_graph_in_a_batch_equals_the_graph_alone(several: list[Graph], sparse: bool) -> None:
    if sparse:
        several = [Graph(g.x * (g.x > 1.5), g.edge_index, g.edge_attr) for g in several]
    tokenizer = GraphNodes().fit(several)
    for head in (VectorHead, MeanHead):
        model = model_of(tokenizer, head, positions=True).double()
        together = model(tokenizer.collate(several))
        for i, graph in enumerate(several):
            alone = model(tokenizer.collate([graph]))[0]
            assert torch.allclose(together[i][: len(alone)] if head is VectorHead else together[i], alone, atol=1e-6)


def test_a_batch_has_the_edges_of_torch_geometrics_batch() -> None:
    several = [Data(x=torch.randn(n, 2), edge_index=torch.randint(n, (2, 2 * n))) for n in (3, 5, 5)]
    tokenizer = GraphNodes(direction="as_is", self_loops=False).fit(several)
    batch = tokenizer.collate(several)
    flat = batch["mask"].flatten().nonzero()[:, 0]  # where a node of torch-geometric's batch stands
    joined = Batch.from_data_list(several)
    same((batch["edge_index"], None), (flat[utils.coalesce(joined.edge_index)], None))
    assert torch.equal(batch["x"].flatten(0, 1)[flat], joined.x)
    same_again = tokenizer.decode(batch)
    assert [len(g.x) for g in same_again] == [3, 5, 5]
    for graph, data in zip(same_again, several):
        same((graph.edge_index, None), (utils.coalesce(data.edge_index), None))


@given(graphs(), st.randoms(use_true_random=False))
def test_permuting_the_nodes_permutes_the_answers(graph: Graph, random) -> None:
    order = torch.tensor(random.sample(range(len(graph.x)), len(graph.x)))
    tokenizer = GraphNodes().fit([graph])
    model = model_of(tokenizer, VectorHead, positions=True).double()
    moved = Graph(graph.x[order], order.argsort()[graph.edge_index], graph.edge_attr)
    expected = model(tokenizer.collate([graph]))[:, order]
    assert torch.allclose(model(tokenizer.collate([moved])), expected, atol=1e-6)


def test_sparse_features_give_what_dense_ones_give_and_the_same_gradients() -> None:
    x = (torch.rand(40, 60) < 0.05) * torch.randn(40, 60)
    graph = Graph(x, torch.randint(40, (2, 90)))
    tokenizer = GraphNodes().fit([graph])
    assert tokenizer.state["sparse"]
    embedder = tokenizer.embedder(8)
    batch = tokenizer.collate([graph])
    assert "x" not in batch
    grad = torch.randn(1, 40, 8)
    (embedder(batch).x * grad).sum().backward()
    linear = copy.deepcopy(embedder.project)
    linear.zero_grad()
    (linear(x) * grad[0]).sum().backward()
    assert torch.allclose(embedder(batch).x[0], linear(x), atol=1e-6)
    for one, other in zip(embedder.project.parameters(), linear.parameters(), strict=True):
        assert torch.allclose(one.grad, other.grad, atol=1e-5)


def test_dropout_of_sparse_features_has_the_distribution_of_dense_dropout() -> None:
    graph = Graph((torch.arange(200) == 7).float()[None], torch.zeros(2, 0, dtype=torch.long))
    tokenizer = GraphNodes(feature_dropout=0.4).fit([graph])
    embedder, batch = tokenizer.embedder(1).train(), tokenizer.collate([graph])
    weight, bias = embedder.project.weight[0, 7], embedder.project.bias[0]
    drawn = torch.stack([embedder(batch).x.flatten()[0] - bias for _ in range(4000)]) / weight
    kept = drawn.abs() > 0.1
    assert torch.allclose(drawn[kept], torch.tensor(1 / 0.6), atol=1e-4)
    assert abs(float(kept.float().mean()) - 0.6) < 0.03
    assert torch.equal(embedder.eval()(batch).x, embedder(batch).x)


def test_a_graph_is_prepared_and_sorted_once() -> None:
    graph = Graph(torch.rand(30, 3), torch.randint(30, (2, 60)))
    tokenizer = GraphNodes().fit([graph])
    first, second = tokenizer.collate([graph]), tokenizer.collate([graph])
    assert first["edge_index"] is second["edge_index"] and first["x"] is second["x"]
    embedder = tokenizer.embedder(4)
    structure = embedder(first).structure
    assert isinstance(structure, Edges)
    vector_set = embedder(second)
    assert vector_set.structure is structure
    assert structure.edge_list(vector_set, vector_set) is structure.edge_list(vector_set, vector_set)
    unseen = Graph(torch.rand(5, 3), torch.randint(5, (2, 9)))
    with torch.inference_mode():
        batch = tokenizer.collate([unseen])
        embedder(batch)
    embedder(batch).x.sum().backward()  # what evaluation kept serves training
    first["edge_index"][:, 0] = first["edge_index"][:, 0].flip(0)  # changed in place: not the old structure
    assert embedder(first).structure is not structure


def test_what_is_kept_depends_on_all_that_it_was_made_of() -> None:
    index, attr = torch.stack([torch.arange(8), torch.arange(1, 9)]), torch.rand(8, 1)
    batch = {"x": torch.rand(1, 9, 3), "edge_index": index, "edge_attr": attr}
    embedder = GraphNodes().fit([Graph(batch["x"][0], index, attr)]).embedder(4)
    first = embedder(batch).structure
    assert embedder(batch).structure is first
    assert embedder({**batch, "edge_attr": None}).structure.edge_attr is None
    again = embedder(batch).structure
    attr.add_(1)  # in place
    assert embedder(batch).structure is not again

    x = (torch.rand(6, 40) < 0.05) * torch.randn(6, 40)
    tokenizer = GraphNodes().fit([Graph(x, torch.zeros(2, 0, dtype=torch.long))])
    embedder, batch = tokenizer.embedder(4), tokenizer.collate([Graph(x, torch.zeros(2, 0, dtype=torch.long))])
    embedder(batch)
    moved = {**batch, "feature_column": (batch["feature_column"] + 1) % 40}
    assert torch.allclose(embedder(moved).x[0], embedder.project(x.roll(1, 1)), atol=1e-6)


def test_what_is_kept_goes_when_other_data_are_fitted() -> None:
    graph, other = (Graph(torch.rand(5, 2) + i, torch.zeros(2, 0, dtype=torch.long)) for i in (0, 9))
    tokenizer, second = GraphNodes(normalize="standard").fit([graph]), GraphNodes(normalize="standard").fit([other])
    before = tokenizer.collate([graph])["x"]
    expected = second.collate([graph])["x"]
    assert not torch.allclose(before, expected)
    assert torch.equal(tokenizer.load_state(second.state).collate([graph])["x"], expected)
    assert torch.equal(tokenizer.fit([graph]).collate([graph])["x"], before)
    assert torch.equal(tokenizer.fit([other]).collate([graph])["x"], expected)


def test_a_prepared_graph_is_not_prepared_again_and_of_the_same_width() -> None:
    graph = Graph(torch.rand(5, 2), torch.tensor([[0], [1]]))
    prepared = GraphNodes().fit([graph]).prepare(graph)
    assert GraphNodes().fit([graph]).prepare(prepared) is prepared
    with pytest.raises(DataError, match="this graph has 2 features of nodes"):
        GraphNodes().fit([Graph(torch.rand(5, 3), graph.edge_index)]).prepare(prepared)
    with pytest.raises(TypeError, match="ready"):
        Graph(graph.x, graph.edge_index, ready=True)


def test_a_tokenizer_is_small_to_send_and_its_state_is_plain() -> None:
    graph = Graph(torch.rand(500, 30), torch.randint(500, (2, 900)))
    tokenizer = GraphNodes(normalize="standard").fit([graph])
    tokenizer.collate([graph])
    sent = pickle.dumps(tokenizer)
    assert len(sent) < 5000
    again = GraphNodes(normalize="standard").load_state(tokenizer.state)
    for one in (pickle.loads(sent), again):
        assert torch.equal(one.collate([graph])["x"], tokenizer.collate([graph])["x"])


def test_isolated_nodes_and_graphs_without_edges() -> None:
    graph = Graph(torch.rand(4, 3), torch.zeros(2, 0, dtype=torch.long))
    for loops in (True, False):
        tokenizer = GraphNodes(self_loops=loops).fit([graph])
        model = model_of(tokenizer, VectorHead)
        output = model(tokenizer.collate([graph]))
        output.sum().backward()
        assert bool(output.isfinite().all())
        assert all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"x": torch.zeros(0, 3)}, "N >= 1"),
        ({"x": torch.full((2, 3), torch.nan)}, "x holds NaN"),
        ({"x": torch.full((2, 3), torch.nan).to_sparse_coo()}, "x holds NaN"),
        ({"edge_index": torch.tensor([[0], [2]])}, "there are nodes 0 .. 1"),
        ({"edge_index": torch.tensor([[0], [-1]])}, "there are nodes 0 .. 1"),
        ({"edge_index": torch.tensor([[0.0], [1.0]])}, "integer"),
        ({"edge_index": torch.tensor([0, 1])}, r"integer \(2, E\)"),
        ({"edge_attr": torch.ones(3, 1)}, "for 1 edges"),
        ({"edge_attr": torch.full((1, 1), torch.inf)}, "edge_attr holds NaN or infinity"),
    ],
)
def test_wrong_graphs(wrong: dict, said: str) -> None:
    with pytest.raises(DataError, match=said):
        Graph(**{"x": torch.zeros(2, 3), "edge_index": torch.tensor([[0], [1]]), **wrong})


def test_wrong_widths_items_and_arguments() -> None:
    graph, wider = (Graph(torch.rand(2, width), torch.tensor([[0], [1]])) for width in (3, 4))
    with pytest.raises(DataError, match="share their numbers of features"):
        GraphNodes().fit([graph, wider])
    with pytest.raises(DataError, match=r"this graph has 4 features of nodes and 0 of edges.* made for 3 and 0"):
        GraphNodes().fit([graph]).collate([wider])
    with pytest.raises(DataError, match="a graph has x"):
        GraphNodes().fit([3])
    with pytest.raises(DataError, match="has not seen data"):
        GraphNodes().collate([graph])
    for wrong in ({"direction": "up"}, {"normalize": "max"}, {"feature_dropout": 1.0}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            GraphNodes(**wrong)
