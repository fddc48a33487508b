"""Documents of attention made by numpy alone, in the form that the page reads, with the numbers that it must show."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
from PIL import Image

SENTENCE = ["The", "animal", "did", "not", "cross", "the", "street", "because", "it", "was", "too", "tired"]
CHINESE = ["动物", "没有", "过", "马路", "因为", "它", "太", "累", "了"]
KINDS = ("text", "vectors", "image", "sound", "graph", "translation", "comparing", "blocks", "quantised")


class Arrays:
    """The arrays of one document in one buffer, each at a multiple of four bytes."""

    def __init__(self) -> None:
        self.buffer = bytearray()

    def add(self, values: np.ndarray) -> dict[str, Any]:
        """Append an array and return what refers to it."""
        data = np.ascontiguousarray(values).astype(values.dtype.newbyteorder("<")).tobytes()
        reference = {"offset": len(self.buffer), "length": len(data), "dtype": values.dtype.name}
        self.buffer += data + b"\0" * (-len(data) % 4)
        return reference


def attention(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Rows that sum to one, a few of their keys strong."""
    scores = np.random.default_rng(seed).normal(scale=2.0, size=shape).astype(np.float32)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return (weights / weights.sum(-1, keepdims=True)).astype(np.float32)


def quantise(weights: np.ndarray, levels: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Levels, row maxima, and the weights that these stand for."""
    row_max = weights.max(-1)
    level = np.rint(np.sqrt(weights / row_max[..., None]) * levels)
    back = row_max[..., None] * (level / levels) ** 2
    return level.astype(np.uint8 if levels < 256 else np.uint16), row_max, back.astype(np.float32)


def strongest(arrays: Arrays, weights: np.ndarray, k: int) -> dict[str, Any]:
    """The k strongest keys of each query, from the strongest down."""
    index = np.argsort(-weights, axis=-1, kind="stable")[..., :k]
    weight = np.take_along_axis(weights, index, -1)
    return {"k": k, "index": arrays.add(index.astype(np.uint16)), "weight": arrays.add(weight)}


def measures(heads: int, seed: int) -> dict[str, Any]:
    """Numbers for the head grid."""
    draw = np.random.default_rng(seed)
    entropy, distance, sink = draw.uniform(0, 3, heads), draw.uniform(0, 9, heads), draw.uniform(0, 1, heads)
    return {
        "entropy": entropy.tolist(),
        "distance": distance.tolist(),
        "sink": sink.tolist(),
        "ablation": draw.normal(0, 0.02, heads).tolist(),
    }


def dense_map(
    arrays: Arrays, weights: np.ndarray, *, name: str, levels: int = 0, block: int = 0, **fields: Any
) -> dict:
    """One MAP of weights (H, n, m): exact, in levels, or as means of square blocks."""
    heads, rows, columns = weights.shape
    made: dict[str, Any] = {"id": name.replace(" ", "-"), "name": name, "path": f"model.{name}", "part": "encoder"}
    made |= {"layer": 1, "mode": "raw", "query": "input", "key": "input", "queries": None, "blocks": None, "top": None}
    made |= {"heads": [str(i + 1) for i in range(heads)], "measures": measures(heads, rows), "shape": [*weights.shape]}
    if levels or block:
        made["top"] = strongest(arrays, weights, min(8, columns))
    if block:
        sums = np.add.reduceat(np.add.reduceat(weights, range(0, rows, block), 1), range(0, columns, block), 2)
        sides = [np.minimum(block, size - np.arange(0, size, block)) for size in (rows, columns)]
        weights = (sums / np.outer(*sides)).astype(np.float32)
        made |= {"blocks": [block, block], "shape": [*weights.shape]}
    if levels:
        values, row_max, _ = quantise(weights, levels)
        made["weights"] = {"dtype": values.dtype.name, "levels": levels, "values": arrays.add(values)}
        made["weights"]["row_max"] = arrays.add(row_max)
    else:
        made["weights"] = {"dtype": "float32", "values": arrays.add(weights)}
    return made | fields


def picture(pixels: np.ndarray) -> str:
    """A data URI of an array of uint8 (H, W) or (H, W, 3)."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")


