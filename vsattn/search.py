"""Search for the output of a model that writes one token after the other: beam, greedy, sampling, and forced."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from vsattn.errors import ConfigError, ShapeError
from vsattn.hypotheses import Ensemble, Hypothesis, MaxLength, Writer, next_tokens
from vsattn.tokenizers.text import BOS, EOS, PADDING

__all__ = ["Ensemble", "Hypothesis", "MaxLength", "Writer", "beam_search", "forced", "greedy", "sample"]


@torch.inference_mode()
def beam_search(
    model: Writer,
    batch: Any,
    *,
    lengths: Tensor | Sequence[int],
    width: int = 4,
    length_penalty: float = 0.6,
    n_best: int = 1,
    max_length: MaxLength = MaxLength(),
    bos: int = BOS,
    eos: int = EOS,
) -> list[list[Hypothesis]]:
    """Follow the ``width`` likeliest beginnings of each sample's output, all samples at once.

    Outputs of different length n, end included, are compared by ``log p / ((5 + n) / 6)^length_penalty`` (Wu et al.
    2016, section 7, equation 14). A sample is done when nothing that it follows can become one of its ``n_best``, or at
    its longest; it then leaves the batch, and nothing of it depends on the others. Padding, ``bos`` are never written.

    Args:
        model: in evaluation mode.
        batch: what its ``start`` takes.
        lengths: of the sources ``(B,)``, for ``max_length``.
        width: W; 1 is :func:`greedy`.
        length_penalty: 0 compares log-probabilities as they are; more favours longer outputs.
        n_best: how many outputs per sample are returned at most, up to ``width``.
        max_length: how long an output may become.

    Returns:
        For each sample its outputs, best score first; those that were cut stand behind those that ended.

    Raises:
        ConfigError: for a value out of range.
        VsattnError: when the model answers NaN, here and in all searches.
    """
    if width < 1 or not 1 <= n_best <= width:
        raise ConfigError(f"width is at least 1 and n_best is in 1 .. width, not {width} and {n_best}")
    if width == 1:
        options: dict[str, Any] = {"length_penalty": length_penalty, "max_length": max_length, "bos": bos, "eos": eos}
        return [[one] for one in greedy(model, batch, lengths=lengths, **options)]
    made, limits, device = _maker(length_penalty, eos), max_length.of(lengths), _device(batch)
    found: list[list[Hypothesis]] = [[] for _ in limits]
    if not limits:
        return found
    samples, state = list(range(len(limits))), model.start(batch)  # the S samples that are not done
    last = torch.full((len(samples),), bos, device=device)
    ids, parts = last.new_empty(len(samples), 1, 0), torch.zeros(len(samples), 1, 0, device=device)
    total = torch.zeros(len(samples), 1, device=device)
    while samples:
        log_probs, state = next_tokens(model, last, state)
        total, parent, token, part = _continued(total, log_probs, 2 * width, (PADDING, bos))  # (S, C), best first
        ids = torch.cat([_taken(ids, parent), token[..., None]], -1)  # (S, C, n)
        parts = torch.cat([_taken(parts, parent), part[..., None]], -1)
        ends = token == eos
        for i, j in (ends & total.isfinite())[:, :width].nonzero().tolist():
            found[samples[i]].append(made(ids[i, j].tolist(), parts[i, j].tolist()))
        rows = parent + torch.arange(len(samples), device=device)[:, None] * (len(last) // len(samples))
        total, best = total.masked_fill(ends, -math.inf).topk(min(width, token.shape[1]))  # at most W of 2 W ended
        rows, ids, parts = rows.gather(1, best), _taken(ids, best), _taken(parts, best)
        go_on = []
        for i, (b, beams) in enumerate(zip(samples, total.tolist(), strict=True)):
            alive, at_limit = [j for j, value in enumerate(beams) if value > -math.inf], ids.shape[-1] >= limits[b]
            if alive and at_limit:
                found[b] += [made(ids[i, j].tolist(), parts[i, j].tolist()) for j in alive]
            elif alive and not _settled(found[b], n_best, max(beams), limits[b], length_penalty):
                go_on.append(i)
        if len(go_on) < len(samples):
            samples, chosen = [samples[i] for i in go_on], torch.tensor(go_on, dtype=torch.long, device=device)
            rows, ids, parts, total = (t[chosen] for t in (rows, ids, parts, total))
        if samples:
            state, last = state.select(rows), ids[..., -1].flatten()
    return [sorted(of_one, key=lambda one: (not one.finished, -one.score))[:n_best] for of_one in found]


@torch.inference_mode()
def greedy(
    model: Writer,
    batch: Any,
    *,
    lengths: Tensor | Sequence[int],
    length_penalty: float = 0.6,
    max_length: MaxLength = MaxLength(),
    bos: int = BOS,
    eos: int = EOS,
) -> list[Hypothesis]:
    """Write the likeliest token at each step; what :func:`beam_search` of width 1 finds, sooner."""

    def likeliest(log_probs: Tensor, rows: list[int], place: int) -> Tensor:
        ids = log_probs.max(-1).indices  # quicker than argmax
        if bool(((ids == PADDING) | (ids == bos)).any()):  # rare, and to forbid them costs a copy
            ids = _without(log_probs, (PADDING, bos)).argmax(-1)
        return ids

    return _followed(model, batch, max_length.of(lengths), likeliest, _maker(length_penalty, eos), bos, eos)


@torch.inference_mode()
def sample(
    model: Writer,
    batch: Any,
    *,
    lengths: Tensor | Sequence[int],
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float = 1.0,
    count: int = 1,
    generator: torch.Generator | None = None,
    length_penalty: float = 0.6,
    max_length: MaxLength = MaxLength(),
    bos: int = BOS,
    eos: int = EOS,
) -> list[list[Hypothesis]]:
    """Draw each token from ``p^(1 / temperature)`` over the likeliest tokens, made to sum to 1.

    The log-probabilities that come back are the model's. What is drawn for a sample depends on the generator and on
    the samples before it, not on how they are cut into batches.

    Args:
        model, batch, lengths, length_penalty, max_length: see :func:`beam_search`.
        temperature: above 0; below 1 prefers likely tokens more than the model does.
        top_k: draw from so many tokens at most; None is all (Fan et al. 2018, section 5.1).
        top_p: draw from the fewest tokens whose probabilities sum to this at least (Holtzman et al. 2020, section 3.1).
        count: how many outputs are drawn per sample.
        generator: on the CPU; None is torch's own.

    Raises:
        ConfigError: for a value out of range.
    """
    if not (0.0 < temperature < math.inf and 0.0 < top_p <= 1.0):
        raise ConfigError(f"temperature is above 0 and top_p is in (0, 1], not {temperature} and {top_p}")
    if (top_k is not None and top_k < 1) or count < 1:
        raise ConfigError(f"top_k and count are at least 1, not {top_k} and {count}")
    limits = [limit for limit in max_length.of(lengths) for _ in range(count)]
    drawn = [torch.rand(limit, generator=generator) for limit in limits]  # 24 bits: times a sum, still below the sum

    def likely(log_probs: Tensor, rows: list[int], place: int) -> Tensor:
        scores = _without(log_probs, (PADDING, bos)).double() / temperature
        scores, tokens = scores.topk(min(top_k or scores.shape[1], scores.shape[1]))
        probs = scores.softmax(-1)
        probs = probs.masked_fill(probs.cumsum(-1) - probs >= top_p, 0.0)  # the first is always kept
        sums = probs.cumsum(-1)
        place_in = torch.stack([drawn[row][place] for row in rows]).to(sums)[:, None] * sums[:, -1:]
        return tokens.gather(1, torch.searchsorted(sums, place_in, right=True))[:, 0]

    made = _maker(length_penalty, eos)
    found = _followed(model, batch, limits, likely, made, bos, eos, count=count)
    return [found[start : start + count] for start in range(0, len(found), count)]


@torch.inference_mode()
def forced(
    model: Writer, batch: Any, targets: Tensor, *, length_penalty: float = 0.6, bos: int = BOS, eos: int = EOS
) -> list[Hypothesis]:
    """Score given outputs.

    Args:
        model, batch, length_penalty: see :func:`beam_search`.
        targets: ``(B, M + 1)``, each ``bos``, its tokens, ``eos`` (or none, for an output that goes on) and padding.

    Raises:
        ShapeError: for a target that does not start with ``bos``.
    """
    if targets.ndim != 2 or bool((targets[:, :1] != bos).any()):
        raise ShapeError(f"targets are (B, M + 1) and start with {bos}, not {tuple(targets.shape)} {targets[:, :1]}")
    given = targets[:, 1:].to(_device(batch))

    def as_given(log_probs: Tensor, rows: list[int], place: int) -> Tensor:
        return given[torch.tensor(rows, device=given.device), place]

    limits = (given != PADDING).sum(1).tolist()
    return _followed(model, batch, limits, as_given, _maker(length_penalty, eos), bos, eos)


def _followed(
    model: Writer,
    batch: Any,
    limits: list[int],
    choose: Callable[[Tensor, list[int], int], Tensor],
    made: Callable[[list[int], list[float]], Hypothesis],
    bos: int,
    eos: int,
    *,
    count: int = 1,
) -> list[Hypothesis]:
    """Write ``count`` outputs per sample, each on its own way, until they end or have as many tokens as their limit.

    ``choose`` is given ``log p (R, V)``, which outputs the rows belong to, and how many tokens these have.
    """
    ids: list[list[int]] = [[] for _ in limits]
    parts: list[list[float]] = [[] for _ in limits]
    if not limits:
        return []
    device, state, rows = _device(batch), model.start(batch), [row for row, limit in enumerate(limits) if limit]
    if count > 1:
        state = state.select(torch.arange(len(limits) // count, device=device)[:, None].expand(-1, count))
    if len(rows) < len(limits):
        state = state.select(torch.tensor(rows, dtype=torch.long, device=device))
    last, place = torch.full((len(rows),), bos, device=device), 0
    while rows:
        log_probs, state = next_tokens(model, last, state)
        last = choose(log_probs, rows, place)
        place += 1
        found = log_probs.gather(1, last[:, None])[:, 0]
        for row, token, part in zip(rows, last.tolist(), found.tolist(), strict=True):
            ids[row].append(token)
            parts[row].append(part)
        go_on = [i for i, row in enumerate(rows) if ids[row][-1] != eos and place < limits[row]]
        if 0 < len(go_on) < len(rows):
            chosen = torch.tensor(go_on, device=device)
            state, last = state.select(chosen), last[chosen]
        rows = [rows[i] for i in go_on]
    return [made(*pair) for pair in zip(ids, parts, strict=True)]


def _maker(length_penalty: float, eos: int) -> Callable[[list[int], list[float]], Hypothesis]:
    """Return what makes a hypothesis of tokens and their log-probabilities, end included."""
    if not 0.0 <= length_penalty < math.inf:
        raise ConfigError(f"length_penalty is at least 0, not {length_penalty}")

    def made(ids: list[int], log_probs: list[float]) -> Hypothesis:
        finished, log_prob = bool(ids) and ids[-1] == eos, sum(log_probs)
        score = _score(log_prob, len(ids), length_penalty)
        return Hypothesis(tuple(ids[:-1] if finished else ids), log_prob, score, tuple(log_probs), finished)

    return made


def _settled(found: list[Hypothesis], n_best: int, total: float, limit: int, length_penalty: float) -> bool:
    """Tell whether nothing that goes on from ``total`` can still become one of the ``n_best`` that have ended.

    A total only falls, and the longest output is divided by the most.
    """
    if len(found) < n_best:
        return False
    worst = sorted((one.score for one in found), reverse=True)[n_best - 1]
    return worst >= _score(total, limit, length_penalty)


def _score(log_prob: float, length: int, length_penalty: float) -> float:
    return log_prob / ((5 + length) / 6) ** length_penalty


def _continued(
    total: Tensor, log_probs: Tensor, count: int, never: tuple[int, ...]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the ``count`` likeliest ways to go on from W outputs each of ``total (S, W)`` by one token, best first.

    Args:
        log_probs: of the next token, ``(S * W, V)``.
        never: tokens that are not written.

    Returns:
        Each ``(S, C)``, C at most ``count``: new total, which of the W it goes on from, token, its log-probability.
    """
    samples, beams = total.shape
    part, token = log_probs.topk(min(count + len(never), log_probs.shape[1]))  # among them ``count`` that may be
    size = part.shape[1]
    for forbidden in never:
        part = part.masked_fill(token == forbidden, -math.inf)
    part, token = part.view(samples, beams * size), token.view(samples, beams * size)
    total, best = (total.repeat_interleave(size, 1) + part).topk(min(count, beams * size))
    return total, best // size, token.gather(1, best), part.gather(1, best)


def _taken(values: Tensor, index: Tensor) -> Tensor:
    """Take entries ``index (S, C)`` of ``values (S, W, n)``: ``(S, C, n)``."""
    return values.gather(1, index[..., None].expand(-1, -1, values.shape[-1]))


def _without(log_probs: Tensor, never: tuple[int, ...]) -> Tensor:
    return log_probs.index_fill(1, torch.tensor(never, device=log_probs.device), -math.inf)


def _device(batch: Any) -> torch.device:
    return next((leaf.device for leaf in tree_leaves(batch) if isinstance(leaf, Tensor)), torch.device("cpu"))
