"""Recognise speech: one recording in, a sequence of words with their times out, by CTC."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics import Metric
from torchmetrics.text import WordErrorRate

from vsattn.answers import Record
from vsattn.ctc import BEAM_WIDTH, Span, beam_search, greedy, in_words
from vsattn.errors import ConfigError, DataError, ShapeError
from vsattn.predictor import Predictor
from vsattn.tokenizers.audio import AudioFrames
from vsattn.tokenizers.base import Tokenizer
from vsattn.tokenizers.waveforms import to_waveform

from .base import Task
from .classification import IGNORED
from .data.audio import EXTENSIONS, Segment
from .data.base import Data
from .inputs import Question
from .plots import confusion, shown
from .report import bootstrap

#: Recordings in the drawn figure, and how many of them may be wrong ones.
SHOWN, SHOWN_WRONG = 6, 4

#: What the confusion matrix calls a word that was left out, or that nobody said.
NOTHING = "(none)"

#: Indices of a true and a recognised word that belong together; None for a word that was left out, or added.
Pair = tuple[int | None, int | None]


class RecognitionCollate:
    """``(clip, labels)`` pairs to a batch with ``"target" (B, L)``, padded with `IGNORED`; labels may be `Segment`.

    Raises:
        DataError: for a clip of fewer vectors than its labels need, one each and a blank between equal neighbours: no
            alignment says them.
    """

    def __init__(self, tokenizer: AudioFrames, *, train: bool = False) -> None:
        self.tokenizer, self.train = tokenizer, train

    def __call__(self, pairs: list[Any]) -> dict[str, Tensor]:
        """Batch the pairs."""
        batch = self.tokenizer.collate([item for item, _ in pairs], train=self.train)
        targets = [torch.tensor(labels_of(target), dtype=torch.long) for _, target in pairs]
        for index, (labels, count) in enumerate(zip(targets, self.tokenizer.counts(batch).tolist(), strict=True)):
            needed = len(labels) + int((labels[1:] == labels[:-1]).sum())
            if count < needed:
                raise DataError(
                    f"item {index} of a batch becomes {count} vectors, and its {len(labels)} labels need {needed}: use "
                    "smaller tokenizer.strides or tokenizer.hop, or leave the clip out"
                )
        return {**batch, "target": pad_sequence(targets, True, IGNORED)}


def labels_of(target: Sequence[Any] | int) -> list[int]:
    """Return the labels of a target, which are its numbers or those of its segments.

    Raises:
        DataError: for a single label.
    """
    if isinstance(target, int):
        raise DataError(
            "task=recognition needs a list of words per recording; this data has one label per clip: use task=speech"
        )
    return [part.label if isinstance(part, Segment) else int(part) for part in target]


class RecognitionTask(Task):
    """CTC (Graves et al. 2006): ``-log P(labels)``, summed over all alignments; judged by the word error rate.

    Args:
        model: batch -> logits ``(B, N, C + 1)``, the blank last, as `CtcHead` gives them.
        tokenizer: fitted `AudioFrames`.
        classes, optimizer, schedule, recipe: see :class:`Task`.
        beam_width: hypotheses of the prefix beam search that answers in the test; validation decodes greedily.
        length_bonus: of that search, see :func:`vsattn.ctc.beam_search`.

    Raises:
        ConfigError: for a beam below 1 or another tokenizer.
    """

    formats = ("jsonl", "csv", "tsv", "table")
    extensions = EXTENSIONS

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Tokenizer,
        classes: Sequence[str],
        *,
        optimizer: Callable[..., Optimizer] | None = None,
        schedule: Callable[..., LRScheduler] | None = None,
        recipe: dict[str, Any] | None = None,
        beam_width: int = BEAM_WIDTH,
        length_bonus: float = 0.0,
    ) -> None:
        if beam_width < 1:
            raise ConfigError(f"task.beam_width is at least 1, not {beam_width}")
        if not isinstance(tokenizer, AudioFrames):
            raise ConfigError(f"task=recognition hears sound: choose tokenizer=log_mel, not {type(tokenizer).__name__}")
        if tokenizer.trim is not None:
            raise ConfigError("task=recognition tells times, which cut ends would move: set tokenizer.trim=null")
        super().__init__(model, tokenizer, classes, optimizer=optimizer, schedule=schedule, recipe=recipe)
        self.frames, self.beam_width, self.length_bonus = tokenizer, beam_width, length_bonus
        self.judged: list[Judged] = []

    def collator(self, train: bool) -> RecognitionCollate:
        """Return the function that batches."""
        return RecognitionCollate(self.frames, train=train)

    def loss(self, output: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """Return ``-log P(labels)`` per label, in nats: the sum over the batch by the number of its labels.

        Args:
            output: logits ``(B, N, C + 1)``.
            batch: has ``"target" (B, L)``.

        Raises:
            ShapeError: for the output of a head that is not for CTC.
        """
        if output.ndim != 3 or output.shape[-1] != len(self.classes) + 1:
            raise ShapeError(
                f"CTC needs {len(self.classes)} + 1 numbers for every vector and the head gives "
                f"{tuple(output.shape[1:])}: choose head=ctc"
            )
        target, log_p = batch["target"], output.float().log_softmax(-1).transpose(0, 1)  # (N, B, C + 1)
        lengths, counts = self.frames.counts(batch), (target != IGNORED).sum(1)
        total = F.ctc_loss(log_p, target.clamp(min=0), lengths, counts, blank=len(self.classes), reduction="sum")
        return total / counts.sum().clamp(min=1)

    def count(self, batch: dict[str, Tensor]) -> int:
        """Return how many labels the batch has."""
        return int((batch["target"] != IGNORED).sum())

    def metrics(self) -> dict[str, Metric]:
        """Return the word error rate of greedy decoding."""
        return {"wer": WordErrorRate()}

    def measure(self, metrics: dict[str, Metric], output: Tensor, batch: dict[str, Tensor]) -> None:
        """Decode and compare."""
        rows = self.remember(output, batch)
        said = [[span.label for span in greedy(logits)] for logits, _ in rows]
        metrics["wer"].update([_text(labels) for labels in said], [_text(labels) for _, labels in rows])

    def remember(self, output: Tensor, batch: dict[str, Tensor]) -> list[tuple[Tensor, list[int]]]:
        """Keep the logits ``(N_i, C + 1)`` and the labels of each recording."""
        rows = zip(output.float().cpu(), self.frames.counts(batch).tolist(), batch["target"].cpu(), strict=True)
        return [(logits[:length], labels[labels != IGNORED].tolist()) for logits, length, labels in rows]

    def evaluate(self, remembered: list[Any], data: Data, *, seed: int) -> dict[str, float]:
        """Return the word error rate with a 95% interval by bootstrap over recordings, and what it is made of.

        ``in_time``, where the data know when each word sounds: the share of right words that are said meanwhile.
        """
        rows = [row for batch in remembered for row in batch]
        options: dict[str, Any] = {"beam_width": self.beam_width, "length_bonus": self.length_bonus}
        judged = self.judged = [Judged(true, beam_search(logits, **options)[0].spans) for logits, true in rows]
        words = np.array([len(item.true) for item in judged])
        errors = np.array([item.errors for item in judged])  # (n, 3)
        quick = sum(sum(Judged(true, greedy(logits)).errors) for logits, true in rows)
        total, right = max(1, int(words.sum())), errors.sum(1) == 0
        low, high = rate_interval(errors.sum(1), words, seed=seed)
        right_low, right_high = bootstrap(right, seed=seed)
        scores: dict[str, float] = {"wer": int(errors.sum()) / total, "wer_low": low, "wer_high": high}
        scores |= {"wer_greedy": quick / total, "words": int(words.sum())}
        scores |= dict(zip(("substitutions", "deletions", "insertions"), errors.sum(0).tolist(), strict=True))
        scores |= {"utterance_accuracy": float(right.mean())}
        scores |= {"utterance_accuracy_low": right_low, "utterance_accuracy_high": right_high}
        times = [on_time for index, item in enumerate(judged) for on_time in self._in_time(item, data.test[index][1])]
        scores |= {"in_time": float(np.mean(times))} if times else {}
        return {f"test/{name}": value for name, value in scores.items()}

    @classmethod
    def records(cls, predictor: Predictor, question: Question, answer: Any) -> list[Record]:
        """Return the text of a recording, and its words with their times in seconds."""
        words = [dict(zip(("word", "start", "end", "probability"), word, strict=True)) for word in answer.words]
        return [{"path": question.name, "text": answer.text, "words": words}]

    def draw(self, folder: Path, data: Data) -> list[Path]:
        """Draw which words were taken for which, and test recordings with their words below."""
        from .recognition_plots import Line, lines

        judged = self.judged
        pairs = np.array([pair for item in judged for pair in item.labels(len(self.classes))]).reshape(-1, 2)
        files = [confusion(pairs[:, 0], pairs[:, 1], [*self.classes, NOTHING], folder / "confusion.png")]
        faultless = [not sum(item.errors) for item in judged]
        wrong, right = ([i for i, is_right in enumerate(faultless) if is_right == side] for side in (False, True))
        chosen = sorted(shown(wrong, right, SHOWN, SHOWN_WRONG))
        rate = self.frames.sample_rate
        drawn = []
        for index in chosen:
            item, (sound, target) = judged[index], data.test[index]
            samples = to_waveform(sound, rate, "a test recording")
            borders = self.frames.borders(self.frames.num_vectors(len(samples))).tolist()
            said = in_words(item.said, self.classes, borders=borders)
            good = [any(j == place for _, j in item.right) for place in range(len(said))]
            true = [(self.classes[part.label], part.start, part.end) for part in target if isinstance(part, Segment)]
            drawn.append(Line(samples.numpy(), rate, true, said, good))
        title = f"{data.name}: {len(right)} of {len(judged)} test recordings right"
        return [*files, lines(drawn, f"{title}; shown: {len(set(chosen) & set(wrong))} wrong", folder / "examples.png")]

    def _in_time(self, item: Judged, target: Sequence[Any]) -> list[bool]:
        """Tell of each right word whether the time in which it is said overlaps that of the true one."""
        step = self.frames.seconds_per_vector
        known = [(target[i], item.said[j]) for i, j in item.right if isinstance(target[i], Segment)]
        return [said.start * step < true.end and said.stop * step > true.start for true, said in known]


class Judged:
    """True labels and what was said instead, aligned with the fewest errors.

    Args:
        true: labels.
        said: recognised labels with their vectors.
    """

    def __init__(self, true: list[int], said: list[Span]) -> None:
        self.true, self.said = true, said
        self.pairs = aligned(true, [span.label for span in said])

    @property
    def right(self) -> list[tuple[int, int]]:
        """The pairs whose labels are equal."""
        both = [(i, j) for i, j in self.pairs if i is not None and j is not None]
        return [(i, j) for i, j in both if self.true[i] == self.said[j].label]

    @property
    def errors(self) -> tuple[int, int, int]:
        """Numbers of substitutions, deletions and insertions."""
        deletions, insertions = sum(j is None for _, j in self.pairs), sum(i is None for i, _ in self.pairs)
        return len(self.pairs) - deletions - insertions - len(self.right), deletions, insertions

    def labels(self, missing: int) -> list[tuple[int, int]]:
        """Return the pairs as true and recognised labels; ``missing`` stands for none."""
        return [
            (missing if i is None else self.true[i], missing if j is None else self.said[j].label)
            for i, j in self.pairs
        ]


def aligned(true: Sequence[int], said: Sequence[int]) -> list[Pair]:
    """Align two sequences of labels with the fewest errors, by jiwer."""
    import jiwer

    pairs: list[Pair] = []
    for chunk in jiwer.process_words(_text(true), _text(said)).alignments[0]:
        left = list(range(chunk.ref_start_idx, chunk.ref_end_idx))
        right = list(range(chunk.hyp_start_idx, chunk.hyp_end_idx))
        pairs += zip_longest(left, right)
    return pairs


def rate_interval(errors: np.ndarray, words: np.ndarray, *, seed: int, resamples: int = 2000) -> tuple[float, float]:
    """Return the 95% percentile bootstrap interval of ``sum(errors) / sum(words)`` over recordings.

    Words of one recording share their speaker and their fate, so recordings are drawn, not words (Bisani and Ney 2004,
    "Bootstrap estimates for confidence intervals in ASR performance evaluation").

    Args:
        errors, words: of each recording, ``(n,)``.
    """
    random, n = np.random.default_rng(seed), len(words)
    drawn = (random.integers(n, size=n) for _ in range(resamples))
    rates = [errors[pick].sum() / max(1, words[pick].sum()) for pick in drawn]
    low, high = np.quantile(rates, [0.025, 0.975])
    return float(low), float(high)


def _text(labels: Sequence[int]) -> str:
    return " ".join(map(str, labels))
