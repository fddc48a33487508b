"""What a set of vectors is to a person: words, a picture, a sound, a graph, or numbers."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from vsattn.errors import DataError

#: Which function describes the items of which tokenizers, those that inherit from them included. A tokenizer that has a
#: method ``describe(item) -> dict`` describes its own: see :func:`describe`.
DESCRIBERS = {
    "vsattn.tokenizers.words.WordTokenizer": "vsattn.viewing.sets.word_set",
    "vsattn.tokenizers.images.ImageTokenizer": "vsattn.viewing.pictures.image_set",
    "vsattn.tokenizers.audio.AudioFrames": "vsattn.viewing.pictures.sound_set",
    "vsattn.tokenizers.graph_nodes.GraphNodes": "vsattn.viewing.graphs.graph_set",
}

#: What a set of each kind has beside kind, labels, num_prefix and details.
FIELDS: dict[str, tuple[str, ...]] = {
    "text": (),
    "vectors": (),
    "image": ("picture", "size", "grid", "boxes"),
    "sound": ("spectrogram", "duration", "times", "ticks"),
    "graph": ("xy", "edges", "classes"),
}


@dataclass(frozen=True)
class Shown:
    """One item that is to be looked at.

    Args:
        tokenizer: of its kind.
        item: as the tokenizer takes it.
        batch: of the item alone.
        num_vectors: N, without prefix.
        names: of the vectors, where they have any.
        classes: that are known of the vectors.
        edge_index: ``(2, E)`` of a graph, key and query, without prefix.
        kept: the nodes that are shown of a large graph.
    """

    tokenizer: Any
    item: Any
    batch: dict[str, Tensor]
    num_vectors: int
    names: Sequence[str] | None = None
    classes: Sequence[str] | None = None
    edge_index: np.ndarray | None = None
    kept: np.ndarray | None = None


def describe(shown: Shown, num_prefix: int) -> dict[str, Any]:
    """Return the set of an item's vectors, prefix vectors first.

    A tokenizer's own ``describe(item)`` returns ``kind`` and ``labels``, one for each vector, and what `FIELDS` names
    for that kind: a table of numbers may be ``{"kind": "text", "labels": ["monday", "tuesday"]}``.

    Raises:
        DataError: for a description that does not fit.
    """
    own = getattr(shown.tokenizer, "describe", None)
    found = own(shown.item) if own is not None else _describer(shown.tokenizer)(shown)
    name, count = type(shown.tokenizer).__name__, shown.num_vectors if shown.kept is None else len(shown.kept)
    kind, labels = str(found.get("kind")), found.get("labels", ())
    missing = [field for field in FIELDS.get(kind, ()) if field not in found]
    if kind not in FIELDS or missing or len(labels) != count:
        raise DataError(
            f"{name}.describe(item) must give a kind ({', '.join(FIELDS)}), a label for each of {count} vectors and "
            f"what its kind has; it gives kind {kind!r} and {len(labels)} labels, and lacks "
            f"{', '.join(missing) or 'nothing'}"
        )
    return with_prefix({**found, "labels": [str(label) for label in labels]}, num_prefix)


def with_prefix(found: dict[str, Any], count: int) -> dict[str, Any]:
    """Put prefix vectors before those of a set."""
    names = ["[CLS]", *(f"[prefix {i}]" for i in range(2, count + 1))][:count]
    made = {"details": None, **found, "labels": [*names, *found["labels"]], "num_prefix": count}
    if count and "edges" in made:
        made["edges"] = [[key + count, query + count] for key, query in made["edges"]]
    if count and made["details"] is not None:
        made["details"] = [*[""] * count, *made["details"]]
    return made


def named(kind: str, labels: Sequence[str]) -> dict[str, Any]:
    """Return a set that is nothing but its labels."""
    return with_prefix({"kind": kind, "labels": list(labels)}, 0)


def word_set(shown: Shown) -> dict[str, Any]:
    """Describe the words of a sentence."""
    return named("text", shown.item)


def numbered(shown: Shown) -> dict[str, Any]:
    """Describe vectors of which nothing is known but how many there are."""
    names = shown.names or range(1, shown.num_vectors + 1)
    return named("vectors", [str(name) for name in names])


def piece_set(tokenizer: Any, batch: dict[str, Tensor]) -> dict[str, Any]:
    """Describe the pieces that :class:`~vsattn.tokenizers.WordPieces` cuts words into; ``##`` goes on with a word."""
    rows = batch["piece"][0, : int(batch["pieces"][0])].tolist()
    return named("text", [str(tokenizer._pieces.id_to_token(row)) for row in rows])


def readable(text: Any, ids: Sequence[int]) -> list[str]:
    """Return the names of rows of a `Text` as a person reads them: a piece that goes on with a word begins with ``##``.

    A sign that is no letter stands alone, whether there is a space before it or not.
    """
    from vsattn.tokenizers.text import EOS, SPACE, SPECIALS

    marked = text.cutter.split == "raw" or text.model != "words"
    found: list[str] = []
    for row, name in zip(ids, text.pieces(ids), strict=True):
        begins = name.startswith(SPACE) or row <= EOS or name in SPECIALS or not found
        plain = name.removeprefix(SPACE) or name if marked else name
        found.append(f"##{plain}" if marked and not begins and plain[:1].isalnum() else plain)
    return found


def _describer(tokenizer: Any) -> Callable[[Shown], dict[str, Any]]:
    for kind in type(tokenizer).__mro__:
        path = DESCRIBERS.get(f"{kind.__module__}.{kind.__qualname__}")
        if path is not None:
            module, _, name = path.rpartition(".")
            return getattr(importlib.import_module(module), name)
    return numbered
