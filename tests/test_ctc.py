"""CTC decoding: probabilities by summing over all alignments, and by torch's ctc_loss."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from vsattn.ctc import Greedy, Span, Transcript, Word, beam_search, greedy, in_words, transcript
from vsattn.errors import ConfigError, ShapeError

EVERYTHING = 10_000  # a beam that loses nothing
SEEDS = st.integers(0, 2**20)


def drawn(seed, length, classes, scale=2.0):
    return scale * torch.randn(length, classes + 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def collapsed(alignment, blank):
    return tuple(label for label, _ in itertools.groupby(alignment) if label != blank)


def by_definition(logits):
    """Return for each sequence of labels its probability, and its likeliest alignment with that one's probability."""
    p, blank = logits.softmax(-1).tolist(), logits.shape[1] - 1
    total, best = {}, {}
    for alignment in itertools.product(range(blank + 1), repeat=len(p)):
        labels, probability = collapsed(alignment, blank), math.prod(p[t][k] for t, k in enumerate(alignment))
        total[labels] = total.get(labels, 0.0) + probability
        best[labels] = max(best.get(labels, (0.0, None)), (probability, alignment))
    return total, best


def stretches(alignment, blank):
    found, place = [], 0
    for label, run in itertools.groupby(alignment):
        length = len(list(run))
        found += [(label, place, place + length)] if label != blank else []
        place += length
    return found


@settings(max_examples=25, deadline=None)
@given(SEEDS, st.integers(0, 5), st.integers(1, 3))
def test_a_full_beam_sums_over_all_alignments(seed, length, classes):
    logits = drawn(seed, length, classes)
    total, best = by_definition(logits)
    found = beam_search(logits, beam_width=EVERYTHING, cutoff=0.0)
    assert {tuple(h.labels) for h in found} == set(total)
    for hypothesis in found:
        labels = tuple(hypothesis.labels)
        assert math.exp(hypothesis.log_probability) == pytest.approx(total[labels])
        assert [span[:3] for span in hypothesis.spans] == stretches(best[labels][1], classes)
        for label, start, stop, peak in hypothesis.spans:
            assert peak == pytest.approx(float(logits.softmax(-1)[start:stop, label].max()))
    scores = [h.log_probability for h in found]
    assert scores == sorted(scores, reverse=True)


@settings(max_examples=15, deadline=None)
@given(SEEDS, st.integers(3, 8))
def test_a_beam_wide_enough_knows_the_probability_that_torch_trains(seed, length):
    logits = drawn(seed, length, 2, scale=3.0)
    log_p = logits.log_softmax(-1)[:, None]
    for hypothesis in beam_search(logits, beam_width=EVERYTHING, cutoff=0.0)[:20]:
        count = len(hypothesis.spans)
        target = torch.tensor([hypothesis.labels], dtype=torch.long)
        expected = F.ctc_loss(log_p, target, torch.tensor([length]), torch.tensor([count]), blank=2, reduction="sum")
        assert -hypothesis.log_probability == pytest.approx(float(expected), rel=1e-9)


@pytest.mark.parametrize("beam_width", [1, 2, 5])
@pytest.mark.parametrize("seed", range(10))
def test_a_narrow_beam_never_promises_more_than_there_is(seed, beam_width):
    logits = drawn(seed, 6, 3)
    total, _ = by_definition(logits)
    found = beam_search(logits, beam_width=beam_width)
    assert 1 <= len(found) <= beam_width
    for hypothesis in found:
        assert math.exp(hypothesis.log_probability) <= total[tuple(hypothesis.labels)] + 1e-12


def test_summing_over_alignments_finds_what_the_best_alignment_misses():
    """Nothing is the likeliest alignment, but the label's three alignments together are more probable."""
    logits = torch.tensor([[0.4, 0.6], [0.4, 0.6]]).log()
    assert greedy(logits) == []
    best = beam_search(logits)[0]
    assert best.labels == [0] and math.exp(best.log_probability) == pytest.approx(0.64)


def test_equal_neighbours_need_a_blank_between():
    logits = torch.full((5, 3), -20.0)
    for t, label in enumerate([0, 0, 2, 0, 1]):
        logits[t, label] = 20.0
    spans = [(0, 0, 2), (0, 3, 4), (1, 4, 5)]
    assert [span[:3] for span in greedy(logits)] == spans
    assert [span[:3] for span in beam_search(logits)[0].spans] == spans


