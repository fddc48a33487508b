"""Documents of attention: every number is the model's, whatever the modality; sizes and errors are as stated."""

from __future__ import annotations

import html.parser
import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from view_schema import check, opened

import vsattn
from vsattn import record
from vsattn.decoders import RecurrentDecoder, TransformerDecoder
from vsattn.encoder_decoder import EncoderDecoder
from vsattn.encoders import (
    ConvEncoder,
    DiffusionEncoder,
    Identity,
    InducedEncoder,
    LatentEncoder,
    RecurrentEncoder,
    TransformerEncoder,
)
from vsattn.errors import ConfigError, DataError
from vsattn.examples.points import PointCloud
from vsattn.examples.series import TimeSeries
from vsattn.heads import AttentionHead, ClsHead, CtcHead, MeanHead, PoolingHead, VectorHead
from vsattn.measures import relevance, rollout
from vsattn.model import Model
from vsattn.predictor import Predictor
from vsattn.tokenizers import (
    AudioFrames,
    Characters,
    ConvStem,
    Graph,
    GraphNodes,
    Patches,
    Pixels,
    Text,
    TextPairs,
    Waves,
    WordPieces,
    Words,
)
from vsattn.tokenizers.text import BOS, EOS
from vsattn.translator import Translator
from vsattn.viewing.document import CODE, Document
from vsattn.viewing.graphs import neighbourhood
from vsattn.viewing.page import render
from vsattn.viewing.quantise import LADDER, Cells, compressed, from_levels, to_levels, top_k

DIM, CLASSES = 16, ["red", "green </script><b>", "蓝"]
SENTENCE = ["the", "animal", "did", "not", "cross", "the", "street"]
RATE = 8000


def made(tokenizer: Any, items: list[Any], encoder: Any, head: Any, *, sharp: float = 4.0) -> Predictor:
    """An untrained model whose heads differ and are not uniform."""
    torch.manual_seed(0)
    tokenizer.fit(items)
    model = Model(tokenizer.embedder(DIM), encoder(DIM), head(DIM, len(CLASSES)))
    sharpen(model, sharp)
    return Predictor(model, tokenizer, CLASSES)


def sharpen(model: torch.nn.Module, factor: float) -> None:
    for name, weight in model.named_parameters():
        if "query_proj.weight" in name:
            weight.data.mul_(factor)


def translator(decoder: Any, encoder: Any, memory_dim: int = DIM) -> Translator:
    torch.manual_seed(1)
    texts = TextPairs(source=Text(vocab_size=60, min_count=1), target=Text(model="words", split="spaces", min_count=1))
    texts.fit([("we can fish in rivers", "wir können in Flüssen fischen"), ("they fish.", "sie fischen .")])
    embedder = texts.embedder(DIM)
    target = texts.target_embedder(DIM, embedder)
    model = EncoderDecoder(embedder, encoder, decoder, VectorHead(DIM, len(texts.target)), target_embedder=target)
    sharpen(model, 4.0)
    return Translator(model, texts, texts.target.names, config={"task": {"beam_width": 2}})


