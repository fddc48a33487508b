"""Which map, head and query a drawing shows, and the weights that it shows of them, of one input or of A minus B."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vsattn.errors import ConfigError, nearest
from vsattn.viewing.document import Document, Head

#: Sets whose vectors have places of their own to be drawn at; others stand in a row.
PLACED = ("image", "sound", "graph")


@dataclass(frozen=True)
class View:
    """What is drawn of one input, or of the difference of two.

    Args:
        document: that holds the weights.
        name: "A", "B" or "A − B".
        inputs: one, or two whose weights are subtracted.
        maps: of each input, the same place of the model.
        head: from 0, or "mean".
        query: the number of the vector that asks, None for all of them.
    """

    document: Document
    name: str
    inputs: tuple[dict[str, Any], ...]
    maps: tuple[dict[str, Any], ...]
    head: Head
    query: int | None

    @property
    def map(self) -> dict[str, Any]:
        """The map, of a difference that of A."""
        return self.maps[0]

    @property
    def signed(self) -> bool:
        """Whether weights are differences."""
        return len(self.maps) > 1

    @property
    def keys(self) -> dict[str, Any]:
        """The set that is looked at."""
        return self.set(self.map["key"])

    @property
    def queries(self) -> dict[str, Any]:
        """The set that looks."""
        return self.set(self.map["query"])

    @property
    def as_matrix(self) -> bool:
        """Whether all queries are shown at once: where none is chosen, and the keys have no places to be shown at."""
        own = self.map["key"] == self.map["query"]
        return self.query is None and not (own and self.keys["kind"] in PLACED)

    def set(self, name: str) -> dict[str, Any]:
        """Return a set; in a difference with both labels of a vector where they differ."""
        first, *others = (one["sets"][name] for one in self.inputs)
        for other in others:
            pairs = zip(first["labels"], other["labels"], strict=True)
            first = {**first, "labels": [a if a == b else f"{a} / {b}" for a, b in pairs]}
        return first

    def matrix(self, found: dict[str, Any] | None = None, head: Head | None = None) -> np.ndarray:
        """Return the weights ``(n, m)`` of the map and head, or of others of the first input."""
        maps = self.maps if found is None else [counterpart(one, found) for one in self.inputs]
        head = self.head if head is None else head
        first, *others = (self.document.matrix(each, head) for each in maps if each is not None)
        return first - others[0] if others else first

    def line(self, head: Head | None = None) -> np.ndarray:
        """Return what each key gets ``(N,)`` from the query, or on average over the queries that are no prefix."""
        head = self.head if head is None else head
        lines = [_line(self.document, *both, head, self.query) for both in zip(self.inputs, self.maps, strict=True)]
        return lines[0] - lines[1] if self.signed else lines[0]

    def edges(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return keys, queries and weights ``(E,)`` as lines, of a chosen query alone."""
        if self.map.get("edges"):
            first, *others = (self.document.edges(found, self.head) for found in self.maps)
            keys, queries, weights = first[0], first[1], first[2] - others[0][2] if others else first[2]
        elif self.query is None:
            matrix = _expanded(self.matrix(), self.map, len(self.queries["labels"]), len(self.keys["labels"]))
            rows, keys = np.nonzero(matrix)
            weights = matrix[rows, keys]
            queries = rows if self.map["queries"] is None else np.asarray(self.map["queries"])[rows]
        else:
            weights = self.line()
            keys, queries = np.arange(len(weights)), np.full(len(weights), self.query)
        chosen = slice(None) if self.query is None else queries == self.query
        return keys[chosen], queries[chosen], weights[chosen]

    def about(self) -> str:
        """Say which map, head and query are shown."""
        heads = self.map["heads"]
        head = f"mean of {len(heads)} heads" if self.head == "mean" else f"head {heads[self.head]}"
        head = "all heads" if heads == ["all"] else head
        mode = "" if self.map["mode"] == "raw" or self.map["mode"] in self.map["name"] else f" ({self.map['mode']})"
        if self.query is not None:
            asked = f"what “{self.queries['labels'][self.query]}” (vector {self.query + 1}) looks at"
        else:
            asked = "every query" if self.as_matrix or self.keys["kind"] == "graph" else "mean over the queries"
        return f"{self.map['name']}{mode}, {head}: {asked}"


