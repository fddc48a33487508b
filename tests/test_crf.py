"""The conditional random field, against sums and maxima over all sequences of labels."""

from __future__ import annotations

import itertools
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vsattn.crf import CrfHead
from vsattn.errors import ConfigError
from vsattn.vectorset import VectorSet


def enumerated(head, logits):
    """Return all sequences of labels for logits ``(N, C)`` and their scores, float64."""
    start, end, step = (
        p.detach().double() for p in (head.crf.start_transitions, head.crf.end_transitions, head.crf.transitions)
    )
    sequences = list(itertools.product(range(logits.shape[1]), repeat=len(logits)))
    scores = []
    for y in sequences:
        score = start[y[0]] + end[y[-1]] + sum(logits[i, label] for i, label in enumerate(y))
        scores.append(score + sum(step[a, b] for a, b in itertools.pairwise(y)))
    return sequences, torch.stack(scores)


@st.composite
def problems(draw):
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))
    classes = draw(st.integers(2, 4))
    lengths = draw(st.lists(st.integers(0, 5), min_size=1, max_size=3).filter(max))
    head = CrfHead(6, classes).double()
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, generator=generator)
    logits = 2 * torch.randn(len(lengths), max(lengths), classes, generator=generator, dtype=torch.float64)
    target = torch.randint(classes, logits.shape[:2], generator=generator)
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    return head, logits.masked_fill(~mask[..., None], 1e3), target.masked_fill(~mask, -100), mask, lengths


@given(problems())
def test_likelihood_viterbi_and_marginals_equal_enumeration(problem) -> None:
    head, logits, target, mask, lengths = problem
    loss = head.negative_log_likelihood(logits, target, mask)
    labels, probabilities = head.labels(logits, mask), head.probabilities(logits, mask)
    expected = 0.0
    for row, n in enumerate(lengths):
        if n == 0:
            assert labels[row].eq(0).all()
            continue
        sequences, scores = enumerated(head, logits[row, :n])
        expected = expected + scores.logsumexp(0) - scores[sequences.index(tuple(target[row, :n].tolist()))]
        assert tuple(labels[row, :n].tolist()) == sequences[int(scores.argmax())]
        weights = scores.softmax(0)
        for i, c in itertools.product(range(n), range(logits.shape[2])):
            share = sum(w for w, y in zip(weights, sequences, strict=True) if y[i] == c)
            torch.testing.assert_close(probabilities[row, i, c], share)
    torch.testing.assert_close(loss, expected)


def test_the_head_gives_logits_per_vector_and_learns_its_transitions() -> None:
    torch.manual_seed(0)
    head = CrfHead(6, 3)
    vector_set = VectorSet(torch.randn(2, 5, 6), torch.tensor([[True] * 5, [True] * 3 + [False] * 2]))
    logits = head(vector_set)
    assert logits.shape == (2, 5, 3)
    head.negative_log_likelihood(logits, torch.zeros(2, 5, dtype=torch.long), vector_set.mask).backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) and bool(p.grad.any()) for p in head.parameters())


def test_transitions_decide_where_the_vectors_do_not() -> None:
    """Labels that may not follow one another do not, whatever each vector alone would say."""
    head = CrfHead(2, 2)
    with torch.no_grad():
        for parameter in head.crf.parameters():
            parameter.zero_()
        head.crf.transitions.copy_(torch.tensor([[0.0, -100.0], [-100.0, 0.0]]))
    logits = torch.tensor([[[0.0, 1.0], [0.5, 0.0], [0.0, 1.0]]])
    assert logits.argmax(-1).tolist() == [[1, 0, 1]] and head.labels(logits).tolist() == [[1, 1, 1]]


def test_no_vectors_give_no_labels() -> None:
    head = CrfHead(2, 3)
    assert head.labels(torch.zeros(1, 0, 3)).shape == (1, 0) and head.probabilities(torch.zeros(1, 0, 3)).shape == (
        1,
        0,
        3,
    )


def test_marginals_in_inference_mode() -> None:
    head, logits = CrfHead(2, 3), torch.randn(1, 4, 3)
    with torch.inference_mode():
        inside = head.probabilities(logits.clone())
    torch.testing.assert_close(inside, head.probabilities(logits))
    torch.testing.assert_close(inside.sum(-1), torch.ones(1, 4))


def test_weights_on_another_device_get_the_logits_and_the_mask(monkeypatch) -> None:
    head, logits, seen = CrfHead(2, 3).to("meta"), torch.randn(2, 4, 3), []

    def decode(*tensors):
        seen.extend(tensor.device.type for tensor in tensors)
        return [[1] * 4, [2] * 2]

    monkeypatch.setattr(head.crf, "decode", decode)
    mask = torch.tensor([[True] * 4, [True, True, False, False]])
    found = head.labels(logits, mask)
    assert seen == ["meta"] * 2 and found.tolist() == [[1] * 4, [2, 2, 0, 0]]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs another device than the CPU")
def test_answers_lie_where_the_logits_lie() -> None:
    head, logits = CrfHead(2, 3), torch.randn(2, 4, 3)
    target, mask = torch.randint(3, (2, 4)), torch.tensor([[True] * 4, [True, True, False, False]])

    def answers():
        likelihood = head.negative_log_likelihood(logits, target, mask)
        return likelihood, head.labels(logits), head.labels(logits, mask), head.probabilities(logits, mask)

    expected = answers()
    head.cuda()
    for found, wanted in zip(answers(), expected, strict=True):
        torch.testing.assert_close(found, wanted)


def test_a_missing_package_is_named(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "torchcrf", None)
    with pytest.raises(ConfigError, match=r"pip install 'vsattn\[labeling\]'"):
        CrfHead(2, 3)


def test_the_module_does_not_load_the_package() -> None:
    code = "import sys, vsattn.crf; sys.exit('torchcrf' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
