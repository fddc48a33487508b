"""Label the words of sentences: a list of words in, one label per word out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics import Metric

from vsattn.answers import Record
from vsattn.build import parameters_of, resolve
from vsattn.crf import CrfHead
from vsattn.errors import ConfigError, DataError
from vsattn.heads import MultiTaskHead
from vsattn.predictor import Predictor
from vsattn.tokenizers.base import Tokenizer

from .answering import labelled
from .beside import BesideCollate, beside_loss, beside_scores, check_columns, guesses_beside
from .classification import IGNORED, ClassificationTask
from .data.base import Data, Split
from .data.columns import entity_scores
from .data.python_source import MAX_LENGTH
from .data.tagged import TaggedWords
from .inputs import Question
from .plots import confusion
from .remembering import Remembered, averaged
from .report import accuracy, classification
from .sentences import Place, each_sentence
from .words_plots import Row, choose, draw_sentences, two_ways


class LabelingTask(ClassificationTask):
    """One label per word, by cross-entropy; with ``head=crf`` the labels of a sentence are learned and found together.

    With ``head=multi_task`` training adds the cross-entropies of the data's further columns, and the test judges these.

    Args:
        beside_weight: the share of each further column's cross-entropy in the loss of training.
        beside_labels: the labels of each further column, in the order of their numbers; a checkpoint keeps them.
        model, tokenizer, classes, optimizer, schedule, recipe, label_smoothing: see
            :class:`~vsattn.tasks.classification.ClassificationTask`.

    Raises:
        ConfigError: for a weight below 0, or columns that the head does not learn or the data do not have; see also
            there.
    """

    floor_name = "most frequent label of each word"
    formats = ("conllu", "jsonl", "csv", "tsv", "table")
    trains_crf = True
    teaches_columns = True

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Tokenizer,
        classes: Sequence[str],
        *,
        optimizer: Callable[..., Optimizer] | None = None,
        schedule: Callable[..., LRScheduler] | None = None,
        recipe: dict[str, Any] | None = None,
        label_smoothing: float = 0.0,
        beside_weight: float = 0.5,
        beside_labels: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        if beside_weight < 0:
            raise ConfigError(f"task.beside_weight must not be negative, but is {beside_weight}")
        made = {"optimizer": optimizer, "schedule": schedule, "recipe": recipe}
        super().__init__(model, tokenizer, classes, label_smoothing=label_smoothing, **made)  # type: ignore[arg-type]
        self.beside_weight = beside_weight
        self.beside_labels = {name: list(labels) for name, labels in (beside_labels or {}).items()}
        check_columns(self.columns, self.beside_labels)

    @property
    def columns(self) -> MultiTaskHead | None:
        """The head, where it is one for several columns."""
        head = getattr(self.model, "head", None)
        return head if isinstance(head, MultiTaskHead) else None

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the labels of the further columns."""
        super().on_save_checkpoint(checkpoint)
        if self.beside_labels:
            checkpoint["vsattn"]["beside"] = self.beside_labels

    def collator(self, train: bool) -> Callable[[list[Any]], dict[str, Tensor]]:
        """Return the function that batches."""
        if self.columns is None:
            return super().collator(train)
        return BesideCollate(self.tokenizer, columns=len(self.columns.widths), train=train)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """Return the model's output for a batch, with the logits of further columns where there are any."""
        with nullcontext() if self.columns is None else self.columns.all_columns():
            return super().forward(batch)

    def training_loss(self, output: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """Return the mean loss with label smoothing, of all columns."""
        loss = super().training_loss(output, batch)
        if self.columns is None:
            return loss
        return loss + self.beside_weight * beside_loss(self.columns, output, batch, self.label_smoothing)

    def cross_entropy(self, output: Tensor, target: Tensor, label_smoothing: float) -> Tensor:
        """Return the mean loss per word.

        With a conditional random field the negative log-likelihood of the sentences takes the place of the
        cross-entropy; what label smoothing gives to all C labels alike is read from the words' own logits e:
        ``((1 - s) NLL - s sum_i mean_c log softmax(e_i)[c]) / n`` for n words.
        """
        head = getattr(self.model, "head", None)
        if self.columns is not None:
            output = self.columns.split(output)[0]
        if not isinstance(head, CrfHead):
            return super().cross_entropy(output, target, label_smoothing)
        mask = target != IGNORED
        total = (1 - label_smoothing) * head.negative_log_likelihood(output, target, mask)
        if label_smoothing:
            total = total - label_smoothing * output.log_softmax(-1).mean(-1)[mask].sum()
        return total / mask.sum().clamp(min=1)

    def predicted(self, output: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """Return the predicted classes ``(B, N)`` for the logits ``(B, N, C)`` of a batch."""
        own = output if self.columns is None else self.columns.split(output)[0]
        return self.model.head.labels(own, batch["mask"])  # type: ignore[operator, union-attr]

    def measure(self, metrics: dict[str, Metric], output: Tensor, batch: dict[str, Tensor]) -> None:
        """Count right words."""
        metrics["accuracy"].update(self.predicted(output, batch), batch["target"])

    def check(self, data: Data, split: str) -> None:
        """Raise ConfigError for a conditional random field where words have no label: it needs whole sequences."""
        pairs: Split = getattr(data, split)
        if isinstance(getattr(self.model, "head", None), CrfHead):
            for index in range(len(pairs)):
                if IGNORED in pairs[index][1]:
                    raise ConfigError(f"head=crf labels whole sentences, and {data.name} has words without a label")

    def remember(self, output: Tensor, batch: dict[str, Tensor]) -> Remembered:
        """Keep what :class:`Remembered` says."""
        words, learned = batch["mask"], self.columns
        return Remembered(
            self.predicted(output, batch)[words].cpu().numpy(),
            batch["target"][words].cpu().numpy(),
            float(self.loss(output, batch)) * self.count(batch),
            guesses_beside(learned, output)[words].cpu() if learned is not None else None,
            batch["beside"][words].cpu() if learned is not None else None,
            output[words].float().cpu() if self.in_ensemble else None,
        )

    def together(self, remembered: Sequence[list[Any]]) -> list[Any]:
        """Average the members' probabilities, in each column."""
        return [averaged(kept, self.columns) for kept in zip(*remembered, strict=True)]

    def evaluate(self, remembered: list[Any], data: Data, *, seed: int) -> dict[str, float]:
        """Return loss, accuracy and the scores of each label; accuracy over kinds of words; scores of entities.

        ``test/accuracy_known`` is over words that training has, ``_unknown`` over the others, and ``_ambiguous`` over
        words that training has with several labels, which context must tell apart; each with its interval, and
        ``test/words_known`` and so on say how many there are. ``test/by_<rule>`` is the accuracy of each rule that the
        data have for a baseline, and ``test/accuracy_<column>`` that of each further column, with its interval; what
        training did not teach counts as wrong.

        Raises:
            DataError: when nothing is labelled.
        """
        every, targets, losses = _joined(remembered)
        sentences, labels, judged = tested(data, len(targets)), label_counts(data), targets != IGNORED
        if not judged.any():
            raise DataError("the test split has no labels to judge by")
        scores = {"test/loss": losses / int(judged.sum())}
        scores |= classification(targets[judged], every[judged], self.classes, seed=seed)
        kinds = np.array([len(labels.get(word, ())) for word in chain.from_iterable(sentences)])[judged]
        right = (every == targets)[judged]
        for name, chosen in (("known", kinds > 0), ("unknown", kinds == 0), ("ambiguous", kinds > 1)):
            scores[f"test/words_{name}"] = int(chosen.sum())
            if chosen.any():
                scores |= accuracy(f"accuracy_{name}", right[chosen], seed=seed)
        if getattr(data, "entities", False):
            scores |= entity_scores(*(self._named(part, sentences) for part in (targets, every)))
        if self.columns is not None:
            scores |= beside_scores(self.columns, remembered, seed)
        ruled = self._ruled(data, targets[judged])
        return scores | {f"test/by_{name.replace(' ', '_')}": float(found.mean()) for name, found in ruled.items()}

    def floor(self, data: Data) -> np.ndarray | None:
        """Judge the most frequent label of each word of training, and the most frequent of all for other words.

        Data that have rules of their own are judged by the first of these.
        """
        targets = _joined(self.remembered)[1]
        judged = targets != IGNORED
        for name, found in self._ruled(data, targets[judged]).items():
            self.floor_name = name
            return found
        labels = label_counts(data)
        every = sum(labels.values(), Counter[int]()).most_common(1)[0][0]
        best = {word: counts.most_common(1)[0][0] for word, counts in labels.items()}
        guess = [best.get(word, every) for word in chain.from_iterable(tested(data, len(targets)))]
        return (np.array(guess) == targets)[judged]

    def draw(self, folder: Path, data: Data) -> list[Path]:
        """Draw the labels that were confused and some test sentences, and print a word that is labelled in two ways."""
        predictions, targets, _ = _joined(self.remembered)
        judged = targets != IGNORED
        there, pairs = np.unique(np.stack([targets, predictions])[:, judged], return_inverse=True)
        true, guessed = pairs.reshape(2, -1)
        files = [confusion(true, guessed, [self.classes[i] for i in there], folder / "confusion.png")]
        predictions = np.where(judged, predictions, IGNORED)
        sentences = tested(data, len(targets))
        guess, truth = (self._named(part, sentences) for part in (predictions, targets))
        rows: list[Row] = list(zip(sentences, guess, truth, strict=True))
        pair = two_ways(rows)
        if pair is not None:
            print(f"\none spelling, two labels: {pair.describe()}", flush=True)
        right = (predictions == targets)[judged]
        title = f"{right.sum()} of {len(right)} words right ({100 * right.mean():.2f}%)"
        files.append(draw_sentences(choose(rows, pair), title, folder, marked=pair.word if pair else None))
        return files

    @classmethod
    def questions(cls, predictor: Predictor, inputs: Sequence[Path] | None) -> Iterator[Question]:
        """Yield sentences, see :func:`~vsattn.tasks.sentences.each_sentence`."""
        settings = predictor.config.get("data", {})
        parameters = parameters_of(resolve(settings["_target_"])) if settings else {}
        known = {name: settings.get(name, parameter.default) for name, parameter in parameters.items()}
        return each_sentence(inputs, known.get("column", "misc:Label"), known.get("max_length", MAX_LENGTH))

    @classmethod
    def records(cls, predictor: Predictor, question: Question, answer: Any) -> list[Record]:
        """Return one record for each word; sentences and words are counted from 1."""
        where = {"path": question.about.path, "sentence": question.about.number}
        pairs = enumerate(zip(question.item, answer, strict=True), start=1)
        return [{**where, "index": i, "word": word, **labelled(found)} for i, (word, found) in pairs]

    @classmethod
    def written(cls, predictor: Predictor, question: Question, answer: Any | None) -> str:
        """Return the lines of a sentence as they were but for the labels, or quite as they were.

        Labels that have no column of their own are written into MISC, as ``Label=...``.
        """
        place: Place | None = question.about
        if place is None:  # a file that cannot be read
            return ""
        if answer is None:
            return "".join(place.sentence.lines)
        return place.sentence.filled(place.column, [word.label for word in answer])

    def _named(self, flat: np.ndarray, sentences: Sequence[Sequence[str]]) -> list[list[str]]:
        """Cut classes ``(n,)`` into sentences, and name them; "" where there is none."""
        ends = np.cumsum([len(words) for words in sentences])[:-1]
        return [["" if i == IGNORED else self.classes[i] for i in part] for part in np.split(flat, ends)]

    def _ruled(self, data: Data, targets: np.ndarray) -> dict[str, np.ndarray]:
        """Return which labelled words, with targets ``(n,)``, each rule of the data gets right, bool ``(n,)``."""
        rules = data.guesses() if isinstance(data, TaggedWords) else {}
        names = np.array(self.classes)[targets]
        return {name: np.array(guess[: len(names)]) == names for name, guess in rules.items()}


def _joined(remembered: list[Any]) -> tuple[np.ndarray, np.ndarray, float]:
    """Return predictions and targets ``(n,)`` of all tested words, and the sum of their losses."""
    predictions, targets, losses, *_ = zip(*remembered, strict=True)
    return np.concatenate(predictions), np.concatenate(targets), float(sum(losses))


def tested(data: Data, count: int) -> list[Sequence[str]]:
    """Return the test sentences that hold the first ``count`` words of the split; the rest was not tested."""
    sentences: list[Sequence[str]] = []
    for index in range(len(data.test)):
        if count <= 0:
            break
        sentences.append(data.test[index][0])
        count -= len(sentences[-1])
    return sentences


def label_counts(data: Data) -> dict[str, Counter[int]]:
    """Return how often each word of the training split has each class."""
    counts: dict[str, Counter[int]] = {}
    for index in range(len(data.train)):
        for word, target in zip(*data.train[index], strict=True):
            if target != IGNORED:
                counts.setdefault(word, Counter())[target] += 1
    return counts
