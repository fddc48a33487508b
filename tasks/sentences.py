"""Sentences that are to be labelled: CoNLL-U, text with a sentence a line, and sources of Python."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from vsattn.errors import DataError

from .data.conllu import COLUMNS, Sentence, new_sentence, parse_conllu, read_conllu, read_lines
from .data.python_source import sentences_of
from .inputs import STANDARD_INPUT, Question, each_file

#: Endings that are looked for in folders.
EXTENSIONS = (".conllu", ".txt", ".py")


@dataclass(frozen=True)
class Place:
    """Where a sentence stands.

    Args:
        path: of its file; ``-`` is standard input.
        number: among the sentences of the file, from 1.
        sentence: its lines.
        column: which of their columns, or keys, gets the labels.
    """

    path: str
    number: int
    sentence: Sentence
    column: str


def each_sentence(inputs: Sequence[Path] | None, column: str, max_length: int) -> Iterator[Question]:
    """Yield the sentences of files, or those of standard input as they come; a file with a fault gives its error alone.

    CoNLL-U is known by its ending, ``.conllu``, or by its first line; ``.py`` is Python; all else is text.

    Args:
        inputs: files and folders, or None.
        column: see :class:`Place`.
        max_length: tokens that a sentence of Python holds at most.
    """
    if inputs is None:
        yield from _questions("-", _parsed(_lines(sys.stdin.buffer), STANDARD_INPUT), column, STANDARD_INPUT)
        return
    files = list(each_file(inputs, EXTENSIONS))
    for number, file in enumerate(files, start=1):
        if isinstance(file.item, DataError):
            yield file
            continue
        try:
            sentences = _read(file.item, max_length)
        except DataError as error:
            yield Question(file.name, error)
            continue
        if number < len(files):
            sentences[-1] = _ended(sentences[-1])
        yield from _questions(file.name, sentences, column, file.name)


def _questions(path: str, sentences: Iterable[Sentence], column: str, name: str) -> Iterator[Question]:
    try:
        for number, sentence in enumerate(sentences, start=1):
            yield Question(f"sentence {number} of {name}", sentence.words, Place(path, number, sentence, column))
    except DataError as error:
        yield Question(name, error)


def _read(path: Path, max_length: int) -> list[Sentence]:
    if path.suffix == ".conllu":
        return read_conllu(path)
    if path.suffix == ".py":
        return [new_sentence(words) for words, _ in sentences_of(path, max_length)]
    return list(_parsed(read_lines(path), str(path)))


def _parsed(lines: Iterable[str], name: str) -> Iterator[Sentence]:
    """Yield sentences of CoNLL-U, if the first line that is no comment is of it, or of text."""
    remaining = iter(lines)
    first = []
    for line in remaining:
        first.append(line)
        if line.strip() and not line.startswith("#"):
            break
    lines = chain(first, remaining)
    if first and re.match(rf"[0-9][^\t]*(\t[^\t]*){{{len(COLUMNS) - 1}}}$", first[-1]):
        return parse_conllu(lines, name)
    return (new_sentence(line.split()) for line in lines if line.strip())


def _lines(stream: Iterable[bytes]) -> Iterator[str]:
    for number, line in enumerate(stream, start=1):
        try:
            yield line.decode("utf-8")
        except UnicodeDecodeError as error:
            reason = f"{error.reason} at byte {error.start}"
            raise DataError(f"line {number} of {STANDARD_INPUT} is no UTF-8 text ({reason})") from None


def _ended(sentence: Sentence) -> Sentence:
    """Return a sentence with the blank line that must stand before another one."""
    text = "".join(sentence.lines)
    if text.endswith(("\n\n", "\n\r\n")):
        return sentence
    last = sentence.lines[-1]
    missing = ["\n"] if last.endswith("\n") else [f"{last}\n", "\n"]
    return Sentence([*(sentence.lines if last.endswith("\n") else sentence.lines[:-1]), *missing], sentence.rows)
