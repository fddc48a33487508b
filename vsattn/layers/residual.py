"""A residual branch, with norms in one of three places."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from vsattn.errors import ConfigError
from vsattn.layers.drop_path import DropPath
from vsattn.layers.norms import Norm

NormPlacement = Literal["pre", "post", "sandwich"]


class ResidualBlock(nn.Module):
    """Base of layers made of residual branches f.

    - ``"pre"``: ``a x + f(norm(x))`` (Xiong et al. 2020, "On Layer Normalization in the Transformer Architecture")
    - ``"post"``: ``norm(a x + f(x))`` (Vaswani et al. 2017, section 3.1)
    - ``"sandwich"``: ``a x + norm'(f(norm(x)))`` (Ding et al. 2021, "CogView", section 2.4)

    Args:
        norm_placement: ``"pre"``, ``"post"`` or ``"sandwich"``.
        residual_scale: the factor a; 1, except in DeepNorm.
        dropout: on each branch, before the residual sum.
        drop_path: probability of skipping a branch for a sample.
    """

    def __init__(
        self,
        norm_placement: NormPlacement,
        *,
        residual_scale: float = 1.0,
        dropout: float = 0.0,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        if norm_placement not in ("pre", "post", "sandwich"):
            raise ConfigError(f"norm_placement is 'pre', 'post' or 'sandwich', not {norm_placement!r}")
        self.norm_placement, self.residual_scale = norm_placement, residual_scale
        self.dropout, self.drop_path = nn.Dropout(dropout), DropPath(drop_path)

    def out_norm(self, norm: Callable[[], Norm]) -> Norm | None:
        """Make the norm that stands behind a branch, if there is one."""
        return norm() if self.norm_placement == "sandwich" else None

    def residual(
        self,
        x: Tensor,
        branch: Callable[[Tensor], Tensor],
        norm: nn.Module,
        out_norm: nn.Module | None,
        mask: Tensor | None,
    ) -> Tensor:
        """Return ``x (B, N, D)`` with the branch added and normalised; ``mask (B, N)`` says what is real."""
        is_post = self.norm_placement == "post"
        change = branch(x if is_post else norm(x, mask))
        change = change if out_norm is None else out_norm(change, mask)
        total = torch.add(self.drop_path(self.dropout(change)), x, alpha=self.residual_scale)
        return norm(total, mask) if is_post else total
