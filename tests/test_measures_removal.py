"""Vectors taken away, heads silenced, and what intervals say of it."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from tests.test_measures import model, published, waves
from vsattn import (
    AttentionHead,
    ClsHead,
    Edges,
    InducedEncoder,
    LatentEncoder,
    MeanHead,
    Model,
    TransformerEncoder,
    VectorHead,
    VectorSet,
    silence,
)
from vsattn.encoders import RecurrentEncoder
from vsattn.errors import ConfigError, DataError, ShapeError
from vsattn.measures import (
    Curves,
    Questions,
    ablation,
    ask,
    attributions,
    evenly,
    faithfulness,
    log_probability,
    mean_interval,
    ranks,
    ratio_interval,
    relevance,
    verdicts,
)

DOUBLE = torch.float64
MASK = torch.tensor([[True] * 6, [True] * 4 + [False] * 2])


def sequences() -> VectorSet:
    return VectorSet(
        waves(96).view(2, 6, 8), MASK, torch.arange(6.0)[None, :, None].expand(2, -1, -1), layout="sequence"
    )


# Removal


@pytest.mark.parametrize(
    ("encoder", "head"),
    [
        *[(partial(TransformerEncoder, num_prefix=1), head) for head in (MeanHead, AttentionHead, ClsHead)],
        *[(partial(LatentEncoder, num_latents=3), head) for head in (MeanHead, AttentionHead)],
        *[(partial(InducedEncoder, num_inducing=3), head) for head in (MeanHead, AttentionHead)],
    ],
)
def test_a_vector_taken_away_is_as_if_it_had_never_been_there(encoder: Any, head: Any) -> None:
    made, whole = model(encoder(8, 2, 2), head(8, 3)), sequences()
    questions = ask(made, {"set": whole})
    assert torch.equal(questions.answer, made({"set": whole}).argmax(-1)) and torch.equal(questions.candidates, MASK)
    keep = torch.tensor([[True, False, True, True, False, True], [False, True, True, True, True, True]])
    found = log_probability(made, questions, keep)
    for row in range(2):
        left = (keep & MASK)[row]
        assert whole.pos is not None
        alone = VectorSet(whole.x[row : row + 1, left], pos=whole.pos[:1, left])
        wanted = made({"set": alone})[0].log_softmax(-1)[questions.answer[row]]
        torch.testing.assert_close(found[row], wanted)
    torch.testing.assert_close(log_probability(made, questions), made({"set": whole}).log_softmax(-1).amax(-1))


def test_the_vector_that_is_asked_about_always_stays() -> None:
    made, asked = model(TransformerEncoder(8, 2, 2, num_prefix=1), VectorHead(8, 3)), torch.tensor([2, 0])
    questions = ask(made, {"set": sequences()}, vector=asked)
    assert not questions.candidates[torch.arange(2), asked].any() and questions.candidates.sum(1).tolist() == [5, 3]
    logits = made({"set": sequences()})[torch.arange(2), asked]
    assert torch.equal(questions.answer, logits.argmax(-1))
    torch.testing.assert_close(log_probability(made, questions), logits.log_softmax(-1).amax(-1))
    assert questions.targets is not None and questions.targets.tolist() == [
        [2, int(questions.answer[0])],
        [0, int(questions.answer[1])],
    ]


def test_of_a_graph_the_part_that_reaches_a_node_answers_as_the_whole() -> None:
    generator = torch.Generator().manual_seed(3)
    size, layers = 40, 2
    edges = torch.randint(size, (2, 90), generator=generator).unique(dim=1)
    graph = VectorSet(torch.randn(1, size, 8, generator=generator, dtype=DOUBLE), structure=Edges(edges))
    made, nodes = model(TransformerEncoder(8, layers, 2), VectorHead(8, 3)), torch.tensor([0, 7, 13, 39])
    questions = ask(made, {"set": graph}, vector=nodes)
    sizes = questions.real.sum(1)
    assert questions.vectors.num_vectors < size and len(set(sizes.tolist())) > 1
    whole = made({"set": graph})[0, nodes].log_softmax(-1)
    assert torch.equal(questions.answer, whole.argmax(-1))
    torch.testing.assert_close(log_probability(made, questions), whole.amax(-1))
    # Taken out of the part is taken out of the whole.
    assert questions.vector is not None
    gone = int(questions.candidates[1].nonzero()[0])
    x = questions.vectors.x[1, gone]
    mask = ~(graph.x[0] == x).all(-1)[None]
    wanted = made({"set": graph.replace(mask=mask)})[0, nodes[1]].log_softmax(-1)[questions.answer[1]]
    keep = torch.ones_like(questions.real)
    keep[1, gone] = False
    torch.testing.assert_close(log_probability(made, questions, keep)[1], wanted)


def test_a_global_layer_reaches_all_of_a_graph() -> None:
    graph = VectorSet(waves(40).view(1, 5, 8), structure=Edges(torch.tensor([[0, 1], [1, 0]])))
    made = model(TransformerEncoder(8, 2, 2, global_every=2), VectorHead(8, 3))
    assert ask(made, {"set": graph}, vector=torch.tensor([0, 4])).real.all()
    bound = model(TransformerEncoder(8, 2, 2), VectorHead(8, 3))
    assert ask(bound, {"set": graph}, vector=torch.tensor([0, 4])).real.sum(1).tolist() == [2, 1]


def test_a_translation_is_judged_by_the_mean_over_its_tokens() -> None:
    made = published()
    batch = {
        "source": torch.tensor([[3, 5, 7, 4, 2], [4, 2, 0, 0, 0]]),
        "target": torch.tensor([[1, 6, 8, 2], [1, 3, 2, 0]]),
    }
    questions = ask(made, batch)
    found = log_probability(made, questions, torch.tensor([[True, True, False, True, True], [True] * 5]))
    logits = made({"source": torch.tensor([[4, 2]]), "target": torch.tensor([[1, 3, 2]])})[0].log_softmax(-1)
    torch.testing.assert_close(found[1], (logits[0, 3] + logits[1, 2]) / 2)
    assert questions.candidates.sum(1).tolist() == [5, 2]
    nothing = log_probability(made, questions, torch.zeros(2, 5, dtype=torch.bool))
    assert bool(nothing.isfinite().all())


def test_what_removal_refuses() -> None:
    batch = {"set": sequences()}
    with pytest.raises(ConfigError, match="RecurrentEncoder cannot do without vectors in the midst"):
        ask(model(RecurrentEncoder(8, 1, hidden_dim=4), MeanHead(8, 3)), batch)
    with pytest.raises(ShapeError, match="VectorHead answers per vector"):
        ask(model(TransformerEncoder(8, 1, 2), VectorHead(8, 3)), batch)
    with pytest.raises(ShapeError, match="MeanHead answers per set: vector is None"):
        ask(model(TransformerEncoder(8, 1, 2), MeanHead(8, 3)), batch, vector=torch.tensor([0, 0]))


# Orders


def test_evenly_spaced_by_hand() -> None:
    candidates = torch.tensor([[True] * 8, [True, False, True, True, True, False, False, False]])
    order = ranks(evenly(candidates), candidates).argsort(1)
    assert order[0].tolist() == [4, 2, 6, 1, 5, 3, 7, 0]
    assert order[1, :4].tolist() == [3, 2, 4, 0]  # among four, as 2, 1, 3, 0


@pytest.mark.parametrize("count", [1, 2, 3, 7, 31, 100])
def test_evenly_spaced_vectors_leave_no_large_gap(count: int) -> None:
    candidates = torch.ones(1, count, dtype=torch.bool)
    place = ranks(evenly(candidates), candidates)[0].argsort()
    assert sorted(place.tolist()) == list(range(count))
    for taken in range(1, count + 1):
        marks = np.sort(place[:taken].numpy())
        gaps = np.diff([-1, *marks, count])
        assert gaps.max() <= 2 * count / taken + 2


def test_equal_values_come_in_an_order_drawn_by_the_seed_and_others_last() -> None:
    values, candidates = torch.tensor([[0.0, 2, 0, 0, 9, 0]]).expand(200, -1), torch.tensor([[1, 1, 1, 1, 0, 1]]).bool()
    found = ranks(values, candidates.expand(200, -1), seed=1)
    assert bool((found[:, 1] == 0).all()) and bool((found[:, 4] == 5).all())
    first = found[:, [0, 2, 3, 5]].double().mean(0)
    assert bool((first - 2.5).abs().max() < 0.4)
    assert torch.equal(found, ranks(values, candidates.expand(200, -1), seed=1))
    assert not torch.equal(found, ranks(values, candidates.expand(200, -1), seed=2))


class Pointed(nn.Module):
    """An embedder that puts a mark on one vector of each set, whose other entries alone say the class."""

    def forward(self, batch: dict[str, Any]) -> VectorSet:
        x = torch.randn(60, 12, 4, generator=torch.Generator().manual_seed(0), dtype=DOUBLE) * 0.1
        x[..., 0] = -1.0
        place = torch.arange(60) % 12
        x[torch.arange(60), place, 0] = 3.0
        x[torch.arange(60), place, 1 + torch.arange(60) % 2] = 3.0
        return VectorSet(x, layout="sequence")


def pointed() -> Model:
    """A model whose head looks at the marked vector, and whose encoder mixes nothing."""
    made = Model(Pointed(), TransformerEncoder(4, 1, 1), AttentionHead(4, 2)).double().eval()
    with torch.no_grad():
        block = made.encoder.blocks[0]
        for linear in (block.attention.out_proj, block.feed_forward.down):
            linear.weight.zero_()
            linear.bias.zero_()
        made.head.query.copy_(torch.tensor([[[[4.0, 0, 0, 0]]]]))
        made.head.classify.weight.copy_(torch.tensor([[0.0, 3, -3, 0], [0.0, -3, 3, 0]]))
        made.head.classify.bias.zero_()
    return made


def test_inference_mode_changes_nothing_and_nothing_is_left_behind() -> None:
    writer, labels = published(), model(TransformerEncoder(8, 2, 2), VectorHead(8, 3))

    def found() -> list[Tensor]:
        batch = {"source": torch.tensor([[3, 5, 7, 4, 2], [4, 2, 0, 0, 0]]), "target": torch.tensor([[1, 6, 8, 2]] * 2)}
        written = faithfulness(writer, [ask(writer, batch)])
        labelled = faithfulness(labels, [ask(labels, {"set": whole}, vector=torch.tensor([2, 0]))])
        curves = [torch.stack([*one.deletion.values()]) for one in (written, labelled)]
        return [*curves, relevance(writer, batch).answer]

    whole = sequences()
    made, questions = published(), {"source": torch.tensor([[3, 5, 2]]), "target": torch.tensor([[1, 6, 2]])}
    weights, state = [one.clone() for one in made.parameters()], torch.get_rng_state()
    faithfulness(made, [ask(made, questions)])
    assert all(one.grad is None and torch.equal(one, old) for one, old in zip(made.parameters(), weights, strict=True))
    assert torch.equal(state, torch.get_rng_state())
    outside = found()
    with torch.inference_mode():
        inside = found()
    assert all(torch.equal(one, other) for one, other in zip(outside, inside, strict=True))


def test_a_method_that_names_what_decides_beats_chance_and_one_that_does_not_does_not() -> None:
    made = pointed()
    questions = ask(made, {})
    place = torch.arange(60) % 12
    found = attributions(made, questions)
    assert torch.equal(found["attention"].argmax(1), place) and torch.equal(found["relevance"].argmax(1), place)
    curves = faithfulness(made, [questions], methods=["attention", "relevance"])
    judged = {one.method: one for one in verdicts(curves)}
    assert judged["attention"].sentence() == "attention beats random order in all four measures"
    assert judged["relevance"].sentence("uniform") == "relevance beats uniform order in all four measures"
    whole, nothing = (
        log_probability(made, questions).exp(),
        log_probability(made, questions, ~questions.candidates).exp(),
    )
    for name in curves.deletion:  # all start and end at the same answers
        torch.testing.assert_close(curves.deletion[name][:, 0], whole)
        torch.testing.assert_close(curves.deletion[name][:, -1], nothing)
        torch.testing.assert_close(curves.insertion[name][:, 0], nothing)
        torch.testing.assert_close(curves.insertion[name][:, -1], whole)
    torch.testing.assert_close(curves.insertion["attention"][:, 1], whole, atol=0.05, rtol=0)  # one of twelve is enough
    again = faithfulness(made, [questions], methods=["attention"])
    assert torch.equal(again.deletion["random"], curves.deletion["random"])
    other = faithfulness(made, [questions], methods=["attention"], seeds=[7])
    assert not torch.equal(other.deletion["random"], curves.deletion["random"])


def test_the_last_layer_of_a_model_without_direct_looks_is_refused() -> None:
    made = model(LatentEncoder(8, 2, 2, num_latents=3), MeanHead(8, 3))
    questions = ask(made, {"set": sequences()})
    assert set(attributions(made, questions, ["rollout", "relevance"])) == {"rollout", "relevance"}
    with pytest.raises(ConfigError, match="no vector looks at another by itself"):
        attributions(made, questions)
    with pytest.raises(ConfigError, match="there is no saliency; attention, rollout, relevance are"):
        attributions(made, questions, ["saliency"])


# Curves


def curves(deletion: list[float], insertion: list[float], random: tuple[list[float], list[float]]) -> Curves:
    def many(values: list[float]) -> Tensor:
        return torch.tensor(values, dtype=DOUBLE).expand(3, -1)

    by_name = [
        {"relevance": many(a), "random": many(b), "uniform": many(b)} for a, b in zip((deletion, insertion), random)
    ]
    return Curves((0.0, 0.1, 0.5, 1.0), *by_name, counts=torch.tensor([10, 10, 10]))


def test_comprehensiveness_sufficiency_and_areas_by_hand() -> None:
    """The first two are means of drops over shares, as `_instances_aopc` of jayded/eraserbenchmark takes them."""
    found = curves([0.9, 0.5, 0.3, 0.2], [0.2, 0.6, 0.8, 0.9], ([0.9, 0.8, 0.6, 0.2], [0.2, 0.3, 0.5, 0.9]))
    measured = {name: float(value[0]) for name, value in found.measures("relevance").items()}
    assert measured == {
        "comprehensiveness": pytest.approx((0.4 + 0.6) / 2),
        "sufficiency": pytest.approx((0.3 + 0.1) / 2),
        "deletion": pytest.approx(0.1 * 0.7 + 0.4 * 0.4 + 0.5 * 0.25),
        "insertion": pytest.approx(0.1 * 0.4 + 0.4 * 0.7 + 0.5 * 0.85),
    }
    judged = verdicts(found)[0]
    better = judged.against["random"]["sufficiency"]  # less is better
    assert (better.value, better.low, better.high) == tuple([pytest.approx(0.5 - 0.2)] * 3)
    assert judged.sentence() == "relevance beats random order in all four measures"


def test_what_is_said_of_a_method_that_is_worse_or_partly_so() -> None:
    worse = verdicts(curves([0.9, 0.8, 0.6, 0.2], [0.2, 0.3, 0.5, 0.9], ([0.9, 0.5, 0.3, 0.2], [0.2, 0.6, 0.8, 0.9])))[
        0
    ]
    assert worse.sentence() == (
        "relevance does not beat random order: worse in comprehensiveness, sufficiency, deletion, insertion"
    )
    half = verdicts(curves([0.9, 0.5, 0.3, 0.2], [0.2, 0.3, 0.5, 0.9], ([0.9, 0.8, 0.6, 0.2], [0.2, 0.3, 0.5, 0.9])))[0]
    assert half.sentence() == (
        "relevance against random order: better in comprehensiveness, deletion; no different in sufficiency, insertion"
    )


def test_what_faithfulness_refuses() -> None:
    made = pointed()
    for wrong in ([0.0, 1.0], [0.1, 0.5, 1.0], [0.0, 0.5, 0.2, 1.0], [0.0, 0.5]):
        with pytest.raises(ConfigError, match="fractions ascend from 0 to 1"):
            faithfulness(made, [], fractions=wrong)
    with pytest.raises(ConfigError, match="seeds names at least one random order"):
        faithfulness(made, [], seeds=[])
    with pytest.raises(DataError, match="there is no question"):
        faithfulness(made, [])


# Ablation and intervals


def test_a_head_that_carries_nothing_is_worth_nothing_and_one_that_carries_all_is_worth_all() -> None:
    made = pointed()
    wanted = torch.arange(60) % 2

    def judge() -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            return (made({}).argmax(-1) == wanted).long(), torch.ones(60, dtype=torch.long)

    whole, found = ablation(made, judge)
    assert whole == 1.0 and [(one.path, one.head) for one in found] == [("encoder.blocks.0.attention", 0), ("head", 0)]
    nothing, everything = found
    assert (nothing.score, nothing.change, nothing.low, nothing.high) == (1.0, 0.0, 0.0, 0.0)
    assert everything.score == 0.5 and everything.change == -0.5  # all are called the first class
    assert (nothing.says, nothing.p, everything.says) == ("not told", 1.0, "needed")
    assert everything.p == pytest.approx(2 * stats.binomtest(30, 30).pvalue)  # of two heads
    assert everything.low < -0.35 and -0.65 < everything.high < 0
    with silence(made, {"head": [0]}):
        assert float(judge()[0].double().mean()) == everything.score
    assert float(judge()[0].double().mean()) == 1.0


@pytest.mark.parametrize(
    ("lost", "won", "says"), [(4, 0, "not told"), (6, 0, "not told"), (7, 0, "needed"), (1, 10, "harmful")]
)
def test_few_changed_items_do_not_make_a_head_needed(lost: int, won: int, says: str) -> None:
    """Of 400 items four alone leave 0 out of the bootstrap's interval."""
    made, answers = pointed(), torch.ones(400, dtype=torch.long)
    answers[:won] = 0
    changed = answers.clone()
    changed[:won], changed[won : won + lost] = 1, 0
    runs = iter([answers, changed, changed])
    _, found = ablation(made, lambda: (next(runs), torch.ones_like(answers)))
    for one in found:
        assert one.says == says and (one.low > 0 or one.high < 0)
        assert one.p == pytest.approx(2 * stats.binomtest(lost, lost + won).pvalue)
    with pytest.raises(ConfigError, match="training mode"):
        ablation(made.train(), lambda: (answers, answers))


