"""Python's own standard library as labelled text: what each token of a program is there for."""

from __future__ import annotations

import ast
import io
import keyword
import sys
import sysconfig
import token
import tokenize
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vsattn.errors import ConfigError, DataError

from .base import Augment
from .tagged import Tagged, TaggedWords

#: Line and column, the column in bytes, as the syntax tree has them.
Place = tuple[int, int]

#: Tokens of a sentence, unless told otherwise.
MAX_LENGTH = 32

#: Labels of what is no name; of the other kinds only pieces of f-strings are kept.
LABELS = {token.OP: "operator", token.NUMBER: "number", token.STRING: "string", tokenize.COMMENT: "comment"}


class PythonSource(TaggedWords):
    """The public modules of the standard library of the Python that runs this: nothing is downloaded.

    Tokens are the words; their labels come from the syntax tree. One spelling has many: ``key`` is a parameter here, an
    attribute, a keyword argument or a variable there. Whole modules train, validate or test (about 8 : 1 : 1), by their
    name and whatever the seed. A sentence is as many whole statements as it may hold.

    Args:
        max_length: tokens of a sentence; a longer statement is cut.
        augment: see :class:`~vsattn.tasks.data.base.Data`.

    Raises:
        ConfigError: for a length below 1.
    """

    def __init__(self, *, max_length: int = MAX_LENGTH, augment: Augment | None = None) -> None:
        super().__init__(augment=augment)
        if max_length < 1:
            raise ConfigError(f"data.max_length is at least 1, not {max_length}")
        self.max_length = max_length

    def setup(self, seed: int) -> None:
        """Read and label the sources; the seed changes nothing.

        Raises:
            DataError: where Python has no sources.
        """
        folder = Path(sysconfig.get_path("stdlib"))
        paths = sorted(path for path in folder.glob("*.py") if not path.name.startswith("_"))
        if not paths:
            raise DataError(f"{folder} holds no sources of Python's library; choose data=ud_ewt or data=conllu")
        pairs: dict[str, list[Tagged]] = {"train": [], "val": [], "test": []}
        for path in paths:
            split = {0: "test", 1: "val"}.get(zlib.crc32(path.stem.encode()) % 10, "train")
            pairs[split] += sentences_of(path, self.max_length)
        self.take(pairs)


def sentences_of(path: Path, max_length: int) -> Iterator[Tagged]:
    """Yield the tokens of a source file and their labels, whole statements together up to ``max_length`` tokens.

    Raises:
        DataError: naming the file and the line that is not Python.
    """
    words: list[str] = []
    labels: list[str] = []
    for line in labelled_lines(path):
        for start in range(0, len(line), max_length):
            piece = line[start : start + max_length]
            if len(words) + len(piece) > max_length:
                yield words, labels
                words, labels = [], []
            words += [text for text, _ in piece]
            labels += [label for _, label in piece]
    if words:
        yield words, labels


def labelled_lines(path: Path) -> Iterator[list[tuple[str, str]]]:
    """Yield each statement as ``(token, label)``; a comment belongs to the statement that ends after it.

    Raises:
        DataError: naming the file and what in it is not Python.
    """
    try:
        with tokenize.open(path) as file:
            text = file.read()
        roles, lines = Roles(ast.parse(text)), text.split("\n")
        found = list(tokenize.generate_tokens(io.StringIO(text).readline))
    except (SyntaxError, ValueError, tokenize.TokenError, OSError, RecursionError, MemoryError) as error:
        version = ".".join(map(str, sys.version_info[:2]))
        raise DataError(f"{path} cannot be read as Python {version}: {error}") from None
    statement: list[tuple[str, str]] = []
    for kind, string, start, end, _ in found:
        if kind == token.NEWLINE and statement:
            yield statement
            statement = []
        if kind == token.NAME:
            first, last = ((row, len(lines[row - 1][:column].encode())) for row, column in (start, end))
            statement.append((string, roles.of(string, first, last, statement[-1][0] if statement else "")))
        elif string.strip() and (label := LABELS.get(kind, "string" if "STRING" in token.tok_name[kind] else "")):
            statement.append((string, label))
    if statement:
        yield statement


class Roles:
    """What the names of a module are there for, by where they begin, where they end, or the statement they lie in."""

    def __init__(self, tree: ast.Module) -> None:
        self.starts: dict[Place, str] = {}
        self.ends: dict[Place, str] = {}
        self.spans: list[tuple[Place, Place, str]] = []
        nodes: list[ast.AST] = [tree]
        for node in nodes:  # parents first: what they say of a child holds
            self._visit(node)
            # Before Python 3.12 f-strings are one token each, and the places in them are not those of the file.
            if not isinstance(node, ast.JoinedStr) or sys.version_info >= (3, 12):
                nodes += ast.iter_child_nodes(node)

    def of(self, name: str, start: Place, end: Place, before: str) -> str:
        """Return the label of a name between two places, after the token ``before``."""
        if keyword.iskeyword(name):
            return "keyword"
        if before in ("def", "class"):
            return "function" if before == "def" else "class"
        if found := self.starts.get(start) or self.ends.get(end):
            return found
        for first, last, label in self.spans:
            if first <= start < last:
                return label
        # What is left has no place of its own in the tree: `match` and its like, `except ... as name`, in patterns.
        return "keyword" if keyword.issoftkeyword(name) else "written"

    def _visit(self, node: ast.AST) -> None:
        if isinstance(node, ast.Name):
            self._say(node, "read" if isinstance(node.ctx, ast.Load) else "written")
        elif isinstance(node, ast.Attribute):
            self._say(node, "attribute")
        elif isinstance(node, ast.Call):
            self._say(node.func, "method call" if isinstance(node.func, ast.Attribute) else "call")
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            for decorator in node.decorator_list:
                self._say(decorator.func if isinstance(decorator, ast.Call) else decorator, "decorator")
        elif isinstance(node, ast.arg):
            self._say(node, "parameter")
        elif isinstance(node, ast.MatchAs) and node.name and not node.pattern:
            self._say(node, "written")
        elif isinstance(node, ast.keyword) and node.arg is not None:
            self._say(node, "argument")
        elif isinstance(node, (ast.Import, ast.ImportFrom, ast.Global, ast.Nonlocal)):
            assert node.end_lineno is not None and node.end_col_offset is not None
            label = "import" if isinstance(node, (ast.Import, ast.ImportFrom)) else "written"
            self.spans.append(((node.lineno, node.col_offset), (node.end_lineno, node.end_col_offset), label))

    def _say(self, node: Any, label: str) -> None:
        """Label an attribute, by its end, or another name, by its start; other expressions have no name."""
        if isinstance(node, ast.Attribute):
            self.ends.setdefault((node.end_lineno, node.end_col_offset), label)  # type: ignore[arg-type]
        elif not isinstance(node, ast.expr) or isinstance(node, ast.Name):
            self.starts.setdefault((node.lineno, node.col_offset), label)
