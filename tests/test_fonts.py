"""Every character of a figure is drawn by a font that has it, or named in one warning."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from lettering import few_fonts, make_font
from matplotlib import font_manager
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager
from matplotlib.text import Text
from PIL import Image

from vsattn.tasks import node_plots, plots, recognition_plots, speech_plots, words_plots
from vsattn.tasks.translation_plots import Panel, alignments
from vsattn.viewing import fonts

__all__ = ["few_fonts"]

CHINESE, GERMAN, ARABIC = "\N{CJK UNIFIED IDEOGRAPH-4E2D}\N{CJK UNIFIED IDEOGRAPH-6587}", "Übergröße", "سلام"


def written(*texts: str, family: str | None = None, weight: str = "normal") -> Figure:
    figure = Figure(figsize=(3, 1), dpi=100)
    for i, text in enumerate(texts):
        figure.text(0.05, 0.2 + 0.3 * i, text, family=family, weight=weight, fontsize=20)
    return figure


def families(figure: Figure) -> dict[str, list[str]]:
    return {text.get_text(): text.get_fontfamily() for text in figure.findobj(Text) if text.get_text()}


def ink(path: Path) -> int:
    return int((np.asarray(Image.open(path).convert("L")) < 128).sum())


@pytest.fixture
def heard():
    """All warnings of a test as they come, whatever Python has shown before."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        yield found


@pytest.mark.usefixtures("few_fonts")
def test_a_character_is_drawn_by_the_font_that_has_it(tmp_path, heard) -> None:
    fontManager.addfont(make_font(tmp_path / "han.ttf", "Tiny Han", CHINESE))
    figure = written(CHINESE, "word")
    before = ink(fonts.save(written("", "word"), tmp_path / "before.png"))
    assert fonts.save(figure, tmp_path / "deep" / "a.png").is_file()
    own = matplotlib.rcParams["font.family"]
    assert families(figure) == {CHINESE: [*own, "Tiny Han"], "word": own}
    assert heard == []
    # two squares of 0.7 em x 0.7 em at 20 points and 100 dots an inch
    assert ink(tmp_path / "deep" / "a.png") - before == pytest.approx(2 * (0.7 * 20 / 72 * 100) ** 2, rel=0.1)


@pytest.mark.usefixtures("few_fonts")
def test_what_has_no_font_is_named_in_one_warning(tmp_path, heard) -> None:
    figure = written(f"a{CHINESE}", "\N{GIRL}\N{THAI CHARACTER THO THAHAN}", CHINESE)
    fonts.save(figure, tmp_path / "a.svg")
    assert [warning.category for warning in heard] == [fonts.MissingGlyphs]
    message = str(heard[0].message)
    for name in ("U+4E2D", "U+6587", "U+1F467 GIRL", "U+0E17 THAI CHARACTER THO THAHAN"):
        assert message.count(name) == 1
    assert "apt install fonts-noto-cjk fonts-noto-core fonts-symbola" in message
    heard.clear()
    many = "".join(map(chr, range(0x4E00, 0x4E14)))
    fonts.save(written(many), tmp_path / "a.png")
    assert len(heard) == 1 and "and 8 more" in str(heard[0].message)


@pytest.mark.usefixtures("few_fonts")
def test_fewest_fonts_and_the_form_of_the_country(tmp_path) -> None:
    for name, characters in {
        "Tiny One": CHINESE[0],
        "Tiny Serif": CHINESE + "の한",
        "Tiny Sans JP": CHINESE + "の한",
        "Tiny Sans SC": CHINESE + "の한",
        "Tiny Sans KR": CHINESE + "の한",
        "Tiny Square": "\N{GIRL}",
    }.items():
        fontManager.addfont(make_font(tmp_path / f"{name}.ttf", name, characters))
    assert fonts.fallbacks([CHINESE], ["DejaVu Sans"]) == (["Tiny Sans SC"], "")
    assert fonts.fallbacks([CHINESE + "の"], ["DejaVu Sans"]) == (["Tiny Sans JP"], "")
    assert fonts.fallbacks([CHINESE + "한"], ["DejaVu Sans"]) == (["Tiny Sans KR"], "")
    assert fonts.fallbacks([CHINESE, "\N{GIRL}"], ["DejaVu Sans"]) == (["Tiny Sans SC", "Tiny Square"], "")
    assert fonts.fallbacks([CHINESE], ["Tiny Serif", "DejaVu Sans"]) == ([], "")  # the user's own choice comes first


@pytest.mark.usefixtures("few_fonts")
def test_fonts_that_draw_nothing_or_boxes_are_none(tmp_path) -> None:
    fontManager.addfont(make_font(tmp_path / "colour.ttf", "Tiny Colour Emoji", "\N{GIRL}", empty=True))
    assert fonts.fallbacks(["\N{GIRL}"], ["DejaVu Sans"]) == ([], "\N{GIRL}")  # Last Resort has a box for every one
    assert fonts.fallbacks(["\ue000"], ["DejaVu Sans"]) == ([], "\ue000")  # STIX has some sign of its own there


@pytest.mark.usefixtures("few_fonts")
def test_a_font_that_was_installed_after_matplotlib_listed_them(tmp_path, monkeypatch, heard) -> None:
    (tmp_path / "broken.ttf").write_bytes(b"no font")
    files = [str(make_font(tmp_path / "new.ttf", "Tiny New", CHINESE)), str(tmp_path / "broken.ttf")]
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda fontext: files)
    figure = written(CHINESE)
    fonts.save(figure, tmp_path / "a.png")
    assert families(figure)[CHINESE][-1] == "Tiny New" and heard == []


