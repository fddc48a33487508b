"""A font for every character of a figure, from those that the system has, and a word about characters without one."""

from __future__ import annotations

import bisect
import contextlib
import functools
import logging
import re
import unicodedata
import warnings
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vsattn.environment import loggers_at

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.text import Text

#: Fonts that are none for reading: they draw a box for every character, or other signs than Unicode says.
UNREADABLE = re.compile(r"last ?resort|adobe ?(blank|notdef)|fallback|^cm[a-z]+\d+$|^stix(size|nonunicode)", re.I)

#: Beginnings of the Unicode names of what Chinese, Japanese and Korean are written with.
EAST_ASIAN = re.compile("CJK|HIRAGANA|KATAKANA|HANGUL|BOPOMOFO|FULLWIDTH|HALFWIDTH|IDEOGRAPHIC|KANGXI")

#: Characters of which a warning gives the name; of more it gives the number.
NAMED = 12

#: Tells of fonts that exist in one weight alone.
LOGGER = "matplotlib.font_manager"

NEWLINE, TAB, UNKNOWN = "\u21b5", "\u21e5", "\N{REPLACEMENT CHARACTER}"


class MissingGlyphs(UserWarning):
    """Characters of a figure for which no font of the system has a glyph."""


def save(figure: Figure, path: str | Path, **options: Any) -> Path:
    """Write a figure with a font for each of its characters, as PNG, SVG or PDF by the path's ending.

    Args:
        figure: whose texts may be in any script.
        path: its folder is made.
        options: of ``Figure.savefig``.

    Warns:
        MissingGlyphs: once, of all characters that no font has; they are drawn as boxes.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    missing = letter(figure)
    with _unheard():
        figure.savefig(path, **options)
    if missing:
        warnings.warn(_advice(missing), MissingGlyphs, stacklevel=3)
    return path


def letter(figure: Figure) -> str:
    """Give every text of a figure the fonts that its characters need, and return the characters that have none.

    A text's own fonts come first. Texts are words and no formulae ("$5"), but for the numbers of axes.
    """
    from matplotlib.text import Text

    groups: dict[tuple[tuple[str, ...], str, str | int], list[Text]] = {}
    for text in figure.findobj(Text):
        if text.get_text():
            if "\\mathdefault" not in text.get_text():
                text.set_parse_math(False)
            font = text.get_fontproperties()
            groups.setdefault((tuple(font.get_family()), font.get_style(), font.get_weight()), []).append(text)
    missing: set[str] = set()
    for (families, style, weight), texts in groups.items():
        added, lacking = fallbacks((text.get_text() for text in texts), families, style=style, weight=weight)
        missing.update(lacking)
        for text in texts:
            if added and not text.get_text().isascii():
                text.set_fontfamily([*families, *added])
    return "".join(sorted(missing))


def fallbacks(
    texts: Iterable[str], families: Sequence[str], *, style: str = "normal", weight: str | int = "normal"
) -> tuple[list[str], str]:
    """Return the fewest further font families that draw what these families lack, and what none can draw.

    Args:
        texts: of any script.
        families: names of fonts, as matplotlib knows them, that are used where they have the glyph.
        style: ``normal``, ``italic`` or ``oblique``.
        weight: a name such as ``bold``, or a number.
    """
    needed = {c for text in texts for c in text if not c.isascii() and _visible(c)}
    if not needed:
        return [], ""
    left = {c for c in needed if not any(_draws(_file(family, style, weight, _known()), c) for family in families)}
    added: list[str] = []
    for search in (_files, _new_files):
        wanted = {c for c in left if unicodedata.category(c) != "Co"}  # private signs mean something else in each font
        files = search(style, weight, _known()) if wanted else {}
        drawn = {name: {c for c in wanted if _has(file, c)} for name, file in files.items()}
        while any(drawn.values()):
            best = max(drawn, key=lambda name: (len(drawn[name]), *_preference(name, needed)))
            taken = _file(best, style, weight, _known())
            new = {c for c in drawn.pop(best) if _draws(taken, c)}
            added += [best] if new else []
            left -= new
            drawn = {name: those & left for name, those in drawn.items()}
    return added, "".join(sorted(left))


def visible(text: str) -> str:
    """Return a text as it can be written on one line: composed (NFC), with signs for line ends and the like.

    Characters without a glyph of their own (soft hyphens, marks of direction) go, unless there is nothing else.
    """
    out = []
    for c in unicodedata.normalize("NFC", text):
        kind = unicodedata.category(c)
        if c in "\n\r\x85\u2028\u2029":
            out.append(NEWLINE)
        elif kind in ("Cc", "Cs"):
            out.append(TAB if c == "\t" else UNKNOWN)
        elif kind != "Cf" or c in "\u200c\u200d":  # the joiners change the form of their neighbours
            out.append(c)
    return "".join(out) if out or not text else " ".join(f"U+{ord(c):04X}" for c in text)


def columns(text: str) -> int:
    """Return how many columns a text takes where letters have equal width: Chinese signs two, combining marks none."""
    return sum(
        0 if unicodedata.category(c) in ("Mn", "Me", "Cf") else 2 if unicodedata.east_asian_width(c) in "WF" else 1
        for c in text
    )


def inches(text: str, fontsize: float = 9, *, weight: str = "normal", family: str | None = None) -> float:
    """Return how wide a text is drawn at most; hinting makes letters a little wider where dots are few."""
    from matplotlib import rcParams
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    families = rcParams["font.family"] if family is None else [family]
    added, _ = fallbacks([text], families, weight=weight)
    font = FontProperties(family=[*families, *added], size=fontsize, weight=weight)  # type: ignore[arg-type]
    with _unheard():
        return 1.05 / 72 * text_to_path.get_text_width_height_descent(text, font, ismath=False)[0]


def shorten(text: str, width: int = 14) -> str:
    """Return a text in `visible` characters, cut where it takes more columns."""
    text = visible(text)
    if columns(text) <= width:
        return text
    ends = [i for i in range(len(text)) if columns(text[:i]) < width]
    return text[: ends[-1]] + "…"


@contextlib.contextmanager
def _unheard() -> Iterator[None]:
    """Keep back what matplotlib says of each character without a glyph and each font of one weight alone."""
    with loggers_at(logging.ERROR, LOGGER), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield


def _visible(character: str) -> bool:
    """Say whether a character needs a glyph."""
    hidden = unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zs", "Zl", "Zp")
    return not hidden and not "\ufe00" <= character <= "\ufe0f" and not "\U000e0100" <= character <= "\U000e01ef"


def _known() -> int:
    """Return a number that changes with the fonts that matplotlib knows: what is remembered of them holds for it."""
    from matplotlib.font_manager import fontManager

    return hash(tuple(entry.fname for entry in fontManager.ttflist))


@functools.lru_cache(32)
def _files(style: str, weight: str | int, known: int) -> dict[str, str]:
    """Return a file of each family, that of the nearest style and weight: `findfont` for each would take seconds."""
    from matplotlib import font_manager

    def far(entry: font_manager.FontEntry) -> tuple[bool, float]:
        own, wanted = (font_manager.weight_dict.get(str(each), each) for each in (entry.weight, weight))
        return entry.style != style, abs(float(own) - float(wanted))

    nearest: dict[str, font_manager.FontEntry] = {}
    for entry in font_manager.fontManager.ttflist:
        if not UNREADABLE.search(entry.name):
            nearest[entry.name] = min(nearest.get(entry.name, entry), entry, key=far)
    files = {}
    for name, entry in sorted(nearest.items()):
        face = getattr(entry, "index", 0)  # a file may hold several, which matplotlib knows from 3.11 on
        files[name] = font_manager.FontPath(entry.fname, face) if face else entry.fname
    return files


@functools.lru_cache(32)
def _new_files(style: str, weight: str | int, known: int) -> dict[str, str]:
    """Return the same of fonts that were installed after matplotlib made its list, which it keeps in a file."""
    from matplotlib.font_manager import findSystemFonts, fontManager

    listed = {entry.fname for entry in fontManager.ttflist}
    for path in sorted({*findSystemFonts(fontext="ttf")} - listed):
        with contextlib.suppress(OSError, RuntimeError, KeyError):  # bitmaps (NotImplementedError) and broken files
            fontManager.addfont(path)
    before = _files(style, weight, known)
    return {name: file for name, file in _files(style, weight, _known()).items() if name not in before}


@functools.lru_cache(10_000)
def _file(family: str, style: str, weight: str | int, known: int) -> str | None:
    """Return the file that matplotlib takes for a family, None where there is none."""
    from matplotlib.font_manager import FontProperties, findfont

    properties = FontProperties(family=[family], style=style, weight=weight)  # type: ignore[arg-type]
    try:
        with loggers_at(logging.ERROR, LOGGER):
            return findfont(properties, fallback_to_default=False)
    except ValueError:
        return None


@functools.lru_cache(100_000)
def _draws(file: str | None, character: str) -> bool:
    """Say whether a font has a glyph that matplotlib draws: fonts of coloured pictures alone have empty outlines."""
    from matplotlib.font_manager import get_font

    if file is None or not _has(file, character):
        return False
    font = get_font(file)
    font.set_size(12.0, 72.0)
    font.load_char(ord(character))
    return len(font.get_path()[0]) > 0


def _has(file: str, character: str) -> bool:
    characters = _characters(file)
    place = bisect.bisect_left(characters, ord(character))
    return characters[place : place + 1] == array("I", [ord(character)])


@functools.lru_cache(5000)
def _characters(file: str) -> array[int]:
    """Return the numbers of the characters for which a font has a glyph, ascending; hundreds of fonts are asked."""
    from matplotlib.font_manager import get_font

    return array("I", sorted(get_font(file).get_charmap()))


def _preference(name: str, characters: Iterable[str]) -> tuple[bool, bool, bool, int, str]:
    """Rank fonts that draw equally many: Han signs as where the text's other signs come from, then plain sans."""
    names = " ".join(unicodedata.name(c, "") for c in characters)
    country = "JP" if re.search("HIRAGANA|KATAKANA", names) else "KR" if "HANGUL" in names else "SC"
    plain = not re.search(r"\b(mono|serif|ui|light|thin|black|condensed)\b", name, re.I)
    return re.search(rf"\b{country}\b", name) is not None, plain, "Sans" in name, -len(name), name


def _advice(missing: str) -> str:
    """Name characters, and what to install."""
    told = ", ".join(f"{c} (U+{ord(c):04X} {unicodedata.name(c, 'unnamed')})" for c in missing[:NAMED])
    more = f" and {len(missing) - NAMED} more" if len(missing) > NAMED else ""
    wanted = " ".join(sorted({_package(c) for c in missing}))
    return (
        f"no font of this system has a glyph for {told}{more}, drawn as boxes; install a font that has: on Debian "
        f"and Ubuntu `apt install {wanted}`, elsewhere a Noto font from fonts.google.com/noto"
    )


def _package(character: str) -> str:
    """Return what installs a glyph on Debian; matplotlib draws no coloured pictures, so emoji are those of Symbola."""
    if EAST_ASIAN.match(unicodedata.name(character, "")):
        return "fonts-noto-cjk"
    return "fonts-symbola" if "\U0001f000" <= character <= "\U0001faff" else "fonts-noto-core"
