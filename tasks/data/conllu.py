"""CoNLL-U: the format of Universal Dependencies, read and written so that nothing else changes, and two data sets.

The package `conllu` is not used here: it drops comments without a value and repeated ones, and cuts a value in MISC at
its second ``=`` (``Cxn=free=rc-obj`` in the training split of EWT), so what it writes is not what it read.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from vsattn.errors import ConfigError, DataError, nearest

from ..classification import IGNORED
from .archives import fetch_archive, sha256_of
from .base import Augment
from .tagged import Labels, TaggedWords
from .text_files import BYTE_ORDER_MARK, read_text

#: The ten columns of a word's line (https://universaldependencies.org/format.html).
COLUMNS = ("id", "form", "lemma", "upos", "xpos", "feats", "head", "deprel", "deps", "misc")
FEATS, MISC = COLUMNS.index("feats"), COLUMNS.index("misc")

#: Where release 2.16 of the English Web Treebank lies, and the SHA-256 of its training, validation and test split.
EWT_URL = "https://github.com/UniversalDependencies/UD_English-EWT/archive/refs/tags/r2.16.tar.gz"
EWT_FILES = {
    "en_ewt-ud-train.conllu": "3fb78e2b55482c8ee00caa653af436c88c9e5bc9a73ce26e4ae3ddc79d2b7e7b",
    "en_ewt-ud-dev.conllu": "531a54ff90d6ab12201c5a50c3e78e6ddac4de69abc4bce5d275d3cd29efe2b6",
    "en_ewt-ud-test.conllu": "e266e515a0a7547657ed3d90d9ba46487d6bd251f27ad4269d4e8a427c8555cd",
}


@dataclass(frozen=True)
class Sentence:
    """The lines of one sentence as they stand in the file, blank lines behind it included.

    Attributes:
        lines: with their ends.
        rows: which lines are words; comments, ranges (``1-2``) and empty nodes (``8.1``) are not.
    """

    lines: list[str]
    rows: list[int]

    @property
    def words(self) -> list[str]:
        """The forms of the words."""
        return [_fields(self.lines[row])[1] for row in self.rows]

    def column(self, name: str) -> list[str]:
        """Return each word's value of a column, or of a key of FEATS; ``_`` where there is none."""
        fields = [_fields(self.lines[row]) for row in self.rows]
        if name in COLUMNS:
            return [values[COLUMNS.index(name)] for values in fields]
        return [_pairs(values[FEATS]).get(name, "_") for values in fields]

    def filled(self, name: str, values: Sequence[str]) -> str:
        """Return the text of the sentence with those values in a column, or under a key of FEATS or ``misc:KEY``."""
        lines = list(self.lines)
        for row, value in zip(self.rows, values, strict=True):
            fields = _fields(lines[row])
            if name in COLUMNS:
                fields[COLUMNS.index(name)] = value
            else:
                column, key = (MISC, name.removeprefix("misc:")) if name.startswith("misc:") else (FEATS, name)
                fields[column] = _with_pair(fields[column], key, value)
            lines[row] = "\t".join(fields) + lines[row][len(lines[row].rstrip("\r\n")) :]
        return "".join(lines)


def _fields(line: str) -> list[str]:
    return line.rstrip("\r\n").split("\t")


def _pairs(text: str) -> dict[str, str]:
    """Return ``Key=Value|Key=Value`` as a dict; a part without a value has an empty one."""
    return {} if text == "_" else {key: value for key, _, value in (part.partition("=") for part in text.split("|"))}


def _with_pair(text: str, key: str, value: str) -> str:
    """Return ``text`` with ``key=value`` in alphabetical order instead of what the key had; ``_`` leaves it out."""
    parts = [] if text == "_" else [part for part in text.split("|") if part.partition("=")[0] != key]
    place = next((i for i, part in enumerate(parts) if part.lower() > key.lower()), len(parts))
    if value != "_":
        parts.insert(place, f"{key}={value}")
    return "|".join(parts) or "_"


def new_sentence(words: Sequence[str]) -> Sentence:
    """Return a sentence that has words only; a tab or line end in a word is written as ``\\t`` or ``\\n``."""
    words = [word.replace("\t", "\\t").replace("\r", "\\r").replace("\n", "\\n") for word in words]
    lines = [f"# text = {' '.join(words)}\n"]
    lines += ["\t".join([str(i), word, *["_"] * 8]) + "\n" for i, word in enumerate(words, start=1)]
    return Sentence([*lines, "\n"], list(range(1, len(words) + 1)))


