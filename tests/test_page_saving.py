"""What the page saves as PNG, SVG and JSON, and the characters that it names for want of a font."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from tests import view_documents as views
from tests.panels import one_set, saved
from tests.view_documents import attention, document, image_set, sound_set, text_set

ODD = ["</script><b>", "<&'\"", "\x01\x0b]]>", "größer"]
SVG = "{http://www.w3.org/2000/svg}"


def drawn_titles(svg: bytes) -> list[str]:
    """The titles in a saved SVG, one for each vector."""
    return [node.text or "" for node in ElementTree.fromstring(svg).iter(f"{SVG}title")]


def test_saved_figures_and_numbers_hold_what_was_put_in(open_page):
    weights = attention((2, 10, 10), 6)
    page = open_page(*one_set(image_set(3, 3), weights), address="#h=1&q=input:4").page
    told = [re.search(r"weight (\d\.\d{4})$", title) for title in drawn_titles(saved(page, "SVG"))]
    np.testing.assert_allclose([float(match[1]) for match in told if match], weights[1, 4, 1:], atol=5.1e-5)
    with Image.open(io.BytesIO(saved(page, "PNG"))) as image:
        assert image.format == "PNG" and image.width == 2000
        # Pixels of the picture itself came through, so the canvas was not tainted and the SVG not empty.
        assert len(image.convert("RGB").getcolors(image.width * image.height)) > 1000
    (view,) = json.loads(saved(page, "JSON"))["shown"]
    assert (view["map"]["path"], view["head"], view["chosen"]["index"]) == ("model.encoder 1", "2", 4)
    assert view["chosen"]["label"] == "row 2, column 1" and view["inputs"][0]["caption"] == "one"
    assert np.array_equal(np.float32(view["row"]["weights"]), weights[1, 4]) and len(view["row"]["labels"]) == 10
    assert np.array_equal(np.float32(view["matrix"]["weights"]), weights[1])


def test_a_saved_logarithmic_scale_starts_where_the_page_says(open_page):
    made, buffer = document(kind="image", layers=1)
    page = open_page({**made, "title": "Attention: " + "a long text " * 20}, buffer).page
    page.get_by_text("log", exact=True).click()
    start = page.locator(".legend .numbers span").first.inner_text()
    assert re.fullmatch(r"\d\.\de-\d", start)
    texts = [node.text for node in ElementTree.fromstring(saved(page, "SVG")).iter(f"{SVG}text")]
    assert start in texts and "0.0000" not in texts
    with page.expect_download() as download:
        page.click(".save button[data-kind=SVG]")
    assert download.value.suggested_filename.startswith("Attention-a-long-text-a-")


def test_rollout_and_relevance_are_not_called_attention(open_page):
    page = open_page(*document(kind="text", layers=1)).page
    for mode, words in (("Rollout", "what reaches it"), ("Relevance", "what is relevant to it")):
        page.get_by_text(mode, exact=True).click()
        assert page.locator(".table").first.inner_text().count("attends") == 0
        assert words in " ".join(ElementTree.fromstring(saved(page, "SVG")).itertext())


@pytest.mark.parametrize("kind", ["text", "sound", "graph", "translation", "blocks"])
def test_every_kind_is_saved_as_a_picture_a_drawing_and_numbers(open_page, kind):
    page = open_page(*document(kind=kind, layers=1, **({"n": 600} if kind == "blocks" else {}))).page
    data = json.loads(saved(page, "JSON"))
    assert data["precision"]["kind"] == ("quantised" if kind == "blocks" else "exact")
    (view,) = data["shown"]
    row = view["row"]
    words = " ".join(ElementTree.fromstring(saved(page, "SVG")).itertext())
    strongest = int(np.argmax(row["weights"]))
    assert f"{row['weights'][strongest]:.4f}" in words and "A weight says how much" in words
    with Image.open(io.BytesIO(saved(page, "PNG"))) as image:
        image.load()


def test_labels_are_text_everywhere_even_in_a_saved_drawing(open_page):
    arrays, weights = views.Arrays(), attention((2, 4, 4), 7)
    xy = [[0, 0], [1, 0], [1, 1], [0, 1]]
    sets = {
        "image": image_set(2, 2) | {"labels": ODD, "num_prefix": 0},
        "sound": sound_set(4) | {"labels": ODD},
        "graph": text_set(ODD, kind="graph") | {"xy": xy, "edges": [[0, 1], [1, 2]], "classes": ODD},
    }
    for kind, made in sets.items():
        made["details"] = ODD
        page = open_page(*one_set(made, weights, arrays)).page
        assert page.locator(".drawn b, .drawn script").count() == 0
        label = page.get_attribute(f".{kind} [role=option] >> nth=0", "aria-label")
        assert label.startswith("</script><b>, ") and "</script><b>" in page.inner_text(f".{kind} .told")
        title = next(title for title in drawn_titles(saved(page, "SVG")) if title.startswith("</script><b>"))
        assert "weight" in title
        assert any("\\u0001\\u000b]]>" in title for title in drawn_titles(saved(page, "SVG")))
        (view,) = json.loads(saved(page, "JSON"))["shown"]
        assert view["row"]["labels"] == ODD


def test_a_saved_drawing_opens_alone(open_page, chromium, tmp_path):
    page = open_page(*document(kind="sound")).page
    path = tmp_path / "saved.svg"
    path.write_bytes(saved(page, "SVG"))
    alone = chromium.new_page()
    alone.goto(path.as_uri())
    assert alone.evaluate("document.documentElement.tagName") == "svg" and alone.locator("parsererror").count() == 0
    assert alone.locator("text=time (s)").count() == 1
    assert alone.locator("image").first.bounding_box()["width"] > 400
    alone.close()


def test_a_notebook_s_frame_without_an_origin_saves_too(open_page, chromium, tmp_path):
    from vsattn.viewing.page import render

    outer = "<iframe sandbox='allow-scripts allow-downloads' width=900 height=900></iframe>"
    page = chromium.new_page()
    page.set_content(outer)
    page.evaluate("text => { document.querySelector('iframe').srcdoc = text; }", render(*document(kind="image")))
    frame = page.frame_locator("iframe")
    frame.locator("html[data-ready=yes]").wait_for()
    for kind in ("PNG", "SVG", "JSON"):
        with page.expect_download() as download:
            frame.locator(f".save button[data-kind={kind}]").click()
        assert Path(download.value.path()).stat().st_size > 1000
    page.close()


def test_characters_without_a_font_are_named_and_others_are_not(open_page):
    missing = "\U0001f9ff\u1b05\U00012000"  # an emoji, Balinese, cuneiform: one of them at least has no font anywhere
    made = text_set([*"größer", "Straße", "e\u0301", "a\u200db", "\ufe0f", missing, "\U00100000"])
    page = open_page(*one_set(made, attention((2, len(made["labels"]), len(made["labels"]))))).page
    line = page.inner_text("#fonts")
    assert line.startswith("This system has no font for: ") and "(U+100000)" in line
    assert not any(name in line for name in ("U+00F6", "U+00DF", "U+0301", "U+200D", "U+FE0F"))
    assert "no font for" in " ".join(ElementTree.fromstring(saved(page, "SVG")).itertext())


def test_umlauts_alone_bring_no_line_about_fonts(open_page):
    made = text_set(["Größe", "Übermaß", "naïve", "“quoted”", "→", "\u00a0", "…"])
    page = open_page(*one_set(made, attention((2, 7, 7)))).page
    assert page.locator("#fonts").count() == 0


@pytest.mark.skipif(shutil.which("fc-list") is None, reason="fontconfig's fc-list is not installed")
def test_what_is_named_is_what_fontconfig_has_no_font_for(open_page):
    letters = "ößЖλעعกაअ한あ动马\u1b05\U00012000\U0001f9ff∑✓"
    made = text_set(list(letters))
    page = open_page(*one_set(made, attention((2, len(letters), len(letters))))).page
    line = "".join(page.locator("#fonts").all_inner_texts())
    for letter in letters:
        fonts = subprocess.run(["fc-list", f":charset={ord(letter):x}"], capture_output=True, text=True, check=True)
        assert (f"{letter} (U+{ord(letter):04X})" in line) == (not fonts.stdout.strip()), letter
