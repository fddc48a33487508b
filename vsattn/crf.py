"""A head whose labels depend on one another: a conditional random field on top of the logits."""

from __future__ import annotations

import torch
from torch import Tensor

from vsattn.errors import ConfigError
from vsattn.heads import VectorHead


class CrfHead(VectorHead):
    """One label per vector, all of a sequence together: a linear-chain conditional random field (Lafferty et al. 2001).

    ``p(y | x) = exp s(x, y) / sum_y' exp s(x, y')``, where ``s(x, y) = a[y_1] + sum_i e_i[y_i] + sum_i t[y_i, y_(i+1)]
    + b[y_N]``. The output is e, the logits ``(B, N, C)`` of `VectorHead`; a, t, b are weights of `torchcrf.CRF`, which
    does the recursions. Padding stands behind the real vectors.

    Args:
        dim: D.
        num_classes: C.
        dropout: on the vectors.

    Raises:
        ConfigError: without the package pytorch-crf.
    """

    def __init__(self, dim: int, num_classes: int, *, dropout: float = 0.0) -> None:
        super().__init__(dim, num_classes, dropout=dropout)
        try:
            from torchcrf import CRF
        except ImportError:
            raise ConfigError("head=crf needs the package pytorch-crf: pip install 'vsattn[labeling]'") from None
        self.crf = CRF(num_classes, batch_first=True)

    def negative_log_likelihood(self, logits: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return ``-sum log p(target | x)`` over the sequences of a batch.

        Args:
            logits: ``(B, N, C)``.
            target: ``(B, N)``, read where the mask is True.
            mask: bool ``(B, N)``, True = real; None when all are.
        """
        mask = _all_real(logits) if mask is None else mask
        scores, started = self._placed(logits, mask)
        likelihood = self.crf(scores, target.masked_fill(~mask, 0).to(scores.device), started, reduction="none")
        return -(likelihood.to(mask.device) * mask.any(1)).sum().to(logits.device)

    def labels(self, logits: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the likeliest sequence of classes, ``(B, N)``, by Viterbi's algorithm; 0 where the mask is False."""
        mask = _all_real(logits) if mask is None else mask
        found = torch.zeros(mask.shape, dtype=torch.long, device=mask.device)
        paths = self.crf.decode(*self._placed(logits, mask)) if mask.numel() else []
        for row, path in zip(found, paths):
            row[: len(path)] = torch.tensor(path, device=row.device)
        return found.masked_fill(~mask, 0).to(logits.device)

    def probabilities(self, logits: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return ``p(y_i | x)`` for each vector alone, ``(B, N, C)``, where the mask is True.

        The gradient of ``log p(y | x)`` at the logits is the indicator of y minus these marginals (Sutton and McCallum
        2012, section 5.1.1), whatever y is.
        """
        mask = _all_real(logits) if mask is None else mask
        if not mask.numel():
            return logits
        with torch.inference_mode(False), torch.enable_grad():
            scores, started = self._placed(logits.detach(), mask.clone())
            free = scores.clone().requires_grad_()
            target = torch.zeros(mask.shape, dtype=torch.long, device=free.device)
            likelihood = self.crf(free, target, started, reduction="sum")
            (gradient,) = torch.autograd.grad(likelihood, free)
        return (torch.nn.functional.one_hot(target, logits.shape[-1]) - gradient).to(logits.device)

    def _placed(self, logits: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return both on the weights' device, logits in their precision: sums over sequences need it.

        Every sequence has a first vector, as torchcrf wants; what an empty one gives is not looked at.
        """
        started = mask | (torch.arange(mask.shape[1], device=mask.device) == 0)
        return logits.to(self.crf.transitions), started.to(self.crf.transitions.device)


def _all_real(logits: Tensor) -> Tensor:
    return torch.ones(logits.shape[:-1], dtype=torch.bool, device=logits.device)
