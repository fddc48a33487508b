"""Pictures, sounds and graphs of the page, in a real browser against the numbers put in."""

from __future__ import annotations

import re
from typing import Any

import networkx
import numpy as np
import pytest

from tests import view_documents as views
from tests.panels import finished, one_set, read
from tests.view_documents import attention, document, image_set, sound_set, text_set

LABEL = "one.getAttribute('aria-label')"


def graph(nodes: networkx.Graph, prefix: int = 0, seed: int = 0) -> tuple[dict[str, Any], bytes, np.ndarray]:
    """A document of a graph whose nodes attend along its edges, with the weights (H, N, N)."""
    arrays, count = views.Arrays(), len(nodes)
    place = networkx.spring_layout(nodes, seed=seed, iterations=20)
    xy = np.array([place[node] for node in nodes])
    xy = (xy - xy.min(0)) / (xy.max(0) - xy.min(0))
    pairs = [*nodes.edges, *((b, a) for a, b in nodes.edges), *((node, node) for node in nodes)]
    edges = np.array(pairs, np.int32) + prefix
    made = text_set([f"node {node}" for node in nodes], prefix=prefix, kind="graph")
    made |= {"xy": xy.round(4).tolist(), "edges": edges.tolist(), "classes": [f"kind {node % 3}" for node in nodes]}
    maps, weights = views.edge_map(arrays, edges, count + prefix, 2, name="encoder 1", layer=1)
    dense = np.zeros((2, count + prefix, count + prefix), np.float32)
    dense[:, edges[:, 1], edges[:, 0]] = weights
    given = {"name": "A", "caption": "graph", "answer": "", "sets": {"input": made}, "maps": [maps]}
    return *finished([given], arrays), dense


def attribute(page: Any, selector: str, name: str) -> np.ndarray:
    """An attribute of each element, as numbers."""
    return np.array([float(value) for value in read(page, selector, f"one.getAttribute('{name}')")])


def lines(page: Any) -> np.ndarray:
    """Of each line of a graph: key, query, weight, opacity, width."""
    numbers = "one.dataset.key, one.dataset.query, one.dataset.weight, one.getAttribute('opacity')"
    return np.array(read(page, "g.weight", f"[{numbers}, one.firstChild.getAttribute('stroke-width')].map(Number)"))


def shown(page: Any, selector: str) -> list[float]:
    """The weights that a list of options tells to screen readers."""
    found = [re.search(r"weight (\d\.\d{4})|no weight", label) for label in read(page, selector, LABEL)]
    return [float(match[1] or 0) for match in found]


def test_every_patch_tells_its_weight_and_is_shaded_by_it(open_page):
    weights = attention((2, 17, 17), 3)
    page = open_page(*one_set(image_set(4, 4), weights), address="#h=1&q=input:6").page
    np.testing.assert_allclose(shown(page, ".image [role=option]"), weights[1, 6], atol=5.1e-5)
    opacity = attribute(page, ".patch", "fill-opacity")
    np.testing.assert_allclose(opacity, 0.7 * weights[1, 6, 1:] / weights[1, 6].max(), atol=1e-4)
    assert page.inner_text(".image .told").startswith("Chosen: row 2, column 2, weight")


def test_a_small_picture_keeps_its_square_pixels(open_page):
    made = image_set(2, 2, pixel=4)
    page = open_page(*one_set(made, attention((2, 5, 5)))).page
    image = page.locator(".picture image")
    assert image.get_attribute("image-rendering") == "pixelated" and image.get_attribute("href") == made["picture"]
    assert page.locator(".picture").bounding_box()["width"] == 400  # 8 pixels, each 50 wide