def views(document: Document, found: str | None, head: Head | None, query: int | str | None) -> tuple[list[View], str]:
    """Return the views of a document's inputs, and why A minus B is not among them, or nothing.

    Raises:
        ConfigError: naming a map, head or query that is not there.
    """
    inputs = document.data["inputs"]
    first = _map(inputs[0], found, asked=query is not None)
    in_a_row = query is None and _in_a_row(inputs[0], first)
    moved = _most_moved(document) if in_a_row and found is None and head is None and len(inputs) > 1 else None
    first, head = moved or (first, _head(first, head, focused=in_a_row))
    shown, lacking = [], ""
    for one in inputs:
        own = first if one is inputs[0] else counterpart(one, first)
        if own is None:
            lacking = f"{one['name']} has no map {first['name']}"
            continue
        shown.append(View(document, one["name"], (one,), (own,), head, _query(one, own, query)))
    if len(shown) < 2:
        return shown, lacking
    fault = _apart(*shown)
    if not fault:
        a, b = shown
        shown.append(View(document, f"{a.name} − {b.name}", a.inputs + b.inputs, a.maps + b.maps, head, a.query))
    return shown, fault and f"no {shown[0].name} − {shown[1].name}: {fault}"


def counterpart(one: dict[str, Any], found: dict[str, Any]) -> dict[str, Any] | None:
    """Return the map of an input that shows the same place of the model."""
    return next((each for each in one["maps"] if each["id"] == found["id"] or _place(each) == _place(found)), None)


def alike(one: dict[str, Any], found: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the dense maps of an input between the same sets, in the same part and mode, in their order."""
    names = ("part", "mode", "query", "key")
    return [each for each in one["maps"] if all(each[k] == found[k] for k in names) and not each.get("edges")]


def entropies(found: dict[str, Any]) -> list[float]:
    """Return the mean entropy of each head's rows in nats; infinite where it was not measured, as of a rollout."""
    measures = found["measures"] or {}
    known = measures.get("entropy") or [None] * len(found["heads"])
    return [float("inf") if entropy is None else entropy for entropy in known]


def _most_moved(document: Document) -> tuple[dict[str, Any], int] | None:
    """Return the map of vectors in a row and the head whose weights differ most between two inputs, or None."""
    one, other = document.data["inputs"]
    found: list[tuple[float, dict[str, Any], int]] = []
    for each in one["maps"]:
        beside = counterpart(other, each)
        if each["mode"] != "raw" or not _in_a_row(one, each) or beside is None or beside["shape"] != each["shape"]:
            continue
        for head in range(len(each["heads"])):
            change = np.abs(document.matrix(each, head) - document.matrix(beside, head)).sum()
            found.append((float(change), each, head))
    return max(found, key=lambda triple: triple[0])[1:] if found else None


def _place(found: dict[str, Any]) -> list[Any]:
    return [found[name] for name in ("mode", "part", "layer", "query", "key")]


def _apart(a: View, b: View) -> str:
    """Say why two views cannot be subtracted."""
    for name in dict.fromkeys([a.map["query"], a.map["key"]]):
        sizes = [len(view.set(name)["labels"]) for view in (a, b)]
        if sizes[0] != sizes[1]:
            return f"“{name}” has {sizes[0]} vectors in {a.name} and {sizes[1]} in {b.name}"
    if a.query != b.query:
        return "the query stands at another place"
    same = all(a.map[name] == b.map[name] for name in ("shape", "blocks", "queries", "heads"))
    if same and a.map.get("edges"):
        same = all(np.array_equal(*pair) for pair in zip(a.edges()[:2], b.edges()[:2], strict=True))
    return "" if same else "they have other edges, heads or recorded queries"


def _in_a_row(one: dict[str, Any], found: dict[str, Any]) -> bool:
    return found["query"] == found["key"] and one["sets"][found["key"]]["kind"] not in PLACED


def _map(one: dict[str, Any], name: str | None, *, asked: bool) -> dict[str, Any]:
    maps: list[dict[str, Any]] = one["maps"]
    if name is not None:
        for found in maps:
            if found["id"] == name:
                return found
        raise ConfigError(f"there is no map {name!r}; {nearest(name, [found['id'] for found in maps])}")
    raw = [found for found in maps if found["mode"] == "raw"] or maps
    for part in ("cross", "pool"):  # the last that the answer came through
        last = [found for found in raw if found["part"] == part]
        if last and (part == "cross" or one["sets"][last[-1]["key"]]["kind"] in PLACED):
            return last[-1]
    own = [found for found in raw if _in_a_row(one, found) and found["part"] != "pool"]
    return raw[-1] if asked or not own else min(own, key=lambda found: min(entropies(found)))


def _head(found: dict[str, Any], head: Head | None, *, focused: bool) -> Head:
    """Return the head asked for; without one the most focused, or the mean."""
    count = len(found["heads"])
    if head is None:
        return int(np.argmin(entropies(found))) if focused else "mean" if count > 1 else 0
    if head != "mean" and not 0 <= head < count:
        raise ConfigError(
            f"head={head} of {found['name']!r} is not there: it is 'mean' or a number from 0 to {count - 1}"
        )
    return head


def _query(one: dict[str, Any], found: dict[str, Any], query: int | str | None) -> int | None:
    queries, keys = one["sets"][found["query"]], one["sets"][found["key"]]
    labels, recorded = queries["labels"], found["queries"]
    if query is None:
        if queries is not keys and len(labels) == 1:
            return 0
        first = queries is keys and keys["kind"] in ("image", "sound") and queries["num_prefix"] > 0
        return 0 if first and (recorded is None or 0 in recorded) else None
    if isinstance(query, str) and query not in labels:
        raise ConfigError(f"{one['name']} has no vector {query!r}; {nearest(query, labels)}")
    place: int = labels.index(query) if isinstance(query, str) else query
    if not 0 <= place < len(labels):
        raise ConfigError(f"query={query} is not in {one['name']}, whose vectors are numbers 0 to {len(labels) - 1}")
    if recorded is not None and place not in recorded:
        raise ConfigError(f"the weights of query={query} were not recorded; recorded are {_listed(recorded)}")
    return place


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers[:20])) + (", ..." if len(numbers) > 20 else "")


