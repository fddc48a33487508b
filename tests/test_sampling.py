"""Sampled neighbours: the right edges, fair draws, and exactness when all are taken."""

from __future__ import annotations

import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch_geometric.utils import k_hop_subgraph, subgraph

from vsattn.encoders import DiffusionEncoder, TransformerEncoder
from vsattn.encoders.graph import GATEncoder, GCNEncoder, SAGEEncoder
from vsattn.errors import ConfigError
from vsattn.heads import VectorHead
from vsattn.model import Model
from vsattn.tasks.classification import IGNORED
from vsattn.tasks.data.sampling import NeighborSampler, Seed, Seeds
from vsattn.tasks.node import NodeCollate
from vsattn.tokenizers.graph import Graph
from vsattn.tokenizers.graph_nodes import GraphNodes


def graph_of(seed: int, *, nodes: int = 40, edges: int = 200, sparse: bool = False) -> Graph:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(nodes, 6, generator=generator)
    x = x * (x > 1.5) if sparse else x
    index = torch.randint(nodes, (2, edges), generator=generator)
    return Graph(x.to_sparse_coo() if sparse else x, index, torch.arange(edges)[:, None].float())


def prepared(graph: Graph, **arguments) -> Graph:
    return GraphNodes(direction="as_is", **arguments).fit([graph]).prepare(graph)


def pairs(index: torch.Tensor) -> set[tuple[int, int]]:
    return set(map(tuple, index.T.tolist()))


@given(st.integers(0, 1000), st.lists(st.sampled_from([-1, 1, 2, 5]), min_size=1, max_size=3), st.booleans())
def test_what_is_drawn_is_a_part_of_the_graph(seed: int, fan_outs: list[int], sparse: bool) -> None:
    graph = prepared(graph_of(seed, sparse=sparse))
    seeds = torch.randperm(40)[:5]
    part, nodes = NeighborSampler(graph, fan_outs).sample(seeds)
    assert torch.equal(nodes[:5], seeds) and len(nodes.unique()) == len(nodes) == len(part.x)
    assert torch.equal(part.x.to_dense(), graph.x.to_dense()[nodes])
    there = {pair: float(attr) for pair, attr in zip(map(tuple, graph.edge_index.T.tolist()), graph.edge_attr)}
    drawn = nodes[part.edge_index]
    assert len(pairs(drawn)) == drawn.shape[1], "an edge was drawn twice"
    assert [there[pair] for pair in map(tuple, drawn.T.tolist())] == part.edge_attr.flatten().tolist()
    loops = drawn[0] == drawn[1]
    assert int(loops.sum()) == len(nodes), "each node keeps its loop, once"
    degree = graph.edge_index[1][graph.edge_index[0] != graph.edge_index[1]].bincount(minlength=40)
    count = drawn[1][~loops].bincount(minlength=40)
    wanted = degree if fan_outs[0] < 0 else degree.clamp(max=fan_outs[0])
    assert torch.equal(count[seeds], wanted[seeds]), "the first hop draws as many as it should"


@pytest.mark.parametrize("hops", [1, 2, 3])
def test_all_neighbours_are_those_of_torch_geometric(hops: int) -> None:
    graph = prepared(graph_of(1, edges=60), self_loops=False)
    seeds = torch.tensor([3, 17, 30])
    part, nodes = NeighborSampler(graph, [-1] * hops).sample(seeds)
    expected, *_ = k_hop_subgraph(seeds, hops, graph.edge_index, num_nodes=40)
    assert set(nodes.tolist()) == set(expected.tolist())
    inner, *_ = k_hop_subgraph(seeds, hops - 1, graph.edge_index, num_nodes=40) if hops > 1 else (seeds,)
    found = pairs(nodes[part.edge_index])
    among = pairs(subgraph(expected, graph.edge_index)[0])
    own = {pair for pair in pairs(graph.edge_index) if pair[1] in set(inner.tolist()) and pair[0] != pair[1]}
    assert own <= found | {(i, i) for i in range(40)} and found <= among


@pytest.mark.parametrize("fan_out", [1, 3, 7])
def test_draws_are_fair(fan_out: int) -> None:
    """Each of 9 edges is kept with probability k / 9, and the mean over those kept estimates the mean over all."""
    torch.manual_seed(0)
    x = torch.arange(10.0)[:, None] ** 2
    sampler = NeighborSampler(Graph(x, torch.stack([torch.arange(1, 10), torch.zeros(9, dtype=torch.long)])), [fan_out])
    rounds, kept, means = 4000, torch.zeros(10), []
    for _ in range(rounds):
        part, nodes = sampler.sample(torch.tensor([0]))
        drawn = nodes[part.edge_index[0]]
        assert len(drawn) == len(drawn.unique()) == fan_out
        kept[drawn] += 1
        means.append(float(x[drawn].mean()))
    share = fan_out / 9
    error = (share * (1 - share) / rounds) ** 0.5
    assert bool(((kept[1:] / rounds - share).abs() < 5 * error).all())
    means = torch.tensor(means)
    assert abs(float(means.mean() - x[1:].mean())) < 5 * float(means.std()) / rounds**0.5


