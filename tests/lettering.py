"""A system with few known fonts: the DejaVu that comes with matplotlib, and small ones made here."""

from __future__ import annotations

from pathlib import Path

import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager

from vsattn.viewing import fonts


def make_font(path: Path, name: str, characters: str, *, empty: bool = False, weight: int = 400) -> Path:
    """Write a TrueType font whose characters are squares, or, as in fonts of coloured pictures, have no outline."""
    pen = TTGlyphPen(None)
    if not empty:
        pen.moveTo((100, 0))
        for point in ((100, 700), (800, 700), (800, 0)):
            pen.lineTo(point)
        pen.closePath()
    square = pen.glyph()
    names = {ord(c): f"u{ord(c):X}" for c in characters}
    order = [".notdef", *names.values()]
    builder = FontBuilder(1000)
    builder.setupGlyphOrder(order)
    builder.setupCharacterMap(names)
    builder.setupGlyf(dict.fromkeys(order, square))
    builder.setupHorizontalMetrics(dict.fromkeys(order, (900, 100)))
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": name, "styleName": "Regular" if weight < 600 else "Bold"})
    builder.setupOS2(sTypoAscender=800, usWinAscent=800, usWinDescent=200, usWeightClass=weight)
    builder.setupPost()
    builder.save(path)
    return path


@pytest.fixture
def few_fonts(monkeypatch) -> None:
    """Let matplotlib know the fonts that it brings, and no other, whatever this machine has."""
    own = str(Path(font_manager.__file__).parent / "mpl-data")
    manager = font_manager.fontManager
    monkeypatch.setattr(manager, "ttflist", [entry for entry in manager.ttflist if entry.fname.startswith(own)])
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda fontext: [])
    caches = (type(manager)._findfont_cached, fonts._file, fonts._files, fonts._new_files)
    for cache in caches:
        cache.cache_clear()
    yield
    for cache in caches:
        cache.cache_clear()
