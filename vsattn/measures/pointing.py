"""Whether heads point at the vector that is known to be meant, such as the noun that a pronoun stands for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vsattn.errors import DataError
from vsattn.measures.intervals import mean_interval
from vsattn.model import Model
from vsattn.recording import Record, record


@dataclass(frozen=True, eq=False)
class Meant:
    """One question for each item of a batch: which of some vectors does this one mean?

    Vectors are counted as their labels are, without prefix vectors.

    Args:
        batch: of B items.
        query: the vector that is asked about, ``(B,)``.
        candidates: the vectors that it could mean, bool ``(B, N)``.
        answer: the one that it does mean, ``(B,)``.
    """

    batch: dict[str, Any]
    query: Tensor
    candidates: Tensor
    answer: Tensor


@dataclass(frozen=True, eq=False)
class Hits:
    """For n questions and the H heads of a module: whether the answer has the head's largest weight.

    Args:
        candidates: among the candidates, bool ``(n, H)``.
        everything: among all vectors, bool ``(n, H)``.
    """

    candidates: Tensor
    everything: Tensor


@dataclass(frozen=True)
class Pointing:
    """How often a head points at the answer, and the 95% interval by bootstrap over items.

    Args:
        path: of its module.
        head: its number, from 0.
        share, low, high: its largest weight among the candidates' is the answer's.
        of_all, all_low, all_high: its largest weight of all is the answer's.
    """

    path: str
    head: int
    share: float
    low: float
    high: float
    of_all: float
    all_low: float
    all_high: float


@torch.no_grad()
def hits(model: Model, questions: Iterable[Meant]) -> dict[str, Hits]:
    """Return for each self-attention module of a model, by its path, where its heads point.

    Raises:
        DataError: for no question, or a query that is its own candidate.
    """
    found: dict[str, list[tuple[Tensor, Tensor]]] = {}
    for asked in questions:
        if bool(asked.candidates.gather(1, asked.query[:, None]).any()):
            raise DataError("a vector that is asked about is not among those that it could mean")
        with record(model) as recording:
            model(asked.batch)
        for one in recording:
            if one.kind == "self" and one.query_set.num_vectors - one.query_set.num_prefix == asked.candidates.shape[1]:
                found.setdefault(one.path, []).append(_strongest(one, asked))
    if not found:
        raise DataError("there is no question to ask, or no self-attention among the vectors that are asked about")
    parts = {path: [torch.cat(part) for part in zip(*pairs, strict=True)] for path, pairs in found.items()}
    return {path: Hits(*pair) for path, pair in parts.items()}


def pointing(found: dict[str, Hits], *, seed: int = 0) -> list[Pointing]:
    """Return how often each head points at the answer, in the order of the model.

    Args:
        found: what :func:`hits` returns.
        seed: of the bootstrap.
    """
    rows = []
    for path, one in found.items():
        for head in range(one.candidates.shape[1]):
            among, everywhere = one.candidates[:, head].double(), one.everything[:, head].double()
            first, second = mean_interval(among, seed=seed), mean_interval(everywhere, seed=seed)
            rows.append(Pointing(path, head, float(among.mean()), *first, float(everywhere.mean()), *second))
    return rows


def _strongest(found: Record, asked: Meant) -> tuple[Tensor, Tensor]:
    """Return whether the answer has the largest weight among candidates and among all, bool ``(B, H)`` each."""
    prefix, rows = found.query_set.num_prefix, torch.arange(len(asked.query))
    weights = found.dense()[rows, :, asked.query + prefix]  # (B, H, N)
    answer = (asked.answer + prefix)[:, None]
    candidates = torch.nn.functional.pad(asked.candidates, (prefix, 0))
    among = weights.masked_fill(~candidates[:, None], -1.0)
    return among.argmax(-1) == answer, weights.argmax(-1) == answer
