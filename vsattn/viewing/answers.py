"""What a model says of the item that it is looked at with, in one line and for each vector."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vsattn.build import resolve
from vsattn.encoder_decoder import EncoderDecoder
from vsattn.errors import ConfigError, DataError
from vsattn.heads import CtcHead
from vsattn.predictor import Predictor
from vsattn.tokenizers.text import BOS, EOS

#: So many answers of vectors are listed; more are counted.
LISTED = 32


@dataclass(frozen=True)
class Answered:
    """A batch of one item and what the model says of it.

    Args:
        batch: with ``"target"`` for a decoder, what it wrote between beginning and end.
        text: the answer in a line.
        logits: ``(C,)``, ``(N, C)``, or of what was written ``(M, V)``.
        labels: the numbers of the classes: one, or one for each vector or written token.
        details: what is said of each vector, or with which probability each token was written.
        source, given, written: for a decoder the tokens that were read, those that were given to it, and those that it
            wrote, ends included.
    """

    batch: dict[str, Tensor]
    text: str
    logits: Tensor
    labels: Tensor
    details: list[str] | None = None
    source: Sequence[str] = ()
    given: Sequence[str] = ()
    written: Sequence[str] = ()


def answered(predictor: Predictor, item: Any) -> Answered:
    """Return what a model says of an item, alone in its batch.

    Raises:
        DataError: for an item that the model cannot take.
    """
    if isinstance(predictor.model, EncoderDecoder):
        return _translated(predictor, item)
    model = predictor.model.eval()
    batch = on_device(predictor, predictor.tokenizer.collate([item]))
    with torch.inference_mode():
        logits = model(batch)[0].float().cpu()
    labels = model.head.labels(logits[None])[0]
    found = predictor._answer(logits)
    if isinstance(model.head, CtcHead):
        names = [*predictor.classes, "blank"]
        best, rows = logits.softmax(-1).max(-1)
        details = [f"{names[row]} {p:.2f}" for row, p in zip(rows.tolist(), best.tolist(), strict=True)]
        return Answered(batch, found.text or "(nothing)", logits, rows, details)
    if isinstance(found, list):
        said = [f"{one.label} {one.probability:.2f}" for one in found]
        asked = _asked(predictor, item)
        if asked is None:
            return Answered(batch, _summary([one.label for one in found]), logits, labels, said)
        text = ", ".join(f"{item[i]}: {said[i]}" for i in asked) or "(nothing is asked of it)"
        return Answered(batch, text, logits, labels, [one if i in asked else "" for i, one in enumerate(said)])
    return Answered(batch, f"{found.label} ({found.probability:.2f})", logits, labels)


def on_device(predictor: Predictor, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a batch where the model is."""
    device = next((p.device for p in predictor.model.parameters()), torch.device("cpu"))
    return {key: value.to(device) for key, value in batch.items()}


def _translated(predictor: Any, item: Any) -> Answered:
    """Translate a text as the task does, or take a given ``(source, target)``, and let the model write that again."""
    from vsattn.viewing.sets import readable

    if len(predictor.models) > 1:
        raise ConfigError("an ensemble cannot be looked at: choose one of its models")
    texts = predictor.texts
    if isinstance(item, tuple) and len(item) == 2 and all(isinstance(text, str) for text in item):
        source, target = item
        ids = texts.targets([target])[0].tolist()
    elif isinstance(item, str):
        source, found = item, predictor.predict([item])[0]
        ids = [BOS, *found.ids, *([EOS] if found.finished else [])]
    else:
        raise DataError(f"{str(item)[:40]!r} ({type(item).__name__}) is no text, and no source with its translation")
    batch = on_device(predictor, {**texts.collate([source]), "target": torch.tensor([ids])})
    with torch.inference_mode():
        logits = predictor.model(batch)[0].float().cpu()
    labels = torch.tensor(ids[1:])
    probabilities = logits.softmax(-1).gather(1, labels[:, None])[:, 0].tolist()
    read = texts.source, batch["source"][0].tolist()
    return Answered(
        batch,
        texts.target_text(ids[1:]),
        logits,
        labels,
        [f"{p:.2f}" for p in probabilities],
        readable(*read),
        readable(texts.target, ids[:-1]),
        readable(texts.target, ids[1:]),
    )


def _asked(predictor: Predictor, item: Any) -> list[int] | None:
    """Return which vectors have an answer, where the data that the model was trained on say so by ``asked(item)``."""
    target = (predictor.config.get("data") or {}).get("_target_")
    asked = getattr(resolve(target), "asked", None) if target else None
    return None if asked is None else asked(item)


def _summary(labels: Sequence[str]) -> str:
    if len(labels) <= LISTED:
        return " ".join(labels)
    counts = Counter(labels).most_common()
    shown = ", ".join(f"{count} × {label}" for label, count in counts[:6])
    return shown + (f", and {len(counts) - 6} other labels" if len(counts) > 6 else "")