@pytest.mark.parametrize("bonus", [0.0, 0.7, 3.0, -1.0])
def test_the_bonus_counts_labels(bonus):
    logits = drawn(4, 5, 2)
    total, _ = by_definition(logits)
    ranked = sorted(total, key=lambda labels: math.log(total[labels]) + bonus * len(labels), reverse=True)
    found = beam_search(logits, beam_width=EVERYTHING, cutoff=0.0, length_bonus=bonus)
    assert [tuple(h.labels) for h in found] == ranked
    assert math.exp(found[0].log_probability) == pytest.approx(total[ranked[0]])


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.integers(0, 12), st.integers(1, 3))
def test_greedy_reads_the_likeliest_alignment(seed, length, classes):
    logits = drawn(seed, length, classes)
    assert [span[:3] for span in greedy(logits)] == stretches(logits.argmax(-1).tolist(), classes)
    for label, start, stop, peak in greedy(logits):
        assert peak == pytest.approx(float(logits.softmax(-1)[start:stop, label].max()))


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.lists(st.integers(0, 4), max_size=6))
def test_greedy_piece_by_piece_equals_at_once(seed, sizes):
    logits, decoder = drawn(seed, sum(sizes), 2), Greedy()
    for _ in range(2):  # after its end it begins anew
        spans = [span for piece in logits.split(sizes) for span in decoder.push(piece)] + decoder.finish()
        assert spans == greedy(logits)


def test_a_label_is_told_once_its_end_is_known():
    logits, decoder = torch.eye(3)[[0, 0, 2, 1, 0]] * 9, Greedy()
    told = [[span.label for span in decoder.push(row[None])] for row in logits]
    assert told == [[], [], [0], [], [1]] and decoder.finish()[0][:3] == (0, 4, 5)


def test_long_recordings_cost_no_more_per_vector():
    """Probabilities far below the smallest float, and prefixes of a thousand labels."""
    logits = torch.eye(4)[torch.arange(4000) % 4].double() * 4
    best = beam_search(logits, beam_width=4)[0]
    assert best.labels == [0, 1, 2] * 1000 and -1000 < best.log_probability < -50


def test_transcripts_name_words_and_seconds():
    logits = torch.full((6, 3), -9.0)
    logits[range(6), [2, 0, 0, 2, 1, 2]] = 9.0
    borders = [0.0, 0.02, 0.04, 0.06, 0.08, 0.1, 0.115]
    expected = Transcript("no yes", [Word("no", 0.02, 0.06, 1.0), Word("yes", 0.08, 0.1, 1.0)])
    for beam_width in (None, 1, 8):
        found = transcript(logits, ["no", "yes"], borders=borders, beam_width=beam_width)
        assert found.text == expected.text
        for word, wanted in zip(found.words, expected.words, strict=True):
            assert word.label == wanted.label and word[1:] == pytest.approx(wanted[1:])
    assert transcript(logits, ["no", "yes"]).words[0][1:3] == (1.0, 3.0)  # counted in vectors
    assert in_words([Span(1, 1, 2, 0.5)], "ab", borders=[0.0, 0.75, 1.0]) == [Word("b", 0.75, 1.0, 0.5)]
    assert transcript(torch.zeros(0, 3), ["no", "yes"]) == Transcript("", [])


def test_what_cannot_be_decoded_is_refused():
    with pytest.raises(ShapeError, match=r"logits \(N, 2 \+ 1\) of one sequence, the blank last, not \(4, 2\)"):
        transcript(torch.zeros(4, 2), ["a", "b"])
    for wrong in (torch.zeros(2, 4, 3), torch.zeros(4, 1)):
        with pytest.raises(ShapeError, match="C \\+ 1"):
            greedy(wrong)
        with pytest.raises(ShapeError, match="C \\+ 1"):
            beam_search(wrong)
    for options in ({"beam_width": 0}, {"cutoff": 1.0}, {"cutoff": -0.1}):
        with pytest.raises(ConfigError, match="beam_width is at least 1 and cutoff"):
            beam_search(torch.zeros(4, 3), **options)
