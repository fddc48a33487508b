"""Relevance: attention weighted by its gradient and carried through the layers, for one answer of a model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vsattn.encoder_decoder import EncoderDecoder
from vsattn.errors import ShapeError
from vsattn.heads import AttentionHead, ClsHead, PoolingHead
from vsattn.measures.flow import Step, embedded, logits_of, ordinary, require_evaluation, require_flow, steps_of
from vsattn.model import Model
from vsattn.recording import record
from vsattn.tokenizers.text import PADDING
from vsattn.vectorset import VectorSet


@dataclass(frozen=True, eq=False)
class Relevance:
    """How much each vector has to do with an answer; what is shown as a row of it has no unit and is never negative.

    Args:
        answer: of the vectors of the encoder for the answer, prefix vectors first, ``(B, N)``: of the seeds of a head
            that pools the mean row of ``cross``, of `ClsHead` the first row of ``source``, of a mean over all real
            vectors their mean row, of an answer per vector that vector's row; of several vectors the mean of theirs.
        source: of the encoder's vectors for one another, ``(B, N, N)``.
        cross: of the encoder's vectors for those that read them, a decoder's tokens or a head's seeds, ``(B, M, N)``.
        target: of a decoder's tokens for one another, ``(B, M, M)``.
        vectors: what the encoder was given, with its mask and layout.
    """

    answer: Tensor
    source: Tensor
    cross: Tensor | None
    target: Tensor | None
    vectors: VectorSet


def relevance(
    model: Model, batch: dict[str, Tensor], *, targets: Tensor | None = None, budget_mb: float = 512.0
) -> Relevance:
    """Explain an answer of each sample of a batch by what its attention passes on.

    ``A' = mean_h (dy/dA * A)^+`` for the logit y of the answer; ``R += A' R`` in self-attention, and for queries s that
    read keys q ``R_sq += norm(R_ss)^T A' norm(R_qq)`` and ``R_ss += A' R_qs``, where ``norm`` divides what R has beside
    the identity by its sum along the rows.

    Args:
        model: in evaluation mode.
        batch: as a tokenizer collates it; for a decoder with ``"target"``, what was written.
        targets: the class of each sample ``(B,)``; where each vector (of a decoder: each token of the target after the
            first) has an answer, its number, prefix aside, and the class ``(B, 2)``. None is what the model answers,
            all vectors together, and for a decoder the tokens that follow in the target.
        budget_mb: see :func:`vsattn.record`.

    Raises:
        ConfigError: for a model in training mode, or one in which vectors meet otherwise than by attention.
        ShapeError: for targets of another shape.

    Source: Chefer, Gur and Wolf 2021, "Generic Attention-model Explainability for Interpreting Bi-Modal and
    Encoder-Decoder Transformers", section 3, eqs. 5 to 11. What a row of R does not have beside the identity stays 0,
    where eq. 9 would divide by 0.
    """
    require_evaluation(model)
    require_flow(model)
    batch = ordinary(batch)
    with torch.inference_mode(False), torch.no_grad():
        vectors = model.embed(batch)
    given = batch["target"] if isinstance(model, EncoderDecoder) else None
    steps, logits, vectors = followed(model, vectors, given, targets, budget_mb=budget_mb)
    found = relevances(steps)
    source = found["input", "input"]
    read = next((name for name in ("target", "pool") if (name, "input") in found), None)
    cross = None if read is None else found[read, "input"]
    answer = answer_rows(model, source if cross is None else cross, vectors, logits, targets, given)
    return Relevance(answer, source, cross, found.get(("target", "target")), vectors)


def followed(
    model: Model, vectors: VectorSet, given: Tensor | None, targets: Tensor | None, *, budget_mb: float = 512.0
) -> tuple[list[Step], Tensor, VectorSet]:
    """Run a model on embedded vectors and return its steps with gradients, the logits, and the vectors.

    Args:
        model: in evaluation mode.
        vectors: as ``model.embed(batch)`` gives them.
        given: for a decoder, the target ``(B, M + 1)``.
        targets: see :func:`relevance`.
        budget_mb: see :func:`vsattn.record`.
    """
    # The gradient is asked for at the vectors that come in, and every weight lies on the way: no parameter gets one.
    with torch.inference_mode(False):
        vectors = vectors.replace(x=vectors.x.detach().clone().requires_grad_())
        targets = None if targets is None else targets.clone()  # one made in inference mode cannot be an index
    ends, target = [vectors.x], None
    with torch.inference_mode(False), torch.enable_grad():
        if isinstance(model, EncoderDecoder):
            assert given is not None
            with torch.no_grad():
                target = embedded(model, given[:, :-1])
            target = target.replace(x=target.x.detach().requires_grad_())
            ends.append(target.x)
        with record(model, gradients=True, budget_mb=budget_mb) as recording:
            logits = logits_of(model, vectors, target)
        torch.autograd.grad(chosen(model, logits, vectors, targets, given).sum(), ends)
    return steps_of(model, recording, gradients=True), logits.detach(), vectors.replace(x=vectors.x.detach())


def chosen(model: Model, logits: Tensor, vectors: VectorSet, targets: Tensor | None, given: Tensor | None) -> Tensor:
    """Return the logits of the answers that are explained, ``(B,)``.

    Raises:
        ShapeError: for targets of another shape.
    """
    per_vector = logits.ndim == 3
    if targets is None:
        if given is not None:
            answers, real = given[:, 1:], given[:, 1:] != PADDING
        else:
            real = vectors.real[:, vectors.num_prefix :]
            answers = model.head.labels(logits.detach(), real if per_vector else None)
        picked = logits.gather(-1, answers[..., None])[..., 0]
        return (picked * real).sum(1) if per_vector else picked
    wanted = (len(logits), 2) if per_vector else (len(logits),)
    if tuple(targets.shape) != wanted:
        kind = "a vector and a class for each sample" if per_vector else "a class for each sample"
        raise ShapeError(f"targets are {kind}, {wanted}, not {tuple(targets.shape)}")
    rows = torch.arange(len(logits), device=logits.device)
    return logits[rows, targets[:, 0], targets[:, 1]] if per_vector else logits[rows, targets]


def answer_rows(
    model: Model,
    matrix: Tensor,
    vectors: VectorSet,
    logits: Tensor,
    targets: Tensor | None,
    given: Tensor | None,
) -> Tensor:
    """Return the row, or the mean of the rows, of ``matrix (B, n, N)`` that an answer of :func:`chosen` is read off."""
    prefix = matrix.shape[1] - vectors.num_vectors + vectors.num_prefix
    if logits.ndim == 3:
        start = prefix if given is None else 0
        if targets is not None:
            return matrix[torch.arange(len(matrix)), targets[:, 0].cpu() + start]
        real = vectors.real[:, vectors.num_prefix :] if given is None else given[:, 1:] != PADDING
    elif isinstance(model.head, ClsHead):
        return matrix[:, 0]
    elif isinstance(model.head, (AttentionHead, PoolingHead)):
        return matrix.mean(1)
    else:
        start, real = prefix, vectors.real[:, vectors.num_prefix :]
    share = real.to(matrix) / real.sum(1, keepdim=True).clamp(min=1).to(matrix)
    return torch.einsum("bn,bnm->bm", share, matrix[:, start:])


def relevances(steps: Iterable[Step]) -> dict[tuple[str, str], Tensor]:
    """Return R, by the names of the set of the queries and of the keys, ``(B, n, m)`` (eqs. 5 to 11)."""
    steps = list(steps)
    found = _initial(steps)
    for step in steps:
        assert step.gradient is not None
        passed = (step.gradient * step.weights).clamp(min=0).mean(1)  # eq. 5
        if step.query_mask is not None:
            passed = passed.masked_fill(~step.query_mask[..., None], 0.0)
        changes = {}
        for (query, key), of_query in found.items():
            if query != step.key:
                continue
            if step.query == step.key:  # eqs. 6 and 7
                changes[query, key] = passed @ of_query
            elif key == step.key:  # eq. 10
                own = normalized(found[step.query, step.query]).transpose(1, 2)
                changes[step.query, key] = own @ passed @ normalized(of_query)
            else:  # eq. 11
                changes[step.query, key] = passed @ of_query
        for pair, change in changes.items():
            found[pair] = found[pair] + change if pair in found else change
    return found


def normalized(relevances: Tensor) -> Tensor:
    """Return ``(R - I) / its sum along the rows + I`` (eqs. 8 and 9), ``(B, n, n)``; a row of 0 stays."""
    eye = torch.eye(relevances.shape[-1], dtype=relevances.dtype)
    beside = relevances - eye
    total = beside.sum(-1, keepdim=True)
    return torch.where(total > 0, beside / torch.where(total > 0, total, 1.0), 0.0) + eye


def _initial(steps: Sequence[Step]) -> dict[tuple[str, str], Tensor]:
    """Return the identity for each set: before the first layer each vector is itself."""
    sizes = {step.query: step.weights.shape[2] for step in steps} | {step.key: step.weights.shape[3] for step in steps}
    like = steps[0].weights
    eyes = {name: torch.eye(size, dtype=like.dtype) for name, size in sizes.items()}
    return {(name, name): eye.expand(len(like), -1, -1) for name, eye in eyes.items()}
