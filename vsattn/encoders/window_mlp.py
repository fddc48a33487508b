"""The window baseline: a fully connected network that sees a vector and its nearest neighbours."""

from __future__ import annotations

from torch import nn

from vsattn.encoders.base import Encoder, require_sequence
from vsattn.errors import ConfigError
from vsattn.layers import LayerNorm
from vsattn.vectorset import VectorSet


class WindowMLP(Encoder):
    """``norm(MLP([x_{i-k}, ..., x_i, ..., x_{i+k}]))``: k neighbours on each side.

    Beyond the ends, and in padding, neighbours are 0. With k = 0 each vector is alone: the multi-layer perceptron
    that sees neither sequence nor graph, which takes any set. Source: Collobert et al. 2011, section 3.3.1.

    Args:
        dim: D, of the vectors in and out.
        num_layers: hidden layers, the first of which joins the window.
        reach: k.
        ratio: width of the hidden layers in units of ``dim``.
        dropout: after each hidden layer.
    """

    def __init__(
        self, dim: int, num_layers: int = 1, *, reach: int = 2, ratio: float = 4.0, dropout: float = 0.0
    ) -> None:
        super().__init__()
        if num_layers < 1 or reach < 0:
            raise ConfigError(f"WindowMLP.num_layers is at least 1 and reach at least 0, not {num_layers} and {reach}")
        hidden, self.reach = int(ratio * dim), reach
        if hidden < 1:
            raise ConfigError(f"WindowMLP.ratio {ratio} of width {dim} leaves no hidden layer")
        # A window joined by one matrix is a convolution, which need not copy each vector 2k + 1 times.
        self.window = nn.Conv1d(dim, hidden, 2 * reach + 1, padding=reach)
        layers: list[nn.Module] = [nn.GELU(), nn.Dropout(dropout)]
        for _ in range(num_layers - 1):
            layers += [nn.Linear(hidden, hidden), nn.GELU(), nn.Dropout(dropout)]
        self.layers = nn.Sequential(*layers, nn.Linear(hidden, dim), LayerNorm(dim))

    def forward(self, vector_set: VectorSet) -> VectorSet:
        """Map ``(B, N, D)`` to ``(B, N, D)``.

        Raises:
            ShapeError: with ``reach > 0``, for a set that is no sequence or has a structure of its own.
        """
        if self.reach:
            require_sequence(vector_set, self)
        hidden = self.window(vector_set.x.transpose(1, 2)).transpose(1, 2)
        return vector_set.replace(x=self.layers(hidden))