@pytest.mark.usefixtures("few_fonts")
def test_a_bold_text_takes_a_font_of_one_weight_in_silence(tmp_path, heard, caplog) -> None:
    fontManager.addfont(make_font(tmp_path / "han.ttf", "Tiny Han", CHINESE))
    figure = written(CHINESE, family="monospace", weight="bold")
    fonts.save(figure, tmp_path / "a.png")
    assert families(figure) == {CHINESE: ["monospace", "Tiny Han"]}
    assert heard == [] and caplog.records == []


def test_plain_text_opens_no_font(monkeypatch) -> None:
    monkeypatch.setattr(fonts, "_draws", lambda *_: pytest.fail("opened a font"))
    figure = written("plain words", "$5$ and $\\frac")
    assert fonts.letter(figure) == ""
    assert not any(text.get_parse_math() for text in figure.findobj(Text) if text.get_text())


def test_numbers_of_axes_stay_formulae(tmp_path) -> None:
    figure = Figure(layout="constrained")
    axis = figure.subplots()
    axis.loglog([1, 1000], [1e-6, 1])
    axis.set_title("$5 or $6")
    fonts.save(figure, tmp_path / "a.svg")
    labels = [label for label in axis.get_xticklabels() if label.get_text()]
    assert labels and all(label.get_parse_math() and "10^" in label.get_text() for label in labels)
    assert axis.title.get_parse_math() is False


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("e\u0301", "é"),
        ("two\nlines\r", "two↵lines↵"),
        ("a\tb", "a⇥b"),
        ("\x00\ud800", "\ufffd\ufffd"),
        ("co\u00adop\u202e", "coop"),
        ("\u00ad", "U+00AD"),
        ("نمی\u200cخواهم", "نمی\u200cخواهم"),
        ("", ""),
        (" the", " the"),
        ("</script><b>", "</script><b>"),
    ],
)
def test_visible(text: str, shown: str) -> None:
    assert fonts.visible(text) == shown


@pytest.mark.parametrize(
    ("text", "width"), [("word", 4), (CHINESE, 4), ("ｶﾞ", 2), ("x\u0323\u0307", 1), ("한", 2), ("😀", 2), ("", 0)]
)
def test_columns(text: str, width: int) -> None:
    assert fonts.columns(text) == width


def test_shorten() -> None:
    assert fonts.shorten("x" * 14) == "x" * 14
    assert fonts.shorten("x" * 15) == "x" * 13 + "…"
    assert fonts.shorten("中" * 9) == "中" * 6 + "…"
    assert fonts.shorten("x\u0323" * 15, 4) == "x\u0323" * 3 + "…"


@pytest.mark.parametrize("family", ["sans-serif", "monospace"])
@pytest.mark.parametrize("weight", ["normal", "bold"])
def test_inches_are_what_is_drawn(family: str, weight: str) -> None:
    for text in (GERMAN, ARABIC, "WWWW iiii", "x"):
        figure = written(text, family=family, weight=weight)
        drawn = figure.texts[0].get_window_extent().width / figure.dpi
        assert fonts.inches(text, 20, family=family, weight=weight) / 1.05 == pytest.approx(drawn, rel=0.05, abs=0.02)


def test_fonts_load_no_matplotlib() -> None:
    code = "import sys, vsattn.viewing.fonts; print(*{'matplotlib', 'torch', 'numpy'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == ""


def every_plot(folder: Path, word: str) -> dict[str, Path]:
    """Draw one figure of each kind in which words of the user stand."""
    import torch

    from vsattn.ctc import Word
    from vsattn.tokenizers.graph import Graph

    sound, two = np.sin(np.arange(4000)), np.array([0, 1])
    graph = Graph(torch.zeros(3, 1), torch.tensor([[0, 1], [1, 2]]))
    some = torch.tensor([0, 1, 0])
    row = ([word, "b"], [word, "X"], [word, "Y"])
    line = recognition_plots.Line(sound, 8000, [(word, 0.0, 0.2)], [Word(word, 0.0, 0.2, 1.0)], [True])
    times = np.array([0.1, 0.2])
    return {
        "confusion": plots.confusion(two, two, [word, "b"], folder / "confusion.png"),
        "alignments": alignments([Panel([word], ["b"], np.ones((1, 1)))], folder / "alignments.png"),
        "sentences": words_plots.draw_sentences([row], "title", folder, marked=word),
        "clips": speech_plots.clips([(sound, 8000, word, 0.5, "b")], "title", folder / "clips.png"),
        "timelines": speech_plots.timelines([(sound, 8000, times, two, two)], [word, "b"], "t", folder / "times.png"),
        "lines": recognition_plots.lines([line], "title", folder / "lines.png"),
        "nodes": node_plots.draw_nodes(graph, some, some, [word, "b"], folder / "nodes.png"),
    }


@pytest.mark.usefixtures("few_fonts")
def test_every_plot_with_words_of_the_user(tmp_path, heard, monkeypatch) -> None:
    kept: dict[str, Figure] = {}
    drawn = fonts.save

    def save(figure: Figure, path: Path, **options) -> Path:
        kept[Path(path).stem] = figure
        return drawn(figure, path, **options)

    monkeypatch.setattr(fonts, "save", save)
    missing = every_plot(tmp_path, CHINESE)
    assert [warning.category for warning in heard] == [fonts.MissingGlyphs] * len(missing)
    heard.clear()
    fontManager.addfont(make_font(tmp_path / "han.ttf", "Tiny Han", CHINESE))
    for word in (CHINESE, GERMAN, ARABIC):
        kept.clear()
        assert len(every_plot(tmp_path, word)) == len(kept)
        for name, figure in kept.items():
            used = [family for text, family in families(figure).items() if word in text]
            assert used, name
            assert all(("Tiny Han" in family) == (word == CHINESE) for family in used), name
    assert heard == []
