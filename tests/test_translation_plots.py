"""Heat maps of translations: every cell has its colour at its place, and every word can be drawn."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
from lettering import few_fonts
from matplotlib import colormaps
from matplotlib.figure import Figure
from PIL import Image

from vsattn.tasks import translation_plots
from vsattn.tasks.plots import save_figure
from vsattn.tasks.translation_plots import CELL, WIDTH, Panel, alignments
from vsattn.viewing.fonts import MissingGlyphs

__all__ = ["few_fonts"]

DPI = 120


def panel(rows: int, columns: int, caption: str = "") -> Panel:
    weights = np.random.default_rng(rows).dirichlet(np.ones(columns), rows)
    return Panel([f"quelle{i}" for i in range(columns)], [f"word{i}" for i in range(rows)], weights, caption)


def drawn(monkeypatch, panels: list[Panel], path: Path) -> tuple[np.ndarray, list[tuple[float, float, float, float]]]:
    """Draw, and return the picture and where the cells of each panel are: left, top, right, bottom in pixels."""
    figures: list[Figure] = []

    def save(figure: Figure, path: Path) -> Path:
        figures.append(figure)
        return save_figure(figure, path, dpi=DPI)

    monkeypatch.setattr(translation_plots, "save_figure", save)
    alignments(panels, path, title="title")
    picture = np.asarray(Image.open(path).convert("RGB"))
    height, width = picture.shape[:2]
    boxes = [axis.get_position() for axis in figures[0].axes]
    return picture, [(b.x0 * width, height - b.y1 * height, b.x1 * width, height - b.y0 * height) for b in boxes]


def test_cells_are_where_their_words_are(monkeypatch, tmp_path) -> None:
    panels = [panel(4, 6), panel(30, 50, "long"), panel(1, 1), panel(7, 3, "a caption of some length"), panel(5, 40)]
    picture, boxes = drawn(monkeypatch, panels, tmp_path / "deep" / "a.png")
    assert picture.shape[1] <= WIDTH * DPI
    for one, (left, top, right, bottom) in zip(panels, boxes, strict=True):
        rows, columns = one.weights.shape
        assert abs(right - left - CELL * DPI * columns) < 2 and abs(bottom - top - CELL * DPI * rows) < 2
        across = (left + (right - left) * (np.arange(columns) + 0.5) / columns).astype(int)
        down = (top + (bottom - top) * (np.arange(rows) + 0.5) / rows).astype(int)
        colours = colormaps["Blues"](one.weights / one.weights.max())[..., :3] * 255
        assert np.abs(picture[np.ix_(down, across)] - colours).max() < 2


def test_panels_with_their_words_do_not_overlap(monkeypatch, tmp_path) -> None:
    panels = [panel(4, 6), panel(30, 50, "long"), panel(1, 1), panel(7, 3, "a caption of some length"), panel(5, 40)]
    picture, boxes = drawn(monkeypatch, panels, tmp_path / "a.png")
    whole = []
    for one, (left, top, *_) in zip(panels, boxes, strict=True):
        x, y = left - one.margins[0] * DPI, top - one.margins[1] * DPI
        whole.append((x, y, x + one.size[0] * DPI, y + one.size[1] * DPI))
    for i, a in enumerate(whole):
        assert a[0] >= 0 and a[1] >= 0 and a[2] <= picture.shape[1] and a[3] <= picture.shape[0]
        assert all(a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1] for b in whole[:i])


@pytest.mark.usefixtures("few_fonts")
def test_words_that_are_no_formula_and_signs_that_the_font_lacks(tmp_path) -> None:
    words = ["$5$", r"$\frac", "Straße", "two\nlines", "▁ü", "<eos>"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        alignments([Panel(words, words, np.eye(6), "$1 and $2")], tmp_path / "a.png")
        alignments([Panel(["<eos>"], ["<eos>"], np.zeros((1, 1)))], tmp_path / "b.png")
    with pytest.warns(MissingGlyphs, match="U\\+4E2D") as told:
        alignments([Panel(["\N{CJK UNIFIED IDEOGRAPH-4E2D}"] * 2, ["a"], np.ones((1, 2)))], tmp_path / "c.png")
    assert len(told) == 1


def test_chinese_words_have_room(monkeypatch, tmp_path) -> None:
    """Their signs are as wide as high, 9 points each."""
    words = ["\N{CJK UNIFIED IDEOGRAPH-4E2D}" * 10]
    assert Panel(words, words, np.ones((1, 1))).margins[0] > 10 * 9 / 72