def graph(nodes: int, seed: int = 0) -> Graph:
    generator = torch.Generator().manual_seed(seed)
    ring = torch.stack([torch.arange(nodes), (torch.arange(nodes) + 1) % nodes])
    chords = torch.randint(nodes, (2, nodes // 2), generator=generator)
    return Graph(torch.rand(nodes, 5, generator=generator), torch.cat([ring, chords], 1))


def clip(seconds: float, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(scale=0.1, size=int(seconds * RATE)).astype(np.float32)


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


two_layers = partial(TransformerEncoder, num_layers=2, num_heads=2)
SOUND = {"sample_rate": RATE, "num_features": 20}
WORDS = [SENTENCE, ["it", "was", "too", "tired"]]
SERIES = [np.random.default_rng(0).normal(size=(9, 3))]
CLOUDS = [np.random.default_rng(0).normal(size=(7, 3))]

#: How a model is made, and what it looks at, by what is particular.
CASES: dict[str, tuple[Any, Any]] = {
    "words": (lambda: made(Words(min_count=1), WORDS, two_layers, VectorHead), SENTENCE),
    "characters, CLS and a register": (
        lambda: made(Characters(min_count=1), WORDS, partial(two_layers, num_prefix=2), ClsHead),
        SENTENCE,
    ),
    "pieces": (
        lambda: made(
            WordPieces(num_layers=2, num_heads=2, hidden_dim=16, min_count=1), WORDS, lambda _: Identity(), VectorHead
        ),
        SENTENCE,
    ),
    "patches": (lambda: made(Patches(patch_size=4), [picture(10, 15)], two_layers, MeanHead), picture(10, 15)),
    "pixels, pooled": (
        lambda: made(Pixels(), [picture(4, 5)], two_layers, partial(AttentionHead, num_heads=2)),
        picture(4, 5),
    ),
    "convolutions, induced": (
        lambda: made(
            ConvStem(widths=[4], strides=[1, 2], pools=[0]),
            [picture(13, 9)],
            partial(InducedEncoder, num_layers=2, num_heads=2, num_inducing=3),
            partial(PoolingHead, num_seeds=2),
        ),
        picture(13, 9),
    ),
    "mel": (lambda: made(AudioFrames(**SOUND), [clip(1)], two_layers, MeanHead), clip(0.7)),
    "mel, written": (lambda: made(AudioFrames(**SOUND), [clip(1)], two_layers, CtcHead), clip(0.7)),
    "mfcc, trimmed": (
        lambda: made(AudioFrames(**SOUND, features="mfcc", trim=30.0), [clip(1)], two_layers, VectorHead),
        np.concatenate([np.zeros(3000, np.float32), clip(0.5), np.zeros(2000, np.float32)]),
    ),
    "raw": (lambda: made(AudioFrames(**SOUND, features="raw"), [clip(1)], two_layers, MeanHead), (clip(0.3), RATE)),
    "waves": (
        lambda: made(Waves(channels=4, position_kernel=4, position_groups=2), [clip(1)], two_layers, MeanHead),
        clip(0.5),
    ),
    "graph": (lambda: made(GraphNodes(), [graph(9)], two_layers, VectorHead), graph(9)),
    "graph, virtual node, global layer": (
        lambda: made(GraphNodes(), [graph(9)], partial(two_layers, num_prefix=1, global_every=2), VectorHead),
        graph(9),
    ),
    "graph, diffusion": (
        lambda: made(GraphNodes(), [graph(9)], partial(DiffusionEncoder, num_heads=(2, 1)), VectorHead),
        graph(9),
    ),
    "series, latent": (
        lambda: made(TimeSeries(), SERIES, partial(LatentEncoder, num_layers=1, num_heads=2, num_latents=9), MeanHead),
        SERIES[0],
    ),
    "points": (lambda: made(PointCloud(), CLOUDS, two_layers, MeanHead), CLOUDS[0]),
    "translation": (
        lambda: translator(TransformerDecoder(DIM, num_layers=2, num_heads=2), two_layers(DIM)),
        "we can fish.",
    ),
    "translation, recurrent": (
        lambda: translator(RecurrentDecoder(DIM, hidden_dim=16), RecurrentEncoder(DIM, 1, cell="gru")),
        ("they can fish", "sie können fischen"),
    ),
}


def raw_maps(data: dict[str, Any], which: int = 0, mode: str = "raw") -> list[dict[str, Any]]:
    return [found for found in data["inputs"][which]["maps"] if found["mode"] == mode]


@pytest.fixture(scope="module")
def sentence() -> vsattn.View:
    return vsattn.view(CASES["words"][0](), SENTENCE)


@pytest.mark.parametrize("name", list(CASES))
def test_the_document_of_each_modality_is_valid_and_holds_exactly_what_was_recorded(name: str) -> None:
    make, item = CASES[name]
    predictor = make()
    before = {key: value.clone() for key, value in predictor.model.state_dict().items()}
    document = vsattn.view(predictor, item).document
    check(document.data, document.buffer)
    assert document.data["precision"] == {"kind": "exact"}
    sets = document.data["inputs"][0]["sets"]
    batch = _batch(predictor, item, sets)
    with torch.inference_mode(), record(predictor.model) as recording:
        predictor.model(batch)
    assert [found["path"] for found in raw_maps(document.data)] == recording.paths
    for found in raw_maps(document.data):
        weights = recording.joined(found["path"])[0].numpy()
        for head in range(len(found["heads"])):
            matrix = document.matrix(found, head)
            n, m = weights.shape[1:]
            assert np.array_equal(matrix[matrix.shape[0] - n :, matrix.shape[1] - m :], weights[head])
            assert not matrix[:, : matrix.shape[1] - m].any()  # prefix vectors that a head does not see
            for query in (0, matrix.shape[0] - 1):
                assert np.array_equal(document.row(found, head, query), matrix[query])
        entropy = -(weights * np.log(np.where(weights > 0, weights, 1))).sum(-1).mean(-1)
        assert found["measures"]["entropy"] == pytest.approx(entropy.tolist(), abs=1e-5)
    assert all(torch.equal(value, before[key]) for key, value in predictor.model.state_dict().items())
    assert all(parameter.grad is None for parameter in predictor.model.parameters())


def _batch(predictor: Predictor, item: Any, sets: dict[str, Any]) -> dict[str, torch.Tensor]:
    if not isinstance(predictor, Translator):
        return predictor.tokenizer.collate([item])
    if isinstance(item, tuple):
        return {**predictor.texts.collate([item[0]]), "target": predictor.texts.targets([item[1]])}
    (found,) = predictor.predict([item])
    ids = [BOS, *found.ids, *[EOS] * found.finished]
    return {**predictor.texts.collate([item]), "target": torch.tensor([ids])}


def test_rollout_and_relevance_are_those_of_the_measures(sentence: vsattn.View) -> None:
    predictor, document = CASES["words"][0](), sentence.document
    batch = predictor.tokenizer.collate([SENTENCE])
    with torch.inference_mode(), record(predictor.model) as recording:
        predictor.model(batch)
    carried = rollout([one.weights for one in recording])
    for found, expected in zip(raw_maps(document.data, mode="rollout"), carried, strict=True):
        assert document.matrix(found, 0) == pytest.approx(expected[0].numpy(), abs=1e-6)
    (found,) = raw_maps(document.data, mode="relevance")
    labels = predictor.model(batch)[0].argmax(-1)
    for vector in range(len(SENTENCE)):
        alone = relevance(predictor.model, batch, targets=torch.tensor([[vector, int(labels[vector])]]))
        assert document.row(found, 0, vector) == pytest.approx(alone.answer[0].numpy(), abs=1e-6)
    details = document.data["inputs"][0]["sets"]["input"]["details"]
    said = predictor.predict([SENTENCE])[0]
    assert details == [f"{one.label} {one.probability:.2f}" for one in said]
    assert document.data["inputs"][0]["answer"] == " ".join(one.label for one in said)


def test_the_relevance_of_one_answer_is_one_row() -> None:
    for name in ("patches", "characters, CLS and a register"):
        make, item = CASES[name]
        predictor = make()
        document = vsattn.view(predictor, item).document
        (found,) = raw_maps(document.data, mode="relevance")
        assert (found["query"], found["shape"][1]) == ("answer", 1)
        expected = relevance(predictor.model, predictor.tokenizer.collate([item])).answer[0]
        assert document.row(found, 0, 0) == pytest.approx(expected.numpy(), abs=1e-6)
        (said,) = predictor.predict([item])
        assert document.data["inputs"][0]["answer"] == f"{said.label} ({said.probability:.2f})"


def test_a_translation_has_its_source_and_target_with_their_ends() -> None:
    make, item = CASES["translation"]
    predictor = make()
    document = vsattn.view(predictor, item).document
    one = document.data["inputs"][0]
    found = predictor.predict([item])[0]
    assert one["answer"] == found.text and one["sets"]["source"]["labels"][-1] == "<eos>"
    assert one["sets"]["written"]["labels"][0] == "<bos>"
    assert one["sets"]["target"]["labels"] == [*found.pieces, *["<eos>"] * found.finished]
    assert one["sets"]["target"]["labels"][:-1] == one["sets"]["written"]["labels"][1:]
    cross = [each for each in one["maps"] if each["part"] == "cross" and each["mode"] == "raw"]
    aligned = predictor.alignment(item, found).weights.numpy()
    assert document.matrix(cross[-1], "mean") == pytest.approx(aligned, abs=1e-6)
    named = {each["key"]: each["name"] for each in one["maps"] if each["mode"] == "relevance"}
    assert named == {"source": "relevance of the source", "written": "relevance of what was written"}
    given = vsattn.view(predictor, (item, "sie können fischen")).document.data["inputs"][0]
    assert given["answer"] == "sie können fischen"
    probabilities = [float(text) for text in given["sets"]["target"]["details"]]
    (scored,) = predictor.score([item], ["sie können fischen"])
    assert np.prod(probabilities) == pytest.approx(np.exp(scored.log_prob), abs=0.02)
    nothing = vsattn.view(predictor, "").document
    check(nothing.data, nothing.buffer)
    assert nothing.data["inputs"][0]["sets"]["source"]["labels"] == ["<eos>"]


def test_pieces_of_words_are_readable() -> None:
    predictor = CASES["translation"][0]()
    labels = vsattn.view(predictor, "we can fish. rivers").document.data["inputs"][0]["sets"]["source"]["labels"]
    assert "".join(f" {label}" for label in labels).replace(" ##", "").split()[:3] == ["we", "can", "fish"]
    assert "." in labels and not any("▁" in label for label in labels)


def test_pictures_and_times_are_where_the_vectors_are() -> None:
    found = vsattn.view(CASES["patches"][0](), picture(10, 15)).document.data["inputs"][0]["sets"]["input"]
    assert found["grid"] == [3, 4] and found["boxes"][-1] == [12, 8, 3, 2]
    assert np.abs(np.asarray(opened(found["picture"])).astype(int) - picture(10, 15)).max() <= 1
    found = vsattn.view(CASES["convolutions, induced"][0](), picture(13, 9)).document.data["inputs"][0]["sets"]["input"]
    assert found["grid"] == [4, 3] and found["boxes"][0] == [0, 0, 4, 4] and found["boxes"][-1] == [8, 12, 1, 1]
    tone = np.sin(2 * np.pi * 1000 * np.arange(RATE) / RATE).astype(np.float32)
    sound = np.concatenate([np.zeros(RATE, np.float32), tone])  # a second of nothing, then one of 1,000 Hz
    predictor = CASES["mel"][0]()
    found = vsattn.view(predictor, sound, relevance=False).document.data["inputs"][0]["sets"]["input"]
    assert found["duration"] == 2.0
    assert np.array(found["times"])[:, 0] == pytest.approx(predictor.tokenizer.borders(len(found["times"]))[:-1])
    pixels = np.asarray(opened(found["spectrogram"]))
    height = dict(map(tuple, found["ticks"]))[1000.0]
    row = int((1 - height) * pixels.shape[0])
    loud = pixels[row, pixels.shape[1] // 2 + 3 :]
    assert loud.min() > 200 and pixels[:, : pixels.shape[1] // 2 - 3].max() < 60 and pixels[0].max() < 160


def test_a_graph_shows_its_edges_and_a_large_one_what_is_around_a_node() -> None:
    names = [f"node <{i}>" for i in range(9)]
    document = vsattn.view(CASES["graph, virtual node, global layer"][0](), graph(9), names=names).document
    one = document.data["inputs"][0]
    found = one["sets"]["input"]
    assert found["labels"] == ["[CLS]", *names] and found["classes"] == [
        d.rsplit(" ", 1)[0] for d in found["details"][1:]
    ]
    assert min(end for edge in found["edges"] for end in edge) == 1
    by_edges, dense = raw_maps(document.data)
    assert "edges" in by_edges and "edges" not in dense
    key, query, weights = document.edges(by_edges, 0)
    assert np.bincount(query, weights) == pytest.approx(np.ones(10), abs=1e-5)
    assert {(k, q) for k, q in zip(key.tolist(), query.tolist(), strict=True) if k and q} == {
        (k, q) for k, q in map(tuple, found["edges"])
    }
    large = graph(700)
    predictor = made(GraphNodes(), [large], two_layers, VectorHead)
    document = vsattn.view(predictor, large, node=5, hops=2).document
    check(document.data, document.buffer)
    found = document.data["inputs"][0]["sets"]["input"]
    whole = predictor.tokenizer.collate([large])
    expected = {5}
    for _ in range(2):
        expected |= {k for k, q in whole["edge_index"].T.tolist() if q in expected}
    assert found["labels"] == [str(node) for node in sorted(expected)] and "700 nodes" in document.data["remarks"][0]
    said = predictor.predict([large])[0][5]
    assert document.data["inputs"][0]["answer"].startswith(f"5: {said.label} {said.probability:.2f} (all: ")
    with torch.inference_mode(), record(predictor.model) as recording:
        predictor.model(whole)
    place = found["labels"].index("5")
    for each, one in zip(raw_maps(document.data), recording, strict=True):
        assert document.row(each, 1, place) == pytest.approx(one.dense()[0, 1, 5, sorted(expected)].numpy(), abs=1e-7)
    assert len(raw_maps(document.data, mode="relevance")[0]["queries"] or expected) >= 1
    index = whole["edge_index"].numpy()
    assert len(neighbourhood(index, 700, 5, 50, most=20)) == 20
    default = vsattn.view(predictor, large, relevance=False).document.data["inputs"][0]["sets"]["input"]
    assert "0" in default["labels"] and len(default["labels"]) < 40


def test_an_adapter_describes_its_own_items() -> None:
    class Days(TimeSeries):
        def describe(self, item: Any) -> dict[str, Any]:
            return {"kind": "text", "labels": [f"day {i}" for i in range(len(item) - self.lacking)]}

        lacking = 0

    predictor = made(Days(), SERIES, two_layers, MeanHead)
    found = vsattn.view(predictor, SERIES[0]).document.data["inputs"][0]["sets"]["input"]
    assert found["kind"] == "text" and found["labels"][-1] == "day 8"
    predictor.tokenizer.lacking = 1
    with pytest.raises(DataError, match=r"Days.describe\(item\) .* each of 9 vectors .* 8 labels"):
        vsattn.view(predictor, SERIES[0])


def test_layers_heads_and_queries_are_chosen() -> None:
    predictor = CASES["characters, CLS and a register"][0]()
    document = vsattn.view(predictor, SENTENCE, layers=[1], heads=[1], queries=[4, 0]).document
    check(document.data, document.buffer)
    (found,) = raw_maps(document.data)
    assert (found["path"], found["heads"], found["queries"]) == ("encoder.blocks.1.attention", ["2"], [6, 2])
    assert (found["name"], found["layer"]) == ("encoder 2", 2)  # a layer keeps its number where it is shown alone
    with torch.inference_mode(), record(predictor.model) as recording:
        predictor.model(predictor.tokenizer.collate([SENTENCE]))
    expected = recording["encoder.blocks.1.attention"].weights[0, 1, [6, 2]].numpy()
    assert np.array_equal(document.matrix(found, 0), expected)
    words = CASES["words"][0]()
    (found,) = raw_maps(vsattn.view(words, SENTENCE, queries=[3]).document.data, mode="relevance")
    assert found["queries"] == [3] and found["shape"] == [1, 1, 7]
    for wrong in ({"layers": [7]}, {"heads": [9]}, {"queries": [7]}, {"queries": [1, 1]}, {"budget_mb": 0}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            vsattn.view(predictor, SENTENCE, **wrong)


def test_two_inputs_of_a_pair() -> None:
    predictor = CASES["words"][0]()
    document = vsattn.view(predictor, SENTENCE, other=["it", "was", "tired"]).document
    check(document.data, document.buffer)
    assert [len(one["sets"]["input"]["labels"]) for one in document.data["inputs"]] == [7, 3]
    alone = vsattn.view(predictor, ["it", "was", "tired"]).document
    for pair in zip(raw_maps(document.data, 1), raw_maps(alone.data), strict=True):
        assert pair[0]["id"] == pair[1]["id"]
        assert np.array_equal(document.matrix(pair[0], 0), alone.matrix(pair[1], 0))


def test_an_item_is_shown_as_it_is_in_a_padded_batch() -> None:
    predictor = CASES["words"][0]()
    document = vsattn.view(predictor, SENTENCE[:4]).document
    with torch.inference_mode(), record(predictor.model) as recording:
        predictor.model(predictor.tokenizer.collate([SENTENCE, SENTENCE[:4]]))
    for found, one in zip(raw_maps(document.data), recording, strict=True):
        assert document.matrix(found, 0) == pytest.approx(one.weights[1, 0, :4, :4].numpy(), abs=1e-6)


def test_few_vectors_and_none() -> None:
    predictor = CASES["words"][0]()
    document = vsattn.view(predictor, ["it"]).document
    check(document.data, document.buffer)
    assert document.matrix(raw_maps(document.data)[0], 0).tolist() == [[1.0]]
    with pytest.raises(DataError, match="nothing to look at"):
        vsattn.view(predictor, [])
    with pytest.raises(DataError, match="split it first"):
        vsattn.view(predictor, "the animal")
    with pytest.raises(DataError, match=r"there is no picture nowhere\.png"):
        vsattn.view(CASES["patches"][0](), "nowhere.png")
    with pytest.raises(DataError, match="is no text"):
        vsattn.view(CASES["translation"][0](), 7)


def test_models_without_attention_say_so() -> None:
    predictor = made(Patches(patch_size=4), [picture(8, 8)], partial(ConvEncoder, num_layers=1), MeanHead)
    with pytest.raises(ConfigError, match=r"no attention to look at: its encoder is ConvEncoder.*encoder=transformer"):
        vsattn.view(predictor, picture(8, 8))
    pooled = made(Patches(patch_size=4), [picture(8, 8)], partial(ConvEncoder, num_layers=1), AttentionHead)
    document = vsattn.view(pooled, picture(8, 8)).document
    check(document.data, document.buffer)
    assert [found["part"] for found in document.data["inputs"][0]["maps"]] == ["pool"]
    assert "no relevance: ConvEncoder" in document.data["remarks"][0]


# What is lost.


@pytest.mark.parametrize("levels", LADDER[1:])
def test_what_levels_lose_is_bounded(levels: int) -> None:
    random = np.random.default_rng(levels)
    for scale in (0.0, 0.5, 3.0, 30.0):
        weights = torch.softmax(torch.from_numpy(random.normal(scale=scale, size=(2, 9, 33))).float(), -1).numpy()
        weights[0, 3] = 0.0  # a query that sees nothing
        values, largest = to_levels(weights, levels)
        back = from_levels(values, largest, levels)
        assert np.array_equal(largest, weights.max(-1)) and not back[0, 3].any()
        assert (np.abs(back - weights) <= largest[..., None] / levels + 1e-7).all()
        assert np.array_equal(back.max(-1), largest)  # the strongest key is exact
        index, strongest = top_k(weights, 4)
        assert np.array_equal(np.sort(weights, -1)[..., :-5:-1], strongest)
        assert np.array_equal(np.take_along_axis(weights, index, -1), strongest)


def test_blocks_are_means_of_all_their_pairs() -> None:
    weights = np.random.default_rng(0).random((2, 23, 37)).astype(np.float32)
    cells = Cells.of(weights).in_blocks(4, 5)
    for i, j in np.ndindex(6, 8):
        block = weights[:, 4 * i : 4 * i + 4, 5 * j : 5 * j + 5]
        assert cells.values[:, i, j] == pytest.approx(block.mean((1, 2)), abs=1e-6)
    again, once = cells.in_blocks(2, 3), Cells.of(weights).in_blocks(8, 15)
    assert again.values == pytest.approx(once.values, abs=1e-6) and again.blocks == once.blocks == (8, 15)
    assert np.array_equal(again.strongest(3)[1], top_k(weights, 3)[1])


@pytest.mark.parametrize("budget", [0.9, 0.6, 0.4, 0.3, 0.26])
def test_a_smaller_budget_is_kept_and_its_error_is_a_bound(budget: float) -> None:
    words = [f"word{i}" for i in range(150)]
    predictor = made(Words(min_count=1), [words], two_layers, MeanHead, sharp=2.0)
    exact = vsattn.view(predictor, words).document
    view = vsattn.view(predictor, words, budget_mb=budget)
    found = view.document
    check(found.data, found.buffer)
    assert exact.data["precision"] == {"kind": "exact"} and len(view.html) <= budget * 1e6
    bound = found.data["precision"].get("max_error", 0.0)
    for one, whole in zip(found.data["inputs"][0]["maps"], exact.data["inputs"][0]["maps"], strict=True):
        for head in range(len(one["heads"])):
            matrix, expected = found.matrix(one, head), exact.matrix(whole, head)
            if one["blocks"]:
                cells = Cells.of(expected[None].astype(np.float32)).in_blocks(*one["blocks"])
                for query in (0, 77, 149):
                    keys, weights = found.strongest(one, head, query)
                    assert np.array_equal(expected[query, keys], weights) and weights[0] == expected[query].max()
                expected = cells.values[0]
            assert np.abs(matrix - expected).max() <= bound
    with pytest.raises(DataError, match=r"would take .* MB, and budget_mb=0\.05 is allowed"):
        vsattn.view(predictor, words, budget_mb=0.05)


@pytest.mark.parametrize("sharp", [0.0, 1.0, 40.0], ids=["uniform", "untrained", "peaked"])
def test_512_vectors_in_6_layers_of_8_heads_are_a_page_below_5_megabytes(sharp: float) -> None:
    words = [f"word{i}" for i in range(512)]
    predictor = made(
        Words(min_count=1), [words], partial(TransformerEncoder, num_layers=6, num_heads=8), MeanHead, sharp=sharp
    )
    view = vsattn.view(predictor, words)
    maps = raw_maps(view.document.data)
    assert len(maps) == 6 and all(found["shape"] == [8, 512, 512] and found["blocks"] is None for found in maps)
    assert len(view.html.encode()) < 5e6


def test_2048_vectors_are_means_of_blocks_with_the_strongest_keys_exactly() -> None:
    words = [f"word{i}" for i in range(2048)]
    predictor = made(Words(min_count=1), [words], two_layers, MeanHead)
    view = vsattn.view(predictor, words, relevance=False)
    document = view.document
    check(document.data, document.buffer)
    assert len(view.html.encode()) < 5e6
    with torch.inference_mode(), record(predictor.model, layers=[1], queries=[700]) as recording:
        predictor.model(predictor.tokenizer.collate([words]))
    found = raw_maps(document.data)[1]
    assert found["blocks"] == [8, 8] and found["shape"] == [2, 256, 256]
    expected = next(iter(recording)).weights[0, 1, 0]
    keys, weights = document.strongest(found, 1, 700)
    assert weights == pytest.approx(expected.topk(len(weights)).values.numpy(), abs=1e-6)  # of other chunks of work
    assert expected.numpy()[keys] == pytest.approx(weights, abs=1e-6)


def test_the_code_of_a_page_fits_into_what_is_left_for_it(sentence: vsattn.View) -> None:
    page = render(sentence.document.data, sentence.document.buffer)
    packed = len(compressed(sentence.document.buffer)) * 4 / 3 + len(json.dumps(sentence.document.data))
    assert len(page.encode()) - packed < CODE


# How it is shown.


class Frame(html.parser.HTMLParser):
    """Finds the one frame of a notebook's cell."""

    found: dict[str, str | None]
    tags = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found, self.tags = dict(attrs), self.tags + 1


def test_hostile_labels_stay_text() -> None:
    words = ["</script><b>", '"&amp;<!--', "a\nb\x00", "\u202eright", "🎈", "'"]
    predictor = made(Words(min_count=1), [words], two_layers, VectorHead)
    view = vsattn.view(predictor, words)
    check(view.document.data, view.document.buffer)
    assert view.document.data["inputs"][0]["sets"]["input"]["labels"] == words
    assert "</script><b>" not in view.html and view.html.count("<!--") == 0
    frame = Frame()
    frame.feed(view._repr_html_())
    assert frame.tags == 1 and frame.found["srcdoc"] == view.html and "allow-same-origin" not in str(frame.found)
    assert Document.from_json(view.document.to_json()).data == view.document.data


def test_a_view_is_saved_by_its_ending_and_read_again(sentence: vsattn.View, tmp_path: Path) -> None:
    read = Document.read(sentence.save(tmp_path / "deep" / "a.json"))
    assert read.data == sentence.document.data and read.buffer == sentence.document.buffer
    assert sentence.save(tmp_path / "a.html").read_text("utf-8") == sentence.html
    with Image.open(sentence.save(tmp_path / "a.png")) as drawn:
        assert min(drawn.size) > 100
    assert "<svg" in sentence.save(tmp_path / "a.svg").read_text("utf-8")
    with pytest.raises(ConfigError, match=r"ends in \.html, \.json, \.png"):
        sentence.save(tmp_path / "a.gif")
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        sentence.save(tmp_path / "file" / "a.html")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.html", "a.png", "a.svg", "deep", "file"]
    for wrong in ("{}", "no", '{"buffer": "!"}', sentence.document.to_json().replace('"schema":1', '"schema":9')):
        (tmp_path / "file").write_text(wrong)
        with pytest.raises(DataError, match=r"file: this (is no|document)"):
            Document.read(tmp_path / "file")
