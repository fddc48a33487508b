"""Pairs of texts that say the same in two languages, held in memory, and your own files of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vsattn.errors import ConfigError, DataError

from .base import Augment, Data
from .text_files import BYTE_ORDER_MARK, read_text

#: A source text and its translation.
Pair = tuple[str, str]

#: Words of a training text, unless told otherwise.
MAX_WORDS = 100

SPLITS = ("train", "val", "test")


class ParallelData(Data):
    """Base of pairs of texts: items are ``(source, target)``, a source text and its translation.

    Args:
        source_language, target_language: codes such as ``"de"``.
        tokenised: whether the texts are tokens with spaces between them already, which is judged another way.
        max_words: training pairs with a longer text are left out.
        augment: see :class:`~vsattn.tasks.data.base.Data`.

    Attributes:
        left_out: how many training pairs were left out, by the reason.

    Raises:
        ConfigError: for a bound below 1.
    """

    left_out: dict[str, int]

    def __init__(
        self,
        *,
        source_language: str,
        target_language: str,
        tokenised: bool = False,
        max_words: int = MAX_WORDS,
        augment: Augment | None = None,
    ) -> None:
        super().__init__(augment=augment)
        if max_words < 1:
            raise ConfigError(f"data.max_words is at least 1, not {max_words}")
        self.source_language, self.target_language = source_language, target_language
        self.tokenised, self.max_words = tokenised, max_words
        self.classes = []  # what can be answered are texts

    def take(self, pairs: Mapping[str, Sequence[Pair]]) -> None:
        """Become these pairs of train, val and test; val and test keep every one.

        Raises:
            DataError: when nothing is left to train on.
        """
        kept: list[Pair] = []
        empty = long = 0
        for source, target in pairs["train"]:
            words = len(source.split()), len(target.split())
            empty += not min(words)
            long += bool(min(words)) and max(words) > self.max_words
            if min(words) and max(words) <= self.max_words:
                kept.append((source, target))
        self.left_out = {"an empty side": empty, f"more than {self.max_words} words": long}
        if not kept:
            raise DataError(
                f"{self.name}: all {len(pairs['train']):,} training pairs are left out ({self._left_out()})"
            )
        self.train, self.val, self.test = kept, list(pairs["val"]), list(pairs["test"])

    def fit_items(self, limit: int) -> Any:
        """Return all training pairs whatever the limit: a vocabulary needs them, and they are in memory."""
        return self.train

    def describe(self) -> str:
        """Say how many pairs and words there are, and how many training pairs are left out."""
        sizes = ", ".join(f"{len(getattr(self, split)):,} {split}" for split in SPLITS)
        words = [sum(len(pair[side].split()) for pair in self.fit_items(0)) for side in (0, 1)]
        text = f"{self.name}: {self.source_language} to {self.target_language}, {sizes} pairs"
        text += f" ({words[0]:,} and {words[1]:,} words to train on)"
        return text + (f"; left out of training: {self._left_out()}" if any(self.left_out.values()) else "")

    def _left_out(self) -> str:
        return ", ".join(f"{count:,} with {reason}" for reason, count in self.left_out.items() if count)


class Parallel(ParallelData):
    """Your own files: line i of one is the translation of line i of the other; plain UTF-8, or gzip.

    Args:
        train_source, train_target, val_source, val_target, test_source, test_target: files.
        source_language, target_language, tokenised, max_words: see :class:`ParallelData`.
    """

    def __init__(
        self,
        *,
        train_source: str,
        train_target: str,
        val_source: str,
        val_target: str,
        test_source: str | None = None,
        test_target: str | None = None,
        source_language: str,
        target_language: str,
        tokenised: bool = False,
        max_words: int = MAX_WORDS,
    ) -> None:
        super().__init__(
            source_language=source_language, target_language=target_language, tokenised=tokenised, max_words=max_words
        )
        self.files = {
            "train": (train_source, train_target),
            "val": (val_source, val_target),
            "test": (test_source, test_target),
        }

    def setup(self, seed: int) -> None:
        """Read the files; the seed changes nothing.

        Raises:
            DataError: see :func:`read_pairs`; also without test files.
        """
        if None in self.files["test"]:
            raise DataError(
                "data=parallel needs a test: give data.test_source and data.test_target, files whose lines are neither "
                "in training nor in validation; 1,000 lines or more tell models apart"
            )
        self.take({split: read_pairs(str(source), str(target)) for split, (source, target) in self.files.items()})


def read_pairs(source: str | Path, target: str | Path) -> list[Pair]:
    """Return the lines of two files, side by side.

    Raises:
        DataError: see :func:`read_texts`; also naming both files and their numbers of lines when these differ.
    """
    sources, targets = read_texts(source), read_texts(target)
    if len(sources) != len(targets):
        raise DataError(
            f"{source} has {len(sources):,} lines and {target} has {len(targets):,}: line i of one must be the "
            "translation of line i of the other"
        )
    return list(zip(sources, targets))


def read_texts(path: str | Path) -> list[str]:
    """Return the lines of a UTF-8 file, plain or gzip whatever its name, without their ends and a byte order mark.

    Raises:
        DataError: see :func:`~vsattn.tasks.data.text_files.read_text`.
    """
    text = read_text(path, unpack=True).removeprefix(BYTE_ORDER_MARK)
    # Not splitlines, which ends lines at other characters too, so that the two files would fall out of step.
    return [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")]
