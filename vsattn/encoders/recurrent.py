"""The recurrent baselines for sequences."""

from __future__ import annotations

from typing import Literal

from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from vsattn.encoders.base import Encoder, require_sequence
from vsattn.errors import ConfigError, ShapeError
from vsattn.vectorset import VectorSet


class RecurrentEncoder(Encoder):
    """An LSTM (Hochreiter and Schmidhuber 1997) or GRU (Cho et al. 2014) over a sequence, from the left or both ways.

    The baseline that self-attention on sequences is held against: from the left alone a vector's output knows what
    came before, both ways (Schuster and Paliwal 1997) it knows everything, through as many steps as lie between.

    Args:
        dim: D, of the vectors in and out.
        num_layers: stacked layers.
        cell: ``"lstm"`` or ``"gru"``.
        bidirectional: read both ways, each with half of the width.
        hidden_dim: width of a layer's output, both ways together; None is ``dim``, another is projected to it.
        project: whether it is; False leaves the output ``hidden_dim`` wide, from the left and from the right.
        dropout: between layers and on the output.
    """

    def __init__(
        self,
        dim: int,
        num_layers: int,
        *,
        cell: Literal["lstm", "gru"] = "lstm",
        bidirectional: bool = True,
        hidden_dim: int | None = None,
        project: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        cells = {"lstm": nn.LSTM, "gru": nn.GRU}
        if cell not in cells:
            raise ConfigError(f"RecurrentEncoder.cell is one of {', '.join(cells)}, not {cell!r}")
        width, ways = dim if hidden_dim is None else hidden_dim, 2 if bidirectional else 1
        if num_layers < 1 or width < 1:
            raise ConfigError(
                f"RecurrentEncoder.num_layers and hidden_dim are at least 1, not {num_layers} and {width}"
            )
        if width % ways:
            raise ConfigError(f"RecurrentEncoder reads both ways with half of the width each; {width} is odd")
        between = dropout if num_layers > 1 else 0.0
        self.layers = cells[cell](
            dim, width // ways, num_layers, batch_first=True, bidirectional=bidirectional, dropout=between
        )
        self.project = nn.Identity() if width == dim or not project else nn.Linear(width, dim)
        self.output_dim = dim if project else width
        self.dropout = nn.Dropout(dropout)

    def forward(self, vector_set: VectorSet) -> VectorSet:
        """Map ``(B, N, D)`` to ``(B, N, D)``, or ``(B, N, hidden_dim)``; what is padding alone gives finite numbers.

        Raises:
            ShapeError: for a set that is no sequence, has a structure of its own, or padding before real vectors.
        """
        require_sequence(vector_set, self)
        x, mask = vector_set.x, vector_set.mask
        if mask is None:
            output, _ = self.layers(x)
        else:
            if bool((mask[:, 1:] & ~mask[:, :-1]).any()):
                raise ShapeError("RecurrentEncoder reads sequences that are padded at their end only")
            lengths = mask.sum(1).clamp(min=1).cpu()
            packed, _ = self.layers(pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False))
            output, _ = pad_packed_sequence(packed, batch_first=True, total_length=x.shape[1])
        return vector_set.replace(x=self.dropout(self.project(output)))
