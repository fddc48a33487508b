"""The maps of recorded heads: which are recorded together, what they measure, and along which edges they lie."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vsattn.attention.observing import observables
from vsattn.errors import ConfigError
from vsattn.measures import head_measures
from vsattn.recording import Record, Recording, record
from vsattn.vectorset import VectorSet
from vsattn.viewing.document import Draft
from vsattn.viewing.looked import Looked
from vsattn.viewing.places import spread

#: Weights that are recorded in one pass of the model, in bytes.
PASS_BYTES = 256 << 20

#: Weights that are measured at once, in bytes of double precision.
MEASURED_BYTES = 64 << 20


def record_maps(found: Looked) -> None:
    """Make a map for each module that is looked at, in the order in which they run."""
    first = _first_rows(found, found.choice.layers)
    every = first if found.choice.layers is None else _first_rows(found, None)
    drafts: dict[str, list[tuple[Record, Draft]]] = {path: [] for path in first.paths}
    numbers: dict[str, int] = {}
    layers = {}
    for path in every.paths:  # a layer keeps its number where few are chosen
        kind = _about(found, every.calls(path)[0])
        numbers[kind["group"]] = numbers.get(kind["group"], 0) + 1
        layers[path] = {"layer": numbers[kind.pop("group")], **kind}
    for paths, heads in _passes(found, first.calls, first.paths):
        with record(found.model, layers=paths, heads=heads, budget_mb=2 * PASS_BYTES / 2**20 + 512) as recording:
            found.run()
        for path in paths:
            one = whole_record(recording.calls(path))
            drafts[path].append((one, _draft(found, layers[path], one)))
    found.drafts += [_joined(parts) for parts in drafts.values() if parts]


def _first_rows(found: Looked, layers: Sequence[int | str] | None) -> Recording:
    """Return which modules run, in their order, and between which sets they look; of the weights next to nothing."""
    with record(found.model, layers=layers, queries=[0], reduce="mean") as recording:
        found.run()
    return recording


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
        known = [measured for part in parts if (measured := part[name]) is not None]
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
    tops, top = [one.top for one in cells if one.top is not None], None
    if tops:
        top = np.concatenate([index for index, _ in tops]), np.concatenate([weight for _, weight in tops])
    return Draft(about, replace(cells[0], values=np.concatenate([one.values for one in cells]), top=top))


def _numbers(measured: Tensor) -> list[float | None]:
    return [round(value, 6) if math.isfinite(value) else None for value in measured.tolist()]
