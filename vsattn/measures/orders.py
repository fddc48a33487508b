"""In which order vectors are taken away: by what attention says of them, evenly spaced, or at random."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vsattn.encoder_decoder import EncoderDecoder
from vsattn.encoders import TransformerEncoder
from vsattn.errors import ConfigError
from vsattn.measures.flow import Step
from vsattn.measures.relevance import answer_rows, followed, relevances
from vsattn.measures.removal import Questions
from vsattn.measures.rollout import rollouts
from vsattn.model import Model

#: Ways to say how much each vector has to do with an answer.
METHODS = ("attention", "rollout", "relevance")


def attributions(model: Model, questions: Questions, methods: Sequence[str] = METHODS) -> dict[str, Tensor]:
    """Say how much each vector has to do with the answers, by name ``(R, N)``.

    ``"attention"`` is the mean of the heads of the last layer that looks at the input: a pooling head, a decoder's
    last layer over all written tokens, or else the encoder's last layer; of the latter the row of the vector that is
    asked about, of the CLS vector, or the mean row. ``"rollout"`` is :func:`vsattn.measures.rollouts`, ``"relevance"``
    :func:`vsattn.measures.relevance`.

    Raises:
        ConfigError: for a model in which vectors meet otherwise than by attention, or another name.
    """
    unknown = [name for name in methods if name not in METHODS]
    if unknown:
        raise ConfigError(f"methods: there is no {', '.join(unknown)}; {', '.join(METHODS)} are")
    given = questions.answer if isinstance(model, EncoderDecoder) else None
    steps, logits, vectors = followed(model, questions.vectors, given, questions.targets)
    found = {}
    for name in methods:
        matrix = _matrix(model, name, steps)
        rows = answer_rows(model, matrix, vectors, logits, questions.targets, given)
        found[name] = rows[:, rows.shape[1] - vectors.num_vectors :]
    return found


def evenly(candidates: Tensor) -> Tensor:
    """Return values ``(R, N)`` by which the candidates, bool ``(R, N)``, come evenly spaced however many are taken.

    The middle comes first, then the quarters, and so on: where the k-th falls among them is the fraction whose binary
    digits are those of k backwards (van der Corput 1935).
    """
    count = candidates.sum(1)
    turns = torch.arange(1, 2 ** (1 + int(count.max() if len(count) else 0).bit_length()))
    fraction = torch.zeros(len(turns), dtype=torch.float64)
    for bit in range(len(turns).bit_length()):
        fraction += 0.5 ** (bit + 1) * (turns >> bit & 1)
    place = (fraction * count[:, None]).long()  # (R, K), of the candidates of each row
    turn = torch.full(candidates.shape, len(turns) + 1).scatter_reduce(1, place, turns.expand_as(place), "amin")
    return -turn.gather(1, (candidates.long().cumsum(1) - 1).clamp(min=0)).double()


def ranks(values: Tensor, candidates: Tensor, *, seed: int = 0) -> Tensor:
    """Return the place of each candidate when the highest value comes first, ``(R, N)``; others come last.

    Equal values come in an order drawn by the seed, not by where they stand.
    """
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.rand(values.shape, generator=generator).argsort(1)
    held = values.double().masked_fill(~candidates, -torch.inf)
    order = drawn.gather(1, held.gather(1, drawn).argsort(dim=1, descending=True, stable=True))
    return order.argsort(1)


def _matrix(model: Model, method: str, steps: list[Step]) -> Tensor:
    """Return what the sets that the answer is read off get of the input, ``(R, n, N)``."""
    last = next(name for name in ("target", "pool", "input") if any(step.query == name for step in steps))
    if method == "rollout":
        return rollouts(steps)[last]
    if method == "relevance":
        return relevances(steps)[last, "input"]
    direct = [step for step in steps if (step.query, step.key) == (last, "input")]
    if not direct:
        raise ConfigError(
            f"method attention: in {type(model.encoder).__name__} no vector looks at another by itself; choose rollout "
            f"or relevance, or {TransformerEncoder.__name__}"
        )
    return direct[-1].weights.mean(1)
