"""Classify sound: one label per clip, or one per frame."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from vsattn.answers import Record
from vsattn.errors import ConfigError
from vsattn.predictor import Prediction, Predictor
from vsattn.tokenizers.audio import AudioFrames
from vsattn.tokenizers.waveforms import to_waveform

from .answering import labelled
from .classification import IGNORED, ClassificationTask, Collate, joined
from .data.audio import EXTENSIONS, Segment
from .data.audio_augment import AudioAugment
from .data.base import Data
from .inputs import Question
from .plots import confusion, shown, spread
from .report import linear_floor
from .speech_plots import clips, timelines

#: Clips in the drawn figures.
SHOWN_CLIPS, SHOWN_TIMELINES = 20, 6

#: Logistic regression learns from so many clips, or vectors, at most.
FLOOR_CLIPS, FLOOR_VECTORS = 5000, 10_000


class SpeechCollate(Collate):
    """``(clip, target)`` pairs to a batch; a target that is a list of `Segment` becomes one label per vector.

    A vector has the label of the segment in which its centre lies, or `IGNORED`.

    Raises:
        ConfigError: for segments and an augmentation that moves time.
    """

    def __call__(self, pairs: list[Any]) -> dict[str, Tensor]:
        """Batch the pairs."""
        if not pairs or isinstance(pairs[0][1], int):
            return super().__call__(pairs)
        tokenizer = self.tokenizer
        assert isinstance(tokenizer, AudioFrames)
        if self.train and tokenizer.spec_augment is not None and tokenizer.spec_augment.stretch:
            raise ConfigError("labels in time do not fit stretched clips: set tokenizer.spec_augment.stretch=0")
        batch = tokenizer.collate([item for item, _ in pairs], train=self.train)
        counts = tokenizer.counts(batch).tolist()
        labels = [labels_at(tokenizer.vector_times(n), target) for n, (_, target) in zip(counts, pairs, strict=True)]
        return {**batch, "target": pad_sequence(labels, True, IGNORED)}


def labels_at(times: Tensor, segments: Sequence[Segment]) -> Tensor:
    """Return the labels ``(n,)`` at ``times (n,)``, in seconds; `IGNORED` outside of all segments."""
    labels = torch.full(times.shape, IGNORED)
    for start, end, label in segments:
        labels[(times >= start) & (times < end)] = label
    return labels


class SpeechTask(ClassificationTask):
    """Classification of clips, or of every vector of them with ``head=vector``.

    Args:
        model: batch -> logits ``(B, C)`` or ``(B, N, C)``.
        tokenizer: fitted `AudioFrames`.
        classes, optimizer, schedule, recipe, label_smoothing: see :class:`ClassificationTask`.
    """

    floor_name = "logistic regression on mean log-mel"
    extensions = EXTENSIONS

    def collator(self, train: bool) -> SpeechCollate:
        """Return the function that batches."""
        return SpeechCollate(self.tokenizer, train=train)

    def check(self, data: Data, split: str) -> None:
        """Look at the training data before the first step.

        Raises:
            ConfigError: for segments and an augmentation that moves time.
        """
        super().check(data, split)
        moved = split == "train" and isinstance(data.augment, AudioAugment) and data.augment.moves_time
        if moved and not isinstance(data.train[0][1], int):
            raise ConfigError(
                "labels in time do not fit clips that are moved or longer: set speed, shift, silence and reverberation "
                "of data.augment to 0"
            )

    def floor(self, data: Data) -> np.ndarray | None:
        """Judge logistic regression on each clip's mean log-mel spectrum, or on that of each vector's middle frame."""
        own = self.tokenizer
        assert isinstance(own, AudioFrames)
        if not isinstance(data.test[0][1], int):
            self.floor_name = "logistic regression on the log-mel of one frame"
        plain = AudioFrames(
            sample_rate=own.sample_rate,
            window=own.window / own.sample_rate,
            hop=own.hop / own.sample_rate,
            normalise="none",
            strides=own.strides,
            max_vectors=own.max_vectors,
        )
        few = range(0, len(data.train), max(1, -(-len(data.train) // FLOOR_CLIPS)))
        train, train_targets = _log_mels(plain, (data.train[i] for i in few))
        test, test_targets = _log_mels(plain, (data.test[i] for i in range(len(data.test))))
        every = max(1, -(-len(train) // FLOOR_VECTORS))
        return linear_floor(train[::every], train_targets[::every], test, test_targets)

    @classmethod
    def records(cls, predictor: Predictor, question: Question, answer: Any) -> list[Record]:
        """Return the label of a clip, or one record for each stretch of time with one label, times in seconds."""
        if not isinstance(answer, list):
            return super().records(predictor, question, answer)
        tokenizer = predictor.tokenizer
        assert isinstance(tokenizer, AudioFrames)
        return [{"path": question.name, **stretch} for stretch in _stretches(answer, tokenizer)]

    def draw(self, folder: Path, data: Data) -> list[Path]:
        """Draw the confusion matrix, and test clips as spectrograms with what was answered."""
        logits, targets = joined(self.remembered)
        probabilities, predictions = logits.softmax(-1).max(-1)
        files = [confusion(targets.numpy(), predictions.numpy(), self.classes, folder / "confusion.png")]
        wrong = (predictions != targets).nonzero().flatten().tolist()
        share = f"{len(targets) - len(wrong)} of {len(targets)}"
        if isinstance(data.test[0][1], int):
            right = (predictions == targets).nonzero().flatten().tolist()
            chosen = shown(wrong, right, SHOWN_CLIPS, SHOWN_CLIPS // 2)
            names = self.classes
            rows = [
                (*self._sound(data.test[i][0]), names[predictions[i]], float(probabilities[i]), names[targets[i]])
                for i in chosen
            ]
            return [*files, clips(rows, f"{data.name}: {share} test clips right", folder / "examples.png")]
        lines = [self._timeline(data.test[i]) for i in spread(list(range(len(data.test))), SHOWN_TIMELINES)]
        title = f"{data.name}: {share} test frames right"
        return [*files, timelines(lines, self.classes, title, folder / "examples.png")]

    def _sound(self, item: Any) -> tuple[np.ndarray, int]:
        assert isinstance(self.tokenizer, AudioFrames)
        rate = self.tokenizer.sample_rate
        return to_waveform(item, rate, "a test clip").numpy(), rate

    def _timeline(self, pair: tuple[Any, Any]) -> tuple[Any, ...]:
        """Return samples, rate, times of the vectors, and their true and predicted labels."""
        assert isinstance(self.tokenizer, AudioFrames)
        batch = {key: value.to(self.device) for key, value in self.collate([pair]).items()}
        with torch.no_grad():
            predicted = self.eval()(batch)[0].argmax(-1).cpu().numpy()
        times = self.tokenizer.vector_times(len(predicted)).numpy()
        return *self._sound(pair[0]), times, batch["target"][0].cpu().numpy(), predicted


def _log_mels(tokenizer: AudioFrames, pairs: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return log-mel spectra ``(n, F)``, one per clip or one per labelled vector, and their targets ``(n,)``."""
    features, targets = [], []
    collate, step = SpeechCollate(tokenizer), int(np.prod(tokenizer.strides))
    for pair in pairs:
        batch = collate([pair])
        frames, target = batch["frames"][0], batch["target"][0]
        features.append(frames[::step][target != IGNORED] if target.ndim else frames.mean(0, keepdim=True))
        targets.append(target[target != IGNORED].reshape(-1))
    return torch.cat(features).numpy(), torch.cat(targets).numpy()


def _stretches(vectors: list[Prediction], tokenizer: AudioFrames) -> list[Record]:
    """Join neighbours with the same label; their probabilities are means over the stretch."""
    times = tokenizer.borders(len(vectors)).tolist()
    found, position = [], 0
    for label, group in groupby(vectors, key=lambda vector: vector.label):
        parts = list(group)
        start, position = position, position + len(parts)
        means = {name: fmean(part.probabilities[name] for part in parts) for name in parts[0].probabilities}
        mean = Prediction(label, means[label], means)
        found.append({"start": times[start], "end": times[position], **labelled(mean)})
    return found
