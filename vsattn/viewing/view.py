"""`vsattn.view`: look at what a model's attention does with one item, or with two."""

from __future__ import annotations

import html
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vsattn.errors import ConfigError, DataError
from vsattn.viewing.document import SCHEMA, Document, pack

if TYPE_CHECKING:
    from vsattn.predictor import Predictor
    from vsattn.viewing.looked import Choice, Item, Looked

#: Megabytes of a page, unless told otherwise.
BUDGET_MB = 4.8

#: What a page says beside its pictures.
NOTE = (
    "Weights show where a layer looked, not why the model answered: they are not causes. Rollout and relevance are "
    "estimates too; python -m vsattn.measure says how far they hold for a model."
)

#: The height of a page in a notebook, in pixels.
HEIGHT = 760

#: Endings that `View.save` knows.
DRAWINGS = (".png", ".svg", ".pdf")
ENDINGS = (".html", ".json", *DRAWINGS)


@dataclass(frozen=True, eq=False)
class View:
    """A document of attention and the ways to show it; a notebook shows it as it is.

    Args:
        document: what was looked at.
    """

    document: Document

    @cached_property
    def html(self) -> str:
        """The page: one file, which asks for nothing from elsewhere."""
        from vsattn.viewing.page import render

        return render(self.document.data, self.document.buffer)

    def save(self, path: str | Path, **drawing: Any) -> Path:
        """Write a file of the kind that its ending says: ``.html``, ``.json``, or a drawing, ``.png .svg .pdf``.

        What is there is replaced when all is written.

        Args:
            path: of the file.
            drawing: what a drawing shows: map, head, query and scale of :func:`vsattn.viewing.static.draw`.

        Raises:
            ConfigError: for another ending, or words of a drawing that are not there, or are given for a page.
            DataError: when the file cannot be written.
        """
        path = Path(path)
        if path.suffix.lower() not in ENDINGS:
            raise ConfigError(f"{path}: a view is saved as a file that ends in {', '.join(ENDINGS)}")
        if drawing and path.suffix.lower() not in DRAWINGS:
            raise ConfigError(f"{', '.join(drawing)}: belongs to a drawing ({', '.join(DRAWINGS)}); a page shows all")
        part = path.with_name(f".{path.stem}.part{path.suffix}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                self._write(part, drawing)
                os.replace(part, path)
            finally:
                part.unlink(missing_ok=True)
        except OSError as error:
            raise DataError(f"{path} cannot be written: {error.strerror or error}") from error
        return path

    def _write(self, path: Path, drawing: dict[str, Any]) -> None:
        kind = path.suffix.lower()
        if kind == ".html":
            path.write_text(self.html, encoding="utf-8")
        elif kind == ".json":
            path.write_text(self.document.to_json(), encoding="utf-8")
        else:
            from vsattn.viewing.static import draw

            draw(self.document, path, **drawing)

    def _repr_html_(self) -> str:
        """Return the page inside a frame of its own, whose script can reach nothing of the notebook."""
        return (
            f'<iframe srcdoc="{html.escape(self.html)}" sandbox="allow-scripts allow-downloads" '
            f'title="{html.escape(str(self.document.data["title"]))}" '
            f'style="width: 100%; height: {HEIGHT}px; border: 0"></iframe>'
        )

    def __repr__(self) -> str:
        answers = ", ".join(f"{one['caption']}: {one['answer']}" for one in self.document.data["inputs"])
        return f"View({answers})"


def view(
    predictor: Predictor,
    item: Any,
    *,
    other: Any | None = None,
    layers: Sequence[int | str] | None = None,
    heads: Sequence[int] | None = None,
    queries: Sequence[int] | None = None,
    relevance: bool = True,
    node: int | None = None,
    hops: int = 2,
    names: Sequence[str] | None = None,
    budget_mb: float = BUDGET_MB,
) -> View:
    """Look at what a model's attention does with an item: in a notebook, or ``view(...).save("page.html")``.

    All weights of all layers and heads are recorded, with rollout where the encoder is a plain stack of self-attention,
    and relevance for the answer where it can be had.

    Args:
        predictor: of :func:`vsattn.load`.
        item: as it predicts from; for a translation also ``(source, target)``, which is then not searched.
        other: a second one to compare with.
        layers: which modules, see :func:`vsattn.record`.
        heads: which heads, from 0.
        queries: which vectors of the item, from 0 and without prefix vectors; their rows alone are kept.
        relevance: try to explain the answer.
        node: of a graph, whose neighbourhood is shown; None shows all of a graph of at most 500 nodes, and of a larger
            one what is around the first.
        hops: how far that reaches.
        names: of the vectors, such as the nodes of a graph.
        budget_mb: most megabytes of the page. Weights are kept as exactly as fits: float32, then in levels, then as
            means of blocks with the strongest keys exactly beside them; the page says which.

    Raises:
        ConfigError: for a model without attention, or layers, heads and queries that are not there.
        DataError: for an item that the model cannot take, or more than the budget can hold.
    """
    from vsattn.viewing.looked import Choice, Item

    if not budget_mb > 0:
        raise ConfigError(f"budget_mb is above 0, not {budget_mb}")
    choice = Choice(layers, heads, queries, relevance, node, hops)
    items = [Item(value, caption_of(value), names) for value in (item, other) if value is not None]
    return look(predictor, items, choice, budget_mb=budget_mb)


def look(predictor: Predictor, items: Sequence[Item], choice: Choice, *, budget_mb: float = BUDGET_MB) -> View:
    """Return the view of one item or two."""
    from vsattn.viewing.carried import add_relevance, add_rollout
    from vsattn.viewing.collect import looked_at

    looked = []
    for item in items:
        found = looked_at(predictor, item, choice)
        add_rollout(found)
        if choice.relevance:
            add_relevance(found, predictor, item)
        looked.append(found)
    data = {
        "schema": SCHEMA,
        "title": "Attention: " + " / ".join(item.caption for item in items),
        "note": NOTE,
        "model": _about(predictor, looked[0]),
        "remarks": list(dict.fromkeys(remark for found in looked for remark in found.remarks)),
        "inputs": [
            {"name": name, "caption": item.caption, "answer": found.answer, "sets": found.sets}
            for name, item, found in zip("AB", items, looked, strict=False)
        ],
    }
    return View(pack(data, [found.drafts for found in looked], round(budget_mb * 1e6)))


def caption_of(item: Any) -> str:
    """Return what an item is called: its text, its file, or what it is."""
    item = item[0] if isinstance(item, tuple) and item else item  # a source with its translation, samples and a rate
    if isinstance(item, list) and all(isinstance(word, str) for word in item):
        item = " ".join(item)
    if isinstance(item, (str, Path)):
        text = str(item) or "(empty)"
        return text if len(text) <= 200 else f"{text[:199]}…"
    if hasattr(item, "edge_index"):
        return f"graph of {len(item.x):,} nodes"
    size = "x".join(map(str, getattr(item, "shape", ())))
    return " ".join(filter(None, [type(item).__name__, size]))


def _about(predictor: Predictor, found: Looked) -> dict[str, Any]:
    target = str((predictor.config.get("task") or {}).get("_target_", ""))
    raw = [draft.about for draft in found.drafts if draft.about["mode"] == "raw"]
    return {
        "task": target.rpartition(".")[2],
        "name": type(predictor.model.encoder).__name__,
        "layers": len(raw),
        "heads": max(len(about["heads"]) for about in raw),
    }
