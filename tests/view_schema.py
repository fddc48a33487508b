"""What every document of attention must be: a strict reading of its layout, key by key and byte by byte."""

from __future__ import annotations

import base64
import io
import json
from itertools import pairwise
from typing import Any

import numpy as np
from PIL import Image

SIZES = {"float32": 4, "uint8": 1, "uint16": 2, "int32": 4}
OF_KIND: dict[str, set[str]] = {
    "text": set(),
    "vectors": set(),
    "image": {"picture", "size", "grid", "boxes"},
    "sound": {"spectrogram", "duration", "times", "ticks"},
    "graph": {"xy", "edges", "classes"},
}
MAP = {
    "id", "name", "path", "part", "layer", "mode", "query", "key", "heads", "shape", "queries", "blocks", "weights",
    "top", "measures",
}  # fmt: skip


def check(data: dict[str, Any], buffer: bytes) -> None:
    """Assert that a document is one."""
    assert json.loads(json.dumps(data, allow_nan=False)) == data  # plain values, and no NaN
    assert set(data) == {"schema", "title", "note", "model", "precision", "remarks", "inputs"}
    assert data["schema"] == 1 and data["note"] and all(isinstance(text, str) for text in data["remarks"])
    assert set(data["model"]) == {"task", "name", "layers", "heads"}
    precision = data["precision"]
    assert precision == {"kind": "exact"} or set(precision) == {"kind", "levels", "max_error"}
    assert [one["name"] for one in data["inputs"]] in (["A"], ["A", "B"])
    places: list[tuple[int, int]] = []
    for one in data["inputs"]:
        assert set(one) == {"name", "caption", "answer", "sets", "maps"}
        assert one["caption"] and isinstance(one["answer"], str)
        for found in one["sets"].values():
            check_set(found)
        assert len({found["id"] for found in one["maps"]}) == len(one["maps"]) > 0
        for found in one["maps"]:
            check_map(found, one["sets"], buffer, places, precision)
    places.sort()
    assert all(end <= start for (_, end), (start, _) in pairwise(places))
    assert not places or places[-1][1] <= len(buffer) < places[-1][1] + 4


def check_set(found: dict[str, Any]) -> None:
    labels, prefix = found["labels"], found["num_prefix"]
    assert set(found) == {"kind", "labels", "num_prefix", "details"} | OF_KIND[found["kind"]]
    assert labels and all(isinstance(label, str) for label in labels) and 0 <= prefix <= len(labels)
    assert labels[:prefix] == ["[CLS]", *(f"[prefix {i}]" for i in range(2, prefix + 1))][:prefix]
    assert found["details"] is None or (len(found["details"]) == len(labels) and not any(found["details"][:prefix]))
    real = len(labels) - prefix
    if found["kind"] == "image":
        width, height = found["size"]
        assert opened(found["picture"]).size == (width, height)
        boxes = np.array(found["boxes"])
        assert boxes.shape == (real, 4) and real == found["grid"][0] * found["grid"][1]
        assert (boxes[:, 2:] > 0).all() and (boxes[:, :2] >= 0).all()
        assert (boxes[:, :2] + boxes[:, 2:] <= [width, height]).all()
        assert boxes[:, 2:].prod(1).sum() == width * height  # they cover the picture once
    if found["kind"] == "sound":
        assert opened(found["spectrogram"]).mode == "L"
        times = np.array(found["times"])
        assert times.shape == (real, 2) and (times[:, 1] >= times[:, 0]).all()
        assert (times[1:, 0] == times[:-1, 1]).all() and times[0, 0] == 0 and times[-1, 1] <= found["duration"] + 1e-9
        heights = [place for _, place in found["ticks"]]
        assert heights == sorted(heights) and all(0 <= place <= 1 for place in heights) and len(heights) > 1
    if found["kind"] == "graph":
        assert np.array(found["xy"]).shape == (real, 2) and 0 <= np.min(found["xy"]) <= np.max(found["xy"]) <= 1
        assert all(prefix <= end < len(labels) for edge in found["edges"] for end in edge)
        assert found["classes"] is None or len(found["classes"]) == real


def check_map(
    found: dict[str, Any],
    sets: dict[str, Any],
    buffer: bytes,
    places: list[tuple[int, int]],
    precision: dict[str, Any],
) -> None:
    def array(place: dict[str, Any], *shape: int) -> np.ndarray:
        assert set(place) == {"offset", "length", "dtype"} and place["offset"] % 4 == 0
        assert place["length"] == int(np.prod(shape)) * SIZES[place["dtype"]]
        places.append((place["offset"], place["offset"] + place["length"]))
        dtype = np.dtype(place["dtype"]).newbyteorder("<")
        return np.frombuffer(buffer, dtype, int(np.prod(shape)), place["offset"]).reshape(shape)

    assert set(found) - {"edges"} == MAP and found["mode"] in ("raw", "rollout", "relevance")
    assert found["part"] in ("encoder", "decoder", "cross", "pool") and found["layer"] >= 1
    heads, kept = len(found["heads"]), found["weights"]
    queries, keys = (len(sets[found[side]]["labels"]) for side in ("query", "key"))
    if found["mode"] == "raw":
        assert set(found["measures"]) == {"entropy", "distance", "sink", "ablation"} and found["path"]
        assert all(value is None or len(value) == heads for value in found["measures"].values())
    else:
        assert found["heads"] == ["all"] and found["path"] is None and found["measures"] is None
    if "edges" in found:
        assert found["shape"][0] == heads and kept["dtype"] == "float32" and found["top"] is found["blocks"] is None
        key, query = (array(found["edges"][side], found["shape"][1]) for side in ("key", "query"))
        assert key.min(initial=0) >= 0 and key.max(initial=0) < keys and query.max(initial=0) < queries
        array(kept["values"], *found["shape"])
        return
    rows = queries if found["queries"] is None else len(found["queries"])
    assert found["queries"] is None or all(0 <= number < queries for number in found["queries"])
    b, c = found["blocks"] or (1, 1)
    shape = [heads, -(-rows // b), -(-keys // c)]
    assert found["shape"] == shape
    values = array(kept["values"], *shape)
    if kept["dtype"] == "float32":
        assert set(kept) == {"dtype", "values"} and (values >= 0).all() and np.isfinite(values).all()
    else:
        assert set(kept) == {"dtype", "levels", "values", "row_max"} and kept["levels"] == precision["levels"]
        assert kept["values"]["dtype"] == kept["dtype"] and values.max() <= kept["levels"]
        array(kept["row_max"], *shape[:2])
    assert (found["top"] is None) == (kept["dtype"] == "float32" and found["blocks"] is None)
    if found["top"] is not None:
        k = found["top"]["k"]
        assert array(found["top"]["index"], heads, rows, k).max() < keys
        assert (np.diff(array(found["top"]["weight"], heads, rows, k)) <= 0).all()


def opened(uri: str) -> Image.Image:
    """The picture of a data URI."""
    start = "data:image/png;base64,"
    assert uri.startswith(start)
    return Image.open(io.BytesIO(base64.b64decode(uri.removeprefix(start))))
