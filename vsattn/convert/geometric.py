"""From ``torch-geometric``: GATConv, GATv2Conv, TransformerConv.

A peer's flat graph of x, edge_index and edge_attr is the set ``VectorSet(x[None], structure=Edges(edge_index,
edge_attr))``; many graphs may come as one padded set instead. `Edges` refuses an edge given twice, which a peer counts
twice.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric import utils
from torch_geometric.nn import GATConv, GATv2Conv, TransformerConv
from torch_geometric.nn.dense import Linear

from vsattn.attention import MultiHeadAttention
from vsattn.convert.transfer import Transfer
from vsattn.errors import ShapeError
from vsattn.relations import EdgeFeatures
from vsattn.scores import Additive, SplitAdditive
from vsattn.structure import Edges
from vsattn.vectorset import VectorSet


def add_self_loops(graph: VectorSet, fill_value: float | Tensor | str = "mean") -> VectorSet:
    """Give each vector of a graph one edge to itself; loops that were there are replaced.

    Args:
        graph: ``x (B, N, D)`` with `Edges`.
        fill_value: the features of the loops, if edges have any: a number, a tensor ``(F,)``, or how they are made of
            the features of the edges that come in: ``"mean"``, ``"add"``, ``"min"``, ``"max"``, ``"mul"``.

    Raises:
        ShapeError: for a set whose structure is not `Edges`.
    """
    edges = graph.structure
    if not isinstance(edges, Edges):
        raise ShapeError(f"self-loops are added to Edges; the structure of this set is {type(edges).__name__}")
    count = graph.x.shape[0] * graph.num_vectors
    index, attr = utils.remove_self_loops(edges.edge_index, edges.edge_attr)
    index, attr = utils.add_self_loops(index, attr, fill_value=fill_value, num_nodes=count)  # padding never attends
    return graph.replace(structure=Edges(index, attr))


class GraphLayer(nn.Module):
    """Attention along edges, with what graph convolutions do around it: self-loops before, a skip connection after.

    ``a + s`` with ``a = attention(x)`` and ``s = skip(x)``; with a gate ``g s + (1 - g) a`` with
    ``g = sigmoid(gate([a, s, a - s]))`` (Shi et al. 2021, section 3.1). For a vector without an edge, a is the bias.

    Args:
        attention: along the edges.
        skip: from the vectors to the output's width, or None.
        gate: ``(3 D_out -> 1)``, or None.
        loop_fill: features of the self-loops, see :func:`add_self_loops`; None adds no loops.
    """

    def __init__(
        self,
        attention: MultiHeadAttention,
        *,
        skip: nn.Module | None = None,
        gate: nn.Module | None = None,
        loop_fill: float | Tensor | str | None = None,
    ) -> None:
        super().__init__()
        self.attention, self.skip, self.gate, self.loop_fill = attention, skip, gate, loop_fill

    def forward(self, target: VectorSet, source: VectorSet | None = None, edges: Edges | None = None) -> VectorSet:
        """Map ``(B, N, D)`` to ``(B, N, D_out)``.

        Args:
            target: the set that attends, to itself along its own edges if no source is given.
            source: the set to attend to, ``(B, M, D_source)``, in a bipartite graph.
            edges: from the source to the target.
        """
        if (source is None) != (edges is None):
            raise ShapeError(
                "a bipartite graph is given by source and edges together; one graph has Edges in the set's structure"
            )
        if source is None:
            graph = target if self.loop_fill is None else add_self_loops(target, self.loop_fill)
            output = self.attention(graph).x
        else:
            output = self.attention(target, source, structure=edges).x
        if self.skip is not None:
            skipped = self.skip(target.x)
            if self.gate is None:
                output = output + skipped
            else:
                weight = self.gate(torch.cat([output, skipped, output - skipped], -1)).sigmoid()  # (B, N, 1)
                output = weight * skipped + (1 - weight) * output
        return target.replace(x=output)


def from_gat_conv(peer: GATConv) -> GraphLayer:
    """Take over a ``torch_geometric.nn.GATConv``, edge features, self-loops and ``residual`` included::

        ours = from_gat_conv(GATConv(8, 4, heads=2))
        output = ours(VectorSet(x[None], structure=Edges(edge_index))).x[0]  # (N, 8), as peer(x, edge_index)

    Query, key and value are one projection, and stay one parameter. The peer's edge term ``a_e . W_e e`` becomes what
    `EdgeFeatures` adds to the key, ``b (a_e . W_e e) / |b|^2`` with ``b`` the score's weight of the key: the same
    numbers, though ``b`` then learns from the edges too.

    Raises:
        ConfigError: for another ``aggr`` than a sum, ``flow="target_to_source"``, self-loops in a bipartite graph, and
            a peer that has not seen data yet (``in_channels=-1``).

    Source: Velickovic et al. 2018, "Graph Attention Networks", section 2.1.
    """
    with Transfer(peer, GATConv) as transfer:
        _check(transfer, peer)
        source = peer.lin if peer.lin is not None else peer.lin_src
        score = partial(SplitAdditive, negative_slope=peer.negative_slope)
        ours = _attention(transfer, peer, peer.lin if peer.lin is not None else peer.lin_dst, source, score=score)
        ours.value_proj = ours.key_proj
        transfer.read(peer.att_src, peer.att_dst)
        transfer.put(ours.score, "key_weight", peer.att_src[0])
        transfer.put(ours.score, "query_weight", peer.att_dst[0])
        if peer.lin_edge is not None:
            ours.relation = _edge_features(peer, to="key")
            norm = peer.att_src[0].square().sum(-1, keepdim=True)  # (H, 1)
            transfer.refuse(peer, bool((norm == 0).any()), "has edge features and a head whose att_src is 0")
            transfer.read(peer.att_edge, peer.lin_edge.weight)
            term = (peer.att_edge[0, :, :, None] * peer.lin_edge.weight.unflatten(0, peer.att_edge.shape[1:])).sum(1)
            weight = (peer.att_src[0] / norm)[:, :, None] * term[:, None]  # (H, d, F)
            transfer.put(ours.relation.project, "weight", weight.flatten(0, 1))
        return transfer.finish(_layer(transfer, peer, ours))


def from_gatv2_conv(peer: GATv2Conv) -> GraphLayer:
    """Take over a ``torch_geometric.nn.GATv2Conv``, edge features, self-loops and ``residual`` included::

        ours = from_gatv2_conv(GATv2Conv(8, 4, heads=2, edge_dim=3))
        output = ours(VectorSet(x[None], structure=Edges(edge_index, edge_attr))).x[0]  # (N, 8)

    Key and value are one projection, and stay one parameter; with ``share_weights`` the query too.

    Raises:
        ConfigError: as :func:`from_gat_conv`.

    Source: Brody et al. 2022, "How Attentive are Graph Attention Networks?", section 3.1.
    """
    with Transfer(peer, GATv2Conv) as transfer:
        _check(transfer, peer)
        score = partial(Additive, activation="leaky_relu", negative_slope=peer.negative_slope)
        ours = _attention(transfer, peer, peer.lin_r, peer.lin_l, score=score)
        ours.value_proj = ours.key_proj
        transfer.read(peer.att)
        transfer.put(ours.score, "weight", peer.att[0])
        if peer.lin_edge is not None:
            ours.relation = _edge_features(peer, to="key")
            transfer.put(ours.relation.project, "weight", peer.lin_edge.weight)
        return transfer.finish(_layer(transfer, peer, ours))


def from_transformer_conv(peer: TransformerConv) -> GraphLayer:
    """Take over a ``torch_geometric.nn.TransformerConv``, with edge features, ``root_weight`` and ``beta``::

        ours = from_transformer_conv(TransformerConv(8, 4, heads=2, edge_dim=3, beta=True))
        output = ours(VectorSet(x[None], structure=Edges(edge_index, edge_attr))).x[0]  # (N, 8)

    Raises:
        ConfigError: as :func:`from_gat_conv`.

    Source: Shi et al. 2021, "Masked Label Prediction", section 3.1.
    """
    with Transfer(peer, TransformerConv) as transfer:
        _check(transfer, peer)
        ours = _attention(transfer, peer, peer.lin_query, peer.lin_key)
        transfer.copy(ours.value_proj, peer.lin_value)
        if peer.lin_edge is not None:
            ours.relation = _edge_features(peer, to="key_value")
            transfer.put(ours.relation.project, "weight", peer.lin_edge.weight)
        skip = gate = None
        if peer.root_weight:
            skip = _linear(transfer, peer.lin_skip)
            gate = _linear(transfer, peer.lin_beta) if peer.beta else None
        else:
            transfer.keep(peer.lin_skip)  # the peer has it, and never uses it
        return transfer.finish(GraphLayer(ours, skip=skip, gate=gate))


def _check(transfer: Transfer, peer: Any) -> None:
    transfer.refuse(peer, peer.aggr not in ("add", "sum"), f"has aggr={peer.aggr!r}; attention sums: aggr='add'")
    transfer.refuse(peer, peer.flow != "source_to_target", f"has flow={peer.flow!r}; turn the edges round instead")
    loops = getattr(peer, "add_self_loops", False) and not isinstance(peer.in_channels, int)
    transfer.refuse(peer, loops, "has add_self_loops=True between two sets; give the edges that are meant instead")
    if any(isinstance(p, nn.UninitializedParameter) for p in peer.parameters()):
        raise transfer.stop(peer, "has in_channels=-1 and no weights yet; call it on a graph first")


def _attention(transfer: Transfer, peer: Any, query: Linear, key: Linear, **score: Any) -> MultiHeadAttention:
    """Return attention whose output is the heads, joined or averaged, plus the peer's bias; values are left to do."""
    heads, width = peer.heads, peer.out_channels
    ours = MultiHeadAttention(
        query.in_channels, heads, head_dim=width, key_dim=key.in_channels,
        out_dim=heads * width if peer.concat else width, dropout=peer.dropout, **score,
    )  # fmt: skip
    transfer.copy(ours.key_proj, key)
    if query is key:
        ours.query_proj = ours.key_proj
    else:
        transfer.copy(ours.query_proj, query)
    joined = torch.eye(heads * width, dtype=key.weight.dtype, device=key.weight.device)
    mixed = joined if peer.concat else joined.unflatten(0, (heads, width)).mean(0)
    transfer.put(ours.out_proj, "weight", mixed)  # not learned, as the peer has no such map
    transfer.put(ours.out_proj, "bias", getattr(peer, "bias", None))
    return ours


def _edge_features(peer: Any, **to: Any) -> EdgeFeatures:
    return EdgeFeatures(peer.heads, peer.out_channels, edge_dim=peer.lin_edge.in_channels, **to)


def _layer(transfer: Transfer, peer: Any, attention: MultiHeadAttention) -> GraphLayer:
    residual = getattr(peer, "res", None)
    skip = None if residual is None else _linear(transfer, residual)
    return GraphLayer(attention, skip=skip, loop_fill=peer.fill_value if peer.add_self_loops else None)


def _linear(transfer: Transfer, theirs: Linear) -> nn.Linear:
    return transfer.copy(nn.Linear(theirs.in_channels, theirs.out_channels), theirs)
