"""The page in a real browser: what it lets in and out, its colours, and how it fits the screen."""

from __future__ import annotations

import base64
import hashlib
import html
import itertools
import re
from typing import Any

import numpy as np
import pytest

from tests.browser import linear, luminance, rgb
from tests.view_documents import attention, document
from vsattn.viewing.page import render

#: What people without green, or without red, cones see of a linear RGB colour (Machado, Oliveira and Fernandes 2009).
BLIND = {
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
}


def test_render_escapes_what_the_document_says() -> None:
    text = render(*document(kind="text"))
    assert text.count("<script") == text.count("</script>") == 3
    assert "</title><b>" not in text
    assert "<!--" not in text.split("</style>")[1].split('id="buffer"')[0]


def test_policy_allows_the_one_script_and_the_one_style_by_hash() -> None:
    text = render(*document(kind="text"))
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text).group(1)
    for tag in ("script", "style"):
        inside = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        assert len(inside) == 1
        digest = base64.b64encode(hashlib.sha256(inside[0].encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy and "http" not in policy
    assert " style=" not in text.split("<script>")[0]


def test_render_writes_null_for_what_json_cannot_say() -> None:
    made, buffer = document(kind="text")
    made["inputs"][0]["maps"][0]["measures"]["entropy"][0] = float("nan")
    assert '"entropy":[null,' in render(made, buffer)


def test_shading_follows_the_weights_and_its_letters_can_be_read(open_page: Any) -> None:
    opened = open_page(*document(kind="text"), address="#m=encoder-2&h=0&q=input:4")
    weights = attention((4, 18, 18), 1)[0, 4]
    style = "words => words.map(word => [getComputedStyle(word).backgroundColor, getComputedStyle(word).color])"
    colours = opened.page.locator(".token").evaluate_all(style)
    light = [luminance(rgb(behind)) for behind, _ in colours]
    order = np.argsort(-weights)
    assert all(light[a] <= light[b] + 1e-6 for a, b in itertools.pairwise(order))
    for behind, letters in colours:
        low, high = sorted((luminance(rgb(behind)), luminance(rgb(letters))))
        assert (high + 0.05) / (low + 0.05) >= 4.5


@pytest.mark.parametrize("kind", ["text", "translation", "comparing", "graph", "image", "sound", "quantised"])
def test_narrow_screen_scrolls_no_page_sideways(open_page: Any, kind: str) -> None:
    address = "#c=both" if kind == "comparing" else "#z=40-40&m=encoder-1" if kind == "quantised" else ""
    opened = open_page(
        *document(kind=kind, n=100 if kind == "quantised" else None), width=320, height=640, address=address
    )
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= 320


def test_dark_mode_by_the_system_and_by_the_switch(open_page: Any) -> None:
    made, buffer = document(kind="text")
    colour = (
        "[document.documentElement, document.querySelector('.token')].map(one => getComputedStyle(one).backgroundColor)"
    )
    light, dark = open_page(made, buffer), open_page(made, buffer, dark=True)
    day, night = light.page.evaluate(colour), dark.page.evaluate(colour)
    assert luminance(rgb(day[0])) > 0.8 and luminance(rgb(night[0])) < 0.05 and day[1] != night[1]
    light.page.get_by_text("dark", exact=True).click()
    assert light.page.evaluate(colour) == night
    assert "t=dark" in light.page.url
    light.page.get_by_text("auto", exact=True).click()
    light.page.emulate_media(color_scheme="dark")
    light.page.wait_for_selector("html[data-theme=dark]")
    assert light.page.evaluate(colour) == night


@pytest.mark.parametrize("dark", [False, True])
def test_words_of_the_page_contrast_by_four_and_a_half(open_page: Any, dark: bool) -> None:
    opened = open_page(*document(kind="comparing"), dark=dark, address="#c=difference&s=log")
    found = opened.page.evaluate(
        """() => {
          const behind = (one) => { for (let at = one; at; at = at.parentElement) {
            const colour = getComputedStyle(at).backgroundColor; if (!/, 0\\)$/.test(colour)) return colour; } };
          const texts = [...document.querySelectorAll('body *')].filter((one) => one.checkVisibility()
            && [...one.childNodes].some((node) => node.nodeType === 3 && node.data.trim()));
          return texts.map((one) => [getComputedStyle(one).color, behind(one), one.outerHTML]);
        }"""
    )
    assert len(found) > 60
    for letters, behind, words in found:
        low, high = sorted((luminance(rgb(letters)), luminance(rgb(behind))))
        assert (high + 0.05) / (low + 0.05) >= 4.5, words


@pytest.mark.parametrize("dark", [False, True])
def test_colours_are_told_apart_by_people_who_see_few_of_them(open_page: Any, dark: bool) -> None:
    opened = open_page(*document(kind="comparing"), dark=dark)
    ramp = "canvas => [...canvas.getContext('2d').getImageData(0, 0, 256, 1).data]"
    for signed in (False, True):
        if signed:
            opened.page.get_by_text("A − B", exact=True).click()
        shown = opened.page.locator(".table:visible .ramp").first.evaluate(ramp)
        colours = linear(np.array(shown).reshape(256, 4)[:, :3])
        for matrix in (np.eye(3), *map(np.array, BLIND.values())):
            seen = (colours @ matrix.T).clip(0, 1)
            light = seen @ [0.2126, 0.7152, 0.0722]
            halves = (light[127::-1], light[128:]) if signed else (light,)
            for half in halves:  # lightness alone orders the weights
                steps = np.diff(half[::8])
                assert (steps > 0).all() or (steps < 0).all()
            if signed:
                assert np.abs(seen[0] - seen[-1]).max() > 0.05
                assert np.abs(seen[64] - seen[191]).max() > 0.1


def test_scale_is_stated_with_numbers(open_page: Any) -> None:
    opened = open_page(*document(kind="text"), address="#m=encoder-2&h=0&q=input:4")
    most = attention((4, 18, 18), 1)[0, 4].max()
    legend = opened.page.locator(".table .legend")
    assert legend.locator(".numbers span").all_text_contents() == ["0", f"{most / 2:.4f}", f"{most:.4f}"]
    assert "Linear" in legend.inner_text() and "Blues" in legend.inner_text()
    opened.page.get_by_text("log", exact=True).click()
    assert "Logarithmic" in legend.inner_text()
    assert legend.locator(".numbers span").last.inner_text() == f"{most:.4f}"
    assert opened.page.locator("#note").inner_text() == document(kind="text")[0]["note"]


def test_policy_stops_what_somebody_put_into_the_file(open_page: Any) -> None:
    made, buffer = document(kind="text")
    strange = "<script>window.stranger = 1</script><img src=x onerror='window.stranger = 2'>"
    opened = open_page(made, buffer, text=render(made, buffer).replace("</body>", strange + "</body>"), strict=False)
    sent = opened.page.evaluate("fetch('https://example.org/').then(() => 'sent', () => 'refused')")
    assert sent == "refused" and opened.page.evaluate("typeof window.stranger") == "undefined"
    refused = " ".join(line for line in opened.complaints if "Content Security Policy" in line)
    assert all(f"{name}-src" in refused for name in ("script", "img", "connect"))


def test_page_that_cannot_be_read_says_so(open_page: Any) -> None:
    made, buffer = document(kind="text")
    broken = re.sub(r'(id="buffer">).{40}', r"\1" + "A" * 40, render(made, buffer))
    opened = open_page(made, buffer, text=broken, strict=False)
    assert "The page could not be shown" in opened.page.locator("#views").inner_text()


def test_page_works_in_the_frame_of_a_notebook(open_page: Any) -> None:
    made, buffer = document(kind="text")
    inner = html.escape(render(made, buffer))
    frame = f'<iframe sandbox="allow-scripts allow-downloads" width=900 height=900 srcdoc="{inner}"></iframe>'
    opened = open_page(made, buffer, text=f'<!DOCTYPE html><html data-ready="yes"><body>{frame}</body></html>')
    words = opened.page.frame_locator("iframe").locator(".token")
    words.nth(5).click()
    assert words.nth(5).get_attribute("aria-selected") == "true"


def test_curves_lead_to_the_strongest_and_can_be_put_away(open_page: Any) -> None:
    opened = open_page(*document(kind="text"), address="#m=encoder-2&h=0&q=input:4")
    weights = attention((4, 18, 18), 1)[0, 4]
    drawn = sum(weights[i] > 0.02 * weights.max() for i in range(18) if i != 4)
    paths = opened.page.locator(".curves path")
    widths = [float(path.get_attribute("stroke-width")) for path in paths.all()]
    assert len(widths) == min(drawn, 12) and widths == sorted(widths)
    opened.page.get_by_text("Curves", exact=True).click()
    assert paths.count() == 0 and "a=no" in opened.page.url
