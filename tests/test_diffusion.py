"""Attention diffused over hops, against torch-geometric's propagation and the plain definition."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch_geometric.nn import APPNP, GATConv

from vsattn.attention import attention_weights
from vsattn.encoders import DiffusionEncoder
from vsattn.encoders.diffusion import DiffusionLayer
from vsattn.errors import ConfigError, ShapeError
from vsattn.scores import Cosine, SplitAdditive
from vsattn.structure import Edges, Full
from vsattn.tasks.optim import parameter_groups
from vsattn.vectorset import VectorSet

INDEX = torch.tensor([[0, 1, 2, 3, 3, 0, 2, 4], [1, 2, 0, 1, 3, 4, 2, 4]])  # node 5 has no edge


def made(**arguments) -> DiffusionLayer:
    torch.manual_seed(0)
    return DiffusionLayer(8, 2, **{"hops": 5, "teleport": 0.15, **arguments}).double().eval()


@pytest.mark.parametrize("score", [Cosine, SplitAdditive])
def test_hops_are_torch_geometrics_propagation_with_the_attention_weights(score) -> None:
    layer = made(score=score, head_dim=3)
    x = torch.randn(1, 6, 8, dtype=torch.float64)
    graph = VectorSet(x, structure=Edges(INDEX))
    q, k = (layer._heads(projection(x)) for projection in (layer.query_proj, layer.key_proj))
    weights = attention_weights(q, k, graph, graph, graph.structure, score=layer.score)[0]  # (H, N, N)
    propagation = APPNP(5, 0.15, normalize=False)
    expected = [
        propagation(part, INDEX, weights[head][INDEX[1], INDEX[0]]) for head, part in enumerate(x[0].split(4, dim=1))
    ]
    assert torch.allclose(layer(graph).x[0], torch.cat(expected, 1))


@pytest.mark.parametrize("teleport", [0.15, None])
@pytest.mark.parametrize("structure", [Full(), Edges(INDEX)])
def test_one_definition_for_graphs_and_for_all_pairs(structure, teleport: float | None) -> None:
    layer = made(teleport=teleport)
    x = torch.randn(1, 6, 8, dtype=torch.float64, requires_grad=True)
    vectors = VectorSet(x, structure=structure)
    q, k = (layer._heads(projection(x)) for projection in (layer.query_proj, layer.key_proj))
    weights = attention_weights(q, k, vectors, vectors, structure, score=layer.score)
    value = mixed = layer._heads(x)
    for _ in range(5):
        mixed = 0.85 * weights @ mixed + 0.15 * value
    if teleport is None:
        mixed = sum(torch.linalg.matrix_power(weights, hops) @ value for hops in range(6)) / 6
    expected = mixed.transpose(1, 2).flatten(2)
    output = layer(vectors).x
    assert torch.allclose(output, expected)
    wanted, found = (torch.autograd.grad(y.square().sum(), x, retain_graph=True)[0] for y in (expected, output))
    assert torch.allclose(found, wanted)


def test_padding_changes_nothing_and_takes_no_part() -> None:
    layer = made()
    x = torch.randn(1, 6, 8, dtype=torch.float64)
    padded = torch.cat([x, torch.full((1, 2, 8), torch.nan, dtype=torch.float64)], 1)
    mask = torch.arange(8)[None] < 6
    assert torch.allclose(layer(VectorSet(padded, mask)).x[:, :6], layer(VectorSet(x)).x)


def test_dropout_takes_other_weights_at_each_hop_in_training_alone() -> None:
    layer = made(dropout=0.5)
    graph = VectorSet(torch.randn(1, 6, 8, dtype=torch.float64), structure=Edges(INDEX))
    assert torch.equal(layer(graph).x, layer(graph).x)
    layer.train()
    chain = VectorSet(torch.eye(8, dtype=torch.float64)[None], structure=Edges(torch.arange(8).expand(2, 8)))
    layer.teleport = 0.0  # each node sees itself alone: what is left of it is a power of 1 / 0.5, or nothing
    left = [bool(layer(chain).x[0, 0, 0]) for _ in range(400)]  # all of 5 hops must keep it
    assert 0 < sum(left) / 400 < 0.15  # 1/32 of the time; 1/2 if one mask were used for all hops


def test_dropped_vectors_are_carried_nowhere_and_attend_as_before() -> None:
    """Each pass is linear in the vectors kept, with the weights of all of them; twice as large for what is missing."""
    layer = made(vector_dropout=0.5, teleport=None)
    graph = VectorSet(torch.randn(1, 6, 8, dtype=torch.float64), structure=Edges(INDEX))
    plain = layer(graph).x
    carried = torch.autograd.functional.jacobian(lambda v: diffused(layer, graph, v), graph.x)[0, :, :, 0]
    layer.train()
    seen = set()
    for _ in range(40):
        found = layer(graph).x[0].flatten()
        kept = [m for m in range(64) if torch.allclose(found, (carried.flatten(2) @ doubled(graph.x[0], m)).flatten())]
        assert len(kept) == 1  # whole vectors alone
        seen.update(kept)
    assert len(seen) > 10 and torch.equal(layer.eval()(graph).x, plain)


def diffused(layer: DiffusionLayer, graph: VectorSet, value: torch.Tensor) -> torch.Tensor:
    """The layer's map of values, with the weights of ``graph``."""
    q, k, v = (layer._heads(x) for x in (layer.query_proj(graph.x), layer.key_proj(graph.x), value))
    weights = attention_weights(q, k, graph, graph, graph.structure, score=layer.score)
    mean = sum(torch.linalg.matrix_power(weights, hops) @ v for hops in range(6)) / 6
    return mean.transpose(1, 2).flatten(2)


