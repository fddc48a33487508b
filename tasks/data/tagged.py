"""Sentences with one label per word, held in memory: what all sources of them share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from vsattn.errors import DataError

from ..classification import IGNORED
from .base import Data, Items

#: A sentence and the labels of its words; None for a word that has none, which is neither taught nor judged.
Tagged = tuple[Sequence[str], Sequence[str | None]]


class Labels(list[int]):
    """The classes of a sentence's words, with those of further columns beside them.

    Attributes:
        beside: the classes of each word in each of K further columns, ``(N, K)``.
    """

    def __init__(self, classes: Sequence[int], beside: Sequence[Sequence[int]]) -> None:
        super().__init__(classes)
        self.beside = [list(row) for row in beside]


class TaggedWords(Data):
    """Base of labelled sentences: items are lists of words, targets one class per word.

    Attributes:
        entities: whether labels mark entities as ``B-``, ``I-`` and ``O`` do, and are judged as such.
        unseen: of the words of val and test, how many carry which label that training never shows.
        beside_labels: the labels of each further column that is taught beside the classes, in the order of their
            numbers; the targets are then `Labels`.
    """

    entities = False
    beside_labels: Mapping[str, Sequence[str]] = MappingProxyType({})
    unseen: Counter[str]

    def take(self, sentences: Mapping[str, Sequence[Tagged]]) -> None:
        """Become these sentences of train, val and test; those without words are left out.

        Classes are the labels of the training split, by name. A label of val or test that training never shows
        follows them: nothing teaches it, so it counts as wrong.

        Raises:
            DataError: for fewer than two labels in training.
        """
        known = {label for _, labels in sentences["train"] for label in labels if label is not None}
        if len(known) < 2:
            raise DataError(f"{self.name}: training needs at least two different labels; all are {sorted(known)}")
        others = (label for split in ("val", "test") for _, labels in sentences[split] for label in labels)
        self.unseen = Counter(label for label in others if label is not None and label not in known)
        self.classes = [*sorted(known), *sorted(self.unseen)]
        index: dict[str | None, int] = {None: IGNORED} | {label: i for i, label in enumerate(self.classes)}
        for split, pairs in sentences.items():
            targets = [(list(words), [index[label] for label in labels]) for words, labels in pairs if words]
            setattr(self, split, targets)

    def guesses(self) -> dict[str, list[str]]:
        """Return what rules made for these data say of the labelled words of the test split, by the rules' names.

        The first is what a model must beat; without any, that is the most frequent label of each word.
        """
        return {}

    def fit_items(self, limit: int) -> Items:
        """Return all training sentences whatever the limit: a vocabulary needs them, and they are in memory."""
        return Items(self.train, range(len(self.train)))

    def lengths(self, split: str) -> list[int]:
        """Return the number of words of each sentence of a split."""
        sentences = getattr(self, split)
        return [len(sentences[i][0]) for i in range(len(sentences))]

    def describe(self) -> str:
        """Say how many sentences, words and labels there are, and which labels training never shows."""
        counts = [f"{len(getattr(self, s)):,} {s} ({sum(self.lengths(s)):,} words)" for s in ("train", "val", "test")]
        text = f"{self.name}: {', '.join(counts)}, {len(self.classes)} labels"
        if not self.unseen:
            return text
        named = ", ".join(f"{label} ({count})" for label, count in sorted(self.unseen.items()))
        return f"{text}; {self.unseen.total()} words of val and test have labels that training never shows: {named}"
