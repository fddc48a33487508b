"""Which set looks at which, step by step, in a model of known parts: what rollout and relevance go along."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from vsattn.decoders import TransformerDecoder
from vsattn.encoder_decoder import EncoderDecoder
from vsattn.encoders import InducedEncoder, LatentEncoder, TransformerEncoder
from vsattn.errors import ConfigError, ShapeError
from vsattn.heads import AttentionHead, PoolingHead
from vsattn.model import Model
from vsattn.recording import Record, Recording
from vsattn.vectorset import VectorSet

#: Encoders all of whose ways from one vector to another are attention, with the sets of each path inside them.
ENCODERS: dict[type, Sequence[tuple[str, str, str]]] = {
    TransformerEncoder: [(r".*", "input", "input")],
    LatentEncoder: [
        (r"encode\..*", "latent", "input"),
        (r"process\..*", "latent", "latent"),
        (r"decode\..*", "input", "latent"),
    ],
    InducedEncoder: [
        (r"blocks\.(\d+)\.inducing\..*", r"inducing \1", "input"),
        (r"blocks\.(\d+)\.outer\..*", "input", r"inducing \1"),
    ],
}
DECODERS: dict[type, Sequence[tuple[str, str, str]]] = {
    TransformerDecoder: [(r".*self_attention", "target", "target"), (r".*cross_attention", "target", "input")]
}
HEADS: dict[type, Sequence[tuple[str, str, str]]] = {
    AttentionHead: [(r"", "pool", "input")],
    PoolingHead: [(r".*", "pool", "input")],
}


@dataclass(frozen=True, eq=False)
class Step:
    """One set attends to another, or to itself.

    Args:
        query, key: names of the sets: ``"input"`` is what the encoder is given with its prefix vectors, ``"target"``
            what a decoder writes, ``"pool"`` what a head pools with, ``"latent"`` and ``"inducing 0"`` learned vectors.
        weights: ``(B, H, n, m)``.
        gradient: of their shape, or None.
        query_mask, key_mask: bool, ``(B, n)`` and ``(B, m)``, True = real, or None.
    """

    query: str
    key: str
    weights: Tensor
    gradient: Tensor | None = None
    query_mask: Tensor | None = None
    key_mask: Tensor | None = None


def require_evaluation(model: Model) -> None:
    """Raise ConfigError for a model in training mode."""
    if model.training:
        raise ConfigError("the model is in training mode, in which dropout changes what it answers: call model.eval()")


def require_flow(model: Model) -> None:
    """Raise ConfigError for a model in which vectors meet otherwise than by attention, as far as it is known."""
    if type(model.encoder) not in ENCODERS:
        raise ConfigError(
            f"{type(model.encoder).__name__} brings vectors together otherwise than by attention alone, or is unknown "
            f"here, so weights do not tell what reaches what; {_names(ENCODERS)} can be followed"
        )
    if isinstance(model, EncoderDecoder) and type(model.decoder) not in DECODERS:
        raise ConfigError(
            f"{type(model.decoder).__name__} carries on what it read by other means than attention; "
            f"{_names(DECODERS)} can be followed"
        )


def steps_of(model: Model, recording: Recording, *, gradients: bool = False) -> list[Step]:
    """Return what was recorded as steps from set to set, in order.

    Args:
        model: whose parts are known, see :func:`require_flow`.
        recording: of all layers, heads and queries, of one forward pass.
        gradients: take the gradients too.

    Raises:
        ConfigError: see :func:`require_flow`.
        ShapeError: for a recording of some queries alone.
    """
    require_flow(model)
    steps = [_step(record, *_sets(model, record.path), gradients) for record in recording]
    size = next(step.weights.shape[2] for step in steps if step.query == "input")
    return [_with_prefix(step, size) if step.key == "input" else step for step in steps]


@torch.inference_mode(False)
def ordinary(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a batch with copies of what was made in inference mode, through which nothing can be differentiated."""
    return {name: x.clone() if isinstance(x, Tensor) and x.is_inference() else x for name, x in batch.items()}


def logits_of(model: Model, vectors: VectorSet, target: Tensor | VectorSet | None = None) -> Tensor:
    """Return the logits for embedded vectors, and for a decoder those of the tokens after each of the target's.

    Args:
        model: of which encoder, decoder and head are used.
        vectors: as ``model.embed(batch)`` gives them.
        target: token ids ``(B, M)`` that the decoder is given, or these embedded; None without a decoder.
    """
    memory = model.encoder(vectors)
    if not isinstance(model, EncoderDecoder):
        return model.head(memory)
    if target is None:
        raise ShapeError("a decoder is given the tokens before each that it writes; there is no target")
    return model.head(model.decoder(target if isinstance(target, VectorSet) else embedded(model, target), memory))


def embedded(model: EncoderDecoder, target: Tensor) -> VectorSet:
    """Return token ids ``(B, M)`` as the decoder is given them."""
    found = model.target_embedder({"target": target})
    return found if model.target_positions is None else model.target_positions(found)


def _sets(model: Model, path: str) -> tuple[str, str]:
    decoder = getattr(model, "decoder", None)
    for name, part, known in (("encoder", model.encoder, ENCODERS), ("decoder", decoder, DECODERS)):
        if path.startswith(f"{name}."):
            return _matched(path.removeprefix(f"{name}."), known[type(part)])
    if (path == "head" or path.startswith("head.")) and type(model.head) in HEADS:
        return _matched(path.removeprefix("head").lstrip("."), HEADS[type(model.head)])
    raise ConfigError(f"it is not known which sets {path} joins; {_names(ENCODERS)} and {_names(HEADS)} are known")


def _matched(path: str, rules: Sequence[tuple[str, str, str]]) -> tuple[str, str]:
    for pattern, query, key in rules:
        if found := re.fullmatch(pattern, path):
            return found.expand(query), found.expand(key)
    raise ConfigError(f"it is not known which sets {path} joins")


def _step(record: Record, query: str, key: str, gradients: bool) -> Step:
    weights = record.dense()
    if weights.shape[2] != record.query_set.num_vectors:
        raise ShapeError(f"{record.path}: all queries are needed, not {weights.shape[2]} of them")
    gradient = record.dense_gradient() if gradients else None
    return Step(query, key, weights, gradient, record.query_set.mask, record.key_set.mask)


def _with_prefix(step: Step, size: int) -> Step:
    """Give keys without their prefix vectors, as heads take them, columns of 0 for these."""
    lacking = size - step.weights.shape[-1]
    if not lacking:
        return step
    gradient = None if step.gradient is None else F.pad(step.gradient, (lacking, 0))
    mask = None if step.key_mask is None else F.pad(step.key_mask, (lacking, 0), value=True)
    return Step(step.query, step.key, F.pad(step.weights, (lacking, 0)), gradient, step.query_mask, mask)


def _names(known: dict[type, Sequence[tuple[str, str, str]]]) -> str:
    return ", ".join(kind.__name__ for kind in known)
