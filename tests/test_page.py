"""The page in a real browser: the numbers on it, clicks and keys, and its address."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

from tests import view_documents
from tests.browser import luminance, rgb
from tests.view_documents import SENTENCE, attention, document, quantise


def test_numbers_of_a_head_and_of_the_mean_are_those_put_in(open_page: Any) -> None:
    made, buffer = document(kind="text")
    expected = attention((4, 18, 18), 1)  # of the second layer, which the page opens with
    opened = open_page(made, buffer)
    assert opened.weights() == pytest.approx(dict(enumerate(expected.mean(0)[1])), abs=6e-5)
    opened.head("3")
    opened.token(9).click()
    found = opened.rows()
    assert {number - 1: weight for number, _, weight, _ in found} == pytest.approx(
        dict(enumerate(expected[2, 9])), abs=6e-5
    )
    assert [weight for *_, weight, _ in found] == sorted((weight for *_, weight, _ in found), reverse=True)
    assert {sure for *_, sure in found} == {"exact"}
    labels = made["inputs"][0]["sets"]["input"]["labels"]
    assert all(label == labels[number - 1] for number, label, *_ in found)
    opened.page.get_by_text("what attends to it", exact=True).click()
    assert opened.weights() == pytest.approx(dict(enumerate(expected[2, :, 9])), abs=6e-5)


def test_quantised_numbers_are_within_the_error_shown(open_page: Any) -> None:
    levels, n = 31, 512
    made, buffer = document(kind="quantised", n=n, layers=6, heads=8, levels=levels)
    opened = open_page(made, buffer, address="#m=encoder-6&h=7&q=input:300")
    assert opened.opening_ms() < 3000
    exact = attention((8, n, n), 5)[7, 300]
    stood_for = quantise(attention((8, n, n), 5), levels)[2][7, 300]
    found = opened.rows()
    assert len(found) == n
    top = set(np.argsort(-exact)[:8])
    for number, _, weight, sure in found:
        if number - 1 in top:
            assert sure == "exact" and weight == pytest.approx(exact[number - 1], abs=6e-5)
        else:
            error = float(sure.removeprefix("± "))
            assert weight == pytest.approx(stood_for[number - 1], abs=6e-5)
            assert abs(weight - exact[number - 1]) <= error + 1.1e-4
    assert "31 levels" in opened.page.locator("#foot").inner_text()


def test_edges_list_their_own_keys_alone(open_page: Any) -> None:
    made, buffer = document(kind="graph", n=9)
    opened = open_page(made, buffer, address="#m=encoder-1&h=1&q=input:5")
    _, edges = view_documents.graph_set(9)
    weights = view_documents.edge_map(view_documents.Arrays(), edges, 9, 4, name="encoder 1", layer=1)[1]
    into = {int(key): float(weights[1, e]) for e, (key, query) in enumerate(edges) if query == 5}
    assert opened.weights() == pytest.approx(into, abs=6e-5)
    opened.page.get_by_text("what attends to it", exact=True).click()
    out = {int(query): float(weights[1, e]) for e, (key, query) in enumerate(edges) if key == 5}
    assert opened.weights() == pytest.approx(out, abs=6e-5)


def test_two_thousand_vectors_open_quickly_with_exact_strongest_keys(open_page: Any) -> None:
    n = 2048
    opened = open_page(*document(kind="blocks", n=n, layers=1, heads=2), address="#m=encoder-1&h=1&q=input:1000")
    assert opened.opening_ms() < 3000
    exact = attention((2, n, n), 0)[1]
    top = np.argsort(-exact[1000])[:8]
    assert opened.weights() == pytest.approx({int(i): exact[1000, i] for i in top}, abs=6e-5)
    assert f"at most {exact[1000, top[-1]]:.4f}" in opened.page.locator(".limit").inner_text()
    blocks = opened.page.locator(".table table").nth(1)
    means = exact[1000:1008].reshape(8, 256, 8).mean((0, 2))  # 1000 is the first of its block of eight
    best = int(means.argmax())
    assert blocks.locator("tbody tr").first.inner_text().split() == [
        str(8 * best + 1),
        "to",
        str(8 * best + 8),
        f"{means[best]:.4f}",
    ]
    # A click on a block opens its vectors, in which the strongest weights are exact.
    canvas = opened.page.locator(".heatmap canvas.cells").first
    side = canvas.bounding_box()["width"] / 256
    canvas.click(position={"x": (top[0] // 8 + 0.5) * side, "y": (1000 // 8 + 0.5) * side})
    near = opened.page.locator(".closer")
    assert near.is_visible() and "Queries 993 to 1024" in near.inner_text()
    assert "z=1000-" in opened.page.url
    near.locator(".cursor").focus()
    for _ in range(1000 % 32):
        opened.page.keyboard.press("ArrowDown")
    for _ in range(int(top[0]) % 32):
        opened.page.keyboard.press("ArrowRight")
    assert (
        near.locator(".cursor")
        .get_attribute("aria-label")
        .endswith(f", vector {top[0] + 1}: {exact[1000, top[0]]:.4f}")
    )


def test_labels_are_text_and_every_script_is_in_the_page(open_page: Any) -> None:
    opened = open_page(*document(kind="text"))
    words = opened.page.locator(".token").all_text_contents()
    assert words == document(kind="text")[0]["inputs"][0]["sets"]["input"]["labels"]
    assert {"</script><b>", "<!--", "größer", "مرحبا", "机器"} <= set(words)
    assert opened.page.locator("b").count() == 0
    assert opened.page.title() == "Attention </title><b>of a sentence"
    translated = open_page(*document(kind="translation"))
    assert translated.page.locator(".box.text .token").all_text_contents() == [
        *view_documents.CHINESE, *["Das", "Tier", "überquerte", "die", "Straße", "nicht"]
    ]  # fmt: skip


def test_keys_reach_and_choose_every_vector(open_page: Any) -> None:
    opened = open_page(*document(kind="text"), address="#m=encoder-2&h=0&q=input:0")
    page = opened.page
    weights = attention((4, 18, 18), 1)[0]
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.dataset.index") == "0"
    for key, index in (
        ("ArrowRight", 1),
        ("ArrowRight", 2),
        ("ArrowLeft", 1),
        ("End", 17),
        ("Home", 0),
        ("ArrowRight", 1),
    ):
        page.keyboard.press(key)
        assert page.evaluate("document.activeElement.dataset.index") == str(index)
    spoken = page.evaluate("document.activeElement.getAttribute('aria-label')")
    assert spoken == f"“The”, vector 2, weight {weights[0, 1]:.4f}"
    page.keyboard.press("ArrowDown")
    below = page.evaluate("document.activeElement.getBoundingClientRect().top")
    assert below > page.locator(".token").first.bounding_box()["y"]
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    assert opened.token(1).get_attribute("aria-selected") == "true"
    assert page.locator(".token[tabindex='0']").count() == 1
    assert opened.weights() == pytest.approx(dict(enumerate(weights[1])), abs=6e-5)
    strongest = document(kind="text")[0]["inputs"][0]["sets"]["input"]["labels"][int(weights[1].argmax())]
    assert f"{strongest} {weights[1].max():.4f}" in page.locator("#live").text_content()


def test_heat_map_by_keys_and_by_clicks(open_page: Any) -> None:
    opened = open_page(*document(kind="translation"), address="#m=cross-2&h=1&q=target:0")
    page = opened.page
    weights = attention((4, 6, 9), 15)[1]
    cursor = page.locator(".heatmap .cursor").first
    cursor.focus()
    for key in ("ArrowDown", "ArrowDown", "ArrowRight"):
        page.keyboard.press(key)
    assert (
        cursor.get_attribute("aria-label") == f"query “überquerte”, vector 3, key “没有”, vector 2: {weights[2, 1]:.4f}"
    )
    page.keyboard.press("Enter")
    assert "q=target%3A2" in page.url
    assert opened.weights() == pytest.approx(dict(enumerate(weights[2])), abs=6e-5)
    canvas = page.locator(".heatmap canvas.cells").first
    box = canvas.bounding_box()
    canvas.click(position={"x": box["width"] * 0.5 / 9, "y": box["height"] * 4.5 / 6})
    assert "q=target%3A4" in page.url
    # A source word is a key here: choosing it asks which target words looked at it.
    page.locator(".token", has_text="动物").click()
    assert "what attends to it" in page.locator(".readout").inner_text()
    assert opened.weights() == pytest.approx(dict(enumerate(weights[:, 0])), abs=6e-5)
    assert page.locator(".heatmap .over span").all_text_contents() == view_documents.CHINESE


def test_heat_map_draws_each_weight_in_its_colour(open_page: Any) -> None:
    opened = open_page(*document(kind="translation"), address="#m=cross-2&h=1&q=target:0")
    weights = attention((4, 6, 9), 15)[1]
    pixels = opened.page.locator(".heatmap canvas.cells").first.evaluate(
        "canvas => [...canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data]"
    )
    seen = np.array(pixels).reshape(6, 9, 4)[..., :3]
    light = np.array([luminance(colour) for colour in seen.reshape(-1, 3)])
    order = np.argsort(weights.ravel())
    assert (np.diff(light[order]) <= 1e-9).all() and light.min() < 0.05 and light.max() > 0.8


def test_state_is_in_the_address_and_back_brings_the_last(open_page: Any) -> None:
    made, buffer = document(kind="text")
    opened = open_page(made, buffer)
    opened.head("2")
    opened.page.get_by_text("log", exact=True).click()
    opened.token(5).click()
    address = opened.page.url
    assert all(word in address for word in ("h=1", "s=log", "q=input%3A5"))
    again = open_page(made, buffer, address="#" + address.split("#")[1])
    assert again.weights() == opened.weights()
    assert again.page.locator("input[name=scale][value=log]").is_checked()
    opened.page.go_back()
    assert opened.token(1).get_attribute("aria-selected") == "true"
    opened.page.go_back()
    assert opened.page.locator("input[name=scale][value=linear]").is_checked()
    opened.page.go_forward()
    opened.page.reload()
    opened.page.wait_for_selector("html[data-ready=yes]")
    assert opened.page.locator("input[name=scale][value=log]").is_checked()


def test_address_that_means_nothing_is_named_and_left_out(open_page: Any) -> None:
    opened = open_page(*document(kind="text"), address="#m=encoder-9&h=7&q=input:99&s=loud")
    said = opened.page.locator("#messages").inner_text()
    assert all(word in said for word in ("m=encoder-9", "h=7", "q=input:99", "s=loud"))
    assert len(opened.rows()) == 18
    opened.token(3).click()
    assert opened.page.locator("#messages").inner_text() == ""


def test_comparing_two_inputs(open_page: Any) -> None:
    made, buffer = document(kind="comparing")
    opened = open_page(made, buffer, address="#m=encoder-2&h=1&q=input:8")
    a, b = (attention((4, 12, 12), seed)[1, 8] for seed in (1, 21))
    assert opened.weights() == pytest.approx(dict(enumerate(a)), abs=6e-5)
    compare = opened.page.locator("[role=radiogroup][aria-label=Input]")
    compare.get_by_text("B", exact=True).click()
    assert opened.weights() == pytest.approx(dict(enumerate(b)), abs=6e-5)
    assert opened.token(11).inner_text() == "wide"
    compare.get_by_text("A − B", exact=True).click()
    assert opened.weights() == pytest.approx(dict(enumerate(a - b)), abs=6e-5)
    assert opened.token(11).inner_text() == "tired / wide"
    more, less = (
        rgb(opened.token(int(i)).evaluate("word => word.style.backgroundColor"))
        for i in ((a - b).argmax(), (a - b).argmin())
    )
    assert more[2] > more[0] and less[0] > less[2]  # blue for A, orange for B
    compare.get_by_text("A and B", exact=True).click()
    assert opened.page.locator(".view:visible").count() == 2
    opened.token(2, view=1).click()
    assert opened.token(2, view=0).get_attribute("aria-selected") == "true"
    ends = opened.page.locator(".view:visible .table .numbers span:last-child").all_text_contents()
    assert ends[0] == ends[1]  # one scale for both


def test_no_difference_of_unlike_inputs_and_the_page_says_why(open_page: Any) -> None:
    made, buffer = document(kind="comparing")
    arrays = view_documents.Arrays()
    arrays.buffer += buffer
    other = copy.deepcopy(made["inputs"][1])
    other["sets"]["input"] = view_documents.text_set(SENTENCE[:7])
    other["maps"] = view_documents.encoder_maps(arrays, 7, 2, 4)
    made["inputs"][1] = other
    opened = open_page(made, bytes(arrays.buffer), address="#c=difference&q=input:9")
    assert "“input” has 12 vectors in A and 7 in B" in opened.page.locator(".reason").inner_text()
    assert opened.page.locator("input[name=compare][value=difference]").is_disabled()
    assert opened.page.locator("input[name=compare][value=both]").is_checked()
    assert "B: this input has no vector of that number" in opened.page.locator("#messages").inner_text()


def test_modes_and_heads_of_the_grid(open_page: Any) -> None:
    made, buffer = document(kind="text")
    opened = open_page(made, buffer)
    page = opened.page
    entropy = {(m["name"], h): m["measures"]["entropy"][h] for m in made["inputs"][0]["maps"][:2] for h in range(4)}
    assert page.locator(".thumb .measure").all_text_contents() == [f"{value:.3f}" for value in entropy.values()]
    page.locator("#measure").select_option("sink")
    page.locator("#order").select_option("down")
    sink = sorted((m["measures"]["sink"][h] for m in made["inputs"][0]["maps"][:2] for h in range(4)), reverse=True)
    assert page.locator(".thumb .measure").all_text_contents() == [f"{value:.3f}" for value in sink]
    page.locator("#order").select_option("layer")
    page.locator(".thumb").first.focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    assert "m=encoder-2" in page.url and "h=1" in page.url
    assert (
        page.locator(".thumb[aria-pressed=true]").get_attribute("aria-label").startswith("encoder 2, head 2, entropy ")
    )
    page.wait_for_selector(".layer:last-child .thumb:last-child canvas[width='18']")  # the last to be painted
    page.get_by_text("Rollout", exact=True).click()
    assert "m=rollout-2" in page.url
    assert opened.weights() == pytest.approx(dict(enumerate(attention((1, 18, 18), 51)[0, 1])), abs=6e-5)
    assert not page.locator("[role=radiogroup][aria-label=Head]").is_visible()


def test_queries_that_were_not_recorded_are_said(open_page: Any) -> None:
    arrays = view_documents.Arrays()
    made, _ = document(kind="vectors", n=10)
    weights = attention((2, 3, 10), 4)
    maps = [view_documents.dense_map(arrays, weights, name="encoder 1") | {"queries": [2, 5, 7]}]
    made["inputs"][0]["maps"] = maps
    opened = open_page(made, bytes(arrays.buffer), address="#m=encoder-1&h=1&q=input:5")
    assert opened.weights() == pytest.approx(dict(enumerate(weights[1, 1])), abs=6e-5)
    opened.page.get_by_text("what attends to it", exact=True).click()
    assert opened.weights() == pytest.approx(dict(zip((2, 5, 7), weights[1, :, 5])), abs=6e-5)
    opened.page.get_by_text("what it attends to", exact=True).click()
    opened.token(3).click()
    assert "were not recorded" in opened.page.locator("#messages").inner_text()
