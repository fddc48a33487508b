"""Connectionist temporal classification: a label or a blank per vector, read as a shorter sequence of labels.

An alignment names a label or the blank for every vector; runs of one label are one label, and then blanks are left
out. The probability of a sequence of labels is the sum over all alignments that say it (Graves et al. 2006, section 3).
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor

from vsattn.errors import ConfigError, ShapeError

#: Hypotheses that :func:`beam_search` keeps unless told otherwise.
BEAM_WIDTH = 8


class Span(NamedTuple):
    """A label of the vectors ``start .. stop - 1``, and its highest probability among them."""

    label: int
    start: int
    stop: int
    probability: float


class Hypothesis(NamedTuple):
    """Labels with the vectors that say them, and the natural logarithm of the probability of the whole sequence."""

    spans: list[Span]
    log_probability: float

    @property
    def labels(self) -> list[int]:
        """The sequence alone."""
        return [span.label for span in self.spans]


class Word(NamedTuple):
    """A recognised label with its times in seconds, and its highest probability in that time."""

    label: str
    start: float
    end: float
    probability: float


@dataclass(frozen=True)
class Transcript:
    """What was recognised: the labels joined by spaces, and each with its times.

    CTC learns which labels come in which order and not how long they last: a word's times are those of the vectors that
    say it, which lie within the sound or close behind it and are usually shorter.
    """

    text: str
    words: list[Word]


def transcript(
    logits: Tensor,
    classes: Sequence[str],
    *,
    borders: Sequence[float] | None = None,
    beam_width: int | None = BEAM_WIDTH,
    length_bonus: float = 0.0,
) -> Transcript:
    """Read the likeliest sequence of labels.

    Args:
        logits: ``(N, C + 1)``, the blank last.
        classes: the C names.
        borders: see :func:`in_words`.
        beam_width: see :func:`beam_search`; None is :func:`greedy`.
        length_bonus: see :func:`beam_search`.

    Raises:
        ConfigError, ShapeError: see :func:`beam_search`.
    """
    _check(logits, len(classes))
    if beam_width is None:
        spans = greedy(logits)
    else:
        spans = beam_search(logits, beam_width=beam_width, length_bonus=length_bonus)[0].spans
    words = in_words(spans, classes, borders=borders)
    return Transcript(" ".join(word.label for word in words), words)


def in_words(spans: Iterable[Span], classes: Sequence[str], *, borders: Sequence[float] | None = None) -> list[Word]:
    """Name the labels and turn vectors into seconds.

    Args:
        spans: labels with their vectors.
        classes: the names.
        borders: when each vector begins and the last one ends, in seconds, as
            :meth:`vsattn.tokenizers.AudioFrames.borders` says; None counts times in vectors.
    """
    times: Callable[[int], float] = float if borders is None else borders.__getitem__
    return [Word(classes[label], times(start), times(stop), p) for label, start, stop, p in spans]


def greedy(logits: Tensor) -> list[Span]:
    """Return what the likeliest alignment says (Graves et al. 2006, section 3.2, best path decoding).

    Args:
        logits: ``(N, C + 1)``, the blank last.

    Raises:
        ShapeError: for another shape.
    """
    decoder = Greedy()
    return decoder.push(logits) + decoder.finish()


class Greedy:
    """:func:`greedy` piece by piece: each label is told as soon as its last vector is known."""

    def __init__(self) -> None:
        self._position, self._open = 0, Span(-1, 0, 0, 0.0)  # an open label below 0 is none

    def push(self, logits: Tensor) -> list[Span]:
        """Take the next logits ``(n, C + 1)`` and return the labels that ended before the last of them."""
        _check(logits)
        blank, ended = logits.shape[-1] - 1, []
        best, labels = logits.double().softmax(-1).max(-1)
        for label, probability in zip(labels.tolist(), best.tolist(), strict=True):
            known, start, _, peak = self._open
            if label != known:
                ended += self._close()
                start, peak = self._position, 0.0
            self._position += 1
            closed = -1 if label == blank else label
            self._open = Span(closed, start, self._position, max(peak, probability))
        return ended

    def finish(self) -> list[Span]:
        """Return the label that the end closes, if there is one, and begin anew."""
        ended = self._close()
        self._position, self._open = 0, Span(-1, 0, 0, 0.0)
        return ended

    def _close(self) -> list[Span]:
        return [self._open] if self._open.label >= 0 else []


class _Prefix:
    """A sequence of labels as a leaf of a tree, so that it costs the same at any length to extend and to find."""

    __slots__ = ("label", "length", "longer")

    def __init__(self, label: int, length: int) -> None:
        self.label, self.length = label, length
        self.longer: dict[int, _Prefix] = {}

    def then(self, label: int) -> _Prefix:
        if label not in self.longer:
            self.longer[label] = _Prefix(label, self.length + 1)
        return self.longer[label]


class _End(NamedTuple):
    """Alignments of one prefix with the same last symbol.

    ``total`` is the logarithm of their probability, ``best`` that of the likeliest of them, and ``path`` its stretches,
    the last first: ``(path before, label, start, stop)`` or None.
    """

    total: float
    best: float
    path: Any

    def then(self, log_probability: float, path: Any) -> _End:
        return _End(self.total + log_probability, self.best + log_probability, path)

    def __or__(self, other: _End) -> _End:  # type: ignore[override]
        low, high = sorted((self.total, other.total))
        total = high if low == -math.inf else high + math.log1p(math.exp(low - high))
        return _End(total, *(self[1:] if self.best >= other.best else other[1:]))


_NEVER = _End(-math.inf, -math.inf, None)


def beam_search(
    logits: Tensor, *, beam_width: int = BEAM_WIDTH, length_bonus: float = 0.0, cutoff: float = 1e-5
) -> list[Hypothesis]:
    """Return the likeliest sequences of labels, best first, by prefix beam search.

    Vector by vector, each of the ``beam_width`` best prefixes stays or grows by a label, and the probabilities of all
    alignments that lead to the same prefix are added, kept apart by whether they end in the blank. They are ordered by
    ``log P + length_bonus * length``. Each label's vectors are those of its sequence's likeliest alignment.

    Args:
        logits: ``(N, C + 1)``, the blank last.
        beam_width: prefixes that are kept; as many as there are make the search exact.
        length_bonus: added to the logarithm for every label, against a search that leaves labels out.
        cutoff: labels less probable than this at a vector do not begin there; 0 tries all.

    Raises:
        ConfigError: for a beam below 1 or a cutoff outside [0, 1).
        ShapeError: for another shape.

    Source: Hannun et al. 2014, "First-Pass Large Vocabulary Continuous Speech Recognition using Bi-Directional
    Recurrent DNNs", algorithm 1, without a language model.
    """
    _check(logits)
    if beam_width < 1 or not 0 <= cutoff < 1:
        raise ConfigError(f"beam_width is at least 1 and cutoff in [0, 1), not {beam_width} and {cutoff}")
    log_p, least = logits.double().log_softmax(-1), math.log(cutoff) if cutoff else -math.inf
    blank = logits.shape[-1] - 1
    beam: dict[_Prefix, list[_End]] = {_Prefix(-1, 0): [_End(0.0, 0.0, None), _NEVER]}

    def score(entry: tuple[_Prefix, list[_End]]) -> float:
        (prefix, (after_blank, after_label)) = entry
        return (after_blank | after_label).total + length_bonus * prefix.length

    for t, row in enumerate(log_p.tolist()):
        grown: dict[_Prefix, list[_End]] = {}

        def add(prefix: _Prefix, which: int, end: _End, grown: dict[_Prefix, list[_End]] = grown) -> None:
            ends = grown.setdefault(prefix, [_NEVER, _NEVER])
            ends[which] = ends[which] | end

        likely = [label for label in range(blank) if row[label] >= least]
        for prefix, (after_blank, after_label) in beam.items():
            either = after_blank | after_label
            add(prefix, 0, either.then(row[blank], either.path))
            if after_label.path is not None:
                before, label, start, _ = after_label.path
                add(prefix, 1, after_label.then(row[label], (before, label, start, t + 1)))
            for label in likely:  # the same label once more needs a blank between
                source = after_blank if label == prefix.label else either
                if source.total > -math.inf:
                    add(prefix.then(label), 1, source.then(row[label], (source.path, label, t, t + 1)))
        beam = dict(heapq.nlargest(beam_width, grown.items(), key=score))
    found = [after_blank | after_label for after_blank, after_label in beam.values()]
    return [Hypothesis(_spans(end.path, log_p), end.total) for end in found]


def _spans(path: Any, log_p: Tensor) -> list[Span]:
    spans = []
    while path is not None:
        path, label, start, stop = path
        spans.append(Span(label, start, stop, float(log_p[start:stop, label].max().exp())))
    return spans[::-1]


def _check(logits: Tensor, num_classes: int | None = None) -> None:
    wanted = logits.ndim == 2 and (logits.shape[1] > 1 if num_classes is None else logits.shape[1] == num_classes + 1)
    if not wanted:
        columns = "C + 1" if num_classes is None else f"{num_classes} + 1"
        raise ShapeError(f"CTC reads logits (N, {columns}) of one sequence, the blank last, not {tuple(logits.shape)}")
