"""Files of whitespace-separated columns, as of the CoNLL shared tasks before CoNLL-U, and how entities are judged."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from vsattn.errors import ConfigError, DataError

from .base import Augment
from .conllu import read_lines
from .tagged import Tagged, TaggedWords


class Columns(TaggedWords):
    """Your own files in the style of CoNLL-2003: a word a line, a blank line between sentences.

    Lines of ``-DOCSTART-`` are left out. When all labels are ``O`` or begin with ``B-``, ``I-``, ``E-`` or ``S-``, they
    mark entities, and the test says how many of these are found as a whole (Tjong Kim Sang and De Meulder 2003).

    Args:
        train, val, test: files.
        word_column, label_column: numbers from 0, or from the end with -1 for the last.
        augment: see :class:`~vsattn.tasks.data.base.Data`.
    """

    def __init__(
        self,
        *,
        train: str,
        val: str,
        test: str,
        word_column: int = 0,
        label_column: int = -1,
        augment: Augment | None = None,
    ) -> None:
        super().__init__(augment=augment)
        self.files = {"train": train, "val": val, "test": test}
        self.word_column, self.label_column = word_column, label_column

    def setup(self, seed: int) -> None:
        """Read the files; the seed changes nothing.

        Raises:
            DataError: naming file and line, see :func:`read_columns`.
            ConfigError: for labels of entities without the package seqeval, before anything is trained.
        """
        columns = self.word_column, self.label_column
        self.take({split: read_columns(path, *columns) for split, path in self.files.items()})
        self.entities = all(label == "O" or re.match(r"[BIES]-.", label) for label in self.classes)
        if self.entities:
            entity_scores([["O"]], [["O"]])

    def describe(self) -> str:
        """Also say whether labels are judged as entities."""
        return f"{super().describe()}; these are {'' if self.entities else 'not '}judged as entities"


def read_columns(path: str | Path, word_column: int, label_column: int) -> list[Tagged]:
    """Read the words and labels of a file of columns.

    Raises:
        DataError: naming file and line, for a file that is missing, empty or not UTF-8, a line that lacks one of the
            columns, or has another number of columns than the first.
    """
    sentences: list[tuple[list[str], list[str]]] = [([], [])]
    width = 0
    for number, line in enumerate(read_lines(path), start=1):
        fields = line.split()
        if not fields:
            sentences.append(([], []))
        if not fields or fields[0] == "-DOCSTART-":
            continue
        width = width or len(fields)
        if len(fields) != width:
            raise DataError(f"{path}, line {number}: {len(fields)} columns, and {width} before: {line.strip()!r}")
        for name, column in (("word_column", word_column), ("label_column", label_column)):
            if not -width <= column < width:
                raise DataError(f"{path}, line {number}: data.{name}={column}, and there are {width} columns, from 0")
        sentences[-1][0].append(fields[word_column])
        sentences[-1][1].append(fields[label_column])
    return [sentence for sentence in sentences if sentence[0]]


def entity_scores(targets: Sequence[Sequence[str]], predictions: Sequence[Sequence[str]]) -> dict[str, float]:
    """Return precision, recall and F1 of whole entities, as ``test/entity_f1`` and so on, by `seqeval`.

    Its rules are those of the script ``conlleval``: an ``I-`` after another entity or ``O`` begins one.

    Args:
        targets: labels of each sentence.
        predictions: likewise.

    Raises:
        ConfigError: without the package seqeval.
    """
    try:
        from seqeval.metrics import f1_score, precision_score, recall_score
    except ImportError:
        raise ConfigError("entities are judged by the package seqeval: pip install 'vsattn[labeling]'") from None
    scores = {"precision": precision_score, "recall": recall_score, "f1": f1_score}
    return {f"test/entity_{n}": float(score(targets, predictions, zero_division=0)) for n, score in scores.items()}
