"""One item and the model that looks at it: what was chosen, the sets of vectors, and the maps that are made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from vsattn.errors import ConfigError
from vsattn.viewing.answers import Answered
from vsattn.viewing.document import Draft
from vsattn.viewing.places import Places
from vsattn.viewing.quantise import Cells

#: A map of more queries or keys is kept as means of blocks, at most so many on a side.
WHOLE, BLOCKS = 1024, 256


@dataclass(frozen=True)
class Item:
    """One thing to look at.

    Args:
        value: as the predictor takes it; for a translation also ``(source, target)``.
        caption: what it is called.
        names: of its vectors, such as the nodes of a graph.
        classes: that are known of them; None takes what the model says.
    """

    value: Any
    caption: str
    names: Sequence[str] | None = None
    classes: Sequence[str] | None = None


@dataclass(frozen=True)
class Choice:
    """What is to be looked at: see :func:`vsattn.view`; ``queries`` and ``node`` count without prefix vectors."""

    layers: Sequence[int | str] | None = None
    heads: Sequence[int] | None = None
    queries: Sequence[int] | None = None
    relevance: bool = True
    node: int | None = None
    hops: int = 2


@dataclass
class Looked:
    """An item and the model that looks at it, before and after it is recorded."""

    model: Any
    batch: dict[str, Tensor]
    said: Answered
    places: Places
    choice: Choice
    edges: int
    kept: np.ndarray | None
    sets: dict[str, dict[str, Any]] = field(default_factory=dict)
    drafts: list[Draft] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    @property
    def answer(self) -> str:
        """What the model says in a line; of a graph first of the chosen node."""
        node, details = self.choice.node, self.said.details
        if self.kept is None or node is None or details is None:
            return self.said.text
        place = self.places.num_prefix + int(np.searchsorted(self.kept, node))
        return f"{self.sets[self.places.main]['labels'][place]}: {details[node]} (all: {self.said.text})"

    def run(self) -> Any:
        """Let the model look."""
        return self.model(self.batch)

    def size(self, name: str) -> int:
        """Return how many vectors a set has, prefix and what is not shown of a graph included."""
        if name == self.places.main:
            return self.places.num_prefix + self.places.num_vectors
        return self.places.sizes[name] if name in self.places.sizes else len(self.said.written)

    def shown(self, name: str) -> np.ndarray | None:
        """Return which vectors of a set are shown, prefix first; None is all."""
        if self.kept is None or name != self.places.main:
            return None
        return np.concatenate([np.arange(self.places.num_prefix), self.kept + self.places.num_prefix])

    def rows(self, query: str) -> np.ndarray | None:
        """Return which rows of what is shown of a set were chosen; None is all."""
        chosen = self.choice.queries
        if chosen is None or query not in ("target", self.places.main) or (query == "source" and "target" in self.sets):
            return None
        prefix, count = (self.places.num_prefix, self.size(query)) if query != "target" else (0, self.size(query))
        found = [number + prefix for number in chosen]
        if not found or not all(prefix <= number < count for number in found) or len(set(found)) < len(found):
            raise ConfigError(f"queries: each of {list(chosen)} is a vector from 0 to {count - prefix - 1}, named once")
        return np.array(found)

    def draft(self, about: dict[str, Any], weights: np.ndarray) -> Draft:
        """Return a map of weights ``(H, N, M)`` between whole sets, of which what is shown and chosen is kept."""
        for axis, side in ((1, "query"), (2, "key")):
            shown = self.shown(about[side])
            weights = weights if shown is None else weights.take(shown, axis)
        rows = self.rows(about["query"])
        if rows is not None and weights.shape[1] > 1:
            weights = weights[:, rows]
        cells = Cells.of(weights)
        if max(weights.shape[1:]) > WHOLE:
            few, many = (-(-size // BLOCKS) for size in weights.shape[1:])
            cells = cells.in_blocks(few if rows is None else 1, many)
        return Draft({**about, "queries": None if rows is None else rows.tolist()}, cells)
