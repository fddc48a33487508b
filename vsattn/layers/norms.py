"""Normalisation of vectors: LayerNorm and RMSNorm within a vector, BatchNorm across the valid vectors.

All are called ``norm(x, mask)`` with ``x (B, N, D)`` and ``mask (B, N)`` or None, so that one can stand for another.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn

from vsattn.errors import ConfigError

_counted: ContextVar[bool] = ContextVar("counted", default=True)


@contextmanager
def counted(counts: bool) -> Iterator[None]:
    """Say whether the vectors of this process count meanwhile in what `BatchNorm` measures over several processes."""
    token = _counted.set(counts)
    try:
        yield
    finally:
        _counted.reset(token)


class Norm(nn.Module):
    """Base of all norms."""

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Normalise ``(B, N, D)``; ``mask (B, N)`` says which vectors are real."""
        raise NotImplementedError(f"{type(self).__name__} must define forward(x, mask)")


class LayerNorm(nn.LayerNorm, Norm):
    """``(x - mean) / sqrt(var + eps) * g + b`` within each vector (Ba et al. 2016, section 3)."""

    def __init__(self, dim: int, *, eps: float = 1e-5) -> None:
        super().__init__(dim, eps=_positive(eps))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Normalise ``(B, N, D)``; the mask changes nothing, since vectors do not meet."""
        return nn.LayerNorm.forward(self, x)


class RMSNorm(nn.RMSNorm, Norm):
    """``x / sqrt(mean(x^2) + eps) * g`` within each vector (Zhang and Sennrich 2019, section 4)."""

    def __init__(self, dim: int, *, eps: float = 1e-6) -> None:
        super().__init__(dim, eps=_positive(eps))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Normalise ``(B, N, D)``; the mask changes nothing, since vectors do not meet."""
        return nn.RMSNorm.forward(self, x)


class BatchNorm(Norm):
    """Each feature normalised over all valid vectors of the batch (Ioffe and Szegedy 2015, section 3).

    In training ``(x - mean) / sqrt(var + eps) * g + b`` with mean and (biased) variance over the vectors that
    the mask calls real; running averages, with the unbiased variance, serve evaluation. On the real
    vectors it equals ``torch.nn.BatchNorm1d(x[mask])``. A batch without any real vector leaves the running
    averages alone. Where several processes train together, the batch is that of all of them: mean and variance are
    over the vectors of all, as if one process had them.

    Args:
        dim: D.
        eps: added to the variance.
        momentum: weight of the new batch in the running averages.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, dim: int, *, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__()
        if not 0 <= momentum <= 1:
            raise ConfigError(f"BatchNorm.momentum is in [0, 1], not {momentum}")
        self.eps, self.momentum = _positive(eps), momentum
        self.weight = nn.Parameter(torch.ones(dim))
        self.bias = nn.Parameter(torch.zeros(dim))
        self.register_buffer("running_mean", torch.zeros(dim))
        self.register_buffer("running_var", torch.ones(dim))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Normalise ``(B, N, D)``; vectors that ``mask (B, N)`` calls padding count for nothing."""
        if self.training and mask is None and x.shape[0] * x.shape[1] > 1 and not _parallel():
            return nn.functional.batch_norm(
                x.flatten(0, 1), self.running_mean, self.running_var, self.weight, self.bias,
                True, self.momentum, self.eps,
            ).view_as(x)  # fmt: skip
        if self.training:
            mean, var = self._batch_statistics(x, mask)
        else:
            mean, var = self.running_mean, self.running_var
        scale = self.weight * torch.rsqrt(var + self.eps)
        return x * scale.to(x.dtype) + (self.bias - mean * scale).to(x.dtype)

    def on_maps(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Normalise maps ``(B, D, H, W)`` or ``(B, D, N)`` in the same way; ``mask`` is of their cells, or None."""
        if mask is None and (not self.training or (x[:, 0].numel() > 1 and not _parallel())):
            return nn.functional.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, self.training, self.momentum, self.eps
            )
        return self(x.flatten(2).transpose(1, 2), mask).transpose(1, 2).unflatten(2, x.shape[2:])

    def _batch_statistics(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        keep = torch.ones_like(wide[..., :1]) if mask is None else mask[..., None].to(wide.dtype)
        keep = keep if _counted.get() else torch.zeros_like(keep)
        found, total = _over_processes(torch.cat([keep.sum()[None], (wide * keep).sum((0, 1))])).split([1, x.shape[-1]])
        count = found.clamp(min=1)
        mean = total / count
        var = _over_processes(((wide - mean).square() * keep).sum((0, 1))) / count
        with torch.no_grad():
            unbiased = var * (count / (count - 1).clamp(min=1))
            for average, value in ((self.running_mean, mean), (self.running_var, unbiased)):
                step = self.momentum * (found > 0).to(average.dtype)
                average.lerp_(value.to(average.dtype), step)
        return mean, var

    def extra_repr(self) -> str:
        return f"{len(self.weight)}, eps={self.eps}, momentum={self.momentum}"


def _positive(eps: float) -> float:
    """Return what keeps a division finite."""
    if eps <= 0:
        raise ConfigError(f"eps of a norm is positive, not {eps}")
    return eps


def _parallel() -> bool:
    """Tell whether several processes train together."""
    available = torch.distributed.is_available() and torch.distributed.is_initialized()
    return available and torch.distributed.get_world_size() > 1


def _over_processes(sums: Tensor) -> Tensor:
    """Add up what each process has; gradients go back to all of them."""
    return _Sum.apply(sums) if _parallel() else sums


class _Sum(torch.autograd.Function):
    """The sum over processes: of values forward, and so of gradients backward, since each value counts in all sums."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        """Add up."""
        total = values.clone()
        torch.distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        """Add up what all processes want changed."""
        return _Sum.forward(ctx, gradients[0])