def _line(document: Document, one: dict[str, Any], found: dict[str, Any], head: Head, query: int | None) -> np.ndarray:
    keys, queries = (one["sets"][found[side]] for side in ("key", "query"))
    size = len(keys["labels"])
    if found.get("edges"):
        key, asking, weights = document.edges(found, head)
        chosen = asking >= queries["num_prefix"] if query is None else asking == query
        count = len(queries["labels"]) - queries["num_prefix"] if query is None else 1
        return np.bincount(key[chosen], weights[chosen], size) / max(1, count)
    if query is None:
        numbers = np.arange(len(queries["labels"])) if found["queries"] is None else np.asarray(found["queries"])
        matrix = _expanded(document.matrix(found, head), found, len(numbers), size)
        real = numbers >= queries["num_prefix"]
        return matrix[real if real.any() else slice(None)].mean(0)
    place = query if found["queries"] is None else found["queries"].index(query)
    heads = range(len(found["heads"])) if head == "mean" else [head]
    return np.mean([_row(document, found, each, place, size) for each in heads], 0)


def _row(document: Document, found: dict[str, Any], head: int, place: int, size: int) -> np.ndarray:
    """Return what a query gives to each key: the strongest exactly, others as levels or means of blocks tell."""
    down, across = found["blocks"] or (1, 1)
    values = np.repeat(document.row(found, head, place // down), across)[:size].astype(float)
    strongest = document.strongest(found, head, place)
    if strongest is not None:
        index, weight = strongest
        if found["blocks"] and len(index) < size:
            values = np.minimum(values, weight[-1])  # none of the others weighs more than the weakest of the strongest
        values[index] = weight
    return values


def _expanded(matrix: np.ndarray, found: dict[str, Any], rows: int, columns: int) -> np.ndarray:
    """Give every pair of a block its mean."""
    down, across = found["blocks"] or (1, 1)
    if down == across == 1:
        return matrix
    return np.repeat(np.repeat(matrix, down, 0)[:rows], across, 1)[:, :columns]