def test_clicks_and_keys_choose_a_patch(open_page):
    weights = attention((2, 17, 17), 4)
    page = open_page(*one_set(image_set(4, 4), weights), address="#h=0&q=input:1").page

    def chosen() -> int:
        index = read(page, ".image [role=option]", "one.getAttribute('aria-selected')").index("true")
        assert f"q=input:{index}" in page.url.replace("%3A", ":")
        np.testing.assert_allclose(shown(page, ".image [role=option]"), weights[0, index], atol=5.1e-5)
        return index

    assert chosen() == 1
    page.click(".patch >> nth=9")
    assert chosen() == 10
    entries = page.evaluate("history.length")
    steps = {"ArrowDown": 14, "ArrowRight": 15, "ArrowUp": 11, "ArrowLeft": 10, "End": 16}
    for key, expected in [*steps.items(), ("ArrowDown", 16)]:
        page.keyboard.press(key)
        assert chosen() == expected
    assert page.evaluate("history.length") == entries  # a held key does not fill the history
    page.keyboard.press("Home")
    assert chosen() == 0 and page.evaluate("document.activeElement.textContent") == "[CLS]"
    page.hover(".patch >> nth=4")
    assert page.inner_text(".image .told") == f"row 2, column 1, weight {weights[0, 0, 5]:.4f}"


def test_one_patch_at_a_time_is_in_the_order_of_tab(open_page):
    page = open_page(*one_set(image_set(4, 4), attention((2, 17, 17)))).page
    page.click(".patch >> nth=3")
    assert read(page, ".image [role=option]", "one.tabIndex") == [-1] * 4 + [0] + [-1] * 12
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.closest('.patch')") is None


def test_the_slider_changes_the_opacity_of_the_overlay(open_page):
    page = open_page(*one_set(image_set(3, 3), attention((2, 10, 10)))).page
    before = attribute(page, ".patch", "fill-opacity")
    page.focus(".image input[type=range]")
    for _ in range(7):
        page.keyboard.press("ArrowLeft")
    np.testing.assert_allclose(attribute(page, ".patch", "fill-opacity"), before / 2, atol=1e-4)
    assert "o=0.35" in page.url


def test_two_pictures_stand_side_by_side_and_their_difference_is_signed(open_page):
    arrays, weights = views.Arrays(), [attention((2, 10, 10), seed) for seed in (1, 2)]
    pixels = np.random.default_rng(0).integers(0, 255, (2, 24, 24), dtype=np.uint8)
    inputs = [
        {
            "name": name,
            "caption": name,
            "answer": "",
            "sets": {"input": image_set(3, 3) | {"picture": views.picture(drawn)}},
        }
        | {"maps": [views.dense_map(arrays, weight, name="encoder 1")]}
        for name, drawn, weight in zip("AB", pixels, weights, strict=True)
    ]
    page = open_page(*finished(inputs, arrays), address="#h=0&q=input:2&c=both").page
    both = [shown(page, f".view:nth-child({i + 1}) .image [role=option]") for i in range(2)]
    np.testing.assert_allclose(both, [weight[0, 2] for weight in weights], atol=5.1e-5)
    page.check("input[name=compare][value=difference]", force=True)
    hrefs = read(page, ".view:not([hidden]) .picture image", "one.getAttribute('href')")
    assert hrefs == [made["sets"]["input"]["picture"] for made in inputs]
    patches = ".view:not([hidden]) figure:first-child .patch"
    difference = (weights[0] - weights[1])[0, 2, 1:]
    told = [re.search(r"difference ([+−]?\d\.\d{4})", label)[1] for label in read(page, patches, LABEL)]
    found = [float(number.replace("−", "-")) for number in told]
    np.testing.assert_allclose(found, difference, atol=5.1e-5)
    hues = np.array(read(page, patches, "one.getAttribute('fill')"))
    assert len(set(hues[difference > 0])) == len(set(hues[difference < 0])) == 1
    assert hues[difference > 0][0] != hues[difference < 0][0]


