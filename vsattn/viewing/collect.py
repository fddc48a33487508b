"""What a model looked at in one item: it runs, every head is recorded, and its sets are described."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from vsattn.attention.observing import Observable
from vsattn.errors import ConfigError, DataError, ShapeError
from vsattn.predictor import Predictor
from vsattn.structure import Edges
from vsattn.viewing.answers import answered
from vsattn.viewing.graphs import MOST_NODES, neighbourhood
from vsattn.viewing.looked import Choice, Item, Looked
from vsattn.viewing.places import Places
from vsattn.viewing.recorded import record_maps
from vsattn.viewing.sets import Shown, describe, named, piece_set


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
        record_maps(found)
    for name, size in places.sizes.items():
        if name not in found.sets:
            labels = [f"{name.split()[0]} {i}" for i in range(1, size + 1)]
            labels = ["answer"] if name == "pool" and size == 1 else labels
            found.sets[name] = named("vectors", labels)
    if kept is not None:
        found.remarks.append(
            f"{len(kept):,} of {count:,} nodes are shown, the nearest within {choice.hops} "
            f"step{'' if choice.hops == 1 else 's'}; weights to "
            "others are left out, so that rows may sum to less than 1"
        )
    return found


def require_attention(model: Any) -> None:
    """Raise ConfigError for a model in which nothing can be looked at."""
    if not any(isinstance(module, Observable) for module in model.modules()):
        raise ConfigError(
            f"this model has no attention to look at: its encoder is {type(model.encoder).__name__}. These have: "
            "encoder=transformer, induced, latent, diffusion; head=attention, pooling; decoder=transformer, gru"
        )


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
