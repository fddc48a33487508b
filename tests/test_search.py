"""Searches against enumeration of all outputs, against Hugging Face `generate`, and against one another."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vsattn.decoders import RecurrentDecoder, TransformerDecoder
from vsattn.encoder_decoder import EncoderDecoder
from vsattn.encoders import RecurrentEncoder, TransformerEncoder
from vsattn.errors import ConfigError, ShapeError, VsattnError
from vsattn.heads import VectorHead
from vsattn.search import Ensemble, Hypothesis, MaxLength, beam_search, forced, greedy, sample
from vsattn.tokenizers.text import BOS, EOS, PADDING
from vsattn.tokenizers.text_pairs import TokenEmbedder

TOKENS = (3, 4, 5)
SEEDS = st.integers(0, 2**20)


@dataclass(frozen=True)
class ToyState:
    """The hidden vectors (R, D)."""

    hidden: Tensor

    def select(self, rows: Tensor) -> ToyState:
        return ToyState(self.hidden[rows.flatten()])


class Toy:
    """Random weights: what is likely next depends on the sample and on all tokens before."""

    def __init__(self, seed: int, *, rows: int = 6, bias: tuple[float, ...] = (2.0, 2.0, 0.0)) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.table, self.turn, self.out = (
            torch.randn(n, m, generator=generator, dtype=torch.float64) for n, m in ((rows, 8), (8, 8), (8, rows))
        )
        self.bias = F.pad(torch.tensor(bias, dtype=torch.float64), (0, rows - 3))  # padding and bos would be likely

    def start(self, batch: Tensor) -> ToyState:
        return ToyState(batch)

    def step(self, ids: Tensor, state: ToyState) -> tuple[Tensor, ToyState]:
        hidden = (state.hidden @ self.turn + self.table[ids]).tanh()
        return (hidden @ self.out + self.bias).log_softmax(-1), ToyState(hidden)


class Dice:
    """The same distribution before every token."""

    def __init__(self, *probabilities: float) -> None:
        self.log_probs = torch.tensor(probabilities, dtype=torch.float64).log()

    def start(self, batch: Tensor) -> ToyState:
        return ToyState(batch)

    def step(self, ids: Tensor, state: ToyState) -> tuple[Tensor, ToyState]:
        return self.log_probs.expand(len(ids), -1), state


def drawn(seed: int, count: int) -> Tensor:
    return torch.randn(count, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def most(length: int) -> MaxLength:
    return MaxLength(factor=0.0, extra=length)


def log_probs_of(model: Toy, sample: Tensor, ids: tuple[int, ...]) -> list[float]:
    state, last, found = model.start(sample[None]), BOS, []
    for token in ids:
        log_probs, state = model.step(torch.tensor([last]), state)
        found.append(float(log_probs[0, token]))
        last = token
    return found


def all_outputs(model: Toy, sample: Tensor, limit: int, length_penalty: float) -> list[tuple[bool, float, tuple]]:
    """Return every output, best first: those that end, then those cut at the limit."""
    outputs = []
    for length in range(1, limit + 1):
        for words in itertools.product(TOKENS, repeat=length - 1):
            for last in (EOS, *(TOKENS if length == limit else ())):
                ids = (*words, last)
                score = sum(log_probs_of(model, sample, ids)) / ((5 + length) / 6) ** length_penalty
                outputs.append((last != EOS, -score, words if last == EOS else ids))
    return sorted(outputs)


@pytest.mark.parametrize("length_penalty", [0.0, 0.6, 2.0])
@pytest.mark.parametrize("seed", range(3))
def test_a_beam_as_wide_as_the_space_finds_everything(seed: int, length_penalty: float) -> None:
    model, batch = Toy(seed), drawn(seed, 2)
    found = beam_search(
        model, batch, lengths=[1, 1], width=200, n_best=200, length_penalty=length_penalty, max_length=most(4)
    )
    for row, hypotheses in zip(batch, found, strict=True):
        expected = all_outputs(model, row, 4, length_penalty)
        assert [(not h.finished, h.ids) for h in hypotheses] == [(cut, ids) for cut, _, ids in expected]
        assert [h.score for h in hypotheses] == pytest.approx([-score for _, score, _ in expected])
        for h in hypotheses:
            assert h.log_probs == pytest.approx(log_probs_of(model, row, (*h.ids, EOS) if h.finished else h.ids))
            assert h.log_prob == pytest.approx(sum(h.log_probs))


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.integers(1, 6), st.integers(1, 8), st.sampled_from([0.0, 0.6, 1.0]))
def test_a_sample_alone_equals_itself_in_a_batch(seed: int, width: int, count: int, length_penalty: float) -> None:
    model, batch, lengths = Toy(seed), drawn(seed, count), [1 + (seed >> i) % 5 for i in range(count)]
    options = {"width": width, "n_best": width, "length_penalty": length_penalty, "max_length": MaxLength(1.5, 2)}
    found = beam_search(model, batch, lengths=lengths, **options)
    for i, length in enumerate(lengths):
        assert found[i] == beam_search(model, batch[i : i + 1], lengths=[length], **options)[0]
        for h in found[i]:
            assert len(h.log_probs) <= int(1.5 * length) + 2 and set(h.ids) <= set(TOKENS)
            assert h.finished or len(h.ids) == int(1.5 * length) + 2
        keys = [(not h.finished, -h.score) for h in found[i]]
        assert keys == sorted(keys) and len({h.ids for h in found[i]}) == len(keys) == width
    assert greedy(model, batch, lengths=lengths, max_length=MaxLength(1.5, 2)) == [
        best for (best,) in beam_search(model, batch, lengths=lengths, width=1, max_length=MaxLength(1.5, 2))
    ]


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.integers(1, 5))
def test_a_finished_hypothesis_never_changes(seed: int, width: int) -> None:
    model, batch, before = Toy(seed), drawn(seed, 3), [[], [], []]
    for limit in range(1, 9):
        found = beam_search(model, batch, lengths=[1] * 3, width=width, n_best=width, max_length=most(limit))
        now = [[h for h in of_one if h.finished] for of_one in found]
        for old, new in zip(before, now, strict=True):
            assert set(old) <= set(new) or len(new) == width  # it stays as it was, or only better ones push it out
            assert all(new[place].score >= h.score for place, h in enumerate(old))
        before = now


def test_the_mean_of_a_wider_beam_is_not_below_the_mean_of_greedy() -> None:
    model, batch = Toy(1, rows=30), drawn(1, 60)
    options = {"lengths": [1] * 60, "max_length": most(12)}
    plain = sum(h.log_prob for h in greedy(model, batch, **options))
    for width in (2, 4, 8):
        found = beam_search(model, batch, width=width, length_penalty=0.0, **options)
        assert sum(best.log_prob for (best,) in found) >= plain


@pytest.mark.parametrize("seed", range(4))
def test_it_finds_what_hugging_face_finds(seed: int) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(seed)
    size = {"encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    config = transformers.MarianConfig(
        vocab_size=20, d_model=8, encoder_layers=1, decoder_layers=1, max_position_embeddings=32, init_std=0.4,
        decoder_start_token_id=BOS, pad_token_id=PADDING, eos_token_id=EOS, forced_eos_token_id=None, **size,
    )  # fmt: skip
    peer = transformers.MarianMTModel(config).double().eval()
    peer.final_logits_bias[0, EOS] += 2.5

    class AsWriter:
        def start(self, batch: Tensor) -> ToyState:
            return ToyState(torch.cat([batch, torch.zeros(len(batch), 0, dtype=torch.long)], 1))

        def step(self, ids: Tensor, state: ToyState) -> tuple[Tensor, ToyState]:
            known = torch.cat([state.hidden, ids[:, None]], 1)
            logits = peer(known[:, :6], decoder_input_ids=known[:, 6:], use_cache=False).logits[:, -1]
            return logits.log_softmax(-1), ToyState(known)

    source, options = torch.randint(3, 20, (5, 6)), {"max_new_tokens": 20, "suppress_tokens": [PADDING, BOS]}
    for width in (1, 2, 4):
        theirs = peer.generate(
            source, num_beams=width, num_return_sequences=width, length_penalty=0.0,
            early_stopping=width > 1 and "never", return_dict_in_generate=True, output_scores=True, **options,
        )  # fmt: skip
        ours = beam_search(
            AsWriter(), source, lengths=[6] * 5, width=width, n_best=width, length_penalty=0.0, max_length=most(20)
        )
        pairs = list(zip(ours, theirs.sequences.view(5, width, -1).tolist(), strict=True))
        ended = [i for i, of_one in enumerate(ours) if all(h.finished for h in of_one)]  # cut ones are ranked otherwise
        assert len(ended) >= 3
        for of_one, expected in (pairs[i] for i in ended):
            assert [list(h.ids) for h in of_one] == [ids[1 : ids.index(EOS)] for ids in expected]
        if width > 1:
            scores = theirs.sequences_scores.view(5, width)[ended]
            assert [h.log_prob for i in ended for h in ours[i]] == pytest.approx(scores.flatten().tolist())


def made(kind: str, seed: int = 0) -> EncoderDecoder:
    torch.manual_seed(seed)
    source, target = (TokenEmbedder(name, 12, 8) for name in ("source", "target"))
    encoder, decoder = (
        (TransformerEncoder(8, 1, 2), TransformerDecoder(8, 2, 2))
        if kind == "transformer"
        else (
            RecurrentEncoder(8, 1, cell="gru", hidden_dim=12, project=False),
            RecurrentDecoder(8, memory_dim=12, hidden_dim=10),
        )
    )
    model = EncoderDecoder(source, encoder, decoder, VectorHead(8, 12), target_embedder=target).double().eval()
    for parameter in model.parameters():
        parameter.data.mul_(2.0)
    return model


@dataclass(frozen=True)
class Prefix:
    """All tokens so far, and the sources."""

    source: Tensor
    ids: Tensor

    def select(self, rows: Tensor) -> Prefix:
        return Prefix(self.source[rows.flatten()], self.ids[rows.flatten()])


class WithoutCache:
    """Reads everything anew before every token."""

    def __init__(self, model: EncoderDecoder) -> None:
        self.model = model

    def start(self, batch: dict[str, Tensor]) -> Prefix:
        return Prefix(batch["source"], torch.zeros(len(batch["source"]), 0, dtype=torch.long))

    def step(self, ids: Tensor, state: Prefix) -> tuple[Tensor, Prefix]:
        ids = torch.cat([state.ids, ids[:, None]], 1)
        end = torch.full_like(ids[:, :1], EOS)  # a target without its last token is what is read
        logits = self.model({"source": state.source, "target": torch.cat([ids, end], 1)})[:, -1]
        return logits.log_softmax(-1), Prefix(state.source, ids)


def sources(seed: int, count: int) -> tuple[dict[str, Tensor], Tensor]:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 8, (count,), generator=generator)
    source = torch.randint(3, 12, (count, int(lengths.max())), generator=generator)
    return {"source": source.masked_fill(torch.arange(source.shape[1]) >= lengths[:, None], PADDING)}, lengths


@settings(max_examples=10, deadline=None)
@given(SEEDS, st.integers(1, 5), st.integers(1, 6))
@pytest.mark.parametrize("kind", ["transformer", "gru"])
def test_models_find_the_same_alone_in_a_batch_and_without_cache(kind: str, seed: int, width: int, count: int) -> None:
    model, (batch, lengths) = made(kind), sources(seed, count)
    options = {"max_length": MaxLength(1.0, 6)}
    for search in (
        lambda m, b, n, _: beam_search(m, b, lengths=n, width=width, n_best=width, **options),
        lambda m, b, n, _: [[h] for h in greedy(m, b, lengths=n, **options)],
        lambda m, b, n, seeded: sample(m, b, lengths=n, count=width, generator=seeded, **options),
    ):
        one, other = (torch.Generator().manual_seed(seed) for _ in range(2))
        together = search(model, batch, lengths, one)
        alone = [
            search(model, {"source": row[None, :length]}, length[None], other)[0]
            for row, length in zip(batch["source"], lengths, strict=True)
        ]
        assert tokens(together) == tokens(alone)
        for a, b in zip(itertools.chain(*together), itertools.chain(*alone), strict=True):
            assert a.log_probs == pytest.approx(b.log_probs)
    uncached = beam_search(WithoutCache(model), batch, lengths=lengths, width=width, n_best=width, **options)
    assert tokens(beam_search(model, batch, lengths=lengths, width=width, n_best=width, **options)) == tokens(uncached)


def tokens(found: list[list[Hypothesis]]) -> list[list[tuple[int, ...]]]:
    return [[h.ids for h in of_one] for of_one in found]


@pytest.mark.parametrize("kind", ["transformer", "gru"])
def test_a_given_output_is_scored_as_in_training(kind: str) -> None:
    model, (batch, lengths) = made(kind), sources(0, 4)
    found = [best for (best,) in beam_search(model, batch, lengths=lengths, width=3, max_length=MaxLength(1.0, 6))]
    rows = [[BOS, *h.ids, *([EOS] if h.finished else [])] for h in found]
    rows[0] = [BOS, 5, 7, 3, EOS]
    targets = torch.tensor([row + [PADDING] * (max(map(len, rows)) - len(row)) for row in rows])
    scored = forced(model, batch, targets, length_penalty=0.6)
    assert [h.ids for h in scored[1:]] == [h.ids for h in found[1:]] and scored[0].ids == (5, 7, 3)
    assert [h.score for h in scored[1:]] == pytest.approx([h.score for h in found[1:]])
    logits = model({**batch, "target": targets})
    losses = F.cross_entropy(logits.transpose(1, 2), targets[:, 1:], ignore_index=PADDING, reduction="none").sum(1)
    assert [-h.log_prob for h in scored] == pytest.approx(losses.tolist())
    nothing = forced(model, {"source": batch["source"][:2]}, torch.tensor([[BOS, PADDING], [BOS, EOS]]))
    assert nothing[0] == Hypothesis((), 0.0, 0.0, (), False) and nothing[1].ids == () and nothing[1].finished


def test_samples_have_the_distribution_that_is_asked_for() -> None:
    probabilities = (0.1, 0.05, 0.2, 0.3, 0.25, 0.1)  # padding and bos are never drawn, whatever the model says
    for options, kept in (
        ({}, (2, 3, 4, 5)),
        ({"temperature": 0.5}, (2, 3, 4, 5)),
        ({"top_k": 2}, (3, 4)),
        ({"top_p": 0.6}, (3, 4)),  # .3 and .25 of .85 are .647
        ({"top_p": 0.65}, (2, 3, 4)),
        ({"top_k": 3, "top_p": 0.75, "temperature": 2.0}, (2, 3, 4)),
    ):
        found = sample(
            Dice(*probabilities), drawn(0, 2), lengths=[1, 1], count=4000, max_length=most(1),
            generator=torch.Generator().manual_seed(0), **options,
        )  # fmt: skip
        weights = {token: probabilities[token] ** (1 / options.get("temperature", 1.0)) for token in kept}
        for of_one in found:
            first = [EOS if h.finished else h.ids[0] for h in of_one]
            for token, weight in weights.items():
                share = weight / sum(weights.values())
                assert first.count(token) / 4000 == pytest.approx(share, abs=4 * math.sqrt(share / 4000))
            assert set(first) == set(kept)
            assert all(h.log_prob == pytest.approx(math.log(probabilities[i])) for h, i in zip(of_one, first))


def test_samples_repeat_with_their_seed_and_the_likeliest_one_is_greedy() -> None:
    model, batch = Toy(0, rows=30), drawn(0, 6)
    options = {"lengths": [3] * 6, "max_length": most(9), "count": 3}

    def seeded(seed: int, **more) -> list[list[Hypothesis]]:
        return sample(model, batch, generator=torch.Generator().manual_seed(seed), **options, **more)

    assert seeded(0) == seeded(0) != seeded(1)
    likeliest = greedy(model, batch, lengths=[3] * 6, max_length=most(9))
    for found in (seeded(0, top_k=1), seeded(0, top_p=1e-9), seeded(0, temperature=1e-3)):
        assert [[h.ids for h in of_one] for of_one in found] == [[h.ids] * 3 for h in likeliest]
    torch.manual_seed(7)
    first = sample(model, batch, **options)
    torch.manual_seed(7)
    assert sample(model, batch, **options) == first


def test_an_ensemble_is_the_mean_of_probabilities() -> None:
    models, batch, ids = [Toy(0), Toy(1)], drawn(0, 3), torch.tensor([3, 4, 5])
    both = Ensemble(models)
    mean, _ = both.step(ids, both.start(batch))
    parts = [model.step(ids, model.start(batch))[0].exp() for model in models]
    torch.testing.assert_close(mean.exp(), sum(parts) / 2)
    options = {"lengths": [2] * 3, "width": 3, "n_best": 3, "max_length": most(6)}
    twice, once = (beam_search(m, batch, **options) for m in (Ensemble([models[0]] * 2), models[0]))
    assert tokens(twice) == tokens(once) != tokens(beam_search(both, batch, **options))
    assert [h.score for row in twice for h in row] == pytest.approx([h.score for row in once for h in row])
    with pytest.raises(ConfigError, match="at least one model"):
        Ensemble([])
    with pytest.raises(ShapeError, match=r"one vocabulary; these have \[6, 7\] tokens"):
        beam_search(Ensemble([Toy(0), Toy(0, rows=7)]), batch, lengths=[1] * 3)


def test_how_long_an_output_may_become() -> None:
    assert MaxLength().of(torch.tensor([0, 1, 10, 400])) == [20, 21, 35, 256]
    assert MaxLength(factor=0.0, extra=0).of([5]) == [1]
    batch, never = drawn(0, 3), Dice(0.3, 0.2, 0.0, 0.4, 0.1)
    for found in (
        greedy(never, batch, lengths=[1, 2, 3], max_length=MaxLength(2.0, 1)),
        [row[0] for row in beam_search(never, batch, lengths=[1, 2, 3], max_length=MaxLength(2.0, 1))],
    ):
        assert [h.ids for h in found] == [(3,) * n for n in (3, 5, 7)] and not any(h.finished for h in found)
    (one,) = beam_search(Dice(0.0, 0.0, 0.6, 0.4), batch[:1], lengths=[9], width=8, n_best=8, max_length=most(3))
    assert [(h.ids, h.finished) for h in one] == [((), True), ((3,), True), ((3, 3), True), ((3, 3, 3), False)]
    assert beam_search(never, batch[:0], lengths=[]) == greedy(never, batch[:0], lengths=[]) == []


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"width": 0}, "width is at least 1 .* not 0 and 1"),
        ({"n_best": 5}, "n_best is in 1 .. width, not 4 and 5"),
        ({"length_penalty": -0.1}, "length_penalty is at least 0, not -0.1"),
        ({"temperature": 0.0}, "temperature is above 0 and top_p is in .* not 0.0 and 1.0"),
        ({"top_p": 1.5}, "not 1.0 and 1.5"),
        ({"top_k": 0}, "top_k and count are at least 1, not 0 and 1"),
        ({"count": 0}, "not None and 0"),
    ],
)
def test_values_out_of_range_are_refused(options: dict[str, float], says: str) -> None:
    search = beam_search if {"width", "n_best", "length_penalty"} & set(options) else sample
    with pytest.raises(ConfigError, match=says):
        search(Toy(0), drawn(0, 1), lengths=[1], **options)


@pytest.mark.parametrize("search", [greedy, beam_search, sample])
def test_a_model_that_answers_nan_is_refused(search) -> None:
    model = Toy(0)
    model.table[4] = math.nan  # a token that is written sooner or later
    with pytest.raises(VsattnError, match="the model gives NaN"):
        search(model, drawn(0, 8), lengths=[1] * 8)


def test_other_things_that_are_refused() -> None:
    for wrong in ({"factor": -1.0}, {"extra": -1}, {"limit": 0}):
        with pytest.raises(ConfigError, match="MaxLength has factor and extra of at least 0"):
            MaxLength(**wrong)
    with pytest.raises(ShapeError, match="start with 1"):
        forced(Toy(0), drawn(0, 1), torch.tensor([[3, EOS]]))