def doubled(x: torch.Tensor, kept: int) -> torch.Tensor:
    """``(N * D)`` where the vectors that the bits of ``kept`` name are twice themselves, and others 0."""
    bits = torch.tensor([kept >> node & 1 for node in range(len(x))])
    return (2 * bits[:, None] * x).flatten()


def test_too_many_pairs_for_the_dense_form() -> None:
    size = 12_000
    layer = DiffusionLayer(8, 1, hops=1, teleport=0.1, score=partial(Cosine, normalizer="sparsemax"))
    ring = Edges(torch.stack([torch.arange(size), torch.arange(size).roll(1)]))
    with pytest.raises(ShapeError, match="sparsemax is computed for dense rows alone; use Edges and a score with"):
        layer(VectorSet(torch.zeros(1, size, 8), structure=ring))


def test_two_layers_of_one_hop_are_gat() -> None:
    """Torch-geometric's layers with the same weights, the ELU between them, and loops already there."""
    torch.manual_seed(0)
    loops = torch.cat([INDEX[:, INDEX[0] != INDEX[1]], torch.arange(6).expand(2, 6)], 1)
    layers = DiffusionEncoder(8, [4, 1], hops=[1, 1], teleport=0.0, score=SplitAdditive)
    layers = layers.double().eval()
    x = torch.randn(1, 6, 8, dtype=torch.float64)
    expected = x[0]
    for index, layer in enumerate(layers.layers):
        peer = GATConv(8, 8 // layer.num_heads, heads=layer.num_heads, bias=False, add_self_loops=False).double()
        with torch.no_grad():
            peer.lin.weight.copy_(torch.eye(8))
            for projection in (layer.query_proj, layer.key_proj):
                projection.weight.copy_(torch.eye(8))
            peer.att_dst.copy_(layer.score.query_weight[None])
            peer.att_src.copy_(layer.score.key_weight[None])
        expected = peer(F.elu(expected) if index else expected, loops)
    found = layers(VectorSet(x, structure=Edges(loops))).x
    assert torch.allclose(found[0], expected)


def test_attention_decays_on_its_own() -> None:
    encoder = DiffusionEncoder(8, [2, 1], hops=[1, 1], attention_decay=0.5)
    model = torch.nn.Sequential(torch.nn.Linear(3, 8), encoder)
    names = {id(p): name for name, p in model.named_parameters()}
    found = {g["weight_decay"]: {names[id(p)] for p in g["params"]} for g in parameter_groups(model, 0.01)}
    projections = {f"1.layers.{i}.{which}_proj" for i in (0, 1) for which in ("query", "key")}
    assert found[0.01] == {"0.weight"} and found[0.5] == {f"{name}.weight" for name in projections}
    with pytest.raises(ConfigError, match="choose an optimizer that has one"):
        parameter_groups(model)
    assert found[0.0] == {"0.bias"} | {f"{name}.bias" for name in projections} and len(found) == 3


def test_activation_after_the_last_layer() -> None:
    torch.manual_seed(0)
    plain, last = (DiffusionEncoder(8, [2], hops=[2], activation="relu", activate_last=w).eval() for w in (False, True))
    last.load_state_dict(plain.state_dict())
    graph = VectorSet(torch.randn(1, 6, 8), structure=Edges(INDEX))
    assert torch.equal(last(graph).x, plain(graph).x.relu()) and bool((plain(graph).x < 0).any())
    with pytest.raises(ConfigError, match="is 'elu' or 'relu', not 'gelu'"):
        DiffusionEncoder(8, [2], hops=[2], activation="gelu")


@pytest.mark.parametrize(
    "wrong",
    [
        {"hops": 0},
        {"teleport": 1.0},
        {"head_dim": 0},
        {"dropout": 1.0},
        {"vector_dropout": 1.0},
        {"weight_decay": -1.0},
    ],
)
def test_values_out_of_range(wrong) -> None:
    with pytest.raises(ConfigError, match="are at least 1"):
        DiffusionLayer(8, 2, **{"hops": 1, "teleport": 0.1, **wrong})
    with pytest.raises(ConfigError, match="equal heads"):
        DiffusionEncoder(8, [3], hops=[1])
    with pytest.raises(ConfigError, match="one number a layer"):
        DiffusionEncoder(8, [4, 1], hops=[1])