def read_conllu(path: str | Path) -> list[Sentence]:
    """Read a file; its text is ``"".join(line for sentence in result for line in sentence.lines)``, byte by byte.

    Raises:
        DataError: naming file and line, for a file that is missing, empty or not UTF-8, a line without ten columns or
            with an empty one, or an ID that does not follow the one before.
    """
    return list(parse_conllu(read_lines(path), str(path)))


def parse_conllu(stream: Iterable[str], name: str) -> Iterator[Sentence]:
    """Yield the sentences of lines with their ends, as they come.

    Raises:
        DataError: see :func:`read_conllu`, naming ``name``.
    """
    lines, rows, ended = list[str](), list[int](), False
    for number, line in enumerate(stream, start=1):
        if not line.strip():
            ended = True
        elif ended:
            yield Sentence(lines, rows)
            lines, rows, ended = [], [], False
        if line.strip() and not line.startswith("#") and _is_word(line, len(rows) + 1, f"{name}, line {number}"):
            rows.append(len(lines))
        lines.append(line)
    yield Sentence(lines, rows)


def read_lines(path: str | Path) -> list[str]:
    """Return the lines of a text file with their ends, which are ``\\n`` or ``\\r\\n``.

    Raises:
        DataError: see :func:`~vsattn.tasks.data.text_files.read_text`; also for a byte order mark.
    """
    text = read_text(path)
    if text.startswith(BYTE_ORDER_MARK):  # it would be read as a part of the first word
        raise DataError(f"{path}, line 1: begins with a byte order mark; save the file as UTF-8 without one")
    return re.findall(r"[^\n]*\n|[^\n]+", text)  # not splitlines, which ends lines at other characters too


def _is_word(line: str, expected: int, place: str) -> bool:
    """Tell a word from a range and an empty node."""
    fields = _fields(line)
    if len(fields) != len(COLUMNS):
        raise DataError(f"{place}: {len(fields)} columns; CoNLL-U has {len(COLUMNS)}, with one tab between them")
    if "" in fields:
        raise DataError(f"{place}: the column {COLUMNS[fields.index('')].upper()} is empty; CoNLL-U writes _ instead")
    found = re.fullmatch(r"([0-9]+)(?:-([0-9]+)|\.[0-9]+)?", fields[0])
    if found is None or (found[2] and int(found[2]) < int(found[1])):
        raise DataError(f"{place}: the ID is {fields[0]!r}; it is a number, a range (1-2) or an empty node (8.1)")
    if found[0] != found[1]:
        return False
    if int(found[1]) != expected:
        raise DataError(f"{place}: the ID is {fields[0]}, but word {expected} comes here; is a blank line missing?")
    return True


