"""One Transformer layer: attention, then feed-forward, each with a residual and a norm."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from vsattn.errors import ConfigError
from vsattn.layers.drop_path import DropPath
from vsattn.layers.norms import Norm
from vsattn.vectorset import VectorSet


class TransformerBlock(nn.Module):
    """Two residual branches f, attention and then feed-forward, each with norms in one of three places.

    - ``"pre"``: ``x + f(norm(x))`` (Xiong et al. 2020, "On Layer Normalization in the Transformer Architecture")
    - ``"post"``: ``norm(x + f(x))`` (Vaswani et al. 2017, section 3.1)
    - ``"sandwich"``: ``x + norm'(f(norm(x)))`` (Ding et al. 2021, "CogView", section 2.3)

    Args:
        attention: maps a set to a set.
        feed_forward: maps ``(B, N, D)`` to ``(B, N, D)``.
        norm: makes a norm, called without arguments for each norm of the block.
        norm_placement: ``"pre"``, ``"post"`` or ``"sandwich"``.
        residual_scale: factor a on x in the residual sum, ``a x + ..``.
        dropout: on each branch, before the residual sum.
        drop_path: probability of skipping a branch for a sample.
    """

    def __init__(
        self,
        attention: nn.Module,
        feed_forward: nn.Module,
        *,
        norm: Callable[[], Norm],
        norm_placement: Literal["pre", "post", "sandwich"] = "pre",
        residual_scale: float = 1.0,
        dropout: float = 0.0,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        if norm_placement not in ("pre", "post", "sandwich"):
            raise ConfigError(f"TransformerBlock.norm_placement is 'pre', 'post' or 'sandwich', not {norm_placement!r}")
        self.norm_placement, self.residual_scale = norm_placement, residual_scale
        self.attention, self.feed_forward = attention, feed_forward
        self.attention_norm, self.feed_forward_norm = norm(), norm()
        sandwich = norm_placement == "sandwich"
        self.attention_out_norm = norm() if sandwich else None
        self.feed_forward_out_norm = norm() if sandwich else None
        self.dropout, self.drop_path = nn.Dropout(dropout), DropPath(drop_path)

    def forward(self, vector_set: VectorSet) -> VectorSet:
        """Map a set of width D to a set of width D; mask, positions and structure stay."""
        mask = vector_set.mask

        def attention(x: Tensor) -> Tensor:
            return self.attention(vector_set.replace(x=x)).x

        x = self._residual(vector_set.x, attention, self.attention_norm, self.attention_out_norm, mask)
        x = self._residual(x, self.feed_forward, self.feed_forward_norm, self.feed_forward_out_norm, mask)
        return vector_set.replace(x=x)

    def _residual(
        self, x: Tensor, branch: Callable[[Tensor], Tensor], norm: Norm, out_norm: Norm | None, mask: Tensor | None
    ) -> Tensor:
        is_post = self.norm_placement == "post"
        change = branch(x if is_post else norm(x, mask))
        change = change if out_norm is None else out_norm(change, mask)
        total = torch.add(self.drop_path(self.dropout(change)), x, alpha=self.residual_scale)
        return norm(total, mask) if is_post else total
