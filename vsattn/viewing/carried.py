"""Maps of what passes through all layers: attention rollout, and relevance for the answer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vsattn.encoders import TransformerEncoder
from vsattn.errors import ConfigError, RecordingError
from vsattn.measures import relevance, rollout
from vsattn.predictor import Predictor
from vsattn.recording import record
from vsattn.viewing.answers import on_device
from vsattn.viewing.document import Draft
from vsattn.viewing.looked import Item, Looked
from vsattn.viewing.quantise import Cells
from vsattn.viewing.sets import named

#: Rollout is for sets of at most so many vectors; it multiplies square matrices.
MOST_ROLLED = 2048

#: An answer for each vector has a row of relevance for each, where there are at most so many.
MOST_ROWS = 64

#: What relevance may take, in bytes; it needs all weights, all heads and their gradients at once.
RELEVANCE_BYTES = 768 << 20


def add_rollout(found: Looked) -> None:
    """Add a map for each layer of a plain stack of self-attention: what its vectors are made of, were weights all."""
    for path, module in found.model.named_modules():
        if not isinstance(module, TransformerEncoder):
            continue
        name = "pieces" if path.startswith("embedder") else found.places.main
        size = found.size(name) if name in (*found.places.sizes, found.places.main) else 0
        if size > MOST_ROLLED:
            found.remarks.append(f"no rollout: it is made for at most {MOST_ROLLED:,} vectors, and these are {size:,}")
            continue
        with torch.inference_mode(), record(found.model, layers=[f"{path}.blocks.*"], reduce="mean") as recording:
            found.run()
        root = "embedder" if name == "pieces" else "encoder"
        for number, carried in enumerate(rollout([one.dense().float() for one in recording]), start=1):
            about = {"id": f"rollout {root} {number}", "name": f"{root} {number}", "mode": "rollout", "layer": number}
            found.drafts.append(found.draft({**_all_heads(), **about, "query": name, "key": name}, carried.numpy()))


def add_relevance(found: Looked, predictor: Predictor, item: Item) -> None:
    """Add what the answer has to do with each vector, one row for each answer.

    Where it cannot be had, a remark says why.
    """
    rows = _rows(found)
    if rows is None:
        return
    try:
        parts = list(_relevances(found, predictor, item, rows))
    except (ConfigError, RecordingError) as error:
        found.remarks.append(f"no relevance: {error}")
        return
    main, written = found.places.main, bool(found.said.written)
    about = {**_all_heads(), "id": "relevance", "name": "relevance", "mode": "relevance", "layer": 1}
    query, queries = _query_set(found), None
    if found.said.labels.ndim:
        query = "target" if written else main
        prefix = 0 if written else found.places.num_prefix
        shown = found.shown(query)
        every = np.arange(found.size(query)) if shown is None else shown
        queries = np.searchsorted(every, rows + prefix).tolist()
        queries = None if len(queries) == len(every) else queries
    for key, weights in ((main, [each[0] for each in parts]), ("written", [each[1] for each in parts])):
        whole = [each for each in weights if each is not None]
        if not whole:
            continue
        kept = torch.cat(whole)[None].float().numpy()
        shown = found.shown(key)
        kept = kept if shown is None else kept.take(shown, 2)
        mark = {"id": f"relevance {key}", "part": "cross"} if written else {}
        mark |= {"name": "relevance of the source"} if written else {}
        mark |= {"part": "decoder", "name": "relevance of what was written"} if key == "written" else {}
        made = {**about, **mark, "query": query, "key": key, "queries": queries}
        found.drafts.append(Draft(made, Cells.of(kept)))


def _all_heads() -> dict[str, Any]:
    return {"path": None, "part": "encoder", "heads": ["all"], "measures": None}


def _query_set(found: Looked) -> str:
    """Return the set of one vector, the answer, and make it where attention does not pool by one."""
    if len(found.sets.get("pool", {}).get("labels", ())) == 1:
        return "pool"
    if not found.said.labels.ndim:
        found.sets["answer"] = {**named("vectors", ["answer"]), "details": [found.said.text]}
    return "answer"


def _rows(found: Looked) -> np.ndarray | None:
    """Return for which vectors, or tokens that were written, relevance is asked; None for none."""
    labels = found.said.labels
    if not labels.ndim:
        return np.zeros(1, int)
    if found.choice.queries is not None:
        return np.array(sorted(found.choice.queries))
    every = np.arange(len(labels)) if found.kept is None else found.kept
    if len(every) <= MOST_ROWS:
        return every
    if found.choice.node is not None:
        return np.array([found.choice.node])
    found.remarks.append(
        f"no relevance: there are {len(every)} answers; it is made for at most {MOST_ROWS}, or for those that queries= "
        "chooses"
    )
    return None


def _relevances(
    found: Looked, predictor: Predictor, item: Item, rows: np.ndarray
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Yield for some answers at a time the relevance of the item's vectors ``(n, N)`` and of what was written."""
    labels = found.said.labels
    few = _at_once(found)
    for start in range(0, len(rows), few):
        some = torch.from_numpy(rows[start : start + few])
        targets = torch.stack([some, labels[some]], 1) if labels.ndim else labels[None]
        batch = _copies(found, predictor, item, len(some))
        made = relevance(found.model, batch, targets=targets.to(next(iter(batch.values())).device))
        written = None if made.target is None else made.target[torch.arange(len(some)), some]
        yield made.answer, written


def _at_once(found: Looked) -> int:
    """Return for how many answers relevance is computed together.

    Raises:
        RecordingError: when one is too many.
    """
    total = 0
    for draft in found.drafts:
        if draft.about["mode"] == "raw":
            sides = found.size(draft.about["query"]), found.size(draft.about["key"])
            total += 8 * len(draft.about["heads"]) * sides[0] * sides[1]
    few = RELEVANCE_BYTES // max(1, total)
    if not few:
        raise RecordingError(
            f"the weights of all layers with their gradients would take {total / 2**20:.0f} MiB, and "
            f"{RELEVANCE_BYTES >> 20} are allowed"
        )
    return min(MOST_ROWS, few)


def _copies(found: Looked, predictor: Predictor, item: Item, count: int) -> dict[str, Tensor]:
    """Return a batch of the item, so many times."""
    if count == 1:
        return found.batch
    if found.said.written:
        return {name: tensor.expand(count, *tensor.shape[1:]) for name, tensor in found.batch.items()}
    return on_device(predictor, predictor.tokenizer.collate([item.value] * count))