def test_pairs_of_neighbours_are_drawn_alike() -> None:
    torch.manual_seed(0)
    sampler = NeighborSampler(
        Graph(torch.zeros(6, 1), torch.stack([torch.arange(1, 6), torch.zeros(5, dtype=torch.long)])), [2]
    )
    count = torch.zeros(6, 6)
    for _ in range(5000):
        part, nodes = sampler.sample(torch.tensor([0]))
        one, other = nodes[part.edge_index[0]].sort().values.tolist()
        count[one, other] += 1
    assert abs(count[count > 0] / 5000 - 0.1).max() < 0.02 and int((count > 0).sum()) == 10


@given(st.integers(0, 1000), st.booleans(), st.sampled_from(["as_is", "reversed", "both"]))
def test_all_neighbours_give_what_the_whole_graph_gives(seed: int, sparse: bool, direction: str) -> None:
    graph = graph_of(seed, sparse=sparse)
    tokenizer = GraphNodes(direction=direction).fit([graph])
    torch.manual_seed(seed)
    model = Model(tokenizer.embedder(8), TransformerEncoder(8, 2, 2), VectorHead(8, 3)).double().eval()
    nodes = torch.randperm(40)[:6]
    seeds = Seeds(graph, nodes, torch.arange(6) % 3, [-1, -1])
    batch = NodeCollate(tokenizer)([seeds[i] for i in range(6)])
    assert batch["target"][0, :6].tolist() == [0, 1, 2, 0, 1, 2] and bool((batch["target"][0, 6:] == IGNORED).all())
    whole = model(tokenizer.collate([graph]))[0, nodes]
    assert torch.allclose(model(batch)[0, :6], whole, atol=1e-6)


HOPS = {
    "gat": (GATEncoder(8, num_layers=2, num_heads=2), 2),
    "sage": (SAGEEncoder(8, num_layers=2), 2),
    "gcn": (GCNEncoder(8, num_layers=2), 3),
    "diffusion": (DiffusionEncoder(8, [2, 1], hops=[1, 2]), 3),
    "everywhere": (TransformerEncoder(8, 2, 2, global_every=2), None),
    "prefix": (TransformerEncoder(8, 2, 2, num_prefix=1), None),
}


@pytest.mark.parametrize("name", HOPS)
def test_how_many_hops_are_exact(name: str) -> None:
    """So many and no fewer; where a layer sees all nodes, none are enough. Nodes of a chain have all hops to go."""
    encoder, enough = HOPS[name]
    torch.manual_seed(0)
    chain = torch.arange(39)
    graph = Graph(torch.randn(40, 6), torch.stack([chain, chain + 1]))
    tokenizer = GraphNodes(direction="both").fit([graph])
    model = Model(tokenizer.embedder(8), encoder, VectorHead(8, 3)).double().eval()
    whole = model(tokenizer.collate([graph]))[0, [20]]
    exact = []
    for hops in range(1, 7):
        seeds = Seeds(graph, torch.tensor([20]), torch.tensor([0]), [-1] * hops)
        exact.append(torch.allclose(model(NodeCollate(tokenizer)([seeds[0]]))[0, :1], whole, atol=1e-9))
    assert exact == [enough is not None and hops >= enough for hops in range(1, 7)]


def test_a_tokenizer_fitted_anew_prepares_anew() -> None:
    graph, other = graph_of(0), graph_of(1)
    seeds = Seeds(graph, torch.arange(10), torch.zeros(10).long(), [-1])
    tokenizer = GraphNodes(normalize="standard").fit([graph])
    collate = NodeCollate(tokenizer)
    before = collate([seeds[0]])["x"]
    tokenizer.fit([other])
    expected = NodeCollate(GraphNodes(normalize="standard").fit([other]))([seeds[0]])["x"]
    assert torch.equal(collate([seeds[0]])["x"], expected) and not torch.equal(before, expected)


def test_the_seed_decides_and_workers_can_be_given_the_collator() -> None:
    graph = graph_of(0)
    seeds = Seeds(graph, torch.arange(10), torch.zeros(10).long(), [2, 2])
    collate = NodeCollate(GraphNodes().fit([graph]))
    drawn = []
    for collator in (collate, collate, pickle.loads(pickle.dumps(collate))):
        torch.manual_seed(5)
        drawn.append(collator([seeds[i] for i in range(10)])["edge_index"])
    assert torch.equal(drawn[0], drawn[1]) and torch.equal(drawn[0], drawn[2])
    assert not torch.equal(drawn[0][:, :20], collate([seeds[i] for i in range(10)])["edge_index"][:, :20])
    assert isinstance(seeds[3][0], Seed) and seeds[3][0].node == 3


@pytest.mark.parametrize("wrong", [[], [0], [5, -2]])
def test_wrong_fan_outs(wrong: list[int]) -> None:
    with pytest.raises(ConfigError, match="-1 for all"):
        NeighborSampler(graph_of(0), wrong)


def test_work_does_not_grow_with_a_hub() -> None:
    """A node with 100,000 edges costs no more than what is drawn of them."""
    graph = Graph(
        torch.zeros(100_001, 1), torch.stack([torch.arange(1, 100_001), torch.zeros(100_000, dtype=torch.long)])
    )
    part, nodes = NeighborSampler(graph, [10]).sample(torch.tensor([0]))
    assert len(nodes) == 11 and part.edge_index.shape[1] == 10
