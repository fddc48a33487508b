"""What a search is given and what it finds: a model that writes, how long it may, hypotheses, translations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from vsattn.errors import ConfigError, ShapeError, VsattnError


class Writer(Protocol):
    """What can be searched: a model that says how likely each next token is.

    ``state.select(rows)`` takes rows of a state, ``(n,)`` in any order, or ``(n, W)``, where the W rows of a line come
    from one sample of the batch and may share what is remembered of it; the new state has ``n * W`` rows.
    """

    def start(self, batch: Any) -> Any:
        """Return the state before the first token, one row per sample of the batch."""

    def step(self, ids: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Return ``log p(next token) (R, V)`` behind the last tokens ``ids (R,)``, and the state behind them."""


def next_tokens(model: Writer, ids: Tensor, state: Any) -> tuple[Tensor, Any]:
    """Return ``model.step(ids, state)``.

    Raises:
        VsattnError: when it gives NaN.
    """
    log_probs, state = model.step(ids, state)
    if bool(log_probs[:, 0].isnan().any()):  # one token is enough: a softmax with a NaN is NaN throughout
        raise VsattnError(
            "the model gives NaN for probabilities: its weights are damaged, or too large for its precision"
        )
    return log_probs, state


@dataclass(frozen=True)
class Hypothesis:
    """One output.

    Args:
        ids: its tokens, without beginning and end.
        log_prob: ``log p(output | input)``, end included if it has one.
        score: `log_prob` normalised by length (:func:`beam_search`).
        log_probs: of each token, end included.
        finished: whether it ends, or was cut at its longest.
    """

    ids: tuple[int, ...]
    log_prob: float
    score: float
    log_probs: tuple[float, ...]
    finished: bool


@dataclass(frozen=True)
class MaxLength:
    """At most ``min(factor * source length + extra, limit)`` tokens, end included, whatever else is in the batch."""

    factor: float = 1.5
    extra: int = 20
    limit: int = 256

    def __post_init__(self) -> None:
        if not (0 <= self.factor < math.inf and self.extra >= 0 and self.limit >= 1):
            raise ConfigError(f"MaxLength has factor and extra of at least 0 and limit of at least 1, not {self}")

    def of(self, lengths: Tensor | Sequence[int]) -> list[int]:
        """Return the most tokens for sources of these lengths, at least 1 each."""
        known = lengths.tolist() if isinstance(lengths, Tensor) else lengths
        return [max(1, min(int(self.factor * length) + self.extra, self.limit)) for length in known]


@dataclass(frozen=True)
class EnsembleState:
    """The states of the models of an ensemble."""

    states: tuple[Any, ...]

    def select(self, rows: Tensor) -> EnsembleState:
        """Take rows of each."""
        return EnsembleState(tuple(state.select(rows) for state in self.states))


class Ensemble:
    """Several models as one: the mean of their probabilities at each step (Sutskever et al. 2014, section 3.6).

    Args:
        models: at least one, with the same vocabulary.
    """

    def __init__(self, models: Sequence[Writer]) -> None:
        if not models:
            raise ConfigError("an ensemble has at least one model")
        self.models = tuple(models)

    def start(self, batch: Any) -> EnsembleState:
        """Return the state before the first token."""
        return EnsembleState(tuple(model.start(batch) for model in self.models))

    def step(self, ids: Tensor, state: EnsembleState) -> tuple[Tensor, EnsembleState]:
        """Return ``log p (R, V)`` behind ``ids (R,)``, and the state behind them."""
        found = [model.step(ids, own) for model, own in zip(self.models, state.states, strict=True)]
        sizes = sorted({log_probs.shape[-1] for log_probs, _ in found})
        if len(sizes) > 1:
            raise ShapeError(f"models of one ensemble have one vocabulary; these have {sizes} tokens")
        mean = torch.stack([log_probs for log_probs, _ in found]).logsumexp(0) - math.log(len(found))
        return mean, EnsembleState(tuple(own for _, own in found))


@dataclass(frozen=True)
class Translation:
    """One translation.

    Args:
        text: as it is written.
        score: by which translations of one source are compared, see :func:`vsattn.search.beam_search`.
        log_prob: ``log P(translation | source)``.
        ids: rows of the target vocabulary, without beginning and end.
        pieces, source_pieces: names of the tokens that were written and read, without beginning and end.
        finished: whether it ends, or was cut at its longest.
    """

    text: str
    score: float
    log_prob: float
    ids: tuple[int, ...]
    pieces: tuple[str, ...]
    source_pieces: tuple[str, ...]
    finished: bool


class Alignment(NamedTuple):
    """N source and M target tokens, ends included, and what each target token looked at when it was written.

    ``weights (M, N)``; every row sums to 1, or to less where the encoder has prefix vectors, which are left out.
    """

    source: list[str]
    target: list[str]
    weights: Tensor