def test_a_sound_has_axes_and_its_frames_their_weights(open_page):
    made = sound_set(24)
    made["times"] = [[0.1 * i, 0.1 * i + 0.15] for i in range(24)]  # each overlaps the next
    weights = attention((2, 24, 24), 5)
    page = open_page(*one_set(made, weights), address="#h=1&q=input:3").page
    np.testing.assert_allclose(shown(page, ".frame"), weights[1, 3], atol=5.1e-5)
    words = read(page, ".sound text", "one.textContent")
    assert {"frequency (Hz)", "time (s)", "0", "1000", "4000"} < set(words)
    seconds = [float(word) for word in words if re.fullmatch(r"\d\.\d", word)]
    assert seconds[0] == 0 and seconds[-1] <= 2.4 and len(set(np.diff(seconds).round(6))) == 1
    left, wide = (attribute(page, ".frame", name) for name in ("x", "width"))
    np.testing.assert_allclose(left[1:], (left + wide)[:-1], atol=1e-6)  # overlapping frames meet, none hides another
    heights = attribute(page, ".frame ~ rect[stroke-width]:not([fill=none])", "height")
    np.testing.assert_allclose(heights, 52 * weights[1, 3] / weights[1, 3].max(), atol=0.01)
    page.click(".frame >> nth=10")
    page.keyboard.press("ArrowRight")
    assert page.inner_text(".sound .told").startswith("1.1-1.2 s, 1.100 to 1.250 s, weight")
    np.testing.assert_allclose(shown(page, ".frame"), weights[1, 11], atol=5.1e-5)


@pytest.mark.parametrize("kind", ["image", "sound", "graph"])
def test_a_narrow_dark_screen_scrolls_down_only(open_page, kind):
    page = open_page(*document(kind=kind), width=320, dark=True).page
    assert page.evaluate("document.documentElement.scrollWidth") <= 320
    page.wait_for_function("document.querySelector('.drawn svg:not(.scale)').getBoundingClientRect().width <= 300")
    sizes = read(page, ".sound text, .graph text", "one.getBoundingClientRect().height")
    assert all(size > 9 for size in sizes)  # the words do not shrink with the picture


def test_hops_show_the_neighbourhood_that_networkx_finds(open_page):
    club = networkx.karate_club_graph()
    made, buffer, weights = graph(club, prefix=1)
    page = open_page(made, buffer, address="#h=1&q=input:6").page  # node 5, after the prefix vector
    for hops in ("0", "1", "2", "3", "all"):
        page.select_option(".graph select", hops)
        reach = networkx.single_source_shortest_path_length(club, 5, cutoff=None if hops == "all" else int(hops))
        nodes = read(page, ".node", "Number(one.dataset.index)")
        assert sorted(nodes) == sorted(node + 1 for node in reach)
        np.testing.assert_allclose(shown(page, ".node"), [weights[1, 6, node] for node in nodes], atol=5.1e-5)
    page.select_option(".graph select", "0")
    lost = weights[1, 6].sum() - weights[1, 6, 6]
    assert f"have {lost:.4f} of the weight" in page.inner_text(".graph .drawn")


def test_lines_of_a_graph_are_the_weights_wider_for_more(open_page):
    club = networkx.karate_club_graph()
    made, buffer, weights = graph(club)
    page = open_page(made, buffer, address="#h=0&q=input:0").page
    key, query, weight, opacity, width = lines(page).T
    assert sorted(key.astype(int)) == sorted(club.neighbors(0)) and set(query) == {0}
    np.testing.assert_allclose(weight, weights[0, 0, key.astype(int)], rtol=1e-6)
    order = np.argsort(weight, kind="stable")
    assert (np.diff(opacity[order]) >= 0).all() and (np.diff(width[order]) >= 0).all() and np.ptp(width) > 1
    page.check("text=weights of all nodes")
    off = weights[0] * (1 - np.eye(34))
    np.testing.assert_allclose(np.sort(lines(page)[:, 2]), np.sort(off[off > 0]), rtol=1e-6)


