"""The baselines on graphs equal torch-geometric's own layers."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch_geometric.nn import GAT, GCN, GraphSAGE

from vsattn.encoders import Encoder
from vsattn.encoders.graph import GATEncoder, GCNEncoder, SAGEEncoder
from vsattn.errors import ConfigError, ShapeError
from vsattn.structure import Edges
from vsattn.vectorset import VectorSet

INDEX = torch.tensor([[0, 1, 2, 3, 3, 0, 2], [1, 2, 0, 1, 3, 4, 2]])  # two loops, one isolated node


def made(kind: str, **arguments) -> Encoder:
    kinds = {"gcn": GCNEncoder, "gat": GATEncoder, "sage": SAGEEncoder}
    return kinds[kind](8, 2, **({"num_heads": 4} if kind == "gat" else {}), **arguments)


@pytest.mark.parametrize("kind", ["gcn", "gat", "sage"])
def test_encoders_equal_the_models_of_torch_geometric(kind: str) -> None:
    """Its basic models are the same convolutions with an activation after each (``jk="last"``, no output layer)."""
    torch.manual_seed(0)
    ours = made(kind).eval()
    peer_kind, more = {"gcn": (GCN, {}), "gat": (GAT, {"heads": 4, "act": nn.ELU()}), "sage": (GraphSAGE, {})}[kind]
    peer = peer_kind(8, 8, num_layers=2, jk="last", **more).eval()
    for own, theirs in zip(ours.convolutions, peer.convs, strict=True):
        theirs.load_state_dict(own.state_dict())
    x = torch.randn(1, 6, 8)
    output = ours(VectorSet(x, structure=Edges(INDEX)))
    assert torch.allclose(output.x[0], _without_output_layer(peer, x[0]), atol=1e-6)
    assert isinstance(output.structure, Edges)


def _without_output_layer(peer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    peer.lin = nn.Identity()
    return peer(x, INDEX)


@pytest.mark.parametrize("kind", ["gcn", "gat", "sage"])
def test_a_graph_in_a_batch_equals_the_graph_alone(kind: str) -> None:
    torch.manual_seed(0)
    encoder = made(kind, dropout=0.5).eval()
    several = [
        VectorSet(torch.randn(1, n, 8), structure=Edges(torch.randint(n, (2, 12)).unique(dim=1))) for n in (3, 7)
    ]
    together = encoder(VectorSet.from_list(several))
    for i, one in enumerate(several):
        assert torch.allclose(together.x[i, : one.num_vectors], encoder(one).x[0], atol=1e-6)


def test_what_they_refuse() -> None:
    with pytest.raises(ShapeError, match="needs a graph"):
        made("gcn")(VectorSet(torch.zeros(1, 3, 8)))
    with pytest.raises(ShapeError, match="without prefix"):
        made("sage")(VectorSet(torch.zeros(1, 5, 8), structure=Edges(INDEX)).with_prefix(torch.zeros(1, 8)))
    with pytest.raises(ConfigError, match="does not divide"):
        GATEncoder(8, 1, 3)
    with pytest.raises(ConfigError, match="at least 1"):
        GCNEncoder(8, 0)
