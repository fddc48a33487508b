"""The baselines on graphs: convolutions of torch-geometric behind the face of an encoder."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from vsattn.encoders.base import Encoder
from vsattn.errors import ConfigError, ShapeError
from vsattn.structure import Edges
from vsattn.vectorset import VectorSet


class GraphConvEncoder(Encoder):
    """Base: convolutions along the edges, ``x <- dropout(f(conv(x)))`` layer after layer, with a ReLU or ELU for f.

    Args:
        convolution: called once for each layer, makes ``(x (n, D), edge_index) -> (n, D)``.
        num_layers: how many.
        activation: f.
        dropout: on the input and after each layer.
    """

    def __init__(
        self, convolution: Callable[[], nn.Module], num_layers: int, *, activation: nn.Module, dropout: float
    ) -> None:
        super().__init__()
        if num_layers < 1:
            raise ConfigError(f"{type(self).__name__}.num_layers is at least 1, not {num_layers}")
        self.convolutions = nn.ModuleList(convolution() for _ in range(num_layers))
        self.activation, self.dropout = activation, nn.Dropout(dropout)

    def forward(self, vector_set: VectorSet) -> VectorSet:
        """Map ``(B, N, D)`` to ``(B, N, D)``; padded vectors have no edge to a real one.

        Raises:
            ShapeError: for a set whose structure is not `Edges`, or with prefix vectors.
        """
        edges = vector_set.structure
        if not isinstance(edges, Edges) or vector_set.num_prefix:
            raise ShapeError(
                f"{type(self).__name__} needs a graph (Edges) without prefix vectors; this set has "
                f"{type(edges).__name__} and {vector_set.num_prefix} prefix vectors"
            )
        x: Tensor = self.dropout(vector_set.x.flatten(0, 1))  # (B N, D)
        for convolution in self.convolutions:
            x = self.dropout(self.activation(convolution(x, edges.edge_index)))
        return vector_set.replace(x=x.view_as(vector_set.x))


class GCNEncoder(GraphConvEncoder):
    """``D^-1/2 (A + I) D^-1/2 X W``, by ``torch_geometric.nn.GCNConv``; loops that are there are not added again.

    Args:
        dim: D.
        num_layers: how many convolutions.
        dropout: see :class:`GraphConvEncoder`.

    Source: Kipf and Welling 2017, "Semi-Supervised Classification with Graph Convolutional Networks", section 2.
    """

    def __init__(self, dim: int, num_layers: int, *, dropout: float = 0.0) -> None:
        from torch_geometric.nn import GCNConv

        super().__init__(lambda: GCNConv(dim, dim), num_layers, activation=nn.ReLU(), dropout=dropout)


class GATEncoder(GraphConvEncoder):
    """Additive attention along the edges, by ``torch_geometric.nn.GATConv``, which adds loops of its own.

    Args:
        dim: D, a multiple of ``num_heads``.
        num_layers: how many convolutions.
        num_heads: heads of each, whose outputs are joined.
        attention_dropout: of the weights of edges.
        dropout: see :class:`GraphConvEncoder`.

    Raises:
        ConfigError: when the heads do not divide the width, or for a probability out of range.

    Source: Velickovic et al. 2018, "Graph Attention Networks", section 2.1.
    """

    def __init__(
        self, dim: int, num_layers: int, num_heads: int, *, attention_dropout: float = 0.0, dropout: float = 0.0
    ) -> None:
        from torch_geometric.nn import GATConv

        if num_heads < 1 or dim % num_heads:
            raise ConfigError(f"GATEncoder.num_heads {num_heads} does not divide the width {dim}")
        if not 0 <= attention_dropout < 1:
            raise ConfigError(f"GATEncoder.attention_dropout is in [0, 1), not {attention_dropout}")

        def convolution() -> nn.Module:
            return GATConv(dim, dim // num_heads, num_heads, dropout=attention_dropout)

        super().__init__(convolution, num_layers, activation=nn.ELU(), dropout=dropout)


class SAGEEncoder(GraphConvEncoder):
    """``W_1 x_i + W_2 mean_j x_j`` over the edges that come in, by ``torch_geometric.nn.SAGEConv``.

    Loops count as neighbours here; with ``tokenizer.self_loops=false`` a node is not its own neighbour.

    Args:
        dim: D.
        num_layers: how many convolutions.
        dropout: see :class:`GraphConvEncoder`.

    Source: Hamilton et al. 2017, "Inductive Representation Learning on Large Graphs", section 3.
    """

    def __init__(self, dim: int, num_layers: int, *, dropout: float = 0.0) -> None:
        from torch_geometric.nn import SAGEConv

        super().__init__(lambda: SAGEConv(dim, dim), num_layers, activation=nn.ReLU(), dropout=dropout)