def test_nodes_are_reached_and_chosen_by_keys_and_the_legend_names_their_classes(open_page):
    made, buffer, weights = graph(networkx.karate_club_graph())
    page = open_page(made, buffer, address="#h=0&q=input:0").page
    page.focus(".node[tabindex='0']")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert page.inner_text(".graph .told") == f"node 2, kind 2, weight {weights[0, 0, 2]:.4f}"
    page.keyboard.press("Enter")
    assert "q=input%3A2" in page.url and page.evaluate("document.activeElement.dataset.index") == "2"
    np.testing.assert_allclose(shown(page, ".node"), weights[0, 2], atol=5.1e-5)
    assert page.locator(".signs > span").all_inner_texts() == ["kind 0", "kind 1", "kind 2"]
    for name in ("d", "fill"):  # told apart by shape and by colour
        assert len(set(read(page, ".signs path", f"one.getAttribute('{name}')"))) == 3


def test_buttons_wheel_and_hand_move_the_graph_and_a_drag_chooses_nothing(open_page):
    made, buffer, _ = graph(networkx.karate_club_graph())
    page = open_page(made, buffer, address="#h=0&q=input:0").page

    def spread() -> tuple[float, float]:
        boxes = read(page, ".node", "one.getBoundingClientRect().x")
        return np.ptp(boxes), boxes[7]

    width, _ = spread()
    page.click("button[aria-label=Nearer]")
    assert spread()[0] == pytest.approx(1.5 * width, rel=5e-3)
    page.click("button[aria-label='All that is shown']")
    width, place = spread()
    page.locator(".plane").scroll_into_view_if_needed()
    corner = page.locator(".plane").bounding_box()
    page.mouse.move(corner["x"] + 8, corner["y"] + 8)
    page.mouse.down()
    page.mouse.move(corner["x"] + 68, corner["y"] + 68, steps=5)
    page.mouse.up()
    assert spread()[0] == pytest.approx(width, rel=1e-3) and spread()[1] == pytest.approx(place + 60, abs=2)
    assert page.url.endswith("#h=0&q=input:0")
    page.mouse.wheel(0, -100)
    assert spread()[0] == pytest.approx(width, rel=1e-3)  # scrolls the page, unless the graph has the focus
    page.focus(".node[tabindex='0']")
    page.mouse.wheel(0, -100)
    page.wait_for_timeout(200)
    assert spread()[0] > 1.1 * width


def test_a_large_graph_says_what_it_draws_and_stays_quick(open_page):
    large = networkx.barabasi_albert_graph(2708, 2, seed=1)
    arrays = views.Arrays()
    edges = np.array([*large.edges, *((b, a) for a, b in large.edges)], np.int32)
    xy = np.random.default_rng(0).random((2708, 2)).round(4)
    made = text_set([f"paper {i}" for i in large], kind="graph")
    made |= {"xy": xy.tolist(), "edges": edges.tolist(), "classes": None}
    maps, weights = views.edge_map(arrays, edges, 2708, 2, name="encoder 1", layer=1)
    given = {"name": "A", "caption": "", "answer": "", "sets": {"input": made}, "maps": [maps]}
    page = open_page(*finished([given], arrays), address="#h=0&q=input:2000").page
    words = page.inner_text(".graph .drawn")
    assert "2,708 nodes" in words and "120 are drawn in full" in words
    assert page.locator(".node").count() == 120
    took = page.evaluate(
        "() => { const start = performance.now(); document.querySelector('.node:not([aria-selected=true])')"
        ".dispatchEvent(new MouseEvent('click', { bubbles: true })); return performance.now() - start; }"
    )
    assert took < 1500
    page.goto(page.url.split("#")[0] + "#h=0&q=input:2000&n=1")
    page.wait_for_function("document.querySelector('.graph select').value === '1'")
    assert page.locator(".node").count() == 1 + large.degree(2000)
    by_hand = {int(key): float(weight) for (key, query), weight in zip(edges, weights[0], strict=True) if query == 2000}
    assert {int(line[0]): line[2] for line in lines(page)} == pytest.approx(by_hand, rel=1e-6)
