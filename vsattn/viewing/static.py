"""A document of attention as one still picture: PNG, SVG or PDF."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import numpy as np

from vsattn.errors import ConfigError
from vsattn.viewing import fonts
from vsattn.viewing.document import Document, Head
from vsattn.viewing.static_choice import View, alike, views
from vsattn.viewing.static_graph import Graph
from vsattn.viewing.static_matrix import Grid, Matrix
from vsattn.viewing.static_picture import Image, Sound
from vsattn.viewing.static_sheet import Bar, Colours, Panel, Scale, Sheet, Words, described
from vsattn.viewing.static_text import Curves, Tokens

FORMATS = (".png", ".svg", ".pdf")

#: Inches around and between; columns of a caption; how wide lines of text are at least.
MARGIN, GAP, CAPTION, NARROWEST = 0.3, 0.45, 400, 6.0

#: Dots an inch; no side gets more dots than these, as pictures of more cannot be made.
DPI, MOST_DOTS = 110, 30_000

PANELS: dict[str, type[Image] | type[Sound] | type[Graph]] = {"image": Image, "sound": Sound, "graph": Graph}


def draw(
    document: Document,
    path: str | Path,
    *,
    map: str | None = None,
    head: Head | None = None,
    query: int | str | None = None,
    scale: Scale = "linear",
    dpi: int = DPI,
) -> Path:
    """Draw a document: of two inputs A, B and, where they fit together, A − B.

    Without a query, text shows all heads of all layers and one of them large, a translation what each target word
    looked at in the source, an image or a sound what its [CLS] vector, its pooling or, on average, its queries looked
    at, a graph the weights of all edges.

    Args:
        document: what was recorded.
        path: ends with .png, .svg or .pdf.
        map: the id of one; the last that the answer came through, or of text the one with the most focused head.
        head: from 0, or "mean"; the most focused (lowest entropy) where all queries of a text are shown, of two texts
            the one that differs most between them, else the mean.
        query: the number of a vector from 0, prefix vectors counted, or its label, the first of that name.
        scale: of colours, widths and heights.
        dpi: dots an inch of a PNG; fewer where a side would have more than `MOST_DOTS`.

    Raises:
        ConfigError: for an ending, scale, map, head or query that is not there.
    """
    from matplotlib.figure import Figure

    path = Path(path)
    if path.suffix.lower() not in FORMATS:
        raise ConfigError(f"a drawing ends with {', '.join(FORMATS)}, not with {path.name!r}")
    if scale not in get_args(Scale):
        raise ConfigError(f"scale={scale!r} is not one of {', '.join(get_args(Scale))}")
    shown, lacking = views(document, map, head, query)
    stacks = [_panels(view, Colours(peak, view.signed, scale)) for view, peak in zip(shown, _peaks(shown), strict=True)]
    widths = [max(panel.size[0] for panel in stack) for stack in stacks]
    heights = [max(panel.size[1] for panel in row) + _gap(row[0]) for row in zip(*stacks, strict=True)]
    width = max(NARROWEST, sum(widths) + GAP * (len(stacks) - 1))
    above, below = _above(document, shown[0], width), _below(document, scale, lacking, width)
    top, foot = (sum(panel.size[1] for panel in lines) for lines in (above, below))
    size = width + 2 * MARGIN, top + sum(heights) + foot + 2 * MARGIN + 0.3
    sheet = Sheet(Figure(figsize=size))
    _stack(sheet, above, MARGIN, MARGIN, [panel.size[1] for panel in above])
    x = MARGIN
    for stack, wide in zip(stacks, widths, strict=True):
        _stack(sheet, stack, x, MARGIN + top + 0.15, heights)
        x += wide + GAP
    _stack(sheet, below, MARGIN, size[1] - MARGIN - foot, [panel.size[1] for panel in below])
    return fonts.save(sheet.figure, path, dpi=min(dpi, MOST_DOTS / max(size)))


def _panels(view: View, colours: Colours) -> list[Panel]:
    """Return what is drawn of a view, from above to below."""
    several = len(view.document.data["inputs"]) > 1
    panels: list[Panel] = []
    if view.as_matrix:
        panels.append(Matrix(view, colours))
        if view.map["part"] != "cross" and view.map["mode"] == "raw" and len(alike(view.inputs[0], view.map)):
            panels.insert(0, Grid(view, colours.scale))
        panels.append(Bar(colours))
    elif view.keys["kind"] in PANELS:
        panels.append(PANELS[view.keys["kind"]](view, colours))
        panels += [Bar(colours)] if view.keys["kind"] != "graph" else []
    else:
        names = dict.fromkeys([view.map["query"], view.map["key"]])
        panels += [Tokens(view, name, colours) for name in names]
        panels += [Bar(colours), Curves(view, colours)]
    width = max(NARROWEST if not several else 3.0, *(panel.size[0] for panel in panels))
    return [*_captions(view, width), *panels]


def _captions(view: View, width: float) -> list[Panel]:
    """Return what was given and what was answered."""
    several = len(view.document.data["inputs"]) > 1
    if view.signed:
        a, b = (one["name"] for one in view.inputs)
        return [Words(view.name, width, weight="bold"), Words(f"blue where {a} has more, orange where {b} has", width)]
    (one,) = view.inputs
    told = f"{one['name']}: {one['caption']}" if several else one["caption"]
    told = "" if view.document.data["title"].endswith(told) else told
    answer = f"answer: {fonts.shorten(one['answer'], CAPTION)}" if one["answer"] else ""
    return [Words(fonts.shorten(told, CAPTION), width, weight="bold"), Words(answer, width)]


def _above(document: Document, view: View, width: float) -> list[Panel]:
    return [
        Words(fonts.shorten(document.data["title"], CAPTION), width, fontsize=12, weight="bold"),
        Words(view.about(), width),
    ]


def _below(document: Document, scale: Scale, lacking: str, width: float) -> list[Panel]:
    """Return the notes: what weights are not, how exact they are, on which scale."""
    precision = document.data["precision"]
    exact = "Weights are drawn as computed."
    if precision["kind"] != "exact":
        exact = (
            f"Weights are kept in {precision['levels']} levels of each query's largest, "
            f"none is off by more than {precision['max_error']:.2g}; a chosen query's strongest keys are as computed."
        )
    if any(found["blocks"] for one in document.data["inputs"] for found in one["maps"]):
        exact += " Cells of a long input are means of blocks."
    shared = "A and B share one scale. " if len(document.data["inputs"]) > 1 else ""
    notes = [document.data["note"], f"{exact} {shared}Colours, widths and heights: {described(scale)}.", lacking]
    return [Words(note, width, fontsize=8, colour="#555555") for note in notes if note]


def _peaks(shown: list[View]) -> list[float]:
    """Return the largest weight of each view; A and B have one together."""
    found = []
    for view in shown:
        values = view.matrix() if view.as_matrix else view.edges()[2] if view.keys["kind"] == "graph" else view.line()
        found.append(float(np.abs(values).max(initial=0.0)))
    together = max(peak for view, peak in zip(shown, found, strict=True) if not view.signed)
    return [peak if view.signed else together for view, peak in zip(shown, found, strict=True)]


def _stack(sheet: Sheet, panels: list[Panel], x: float, y: float, heights: list[float]) -> None:
    for panel, height in zip(panels, heights, strict=True):
        lower = height - _gap(panel) - panel.size[1] if isinstance(panel, Matrix) else 0.0  # cells beside cells
        panel.draw(sheet, x, y + lower)
        y += height


def _gap(panel: Panel) -> float:
    """Return inches between a panel and the next one below."""
    return 0.08 if isinstance(panel, Words) else GAP / 2