def words(n: int) -> list[str]:
    """A text of n tokens, among them what must never become markup."""
    odd = ["</script><b>", "<!--", "größer", "مرحبا", "机器"]
    return [(SENTENCE + odd)[i % (len(SENTENCE) + len(odd))] for i in range(n)]


def text_set(labels: list[str], *, prefix: int = 0, kind: str = "text") -> dict[str, Any]:
    """A SET of words, with prefix vectors before them."""
    names = ["[CLS]", *(f"[prefix {i}]" for i in range(2, prefix + 1))][:prefix]
    return {"kind": kind, "labels": names + labels, "num_prefix": prefix, "details": None}


def image_set(rows: int, columns: int, pixel: int = 8) -> dict[str, Any]:
    """A SET of square patches of a picture."""
    height, width = rows * pixel, columns * pixel
    y, x = np.mgrid[:height, :width]
    pixels = np.stack([255 * x / width, 255 * y / height, 128 + 100 * np.sin(x / 5)], -1).astype(np.uint8)
    boxes = [[c * pixel, r * pixel, pixel, pixel] for r in range(rows) for c in range(columns)]
    labels = [f"row {r + 1}, column {c + 1}" for r in range(rows) for c in range(columns)]
    made = text_set(labels, prefix=1, kind="image")
    return made | {"picture": picture(pixels), "size": [width, height], "grid": [rows, columns], "boxes": boxes}


def sound_set(n: int) -> dict[str, Any]:
    """A SET of frames of a sound of n / 10 seconds."""
    y, x = np.mgrid[:64, : 4 * n]
    pixels = (127 + 120 * np.sin(x / 7) * np.cos(y / 9)).astype(np.uint8)
    times = [[round(i / 10, 3), round((i + 1) / 10, 3)] for i in range(n)]
    labels = [f"{a:.1f}-{b:.1f} s" for a, b in times]
    ticks = [[0, 0.0], [1000, 0.35], [4000, 0.8]]
    made = text_set(labels, kind="sound")
    return made | {"spectrogram": picture(pixels), "duration": n / 10, "times": times, "ticks": ticks}


def graph_set(n: int) -> tuple[dict[str, Any], np.ndarray]:
    """A SET of nodes on a ring with chords, and its edges (E, 2) as key, query."""
    angle = 2 * np.pi * np.arange(n) / n
    xy = np.stack([0.5 + 0.45 * np.cos(angle), 0.5 + 0.45 * np.sin(angle)], -1)
    pairs = [(i, (i + step) % n) for i in range(n) for step in (-1, 1, 3)]
    edges = np.array([(a % n, b) for a, b in pairs], np.int32)
    made = text_set([f"node {i + 1}" for i in range(n)], kind="graph")
    classes = [("odd", "even")[i % 2] for i in range(n)]
    return made | {"xy": xy.round(4).tolist(), "edges": edges.tolist(), "classes": classes}, edges


def edge_map(
    arrays: Arrays, edges: np.ndarray, n: int, heads: int, *, name: str, layer: int
) -> tuple[dict, np.ndarray]:
    """One MAP of edges, whose weights sum to one over the edges into each query; also the weights (H, E)."""
    scores = np.exp(np.random.default_rng(layer).normal(size=(heads, len(edges))))
    totals = np.zeros((heads, n))
    np.add.at(totals.T, edges[:, 1], scores.T)
    weights = (scores / totals[:, edges[:, 1]]).astype(np.float32)
    made = dense_map(arrays, np.zeros((heads, 1, 1), np.float32), name=name, layer=layer)
    made |= {"edges": {"key": arrays.add(edges[:, 0].copy()), "query": arrays.add(edges[:, 1].copy())}}
    made |= {"shape": [heads, len(edges)], "weights": {"dtype": "float32", "values": arrays.add(weights)}}
    return made, weights


def encoder_maps(arrays: Arrays, n: int, layers: int, heads: int, *, seed: int = 0, **options: Any) -> list[dict]:
    """The maps of an encoder, first layer to last."""
    return [
        dense_map(arrays, attention((heads, n, n), seed + i), name=f"encoder {i + 1}", layer=i + 1, **options)
        for i in range(layers)
    ]


