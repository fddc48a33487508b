"""What a model looked at in one item: it runs, every head is recorded, and the weights become maps."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vsattn.attention.observing import observables
from vsattn.errors import ConfigError, DataError, ShapeError
from vsattn.measures import head_measures
from vsattn.predictor import Predictor
from vsattn.recording import Record, record
from vsattn.structure import Edges
from vsattn.vectorset import VectorSet
from vsattn.viewing.answers import Answered, answered
from vsattn.viewing.document import Draft
from vsattn.viewing.graphs import MOST_NODES, neighbourhood
from vsattn.viewing.places import Places, spread
from vsattn.viewing.quantise import Cells
from vsattn.viewing.sets import Shown, describe, named, piece_set

#: Weights that are recorded in one pass of the model, in bytes.
PASS_BYTES = 256 << 20

#: Weights that are measured at once, in bytes of double precision.
MEASURED_BYTES = 64 << 20

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


def looked_at(predictor: Predictor, item: Item, choice: Choice) -> Looked:
    """Run a model on an item alone, and return all that its attention did.

    Raises:
        ConfigError: for a model without attention, or layers, heads and queries that it does not have.
        DataError: for an item that the model cannot take, or without vectors.
    """
    require_attention(predictor.model)
    try:
        said = answered(predictor, item.value)
        with torch.inference_mode():
            vectors = predictor.model.embed(said.batch)
            encoded = predictor.model.encoder(vectors)
    except ShapeError as error:
        raise DataError(f"{item.caption}: {error}") from None
    if vectors.mask is not None and not bool(vectors.mask.any()):
        raise DataError(f"{item.caption}: there is nothing to look at: it has no vectors")
    index = vectors.structure.edge_index.cpu().numpy() if isinstance(vectors.structure, Edges) else None
    count = vectors.num_vectors - vectors.num_prefix
    places = Places(predictor.model, count, encoded.num_prefix)
    kept = None if index is None else part_of_graph(index, count, choice)
    edges = 0 if index is None else index.shape[1] + 2 * encoded.num_prefix * encoded.num_vectors
    found = Looked(predictor.model, said.batch, said, places, choice, edges, kept)
    classes = item.classes
    if classes is None and said.details is not None and not said.written:
        classes = [predictor.classes[label] if label < len(predictor.classes) else "" for label in said.labels.tolist()]
    shown = Shown(predictor.tokenizer, item.value, said.batch, count, item.names, classes, index, kept)
    _name_sets(found, predictor, shown)
    with torch.inference_mode():
        _record(found)
    for name, size in places.sizes.items():
        if name not in found.sets:
            labels = [f"{name.split()[0]} {i}" for i in range(1, size + 1)]
            labels = ["answer"] if name == "pool" and size == 1 else labels
            found.sets[name] = named("vectors", labels)
    if kept is not None:
        found.remarks.append(
            f"{len(kept):,} of {count:,} nodes are shown, those within {choice.hops} steps of one; weights to others "
            "are left out, so that rows may sum to less than 1"
        )
    return found


def require_attention(model: Any) -> None:
    """Raise ConfigError for a model in which nothing can be looked at."""
    try:
        observables(model)
    except ConfigError as error:
        if "has no attention" not in str(error):
            raise
        raise ConfigError(
            f"this model has no attention to look at: its encoder is {type(model.encoder).__name__}. These have: "
            "encoder=transformer, induced, latent, diffusion; head=attention, pooling; decoder=transformer, gru"
        ) from None


def part_of_graph(index: np.ndarray, count: int, choice: Choice) -> np.ndarray | None:
    """Return the nodes that are shown of a graph, or None for all."""
    node = choice.node or 0
    if not 0 <= node < count:
        raise ConfigError(f"node: there are nodes 0 to {count - 1}, not {node}")
    if count <= MOST_NODES and choice.node is None:
        return None
    return neighbourhood(index, count, node, choice.hops)


def _name_sets(found: Looked, predictor: Predictor, shown: Shown) -> None:
    """Describe the sets that are known before the model runs."""
    said, main, details = found.said, found.places.main, None
    if found.said.written:
        found.sets[main] = named("text", said.source)
        found.sets["target"] = {**named("text", said.written), "details": said.details}
        found.sets["written"] = named("text", said.given)
        return
    if said.details is not None:
        details = said.details if shown.kept is None else [said.details[node] for node in shown.kept]
    prefix = found.places.num_prefix
    found.sets[main] = describe(shown, prefix)
    if details is not None:
        found.sets[main]["details"] = [*[""] * prefix, *details]
    if "piece" in said.batch:
        found.sets["pieces"] = piece_set(predictor.tokenizer, said.batch)


def _record(found: Looked) -> None:
    """Make a map for each module that is looked at, in the order in which they run."""
    with record(found.model, layers=found.choice.layers, queries=[0], reduce="mean") as first:
        found.run()
    drafts: dict[str, list[tuple[Record, Draft]]] = {path: [] for path in first.paths}
    numbers: dict[str, int] = {}
    layers = {}
    for path in first.paths:
        kind = _about(found, first.calls(path)[0])
        numbers[kind["group"]] = numbers.get(kind["group"], 0) + 1
        layers[path] = {"layer": numbers[kind.pop("group")], **kind}
    for paths, heads in _passes(found, first.calls, first.paths):
        with record(found.model, layers=paths, heads=heads, budget_mb=2 * PASS_BYTES / 2**20 + 512) as recording:
            found.run()
        for path in paths:
            one = whole_record(recording.calls(path))
            drafts[path].append((one, _draft(found, layers[path], one)))
    found.drafts += [_joined(parts) for parts in drafts.values() if parts]


def _about(found: Looked, one: Record) -> dict[str, Any]:
    """Return the plain entries of the map of a record, and by what its layer is counted."""
    part, query, key = found.places.of(one)
    group = part if query == key or part in ("decoder", "cross", "pool") else f"{part} {query} {key}"
    group = "embedder" if query == "pieces" else group
    return {"group": group, "path": one.path, "part": part, "mode": "raw", "query": query, "key": key}


def _passes(
    found: Looked, calls: Callable[[str], list[Record]], paths: Sequence[str]
) -> Iterator[tuple[list[str], list[int]]]:
    """Yield which heads of which modules are recorded together, so that their weights stay small."""
    known = observables(found.model)
    waiting: dict[tuple[int, ...], tuple[list[str], int]] = {}
    for path in paths:
        count = known[path].num_heads
        wanted = range(count) if found.choice.heads is None else [h for h in found.choice.heads if h < count]
        each, steps = calls(path)[0], len(calls(path))
        queries = steps if steps > 1 else each.query_set.num_vectors
        size = 4 * (found.edges if each.edges is not None else queries * each.key_set.num_vectors)
        few = max(1, PASS_BYTES // max(1, size))
        for start in range(0, len(wanted), few):
            heads = tuple(wanted[start : start + few])
            together, total = waiting.pop(heads, ([], 0))
            if together and (path in together or total + size * len(heads) > PASS_BYTES):
                yield together, list(heads)
                together, total = [], 0
            waiting[heads] = [*together, path], total + size * len(heads)
    if not waiting:
        raise ConfigError(f"heads: no layer has one of {list(found.choice.heads or ())}")
    yield from ((together, list(heads)) for heads, (together, _) in waiting.items())


def whole_record(calls: Sequence[Record]) -> Record:
    """Return the record of a module, the steps of a decoder as one."""
    if len(calls) == 1:
        return calls[0]
    weights = torch.cat([one.dense() for one in calls], dim=2)
    steps = VectorSet(weights.new_zeros(1, weights.shape[2], 0), layout="sequence")
    return replace(calls[0], weights=weights, queries=torch.arange(weights.shape[2]), query_set=steps)


def _draft(found: Looked, about: dict[str, Any], one: Record) -> Draft:
    measures = _measured(one)
    about = {
        "id": one.path,
        "name": _title(about),
        **about,
        "heads": [str(head + 1) for head in one.heads],
        "measures": measures,
    }
    if one.edges is not None:
        return _edge_draft(found, about, one)
    shape = len(one.heads), found.size(about["query"]), found.size(about["key"])
    return found.draft(about, spread(one.weights[0].float().numpy(), shape))


def _measured(one: Record) -> dict[str, Any]:
    """Measure heads, few at a time where they are large: it is done in double precision, several times over."""
    few = len(one.heads) if one.edges is not None else max(1, MEASURED_BYTES // (8 * one.weights[0, 0].numel()))
    parts = []
    for start in range(0, len(one.heads), few):
        some = slice(start, start + few)
        weights = one.weights[:, some] if one.edges is None else one.weights
        parts.append(head_measures(replace(one, heads=one.heads[some], weights=weights)))
    found: dict[str, Any] = {"ablation": None}
    for name in ("entropy", "distance", "sink"):
        known = [part[name] for part in parts if part[name] is not None]
        found[name] = _numbers(torch.cat(known)) if known else None
    return found


def _title(about: dict[str, Any]) -> str:
    if about["query"] == about["key"] or about["part"] != "encoder":
        root = "embedder" if about["query"] == "pieces" else about["part"]
        return f"{root} {about['layer']}"
    return f"encoder {about['layer']}: {about['query']} from {about['key']}"


def _edge_draft(found: Looked, about: dict[str, Any], one: Record) -> Draft:
    assert one.edges is not None
    pairs, weights = one.edges.numpy(), one.weights.T.float().numpy()
    shown = found.shown(about["query"])
    if shown is not None:
        place = np.full(found.size(about["query"]), -1)
        place[shown] = np.arange(len(shown))
        inside = (place[pairs] >= 0).all(0)
        pairs, weights = place[pairs[:, inside]], weights[:, inside]
    rows = found.rows(about["query"])
    if rows is not None:
        chosen = np.isin(pairs[1], rows)
        pairs, weights = pairs[:, chosen], weights[:, chosen]
    return Draft({**about, "queries": None}, edges=(pairs[0], pairs[1], np.ascontiguousarray(weights)))


def _joined(parts: Sequence[tuple[Record, Draft]]) -> Draft:
    """Return the heads of one module, which were recorded in several passes, as one map."""
    (_, first), *more = parts
    if not more:
        return first
    drafts = [draft for _, draft in parts]
    about = {**first.about, "heads": [head for draft in drafts for head in draft.about["heads"]]}
    of_each = [draft.about["measures"] for draft in drafts]
    about["measures"] = {
        name: None if value is None else [number for each in of_each for number in each[name]]
        for name, value in of_each[0].items()
    }
    if first.edges is not None:
        weights = np.concatenate([draft.edges[2] for draft in drafts if draft.edges is not None])
        return Draft(about, edges=(first.edges[0], first.edges[1], weights))
    cells = [draft.cells for draft in drafts if draft.cells is not None]
    top = None
    if cells[0].top is not None:
        top = tuple(np.concatenate([one.top[side] for one in cells if one.top is not None]) for side in (0, 1))
    return Draft(about, replace(cells[0], values=np.concatenate([one.values for one in cells]), top=top))


def _numbers(measured: Tensor) -> list[float | None]:
    return [round(value, 6) if math.isfinite(value) else None for value in measured.tolist()]
