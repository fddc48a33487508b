"""One Transformer layer: attention, then feed-forward, each with a residual and a norm."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from torch import Tensor, nn

from vsattn.errors import ConfigError
from vsattn.layers.drop_path import DropPath
from vsattn.layers.norms import Norm
from vsattn.vectorset import VectorSet


class TransformerBlock(nn.Module):
    """``x + f(norm(x))`` (pre-norm, Xiong et al. 2020) or ``norm(x + f(x))`` (post-norm, Vaswani et al. 2017), twice.

    Args:
        attention: maps a set to a set.
        feed_forward: maps ``(B, N, D)`` to ``(B, N, D)``.
        norm: makes a norm, called without arguments; two are made.
        norm_placement: ``"pre"`` or ``"post"``.
        dropout: on each branch, before the residual sum.
        drop_path: probability of skipping a branch for a sample.
    """

    def __init__(
        self,
        attention: nn.Module,
        feed_forward: nn.Module,
        *,
        norm: Callable[[], Norm],
        norm_placement: Literal["pre", "post"] = "pre",
        dropout: float = 0.0,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        if norm_placement not in ("pre", "post"):
            raise ConfigError(f"norm_placement is 'pre' or 'post', not {norm_placement!r}")
        self.norm_placement = norm_placement
        self.attention, self.feed_forward = attention, feed_forward
        self.attention_norm, self.feed_forward_norm = norm(), norm()
        self.dropout, self.drop_path = nn.Dropout(dropout), DropPath(drop_path)

    def forward(self, vector_set: VectorSet) -> VectorSet:
        """Map a set of width D to a set of width D; mask, positions and structure stay."""
        mask = vector_set.mask

        def attention(x: Tensor) -> Tensor:
            return self.attention(vector_set.replace(x=x)).x

        x = self._residual(vector_set.x, attention, self.attention_norm, mask)
        x = self._residual(x, self.feed_forward, self.feed_forward_norm, mask)
        return vector_set.replace(x=x)

    def _residual(self, x: Tensor, branch: Callable[[Tensor], Tensor], norm: nn.Module, mask: Tensor | None) -> Tensor:
        if self.norm_placement == "pre":
            return x + self.drop_path(self.dropout(branch(norm(x, mask))))
        return norm(x + self.drop_path(self.dropout(branch(x))), mask)