def averaged_maps(arrays: Arrays, n: int, layers: int) -> list[dict]:
    """Rollout of each layer and the relevance of the last, one picture each."""
    modes = [("rollout", i + 1) for i in range(layers)] + [("relevance", layers)]
    return [
        dense_map(arrays, attention((1, n, n), 50 + i), name=f"{mode} {layer}", layer=layer, mode=mode)
        | {"heads": ["all"], "path": None}
        for i, (mode, layer) in enumerate(modes)
    ]


def translation_input(arrays: Arrays, source: list[str], target: list[str], layers: int, heads: int) -> dict[str, Any]:
    """An INPUT of two sets: each looks at itself, and the target looks at the source."""
    sides = {"encoder": ("source", "source"), "decoder": ("target", "target"), "cross": ("target", "source")}
    sizes = {"source": len(source), "target": len(target)}
    maps = [
        dense_map(
            arrays, attention((heads, sizes[query], sizes[key]), 10 * i + len(part)), name=f"{part} {i + 1}", part=part
        )
        | {"layer": i + 1, "query": query, "key": key}
        for part, (query, key) in sides.items()
        for i in range(layers)
    ]
    sets = {"source": text_set(source), "target": text_set(target)}
    return {"name": "A", "caption": " ".join(source), "answer": " ".join(target), "sets": sets, "maps": maps}


def document(
    *, kind: str = "text", n: int | None = None, layers: int = 2, heads: int = 4, levels: int = 31
) -> tuple[dict[str, Any], bytes]:
    """Return a document of a kind, and its buffer.

    Args:
        kind: one of `KINDS`.
        n: vectors of the input; a fitting number when left out. An image has the nearest square of patches.
        layers: layers of the model.
        heads: heads of each layer.
        levels: of the kind "quantised".
    """
    arrays = Arrays()
    precision: dict[str, Any] = {"kind": "exact"}
    given: dict[str, Any] = {"name": "A", "caption": " ".join(SENTENCE), "answer": "animal"}
    if kind == "translation":
        inputs = [
            translation_input(arrays, CHINESE, ["Das", "Tier", "überquerte", "die", "Straße", "nicht"], layers, heads)
        ]
    elif kind == "graph":
        n = n or 12
        nodes, edges = graph_set(n)
        maps = [edge_map(arrays, edges, n, heads, name=f"encoder {i + 1}", layer=i + 1)[0] for i in range(layers)]
        inputs = [given | {"caption": "a ring", "answer": "", "sets": {"input": nodes}, "maps": maps}]
    elif kind in ("image", "sound"):
        side = round((n or 49) ** 0.5)
        made = image_set(side, side) if kind == "image" else sound_set(n or 24)
        maps = encoder_maps(arrays, len(made["labels"]), layers, heads)
        inputs = [given | {"caption": kind, "sets": {"input": made}, "maps": maps}]
    elif kind == "comparing":
        other = [*SENTENCE[:-1], "wide"]
        inputs = [
            {"name": name, "caption": " ".join(labels), "answer": answer, "sets": {"input": text_set(labels)}}
            | {"maps": encoder_maps(arrays, len(labels), layers, heads, seed=seed)}
            for name, labels, answer, seed in (("A", SENTENCE, "animal", 0), ("B", other, "street", 20))
        ]
    else:
        n = n or {"blocks": 2048, "quantised": 512}.get(kind, len(SENTENCE) + 6)
        block = -(-n // 256) if kind == "blocks" else 0
        prefix = 1 if kind == "text" else 0
        made = text_set(words(n - prefix), prefix=prefix, kind="vectors" if kind == "vectors" else "text")
        options = {"levels": levels if kind == "quantised" else 0, "block": block}
        if kind in ("quantised", "blocks"):
            precision = {"kind": "quantised", "levels": levels, "max_error": 0.02}
        maps = encoder_maps(arrays, n, layers, heads, **options)
        maps += averaged_maps(arrays, n, layers) if kind == "text" else []
        inputs = [given | {"sets": {"input": made}, "maps": maps}]
    model = {"task": "labeling", "name": "transformer", "layers": layers, "heads": heads}
    note = "A weight says how much of a vector was mixed in, not that it caused the answer."
    title = "Attention </title><b>of a sentence"
    return (
        {"schema": 1, "title": title, "note": note, "model": model, "precision": precision, "inputs": inputs},
        bytes(arrays.buffer),
    )
