"""Still pictures of attention: what stands in them is where it belongs, and is the document's numbers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import view_documents as made
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from vsattn.errors import ConfigError
from vsattn.viewing import fonts
from vsattn.viewing.document import Document
from vsattn.viewing.static import draw
from vsattn.viewing.static_choice import views
from vsattn.viewing.static_graph import WIDEST
from vsattn.viewing.static_sheet import Colours, wrapped

pytestmark = [
    pytest.mark.filterwarnings("ignore::vsattn.viewing.fonts.MissingGlyphs"),
    pytest.mark.filterwarnings("ignore:Glyph"),
]


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """Draw a document and return its figure."""
    kept: list[Figure] = []
    save = fonts.save

    def saved(figure: Figure, path: Path, **options: Any) -> Path:
        kept.append(figure)
        return save(figure, path, **options)

    monkeypatch.setattr(fonts, "save", saved)

    def figure(document: Document, **options: Any) -> Figure:
        draw(document, tmp_path / "a.png", **options)
        return kept[-1]

    return figure


def document(**options: Any) -> Document:
    return Document(*made.document(**options))


def maps(of: Document, which: int = 0) -> dict[str, dict[str, Any]]:
    return {found["id"]: found for found in of.data["inputs"][which]["maps"]}


def polygons(axis: Axes) -> PolyCollection:
    (found,) = [each for each in axis.collections if isinstance(each, PolyCollection)]
    return found


def matrices(figure: Figure, rows: int, columns: int) -> list[Axes]:
    """The axes of large matrices, which have ticks."""
    shape = (rows, columns)
    return [
        axis for axis in figure.axes if axis.images and axis.images[0].get_array().shape == shape and axis.get_xlabel()
    ]


def said(figure: Figure) -> str:
    return "\n".join(text.get_text() for text in figure.findobj(Text))


def edge_document(*, prefix: int = 0, n: int = 12, both: bool = False) -> tuple[Document, np.ndarray, list[np.ndarray]]:
    """A graph, its edges (E, 2) as key, query, and the weights (H, E) of one or two inputs."""
    arrays, (nodes, edges) = made.Arrays(), made.graph_set(n)
    base, _ = made.document(kind="graph")
    nodes |= {"labels": ["[CLS]"] * prefix + nodes["labels"], "num_prefix": prefix, "edges": (edges + prefix).tolist()}
    inputs, weights = [], []
    for i in range(1 + both):
        found, kept = made.edge_map(arrays, edges + prefix, n + prefix, 2, name="encoder 1", layer=1 + i)
        inputs.append({"name": "AB"[i], "caption": "ring", "answer": "", "sets": {"input": nodes}, "maps": [found]})
        found["layer"] = 1
        weights.append(kept)
    return Document({**base, "inputs": inputs}, bytes(arrays.buffer)), edges, weights


def test_text_shows_all_heads_and_the_most_focused_one_large(drawn) -> None:
    given = document(kind="text", n=20, layers=3)
    figure, raw = drawn(given), [found for found in maps(given).values() if found["mode"] == "raw"]
    heads = [(found, head) for found in raw for head in range(4)]
    focused, best = min(heads, key=lambda each: each[0]["measures"]["entropy"][each[1]])
    (large,) = matrices(figure, 20, 20)
    np.testing.assert_array_equal(large.images[0].get_array(), given.matrix(focused, best))
    labels = given.data["inputs"][0]["sets"]["input"]["labels"]
    assert [label.get_text() for label in large.get_xticklabels()] == labels
    assert [label.get_text() for label in large.get_yticklabels()] == labels
    small = [axis for axis in figure.axes if axis.images and axis is not large]
    assert len(small) == 12
    for axis, (found, head) in zip(small, heads, strict=True):
        np.testing.assert_allclose(axis.images[0].get_array(), given.matrix(found, head))
        assert axis.get_title() == f"{head + 1}: {found['measures']['entropy'][head]:.2f}"
        assert (axis.spines["left"].get_linewidth() > 1) == (found is focused and head == best)
    assert given.data["note"] in said(figure) and "linear scale" in said(figure) and "as computed" in said(figure)


def test_cells_have_their_colours_at_their_words(drawn, tmp_path) -> None:
    given = document(kind="text", n=9)
    figure = drawn(given, map="encoder-2", head=1)
    (large,) = matrices(figure, 9, 9)
    picture = np.asarray(Image.open(tmp_path / "a.png").convert("RGB"))
    box, (height, width) = large.get_position(), picture.shape[:2]
    across = ((box.x0 + (box.x1 - box.x0) * (np.arange(9) + 0.5) / 9) * width).astype(int)
    down = ((1 - box.y1 + (box.y1 - box.y0) * (np.arange(9) + 0.5) / 9) * height).astype(int)
    weights = given.matrix(maps(given)["encoder-2"], 1)
    expected = colormaps["Blues"](weights / weights.max())[..., :3] * 255
    assert np.abs(picture[np.ix_(down, across)] - expected).max() < 2
    for axis, places in ((large.get_xticklabels(), across), (large.get_yticklabels(), down)):
        extents = [label.get_window_extent().transformed(figure.transFigure.inverted()) for label in axis]
        if axis[0].get_rotation():
            middles = [(each.x0 + each.x1) / 2 * width for each in extents]
        else:
            middles = [(1 - (each.y0 + each.y1) / 2) * height for each in extents]
        np.testing.assert_allclose(middles, places, atol=6)


def test_a_query_shades_words_and_has_bars(drawn) -> None:
    given = document(kind="text", n=20)
    words, _, curves = drawn(given, query=5).axes
    found, labels = maps(given)["encoder-2"], given.data["inputs"][0]["sets"]["input"]["labels"]
    row = np.mean([given.row(found, head, 5) for head in range(4)], 0)
    boxes = polygons(words)
    np.testing.assert_allclose(boxes.get_array(), row, rtol=1e-6)
    assert [text.get_text() for text in words.texts] == labels
    for text, path in zip(words.texts, boxes.get_paths(), strict=True):
        low, high = path.vertices.min(0), path.vertices.max(0)
        assert (low < text.get_position()).all() and (text.get_position() < high).all()
    framed = [i for i, edge in enumerate(boxes.get_edgecolor()) if tuple(edge) == to_rgba("#d81b60")]
    assert framed == [5]
    heights = [path.vertices[:, 1].max() for path in polygons(curves).get_paths()]
    np.testing.assert_allclose(heights, row, rtol=1e-6)
    for head in range(4):
        np.testing.assert_allclose(curves.lines[head].get_ydata(), given.row(found, head, 5), rtol=1e-6)
    assert [label.get_text() for label in curves.get_xticklabels()] == labels
    one = polygons(drawn(given, query="animal", head=2, map="encoder-1").axes[0])
    np.testing.assert_array_equal(one.get_array(), given.row(maps(given)["encoder-1"], 2, labels.index("animal")))


def test_a_query_of_levels_and_blocks_knows_its_strongest_keys_exactly(drawn) -> None:
    weights = made.attention((2, 300, 300))
    for options in ({"levels": 7}, {"levels": 15, "block": 4}):
        arrays = made.Arrays()
        found = made.dense_map(arrays, weights, name="encoder 1", **options)
        base, _ = made.document(kind="quantised", n=300)
        base["inputs"][0]["maps"] = [found]
        given = Document(base, bytes(arrays.buffer))
        (view,) = views(given, None, 1, 17)[0]
        top = np.argsort(-weights[1, 17], kind="stable")[:8]
        np.testing.assert_array_equal(view.line()[top], weights[1, 17, top])
        others = np.setdiff1d(np.arange(300), top)
        if "block" in options:
            assert view.line()[others].max() <= weights[1, 17, top[-1]]
        else:
            np.testing.assert_allclose(view.line()[others], weights[1, 17, others], atol=weights[1, 17].max() / 7)
        figure = drawn(given, query=17, head=1)
        np.testing.assert_array_equal(polygons(figure.axes[0]).get_array(), view.line())
        assert "levels of each query's largest" in said(figure)
        assert ("means of blocks" in said(figure)) == ("block" in options)
        size = 75 if "block" in options else 300
        (large,) = matrices(drawn(given, head=1), size, size)
        assert large.get_xlim() == (-0.5, 299.5) and large.get_ylim() == (299.5, -0.5)
        assert large.images[0].get_extent() == [-0.5, 299.5, 299.5, -0.5]


def test_a_translation_is_source_by_target(drawn) -> None:
    given = document(kind="translation", layers=3)
    (large,) = matrices(drawn(given), 6, 9)
    found = maps(given)["cross-3"]
    np.testing.assert_array_equal(large.images[0].get_array(), given.matrix(found, "mean"))
    sets = given.data["inputs"][0]["sets"]
    assert [label.get_text() for label in large.get_xticklabels()] == sets["source"]["labels"]
    assert [label.get_text() for label in large.get_yticklabels()] == sets["target"]["labels"]
    assert (large.get_xlabel(), large.get_ylabel()) == ("source", "target")
    target, source, *_ = drawn(given, query="Straße").axes
    assert [text.get_text() for text in target.texts] == sets["target"]["labels"]
    np.testing.assert_allclose(polygons(source).get_array(), given.matrix(found, "mean")[4], rtol=1e-6)


def test_a_and_b_share_a_scale_and_their_difference_is_signed(drawn) -> None:
    given = document(kind="comparing")
    a, b, difference = matrices(drawn(given, map="encoder-1", head=3), 12, 12)
    first, second = (given.matrix(maps(given, which)["encoder-1"], 3) for which in (0, 1))
    np.testing.assert_array_equal(difference.images[0].get_array(), first - second)
    peak = max(first.max(), second.max())
    assert all((axis.images[0].norm.vmin, axis.images[0].norm.vmax) == (0, peak) for axis in (a, b))
    largest = np.abs(first - second).max()
    assert (difference.images[0].norm.vmin, difference.images[0].norm.vmax) == (-largest, largest)
    assert difference.get_xticklabels()[-1].get_text() == "tired / wide"
    assert len({round(axis.get_position().y0, 9) for axis in (a, b, difference)}) == 1
    figure = drawn(given, query="it", map="encoder-1")
    third = polygons(figure.axes[6])
    rows = [given.matrix(maps(given, which)["encoder-1"], "mean")[8] for which in (0, 1)]
    np.testing.assert_allclose(third.get_array(), rows[0] - rows[1], atol=1e-7)
    for value, colour in zip(third.get_array(), third.get_facecolor(), strict=True):
        assert (colour[2] > colour[0]) == (value > 0)  # blue where A has more


def test_two_texts_show_the_head_that_differs_most(drawn) -> None:
    given = document(kind="comparing")
    changes = {}
    for name, found in maps(given).items():
        if found["mode"] == "raw":
            for head in range(len(found["heads"])):
                pair = [given.matrix(maps(given, which)[name], head) for which in (0, 1)]
                changes[name, head] = float(np.abs(pair[0] - pair[1]).sum())
    name, head = max(changes, key=changes.__getitem__)
    figure = drawn(given)
    shown = [axis.images[0].get_array() for axis in figure.axes if axis.images]
    assert any(np.array_equal(array, given.matrix(maps(given)[name], head)) for array in shown)
    assert f"head {head + 1}" in said(figure)


def test_inputs_that_do_not_fit_have_no_difference(drawn) -> None:
    data, buffer = made.document(kind="comparing")
    arrays = made.Arrays()
    arrays.buffer += buffer
    data["inputs"][1]["sets"]["input"] = made.text_set(["too", "wide"])
    data["inputs"][1]["maps"] = made.encoder_maps(arrays, 2, 2, 4)
    figure = drawn(Document(data, bytes(arrays.buffer)), map="encoder-2")
    assert len(matrices(figure, 12, 12)) == len(matrices(figure, 2, 2)) == 1
    assert "no A − B: “input” has 12 vectors in A and 2 in B" in said(figure).replace("\n", " ")


def test_scales() -> None:
    linear, log = Colours(0.5, False, "linear"), Colours(0.5, True, "log")
    np.testing.assert_allclose(linear.norm([0, 0.25, 0.5]), [0, 0.5, 1])
    np.testing.assert_allclose(log.scaled([0, 5e-5, 5e-3, 0.5, -5e-3, -0.5]), [0, 0, 0.5, 1, -0.5, -1], atol=1e-12)
    np.testing.assert_allclose(log.norm([-0.5, -5e-3, 0, 5e-3, 0.5]), [0, 0.25, 0.5, 0.75, 1])
    places = log.norm(np.array([-0.5, -0.02, 0.02, 0.5]))
    np.testing.assert_allclose(log.norm.inverse(places), [-0.5, -0.02, 0.02, 0.5])
    light = [Colours(1.0, True, "linear").of(value)[:3].sum() for value in np.linspace(0, 1, 11)]
    assert (np.diff(light) < 0).all()  # lightness alone orders them
    assert linear.inks([0.0, 0.5]) == ["black", "white"]


def test_the_logarithmic_scale_is_said_and_used(drawn) -> None:
    given = document(kind="text", n=9)
    figure = drawn(given, map="encoder-1", head=0, scale="log")
    (large,) = matrices(figure, 9, 9)
    weights = given.matrix(maps(given)["encoder-1"], 0)
    expected = np.clip(1 + np.log10(weights / weights.max()) / 4, 0, 1)
    np.testing.assert_allclose(large.images[0].norm(weights), expected, atol=1e-6)
    assert "logarithmic scale down to 0.0001 of the largest" in said(figure)


def test_an_image_under_its_weights(drawn) -> None:
    given = document(kind="image", n=16)
    inside = given.data["inputs"][0]["sets"]["input"]
    plain, covered, _ = drawn(given).axes
    row = given.matrix(maps(given)["encoder-2"], "mean")[0]  # of [CLS]
    cover = polygons(covered)
    np.testing.assert_allclose(cover.get_array(), row[1:], rtol=1e-6)
    for (x, y, w, h), path in zip(inside["boxes"], cover.get_paths(), strict=True):
        assert [*path.vertices.min(0), *path.vertices.max(0)] == [x, y, x + w, y + h]
    assert (plain.get_xlim(), plain.get_ylim()) == ((0, 32), (32, 0)) == (covered.get_xlim(), covered.get_ylim())
    assert plain.images[0].get_array().shape == (32, 32, 3)
    figure = drawn(given, query=7)
    assert {patch.get_xy() for axis in figure.axes[:2] for patch in axis.patches} == {tuple(inside["boxes"][6][:2])}
    assert f"[CLS] {given.matrix(maps(given)['encoder-2'], 'mean')[7, 0]:.4f}" in said(figure)


def test_a_sound_has_time_and_hertz_and_its_weights_below(drawn) -> None:
    given = document(kind="sound", n=30)
    inside = given.data["inputs"][0]["sets"]["input"]
    inside["times"] = [[max(0, start - 0.05), end] for start, end in inside["times"]]  # they overlap
    above, below, _ = drawn(given, query=4).axes
    assert above.get_xlim() == below.get_xlim() == (0, 3.0)
    assert above.get_position().x0 == below.get_position().x0 and above.get_position().x1 == below.get_position().x1
    assert below.get_xlabel() == "time (s)" and above.get_ylabel() == "frequency (Hz)"
    places = {label.get_text(): at for label, at in zip(above.get_yticklabels(), above.get_yticks(), strict=True)}
    assert places == {"0": 0.0, "1000": 0.35, "4000": 0.8}
    assert above.images[0].get_extent() == [0, 3.0, 0, 1] and above.images[0].origin == "upper"
    row = given.matrix(maps(given)["encoder-2"], "mean")[4]
    spans = np.array([[path.vertices[:, 0].min(), path.vertices[:, 0].max()] for path in polygons(below).get_paths()])
    np.testing.assert_allclose([path.vertices[:, 1].max() for path in polygons(below).get_paths()], row, rtol=1e-6)
    np.testing.assert_allclose(spans[1:, 0], spans[:-1, 1])
    np.testing.assert_allclose(spans[5], [(0.5 + 0.55 + 0.0 - 0.025 - 0.05) / 2 + 0.0 - 0.0125 + 0.0, 0.575], atol=0.03)
    mean = polygons(drawn(given).axes[1]).get_array()
    np.testing.assert_allclose(mean, given.matrix(maps(given)["encoder-2"], "mean").mean(0), rtol=1e-6)


@pytest.mark.parametrize("prefix", [0, 1])
def test_a_graph_has_edges_as_wide_as_their_weights(drawn, prefix: int) -> None:
    given, edges, (weights,) = edge_document(prefix=prefix)
    axis = drawn(given).axes[0]
    _, lines = (each for each in axis.collections if isinstance(each, LineCollection))
    mean = weights.mean(0)
    order = np.argsort(mean, kind="stable")
    np.testing.assert_allclose(lines.get_linewidths(), WIDEST * mean[order] / mean.max(), rtol=1e-5)
    np.testing.assert_allclose(lines.get_alpha(), 0.15 + 0.85 * mean[order] / mean.max(), rtol=1e-5)
    xy = np.array(given.data["inputs"][0]["sets"]["input"]["xy"])
    np.testing.assert_allclose(lines.get_segments(), xy[edges[order]], atol=0.004)
    legend = [text.get_text() for text in axis.get_legend().get_texts()]
    assert legend[:2] == ["odd", "even"] and legend[2] == f"weight {mean.max():.2g}"
    assert {text.get_text() for text in axis.texts} == {f"node {i + 1}" for i in range(12)}


def test_a_query_of_a_graph_shows_its_neighbourhood(drawn) -> None:
    given, edges, both = edge_document(both=True)
    for axis, weights, signed in zip(
        drawn(given, query="node 4").axes, (*both, both[0] - both[1]), (False, False, True), strict=True
    ):
        _, lines = (each for each in axis.collections if isinstance(each, LineCollection))
        own = edges[:, 1] == 3
        mean = weights.mean(0)[own]
        peak = np.abs(mean).max() if signed else max(each.mean(0)[own].max() for each in both)
        np.testing.assert_allclose(sorted(lines.get_linewidths()), sorted(WIDEST * np.abs(mean) / peak), rtol=1e-5)
        joined = {int(node) for edge in edges if 3 in edge for node in edge}
        assert {text.get_text() for text in axis.texts} == {f"node {node + 1}" for node in joined}


@pytest.mark.parametrize("kind", ["text", "vectors", "image", "sound", "graph", "translation", "comparing"])
@pytest.mark.parametrize("asked", [False, True])
def test_nothing_is_cut_off_or_drawn_over(drawn, kind: str, asked: bool) -> None:
    for n in (1, 5, 80) if kind in ("text", "sound") else (None,):
        given = document(kind=kind, n=n)
        longest = "Donaudampfschifffahrtsgesellschaftskapitänsmützenständer WWWWWWWWWWWWWWWWWWWWWWWW " * 2
        for one in given.data["inputs"]:
            one["caption"], one["answer"] = longest * 4, longest
            for each in one["sets"].values():
                each["labels"][-1] = longest
        check(drawn(given, query=0 if asked else None))


def check(figure: Figure) -> None:
    """Everything is on the sheet, and no axes with their labels, nor lines of text, overlap."""
    figure.set_dpi(110)
    figure.canvas.draw()
    wide, high = figure.get_size_inches() * 110
    boxes = [axis.get_tightbbox() for axis in figure.axes] + [text.get_window_extent() for text in figure.texts]
    boxes = [box for box in boxes if box.width and box.height]
    for i, box in enumerate(boxes):
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= wide and box.y1 <= high
        for other in boxes[:i]:
            over = min(box.x1, other.x1) - max(box.x0, other.x0), min(box.y1, other.y1) - max(box.y0, other.y0)
            assert min(over) < 3, (box, other)


def test_long_inputs(drawn) -> None:
    check(drawn(document(kind="text", n=512, layers=2)))
    check(drawn(document(kind="quantised"), query=100))
    given, edges, (weights,) = edge_document(n=2708)
    axis = drawn(given).axes[0]
    widths = np.sort(axis.collections[1].get_linewidths())
    mean = np.sort(weights.mean(0))
    np.testing.assert_allclose(widths / widths.max(), mean / mean.max(), rtol=1e-5)
    assert len(drawn(given, query=5).axes[0].collections[1].get_linewidths()) == (edges[:, 1] == 5).sum()


def test_formats(tmp_path) -> None:
    given = document(kind="text", n=4)
    starts = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF", "PNG": b"\x89PNG"}
    for ending, start in starts.items():
        assert draw(given, tmp_path / f"deep/a.{ending}").read_bytes().startswith(start)
    assert Image.open(draw(given, tmp_path / "b.png", dpi=50)).width < Image.open(tmp_path / "deep/a.png").width / 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"map": "encoder-9"}, "did you mean 'encoder-"),
        ({"head": 4}, "'mean' or a number from 0 to 3"),
        ({"query": 18}, "numbers 0 to 17"),
        ({"query": "anima"}, "did you mean 'animal'"),
        ({"scale": "sqrt"}, "linear, log"),
    ],
)
def test_words_that_mean_nothing(tmp_path, words: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        draw(document(kind="text"), tmp_path / "a.png", **words)
    with pytest.raises(ConfigError, match=r"\.png, \.svg, \.pdf"):
        draw(document(kind="text"), tmp_path / "a.gif")
    assert not list(tmp_path.iterdir())


def test_only_recorded_queries_can_be_asked(drawn, tmp_path) -> None:
    arrays, weights = made.Arrays(), made.attention((2, 3, 12))
    data, _ = made.document(kind="vectors", n=12)
    data["inputs"][0]["maps"] = [made.dense_map(arrays, weights, name="encoder 1") | {"queries": [2, 5, 11]}]
    given = Document(data, bytes(arrays.buffer))
    labels = data["inputs"][0]["sets"]["input"]["labels"]
    (large,) = matrices(drawn(given), 3, 12)
    assert [label.get_text() for label in large.get_yticklabels()] == [labels[i] for i in (2, 5, 11)]
    np.testing.assert_allclose(polygons(drawn(given, query=5).axes[0]).get_array(), weights[:, 1].mean(0), rtol=1e-6)
    with pytest.raises(ConfigError, match="recorded are 2, 5, 11"):
        draw(given, tmp_path / "b.png", query=3)


def test_maps_without_measures(drawn) -> None:
    given = document(kind="text", n=6)
    for found in maps(given).values():
        found["measures"] = None
    for name in (None, "rollout-2", "relevance-2"):
        figure = drawn(given, map=name)
        found = maps(given)[name or "encoder-1"]
        (large,) = matrices(figure, 6, 6)
        np.testing.assert_array_equal(large.images[0].get_array(), given.matrix(found, 0))
        assert name is None or said(figure).count(found["mode"]) == 1


def test_lines_of_words() -> None:
    def lines(text: str, width: float) -> list[str]:
        return wrapped(text, width, fonts.columns)

    assert lines("one two three", 7) == ["one two", "three"]
    assert lines("x" * 10 + " y", 4) == ["xxxx", "xxxx", "xx y"]
    assert lines("中文中文中文", 5) == ["中文", "中文", "中文"]
    assert lines("", 5) == [] and lines("中", 1) == ["中"]


def test_loads_neither_torch_nor_matplotlib_nor_pyplot(tmp_path) -> None:
    Path(tmp_path / "document.json").write_text(document(kind="text", n=3).to_json())
    code = (
        "import sys; from vsattn.viewing.static import draw; from vsattn.viewing.document import Document\n"
        "print(*{'torch', 'matplotlib', 'lightning', 'hydra'} & set(sys.modules))\n"
        "draw(Document.read('document.json'), 'a.png')\n"
        "print(*{'torch', 'matplotlib.pyplot', 'lightning', 'hydra'} & set(sys.modules))"
    )
    environment = {"PYTHONPATH": str(Path(__file__).parents[1]), "HOME": str(tmp_path), "PATH": ""}
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path, env=environment
    )
    assert found.stdout == "\n\n"
