"""The position as a unit vector, projected: the textbook's account of learned positions."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vsattn.errors import ConfigError
from vsattn.positions.base import Positions, sequence_index
from vsattn.vectorset import VectorSet


class OneHot(Positions):
    """``onehot(p) W``: a one-hot vector of the position times a learned matrix without bias.

    It picks row p of W, and so computes what :class:`Learned` looks up; a table is the cheaper way to write it
    (Gehring et al. 2017, section 3.1, learn such a vector per position).

    Args:
        dim: D.
        max_length: number of positions, the length of the one-hot vectors.
        std: standard deviation of the start.

    Raises:
        ConfigError: for no ``max_length``, which tokenizers of sequences supply to a config.
        ShapeError: in use, for a position beyond ``max_length`` or for vectors that are no sequence.
    """

    def __init__(self, dim: int, *, max_length: int | None, std: float = 0.02) -> None:
        super().__init__()
        if max_length is None or max_length < 1:
            raise ConfigError(
                f"OneHot.max_length counts the positions of a sequence, at least 1, and is {max_length}; give it where "
                "the tokenizer does not, or use learned positions for grids"
            )
        self.weight = nn.Parameter(torch.empty(max_length, dim).normal_(std=std))

    def encode(self, vector_set: VectorSet) -> Tensor:
        index = sequence_index(vector_set, len(self.weight), "OneHot")  # (B|1, N)
        one_hot = index[..., None] == torch.arange(len(self.weight), device=index.device)  # (B|1, N, max_length)
        return one_hot.to(self.weight.dtype) @ self.weight
