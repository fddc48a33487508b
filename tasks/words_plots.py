"""Pictures of labelled sentences, and the search for a word that is labelled in two ways."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from vsattn.viewing.fonts import columns, shorten

from .plots import save_figure, shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Words, predicted labels and true labels of one sentence; both labels are "" for a word that has none.
Row = tuple[Sequence[str], Sequence[str], Sequence[str]]

#: Sentences in a picture, how many of them may hold mistakes, and how many words they may have.
SHOWN, SHOWN_WRONG, SHOWN_WORDS = 12, 6, range(4, 33)

#: Characters in a line of the picture, how many lines, characters of a word; inches a line, and between sentences.
LINE, LINES, LONGEST, STEP, GAP = 110, 36, 24, 0.5, 0.16
LEGEND_COLUMNS = 8

RIGHT, WRONG = "#555555", "#c62828"

#: Behind a word without a label.
WHITE = (1.0, 1.0, 1.0)


class TwoWays(NamedTuple):
    """One spelling at two places, ``(sentence, word)``, with two labels that were both found."""

    word: str
    labels: tuple[str, ...]
    places: tuple[tuple[int, int], ...]
    texts: tuple[str, ...]

    def describe(self) -> str:
        """Say which word is what in which words."""
        said = [f"{label} in '{text}'" for label, text in zip(self.labels, self.texts, strict=True)]
        return f"{self.word!r} is {said[0]} and {said[1]}"


def two_ways(rows: Sequence[Row]) -> TwoWays | None:
    """Return a word of letters that is rightly given two labels, in one sentence if there is such a one.

    Of several it is the one whose rarer label is most frequent; None if there is none in sentences of handy length.
    """
    places: dict[str, dict[str, list[tuple[int, int]]]] = {}
    for index, (words, predicted, true) in enumerate(rows):
        if len(words) in SHOWN_WORDS:
            for i, (word, guess, label) in enumerate(zip(words, predicted, true, strict=True)):
                if guess == label != "" and word.isalpha():
                    places.setdefault(word, {}).setdefault(label, []).append((index, i))
    best: tuple[tuple[bool, int], TwoWays] | None = None
    for word, found in places.items():
        common = sorted(found, key=lambda label: (-len(found[label]), label))[:2]
        if len(common) < 2:
            continue
        at = [dict(found[label]) for label in common]  # by sentence
        shared = min(at[0].keys() & at[1].keys(), default=None, key=lambda i: (len(rows[i][0]), i))
        pair = [found[label][0] for label in common] if shared is None else [(shared, where[shared]) for where in at]
        rank = (shared is not None, len(found[common[1]]))
        if best is None or rank > best[0]:
            where, labels = zip(*sorted(zip(pair, common, strict=True)), strict=True)
            texts = tuple(_around(rows[index][0], i) for index, i in where)
            best = rank, TwoWays(word, labels, where, texts)
    return None if best is None else best[1]


def _around(words: Sequence[str], place: int, reach: int = 4) -> str:
    """Return a word with its neighbours, itself in brackets."""
    start, end = max(0, place - reach), min(len(words), place + reach + 1)
    return " ".join(
        f"[{words[i]}]" if i == place else shorten(" ".join(words[i].split()), LONGEST) for i in range(start, end)
    )


def choose(rows: Sequence[Row], pair: TwoWays | None) -> list[Row]:
    """Return sentences to draw: those of the pair, then some with mistakes, then others, evenly over the split."""
    first = list(dict.fromkeys(index for index, _ in pair.places)) if pair else []
    handy = [i for i, row in enumerate(rows) if len(row[0]) in SHOWN_WORDS and i not in first]
    wrong = [i for i in handy if list(rows[i][1]) != list(rows[i][2])]
    right = [i for i in handy if list(rows[i][1]) == list(rows[i][2])]
    chosen = first + shown(wrong, right, SHOWN - len(first), SHOWN_WRONG)
    return [rows[i] for i in chosen or range(min(SHOWN, len(rows)))]


def draw_sentences(rows: Sequence[Row], title: str, folder: Path, *, marked: str | None = None) -> Path:
    """Draw sentences word by word on the colours of their predicted labels, as ``sentences.png``.

    Under each word stands its label; a wrong one is red and followed by the true one. ``marked`` is a word in bold.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    laid = [(line, i == 0) for row in rows for i, line in enumerate(_lines(row))][:LINES]
    shown = [placed for line, _ in laid for placed in line]
    labels = sorted({guess for *_, guess, _ in shown if guess})
    colours = {"": WHITE} | {label: colour(i, len(labels)) for i, label in enumerate(labels)}
    height = sum(STEP + starts * GAP for _, starts in laid)
    top, bottom = 0.5, 0.4 + 0.22 * -(-len(labels) // LEGEND_COLUMNS)
    whole = top + height + bottom
    figure = Figure(figsize=(13, whole))
    axis = figure.add_axes((0.01, bottom / whole, 0.98, height / whole), xlim=(0, LINE), ylim=(height, 0))
    axis.axis("off")
    y = 0.0
    for line, starts in laid:
        y += starts * GAP
        for x, width, word, guess, true in line:
            _draw_word(axis, x, y, width, word, guess, true, colours[guess], word == marked)
        y += STEP
    wrong = sum(guess != true for *_, guess, true in shown)
    bold = f'; bold: "{marked}", which has several labels' if marked else ""
    figure.suptitle(f"{title}; shown: {wrong} wrong (red){bold}", fontsize=11, y=1 - 0.15 / whole)
    handles = [Patch(facecolor=colours[label], label=label) for label in labels]
    figure.legend(handles=handles, loc="lower center", ncols=LEGEND_COLUMNS, fontsize=8, frameon=False)
    return save_figure(figure, folder / "sentences.png", dpi=110)


def _draw_word(
    axis: Axes, x: int, y: float, width: int, word: str, guess: str, true: str, fill: tuple[float, ...], bold: bool
) -> None:
    from matplotlib.patches import Rectangle

    wrong = guess != true
    axis.add_patch(Rectangle((x + 0.2, y + 0.02), width - 0.7, 0.26, fc=fill, ec=WRONG if wrong else "none", lw=1.8))
    text: dict[str, Any] = {"ha": "center", "va": "center", "family": "monospace"}
    middle = x + width / 2 - 0.15
    axis.text(middle, y + 0.155, word, fontsize=9, weight="bold" if bold else "normal", **text)
    under, tone = (f"{guess}, true: {true}", WRONG) if wrong else (guess, RIGHT)
    axis.text(middle, y + 0.37, under, fontsize=6.5, color=tone, weight="bold" if wrong else "normal", **text)


def colour(index: int, count: int) -> tuple[float, float, float]:
    """Return one of ``count`` light colours that differ as well as so many can."""
    return colorsys.hls_to_rgb(index / max(1, count), (0.78, 0.88)[index % 2], 0.75)


def _lines(row: Row) -> list[list[tuple[int, int, str, str, str]]]:
    """Lay out a sentence: lines of ``(x, width, word, predicted, true)`` in characters."""
    lines: list[list[tuple[int, int, str, str, str]]] = [[]]
    x = 0
    for word, guess, true in zip(*row, strict=True):
        word = shorten(word, LONGEST)
        under = guess if guess == true else f"{guess}, true: {true}"
        width = max(columns(word) + 2, int(0.75 * len(under)) + 2, 4)
        if x + width > LINE and lines[-1]:
            lines.append([])
            x = 3
        lines[-1].append((x, width, word, guess, true))
        x += width
    return lines