class Conllu(TaggedWords):
    """Your own CoNLL-U files; the labels are one of their columns, or one feature.

    Args:
        train, val, test: files.
        column: ``upos``, ``xpos`` or another column, or a key of FEATS such as ``Number``, where a word without it has
            the label ``_``.
        beside: further columns that ``head=multi_task`` learns beside that one, and how many labels of each, the most
            frequent ones of training; others are not taught, and count as wrong. None is none.
        augment: see :class:`~vsattn.tasks.data.base.Data`.

    Raises:
        ConfigError: for the column of IDs or forms, for one named twice, or for fewer than two labels.
    """

    def __init__(
        self,
        *,
        train: str,
        val: str,
        test: str,
        column: str = "upos",
        beside: Mapping[str, int] | None = None,
        augment: Augment | None = None,
    ) -> None:
        super().__init__(augment=augment)
        for key, name in (("column", column), *(("beside", name) for name in beside or {})):
            if name in ("id", "form"):
                raise ConfigError(f"data.{key}: {name} is no label; choose upos, xpos, another column or a feature")
        for name, count in (beside or {}).items():
            if name == column:
                raise ConfigError(f"data.beside: {name} is data.column already; name other columns")
            if isinstance(count, bool) or not isinstance(count, int) or count < 2:
                raise ConfigError(f"data.beside.{name} says how many labels are taught, at least 2, not {count!r}")
        self.files, self.column = {"train": train, "val": val, "test": test}, column
        self.beside = dict(beside or {})

    def setup(self, seed: int) -> None:
        """Read the files; the seed changes nothing.

        Raises:
            DataError: see :func:`read_conllu`; also for a column that the training file does not fill.
        """
        self.read()

    def read(self) -> None:
        """Read the splits from :attr:`files`."""
        read = {split: read_conllu(path) for split, path in self.files.items()}
        pairs = {split: [(s.words, s.column(self.column)) for s in sentences] for split, sentences in read.items()}
        counts = {name: self._count(read["train"], name) for name in (self.column, *self.beside)}
        self.take(pairs)
        if not self.beside:
            return
        self.beside_labels = {n: [label for label, _ in counts[n].most_common(k)] for n, k in self.beside.items()}
        for split, sentences in read.items():
            rows = [row for row in self._beside_rows(sentences) if row]
            taken: list[tuple[list[str], list[int]]] = getattr(self, split)
            setattr(self, split, [(w, Labels(t, row)) for (w, t), row in zip(taken, rows, strict=True)])

    def _beside_rows(self, sentences: Sequence[Sentence]) -> list[list[list[int]]]:
        """Return the numbers of the further columns of each word; a column that these files do not fill has none."""
        columns = []
        for name, labels in self.beside_labels.items():
            index = {label: i for i, label in enumerate(labels)}
            values = [sentence.column(name) for sentence in sentences]
            filled = any(value != "_" for row in values for value in row)
            columns.append([[index.get(v, IGNORED) if filled else IGNORED for v in row] for row in values])
        return [[list(word) for word in zip(*rows, strict=True)] for rows in zip(*columns, strict=True)]

    def _count(self, sentences: Sequence[Sentence], name: str) -> Counter[str]:
        """Count the labels of a column; an error names one that the training file does not fill."""
        counts = Counter(label for sentence in sentences for label in sentence.column(name))
        if not counts.keys() - {"_"}:
            known = {key for s in sentences for feats in s.column("feats") for key in _pairs(feats)}
            where = f"data.column={name}" if name == self.column else f"data.beside.{name}"
            hint = nearest(name, {*COLUMNS[2:], *known} - {name})
            raise DataError(f"{self.files['train']}: no word has a value for {where}; {hint}")
        return counts


class EnglishEWT(Conllu):
    """Universal Dependencies' English Web Treebank: 254,818 words of blogs, mail, reviews (Silveira et al. 2014).

    Found under ``root``, in ``ud-english-ewt`` or ``UD_English-EWT``, whatever release lies there; otherwise release
    2.16 is downloaded. CC BY-SA 4.0.

    Args:
        root: the folder that holds the treebank's own folder.
        column, beside, augment: see :class:`Conllu`.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        column: str = "upos",
        beside: Mapping[str, int] | None = None,
        augment: Augment | None = None,
    ) -> None:
        super().__init__(train="", val="", test="", column=column, beside=beside, augment=augment)
        self.root = Path(root).expanduser()

    def setup(self, seed: int) -> None:
        """Find or download the treebank and read it; the seed changes nothing.

        Raises:
            DataError: when it is not there and cannot be downloaded, or see :class:`Conllu`.
        """
        folders = [self.root / "ud-english-ewt", self.root / "UD_English-EWT"]
        folder = next((folder for folder in folders if folder.is_dir()), folders[1])
        if not folder.is_dir():
            fetch_archive(EWT_URL, folder, place=_place_in_ewt, check=_check_ewt)
        self.files = {split: str(folder / name) for split, name in zip(self.files, EWT_FILES, strict=True)}
        self.read()
        self.as_released = all(sha256_of(folder / name) == expected for name, expected in EWT_FILES.items())

    def describe(self) -> str:
        """Also say when the files are not those of release 2.16."""
        return super().describe() + ("" if self.as_released else "; not release 2.16")


def _place_in_ewt(path: PurePosixPath) -> str | None:
    """Keep the three files at the top of the archive's one folder."""
    return path.name if len(path.parts) == 2 and path.name in EWT_FILES else None


def _check_ewt(folder: Path) -> None:
    for name, expected in EWT_FILES.items():
        if not (folder / name).is_file():
            raise DataError(f"the archive has no {name}")
        if (found := sha256_of(folder / name)) != expected:
            raise DataError(f"the SHA-256 of {name} is {found}, not {expected}")