def test_intervals_are_those_of_scipy() -> None:
    values = torch.randn(80, generator=torch.Generator().manual_seed(1), dtype=DOUBLE) + 0.3
    wanted = stats.bootstrap(
        (values.numpy(),), np.mean, method="percentile", n_resamples=20_000, rng=0
    ).confidence_interval
    assert mean_interval(values) == pytest.approx((wanted.low, wanted.high), abs=0.02)
    assert mean_interval(values, seed=3) == mean_interval(values, seed=3) != mean_interval(values, seed=4)


def test_an_interval_of_a_rate_is_paired_over_items() -> None:
    total = torch.tensor([1, 2, 10, 4] * 10)
    before, after = total.clone(), total - 1
    low, high = ratio_interval(before, after, total)
    draws = np.random.default_rng(0).integers(40, size=(20_000, 40))
    rates = -40 / total.numpy()[draws].sum(1)
    assert (low, high) == pytest.approx(tuple(np.quantile(rates, [0.025, 0.975])), abs=0.006)
    assert ratio_interval(before, before, total) == (0.0, 0.0)
    with pytest.raises(DataError, match="at least one item"):
        ratio_interval(before[:0], after[:0], total[:0])


def test_questions_without_padding_may_lose_any_vector() -> None:
    asked = Questions(VectorSet(torch.zeros(2, 3, 4), num_prefix=1), torch.tensor([0, 1]))
    assert asked.candidates.tolist() == [[False, True, True]] * 2 and len(asked) == 2
    assert torch.equal(asked.targets, asked.answer)  # type: ignore[arg-type]
