"""One Transformer layer: attention, then feed-forward, each with a residual and a norm."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from vsattn.layers.norms import Norm
from vsattn.layers.residual import NormPlacement, ResidualBlock
from vsattn.vectorset import VectorSet


class TransformerBlock(ResidualBlock):
    """Attention and then feed-forward, each a residual branch (Vaswani et al. 2017, section 3.1).

    Args:
        attention: maps a set to a set.
        feed_forward: maps ``(B, N, D)`` to ``(B, N, D)``.
        norm: makes a norm, called without arguments for each norm of the block.
        norm_placement, residual_scale, dropout, drop_path: see :class:`ResidualBlock`.
    """

    def __init__(
        self,
        attention: nn.Module,
        feed_forward: nn.Module,
        *,
        norm: Callable[[], Norm],
        norm_placement: NormPlacement = "pre",
        residual_scale: float = 1.0,
        dropout: float = 0.0,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__(norm_placement, residual_scale=residual_scale, dropout=dropout, drop_path=drop_path)
        self.attention, self.feed_forward = attention, feed_forward
        self.attention_norm, self.feed_forward_norm = norm(), norm()
        self.attention_out_norm, self.feed_forward_out_norm = self.out_norm(norm), self.out_norm(norm)

    def forward(self, vector_set: VectorSet) -> VectorSet:
        """Map a set of width D to a set of width D; mask, positions and structure stay."""
        mask = vector_set.mask

        def attention(x: Tensor) -> Tensor:
            return self.attention(vector_set.replace(x=x)).x

        x = self.residual(vector_set.x, attention, self.attention_norm, self.attention_out_norm, mask)
        x = self.residual(x, self.feed_forward, self.feed_forward_norm, self.feed_forward_out_norm, mask)
        return vector_set.replace(x=x)
