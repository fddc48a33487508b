"""What a command is asked to answer for: files, those of folders, and lines of text."""

from __future__ import annotations

import gzip
import os
import sys
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vsattn.errors import DataError

from .data.folders import visible_files
from .data.text_files import GZIP

#: What standard input is called in answers and messages.
STANDARD_INPUT = "standard input"


@dataclass(frozen=True)
class Question:
    """One thing to answer for.

    Args:
        name: what messages call it.
        item: what the predictor takes, or the error that kept it from being read.
        about: what else the task needs to write its answer.
    """

    name: str
    item: Any
    about: Any = None


def each_file(inputs: Sequence[Path], extensions: Sequence[str] = ()) -> Iterator[Question]:
    """Return a question for each file, and for the visible files of folders, sorted, with these endings (or any).

    Files of folders that end otherwise are counted on standard error.

    Raises:
        DataError: naming all that is missing or empty, when there is no file at all.
    """
    found: list[Question] = []
    for path in inputs:
        if os.path.isdir(path):
            found += _inside(path, extensions)
        else:
            found.append(Question(str(path), path if os.path.exists(path) else DataError(f"there is no {path}")))
    if all(isinstance(question.item, DataError) for question in found):
        raise DataError("\n".join(str(question.item) for question in found))
    return iter(found)


def _inside(folder: Path, extensions: Sequence[str]) -> Iterator[Question]:
    others: Counter[str] = Counter()
    fitting = []
    for path in sorted(visible_files(folder)):
        if extensions and path.suffix.lower() not in extensions:
            others[path.suffix.lower() or "without an ending"] += 1
        else:
            fitting.append(path)
    if others:
        kinds = ", ".join(f"{count} {ending}" for ending, count in others.most_common())
        print(f"{folder}: left out {kinds}", file=sys.stderr)
    if not fitting:
        wanted = f" that ends in {' '.join(extensions)}" if extensions else ""
        yield Question(str(folder), DataError(f"{folder} holds no file{wanted}"))
    for path in fitting:  # a pipe would never end
        yield Question(str(path), path if path.is_file() else DataError(f"{path} is no file, or a link to none"))


def each_line(files: Iterable[Question] | None) -> Iterator[Question]:
    """Yield the lines of text files, plain or gzip whatever their names, or those of standard input as they come.

    What is no UTF-8 is an error in the place of its line; `Question.about` is the file and the number of the line.
    """
    if files is None:
        yield from decoded(sys.stdin.buffer, "-", STANDARD_INPUT)
    for file in files or ():
        if isinstance(file.item, DataError):
            yield file
            continue
        try:
            with file.item.open("rb") as stream:
                packed = stream.peek(len(GZIP)).startswith(GZIP)
                yield from decoded(gzip.GzipFile(fileobj=stream) if packed else stream, file.name, file.name)
        except (OSError, EOFError, zlib.error) as error:
            reason = getattr(error, "strerror", None) or error
            yield Question(file.name, DataError(f"{file.name} cannot be read: {reason}"))


def decoded(stream: Iterable[bytes], path: str, name: str) -> Iterator[Question]:
    """Yield the lines of a stream without their ends; nothing but a line feed ends one."""
    for number, line in enumerate(stream, start=1):
        try:
            item: Any = line.decode("utf-8").removesuffix("\n").removesuffix("\r")
        except UnicodeDecodeError as error:
            reason = f"{error.reason} at byte {error.start}"
            item = DataError(f"line {number} of {name} is no UTF-8 text ({reason})")
        yield Question(f"line {number} of {name}", item, (path, number))
