"""Ours, with the weights of torch-geometric's attention layers, against them: edges, self-loops, isolated nodes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from parity import Parity, compare, shaken
from torch_geometric.nn import GATConv, GATv2Conv, TransformerConv
from torch_geometric.utils import coalesce

from vsattn.attention import kernels
from vsattn.convert import add_self_loops, from_gat_conv, from_gatv2_conv, from_transformer_conv
from vsattn.errors import ConfigError, ShapeError
from vsattn.structure import Edges
from vsattn.vectorset import VectorSet

CONVERT = {GATConv: from_gat_conv, GATv2Conv: from_gatv2_conv, TransformerConv: from_transformer_conv}
WIDTH, EDGE_DIM = 5, 3
MASK = torch.arange(6) < torch.tensor([4, 6, 1])[:, None]  # three graphs; in each the last node is isolated
PLACE = MASK.flatten().nonzero()[:, 0]  # where the nodes of the peer's flat batch stand in the padded one


@contextmanager
def only_kernel(name: str) -> Iterator[None]:
    """Let attention run by one kernel alone."""
    table = patch.dict(kernels.KERNELS, {name: kernels.KERNELS[name]}, clear=True)
    with table, patch.object(kernels, "MIN_PAIRS_PER_EDGE", 0):
        yield


def flat_graphs(dtype: torch.dtype, seed: int = 0) -> list[torch.Tensor]:
    """Return x, edge_index and edge_attr of the graphs in one, as the peer batches them; some edges are loops."""
    generator = torch.Generator().manual_seed(seed)
    edges, start = [], 0
    for size in MASK.sum(1).tolist():
        edges.append(torch.randint(0, max(size - 1, 1), (2, 3 * (size - 1)), generator=generator) + start)
        start += size
    edge_index = coalesce(torch.cat(edges, 1))
    edge_index = edge_index[:, torch.randperm(edge_index.shape[1], generator=generator)]
    x, attr = (torch.randn(n, d, generator=generator) for n, d in ((start, WIDTH), (edge_index.shape[1], EDGE_DIM)))
    return [x.to(dtype), edge_index, attr.to(dtype)]


def padded(x: torch.Tensor, edge_index: torch.Tensor, attr: torch.Tensor | None = None) -> VectorSet:
    """Return the same graphs as one padded set ``(3, 6, D)``."""
    rows = x.new_zeros(MASK.numel(), x.shape[1]).index_copy(0, PLACE, x)
    return VectorSet(rows.unflatten(0, MASK.shape), MASK, structure=Edges(PLACE[edge_index], attr))


def theirs(module, x, edge_index, attr):
    return module(x, edge_index, attr if module.edge_dim else None)


def ours(module, x, edge_index, attr):
    return module(padded(x, edge_index, attr)).x[MASK]


def graph_case(kind: type, dtype: torch.dtype, *, seed: int = 0, **options: object) -> Parity:
    """Compare by the kernel for edges and by the dense reference, and return the larger differences."""
    peer = shaken(kind(WIDTH, 4, heads=2, **options), dtype)
    featured = kind is GATConv and "edge_dim" in options
    loose = ("attention.score.key_weight", "attention.relation.project.weight") if featured else ()
    found = []
    for name in ("edges", "reference"):
        with only_kernel(name):
            graphs = flat_graphs(dtype, seed)
            found.append(compare(peer, CONVERT[kind], theirs, ours, graphs, reparametrized=loose))
    return Parity(*(max(getattr(f, part) for f in found) for part in ("output", "inputs", "weights")))


CASES = {
    "torch-geometric `GATConv`": partial(graph_case, GATConv),
    "torch-geometric `GATConv`, edge features": partial(graph_case, GATConv, edge_dim=EDGE_DIM),
    "torch-geometric `GATv2Conv`": partial(graph_case, GATv2Conv),
    "torch-geometric `GATv2Conv`, edge features": partial(graph_case, GATv2Conv, edge_dim=EDGE_DIM),
    "torch-geometric `TransformerConv`": partial(graph_case, TransformerConv),
    "torch-geometric `TransformerConv`, edge features, gate": partial(
        graph_case, TransformerConv, edge_dim=EDGE_DIM, beta=True
    ),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", CASES)
def test_outputs_and_gradients_equal_the_peers(name, dtype):
    CASES[name](dtype).check(dtype)


FILLS = ["mean", "add", "min", "max", "mul", 0.7, torch.tensor([0.1, -0.4, 2.0])]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_every_option_equals_the_peers(data):
    kind = data.draw(st.sampled_from(list(CONVERT)))
    options = {name: data.draw(st.booleans(), label=name) for name in ("concat", "bias")}
    if data.draw(st.booleans(), label="edge_dim"):
        options["edge_dim"] = EDGE_DIM
    if kind is TransformerConv:
        options |= {name: data.draw(st.booleans(), label=name) for name in ("beta", "root_weight")}
    else:
        options |= {name: data.draw(st.booleans(), label=name) for name in ("add_self_loops", "residual")}
        options |= {"negative_slope": data.draw(st.sampled_from([0.2, 0.01]))}
        options |= {"fill_value": data.draw(st.sampled_from(FILLS))}
        if kind is GATv2Conv:
            options["share_weights"] = data.draw(st.booleans(), label="share_weights")
    graph_case(kind, torch.float64, seed=data.draw(st.integers(0, 99)), **options).check(torch.float64)


@pytest.mark.parametrize("kind", CONVERT)
def test_a_bipartite_graph_is_cross_attention(kind):
    loops = {} if kind is TransformerConv else {"add_self_loops": False, "residual": True}
    peer = shaken(kind((WIDTH, 7), 4, heads=2, edge_dim=EDGE_DIM, **loops), torch.float64)
    generator = torch.Generator().manual_seed(0)
    source, target = (torch.randn(n, d, generator=generator).double() for n, d in ((6, WIDTH), (4, 7)))
    edge_index = torch.tensor([[0, 5, 5, 2, 4], [0, 0, 2, 2, 1]])
    attr = torch.randn(5, EDGE_DIM, generator=generator).double()
    expected = peer((source, target), edge_index, attr)
    found = CONVERT[kind](peer)(VectorSet(target[None]), VectorSet(source[None]), Edges(edge_index, attr))
    torch.testing.assert_close(found.x[0], expected, atol=1e-10, rtol=0)


@pytest.mark.parametrize("name", ["edges", "reference"])
def test_an_isolated_node_gets_exactly_the_bias_or_the_skip(name):
    x, edge_index, _ = flat_graphs(torch.float64)
    last = MASK.sum(1).cumsum(0) - 1
    graph = padded(x, edge_index)
    with only_kernel(name):
        for kind in (GATConv, GATv2Conv):
            peer = shaken(kind(WIDTH, 4, heads=2, add_self_loops=False), torch.float64)
            found = CONVERT[kind](peer)(graph).x[MASK][last]
            assert torch.equal(found, peer.bias.expand(3, 8)) and torch.equal(found, peer(x, edge_index)[last])
        peer = shaken(TransformerConv(WIDTH, 4, heads=2), torch.float64)
        found = from_transformer_conv(peer)(graph).x[MASK][last]
        torch.testing.assert_close(found, peer.lin_skip(x)[last], atol=1e-15, rtol=0)


def test_what_the_peer_shares_stays_one_parameter_and_what_it_lacks_is_not_learned():
    ours = from_gat_conv(GATConv(WIDTH, 4, heads=2)).attention
    assert ours.query_proj is ours.key_proj is ours.value_proj and not ours.out_proj.weight.requires_grad
    two, one = (from_gatv2_conv(GATv2Conv(WIDTH, 4, share_weights=share)).attention for share in (False, True))
    assert two.value_proj is two.key_proj is not two.query_proj and one.query_proj is one.key_proj
    for kind, convert in CONVERT.items():
        peer = kind(WIDTH, 4, heads=2, dropout=0.3)
        assert convert(peer).attention.dropout == 0.3
        learned = sum(p.numel() for p in convert(peer).parameters() if p.requires_grad)
        assert learned == sum(p.numel() for p in peer.parameters())


def test_self_loops_replace_those_that_were_there():
    x, edge_index, attr = flat_graphs(torch.float64)
    graph = add_self_loops(padded(x, edge_index, attr), fill_value=0.5)
    index, features = graph.structure.edge_index, graph.structure.edge_attr
    loop = index[0] == index[1]
    assert int(loop.sum()) == MASK.numel() and torch.equal(features[loop], features.new_full((MASK.numel(), 3), 0.5))
    again = add_self_loops(graph, fill_value=0.5).structure
    assert again.edge_index.shape == index.shape
    with pytest.raises(ShapeError, match="self-loops are added to Edges; the structure of this set is Full"):
        add_self_loops(VectorSet(torch.zeros(1, 2, 3)))


def test_what_ours_cannot_express_is_in_one_error():
    with pytest.raises(ConfigError, match=r"aggr='mean'.*flow='target_to_source'"):
        from_gat_conv(GATConv(WIDTH, 4, aggr="mean", flow="target_to_source"))
    with pytest.raises(ConfigError, match="add_self_loops=True between two sets"):
        from_gatv2_conv(GATv2Conv((WIDTH, 7), 4))
    with pytest.raises(ConfigError, match="in_channels=-1 and no weights yet"):
        from_transformer_conv(TransformerConv(-1, 4))
    with pytest.raises(ConfigError, match="it is a GATv2Conv, where GATConv"):
        from_gat_conv(GATv2Conv(WIDTH, 4))
    peer = GATConv(WIDTH, 4, edge_dim=EDGE_DIM)
    torch.nn.init.zeros_(peer.att_src)
    with pytest.raises(ConfigError, match="a head whose att_src is 0"):
        from_gat_conv(peer)
