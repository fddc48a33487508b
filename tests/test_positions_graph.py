"""Positions in graphs against torch-geometric's transforms and scipy, in batches and alone."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import nn
from torch_geometric.data import Data
from torch_geometric.transforms import AddLaplacianEigenvectorPE, AddRandomWalkPE
from torch_geometric.utils import barabasi_albert_graph, coalesce, erdos_renyi_graph, remove_self_loops, to_undirected

from vsattn.errors import ConfigError, ShapeError
from vsattn.positions import LaplacianEigenvectors, RandomWalk, graphs
from vsattn.structure import Edges, Full, Segments, Window
from vsattn.vectorset import VectorSet

KINDS = [
    ("laplacian", lambda: LaplacianEigenvectors(6, num_eigenvectors=6)),
    ("walk", lambda: RandomWalk(6, num_steps=6)),
]
KINDS = [pytest.param(make, id=name) for name, make in KINDS]


def graph_set(edge_index, count, dim=6, **fields):
    return VectorSet(torch.zeros(1, count, dim), structure=Edges(edge_index), **fields)


def connected_graph(count, seed=0):
    """A connected graph without the symmetries that make eigenvalues equal."""
    torch.manual_seed(seed)
    ring = torch.arange(count)
    chords = torch.randint(0, count, (2, count))
    edges = remove_self_loops(torch.cat([torch.stack([ring, ring.roll(1)]), chords], 1))[0]
    return coalesce(to_undirected(edges))


def plain(positions):
    """Let the module add the features themselves."""
    nn.init.eye_(positions.proj.weight)
    return positions.eval()


def assert_equal_up_to_sign(found, expected, atol=1e-5):
    sign = (found * expected).sum(0).sign()
    torch.testing.assert_close(found, expected * sign, atol=atol, rtol=0)


@pytest.mark.parametrize("count", [12, 60, 150])
def test_eigenvectors_are_torch_geometrics_up_to_sign(count):
    edges = connected_graph(count)
    start = np.random.default_rng(0).normal(size=count).astype(np.float32)  # of its iteration, which is in float32
    data = AddLaplacianEigenvectorPE(6, is_undirected=True, v0=start)(Data(edge_index=edges, num_nodes=count))
    found = plain(LaplacianEigenvectors(6, num_eigenvectors=6))(graph_set(edges, count)).x[0]
    assert_equal_up_to_sign(found, data.laplacian_eigenvector_pe.float())


def test_eigenvectors_solve_the_equation_in_dense_and_in_iterative_form(monkeypatch):
    """L u = lambda u with the k least positive eigenvalues, of a graph whose edges have directions and loops."""
    edges = connected_graph(300)
    edges = torch.cat([edges[:, edges[0] < edges[1]], torch.arange(0, 300, 7).repeat(2, 1)], 1)
    adjacency = torch.zeros(300, 300, dtype=torch.float64)
    adjacency[edges[0], edges[1]] = adjacency[edges[1], edges[0]] = 1.0
    adjacency.fill_diagonal_(0)
    scale = adjacency.sum(0).rsqrt()
    laplacian = torch.eye(300) - scale[:, None] * adjacency * scale
    values = torch.linalg.eigvalsh(laplacian)[1:7]
    for limit in (2048, 100):
        monkeypatch.setattr(graphs, "MAX_DENSE_NODES", limit)
        vectors = plain(LaplacianEigenvectors(6, num_eigenvectors=6))(graph_set(edges, 300)).x[0].double()
        torch.testing.assert_close(laplacian @ vectors, vectors * values, atol=1e-6, rtol=0)
        torch.testing.assert_close(vectors.T @ vectors, torch.eye(6).double(), atol=1e-6, rtol=0)
        assert (vectors.amax(0) > -vectors.amin(0)).all()  # the largest entry is positive


@pytest.mark.parametrize("make_graph", [lambda: erdos_renyi_graph(80, 0.1), lambda: barabasi_albert_graph(200, 2)])
def test_return_probabilities_are_torch_geometrics(make_graph):
    torch.manual_seed(0)
    edges = make_graph()
    count = 200
    data = AddRandomWalkPE(6)(Data(edge_index=edges, num_nodes=count))
    found = plain(RandomWalk(6, num_steps=6))(graph_set(edges, count)).x[0]
    torch.testing.assert_close(found, data.random_walk_pe, atol=1e-6, rtol=0)


def test_walks_follow_the_edges_and_count_loops():
    edges = erdos_renyi_graph(40, 0.1, directed=True)
    edges = torch.cat([edges, torch.arange(0, 40, 3).repeat(2, 1)], 1)
    data = AddRandomWalkPE(6)(Data(edge_index=edges, num_nodes=40))
    found = plain(RandomWalk(6, num_steps=6))(graph_set(edges, 40)).x[0]
    torch.testing.assert_close(found, data.random_walk_pe, atol=1e-6, rtol=0)


@pytest.mark.parametrize("make", KINDS)
def test_a_graph_in_a_padded_batch_is_told_the_same_as_alone(make):
    positions = make().eval()
    sizes = (5, 17, 9)
    singles = [VectorSet(torch.randn(1, n, 6), structure=Edges(connected_graph(n, n))) for n in sizes]
    batch = positions(VectorSet.from_list(singles))
    for i, (single, size) in enumerate(zip(singles, sizes, strict=True)):
        torch.testing.assert_close(batch.x[i, :size], make_like(positions, make)(single).x[0], atol=1e-6, rtol=0)
        assert not batch.x[i, size:].any()


def make_like(positions, make):
    """Return a module of the same weights that has seen no graph yet."""
    fresh = make().eval()
    fresh.load_state_dict(positions.state_dict())
    return fresh


@pytest.mark.parametrize("make", KINDS)
def test_padding_anywhere_hides_its_edges(make):
    positions = make().eval()
    edges, keep = connected_graph(12), torch.arange(12) % 4 != 1
    whole = graph_set(edges, 12).replace(mask=keep[None])
    (alone,) = whole.unbind()
    torch.testing.assert_close(positions(whole).x[0, keep], positions(alone).x[0])


@pytest.mark.parametrize("make", KINDS)
def test_permuting_the_nodes_permutes_the_rows(make):
    positions = make().eval()
    edges, order = connected_graph(15), torch.randperm(15)
    moved = order.argsort()[edges]  # node order[i] is node i now
    found = positions(graph_set(moved[:, torch.randperm(moved.shape[1])], 15)).x[0]
    torch.testing.assert_close(found, positions(graph_set(edges, 15)).x[0, order], atol=1e-5, rtol=0)


@pytest.mark.parametrize("make", KINDS)
def test_parts_of_a_graph_are_told_what_they_are_told_alone_and_isolated_nodes_nothing(make):
    positions = make().eval()
    left, right = connected_graph(7, 1), connected_graph(20, 2)
    shuffled = torch.randperm(30)  # 7 and 20 nodes, 3 of them alone
    found = positions(graph_set(shuffled[torch.cat([left, right + 7], 1)], 30)).x[0, shuffled]
    torch.testing.assert_close(found[:7], positions(graph_set(left, 7)).x[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(found[7:27], positions(graph_set(right, 20)).x[0], atol=1e-5, rtol=0)
    assert torch.equal(found[27:], torch.zeros(3, 6))
    assert torch.equal(positions(graph_set(torch.zeros(2, 0).long(), 4)).x, torch.zeros(1, 4, 6))


def test_a_graph_of_few_nodes_has_few_eigenvectors():
    path = torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]])
    found = plain(LaplacianEigenvectors(6, num_eigenvectors=6))(graph_set(path, 3)).x[0]
    half = 0.5**0.5
    expected = torch.tensor([[half, 0.5], [0.0, half], [half, 0.5]])  # eigenvalues 1 and 2 of I - D^-1/2 A D^-1/2
    torch.testing.assert_close(found[:, :2].abs(), expected, atol=1e-6, rtol=0)
    assert not found[:, 2:].any()


def test_signs_flip_in_training_alone_whole_eigenvectors_at_a_time():
    torch.manual_seed(0)
    positions = plain(LaplacianEigenvectors(6, num_eigenvectors=6))
    edges = connected_graph(10)
    sets = graph_set(torch.cat([edges, edges + 10], 1), 20)  # two components
    still = positions(sets).x[0]
    assert torch.equal(positions(sets).x[0], still)
    positions.train()
    signs = []
    for _ in range(400):
        ratio = positions(sets).x[0] / still
        ratio = ratio.view(2, 10, 6)
        torch.testing.assert_close(ratio.abs(), torch.ones(2, 10, 6))
        assert torch.equal(ratio.amax(1), ratio.amin(1))
        signs.append(ratio[:, 0].flatten())
    signs = torch.stack(signs)  # (400, 12)
    assert (signs.mean(0).abs() < 0.2).all()
    assert ((signs.T @ signs / 400 - torch.eye(12)).abs() < 0.2).all()  # all independent
    walk = RandomWalk(6, num_steps=3)
    assert torch.equal(walk.train()(sets).x, walk.eval()(sets).x)


@pytest.mark.parametrize("make", KINDS)
def test_a_graph_is_worked_out_once_whatever_tensor_it_comes_in(make, monkeypatch):
    positions = make().eval()
    found, describe = [], type(positions).describe
    monkeypatch.setattr(type(positions), "describe", lambda self, e: found.append(1) or describe(self, e))
    first, second = connected_graph(8, 1), connected_graph(9, 2)
    expected = positions(graph_set(first, 8)).x
    for _ in range(3):
        shuffled = first[:, torch.randperm(first.shape[1])]
        assert torch.equal(positions(graph_set(shuffled.clone(), 8)).x, expected)
    batch = VectorSet.from_list([graph_set(first, 8), graph_set(second, 9)])
    positions(batch)
    assert len(found) == 2
    changed = batch.structure.edge_index
    positions(batch.replace(structure=Edges(changed[:, 1:])))
    assert len(found) == 3
    monkeypatch.setattr(graphs, "MAX_KEPT", 1)
    positions(graph_set(connected_graph(11), 11)), positions(graph_set(first, 8))
    assert len(found) == 5 and len(positions._kept) == 1  # the old ones made room


def test_threads_may_forget_graphs_at_the_same_time(monkeypatch):
    """What is kept is counted right, and the oldest graph is forgotten once."""
    positions = RandomWalk(4, num_steps=2)
    monkeypatch.setattr(graphs, "MAX_KEPT", 20)
    sets = []
    for size in range(3, 23):
        ring = torch.arange(size)
        edges = Edges(torch.stack([ring, ring.roll(1)]))
        sets.append(VectorSet(torch.zeros(1, size, 4), structure=edges))
    alone = [positions.features(vector_set) for vector_set in sets]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(positions.features, sets * 5))
    finally:
        sys.setswitchinterval(interval)
    assert all(torch.equal(one, other) for one, other in zip(found, alone * 5, strict=True))
    assert positions._kept_numbers == sum(one.numel() for one in positions._kept.values())


@pytest.mark.parametrize("make", KINDS)
def test_only_the_projection_learns(make):
    positions = make()
    x = torch.randn(1, 9, 6, requires_grad=True)
    positions(VectorSet(x, structure=Edges(connected_graph(9)))).x.square().sum().backward()
    assert [name for name, p in positions.named_parameters() if p.grad.abs().sum() > 0] == ["proj.weight"]
    assert torch.isfinite(x.grad).all() and list(positions.state_dict()) == ["proj.weight"]


@pytest.mark.parametrize("make", KINDS)
def test_the_graph_is_found_among_other_structures_and_missed_where_there_is_none(make):
    positions, edges = make().eval(), connected_graph(8)
    expected = positions(graph_set(edges, 8)).x
    combined = Edges(edges) & Segments(torch.zeros(1, 8).long()) & Window(2, 2)
    assert torch.equal(positions(VectorSet(torch.zeros(1, 8, 6), structure=combined)).x, expected)
    for structure in (Full(), Edges(edges) | Edges(edges.flip(0))):
        with pytest.raises(ShapeError, match="needs one Edges in the set's structure"):
            positions(VectorSet(torch.zeros(1, 8, 6), structure=structure))
    with pytest.raises(ShapeError, match="hold 6 keys and 6 queries"):
        positions(graph_set(edges, 6))
    with pytest.raises(ShapeError, match="joins two samples"):
        positions(VectorSet(torch.zeros(2, 4, 6), structure=Edges(edges)))


@pytest.mark.parametrize("make", KINDS)
def test_a_compiled_module_looks_its_graph_up_outside(make):
    positions = make().eval()
    compiled = torch.compile(positions, backend="eager")
    for count in (7, 9):
        sets = graph_set(connected_graph(count), count)
        assert torch.equal(compiled(sets).x, positions(sets).x)
    torch.compiler.reset()
    with pytest.raises(Exception, match="disable"):
        torch.compile(positions, backend="eager", fullgraph=True)(sets)


def test_what_cannot_be_computed_is_refused(monkeypatch):
    with pytest.raises(ConfigError, match="at least 1, not 0"):
        LaplacianEigenvectors(4, num_eigenvectors=0)
    with pytest.raises(ConfigError, match="at least 1, not 0"):
        RandomWalk(4, num_steps=0)
    path = torch.arange(2000)
    path = torch.stack([path[:-1], path[1:]])
    monkeypatch.setattr(graphs, "MAX_DENSE_NODES", 100)
    monkeypatch.setattr(graphs, "MAX_RESTARTS", 3)
    with pytest.raises(ShapeError, match="eigenvalues lie too close together"):
        LaplacianEigenvectors(6, num_eigenvectors=4)(graph_set(path, 2000))
    monkeypatch.setattr(graphs, "MAX_WALK_WORK", 10**6)
    with pytest.raises(ShapeError, match="more than 1e"):
        RandomWalk(6, num_steps=4)(graph_set(path, 2000))


def test_eigenvectors_are_the_same_in_every_run_also_iteratively(monkeypatch):
    monkeypatch.setattr(graphs, "MAX_DENSE_NODES", 100)
    sets, states = graph_set(connected_graph(400), 400), []
    for seed in (0, 1):
        np.random.seed(seed), torch.manual_seed(seed)
        states.append(plain(LaplacianEigenvectors(6, num_eigenvectors=6))(sets).x)
    assert torch.equal(*states)
