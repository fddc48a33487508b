"""What the tokens of Python sources are there for, on a program that has every case, and on the library itself."""

from __future__ import annotations

import io
import keyword
import tokenize
from pathlib import Path

import pytest

from vsattn.errors import ConfigError, DataError
from vsattn.tasks.data import python_source
from vsattn.tasks.data.python_source import PythonSource, labelled_lines, sentences_of

PROGRAM = '''\
import os.path as path, sys
from .key import (key as key2)
@property
def key(key, *path, x: int = 1, **sys):
    """key"""
    global size
    size = key.key(key=key, x=-x)  # key
    for key in path: del key
    return {key: lambda value: value.path}
@mod.wrap(1)
class Key(key, metaclass=Meta):
    é = key.é; key.x += key(x)[0]
    async def run(self): await self.run()
try: pass
except (key, E) as e: raise
with key() as (a, b.c): print(f"{a}")
match = key if not (y := match) else None
'''
EXPECTED = {
    1: "import:keyword os:import path:import as:keyword path:import sys:import",
    2: "from:keyword key:import import:keyword key:import as:keyword key2:import",
    3: "property:decorator",
    4: "def:keyword key:function key:parameter path:parameter x:parameter int:read sys:parameter",
    6: "global:keyword size:written",
    7: "size:written key:read key:method_call key:argument key:read x:argument x:read",
    8: "for:keyword key:written in:keyword path:read del:keyword key:written",
    9: "return:keyword key:read lambda:keyword value:parameter value:read path:attribute",
    10: "mod:read wrap:decorator",
    11: "class:keyword Key:class key:read metaclass:argument Meta:read",
    12: "é:written key:read é:attribute key:read x:attribute key:call x:read",
    13: "async:keyword def:keyword run:function self:parameter await:keyword self:read run:method_call",
    15: "except:keyword key:read E:read as:keyword e:written raise:keyword",
    16: "with:keyword key:call as:keyword a:written b:read c:attribute print:call",
    17: "match:written key:read if:keyword not:keyword y:written match:read else:keyword None:keyword",
}


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "program.py"
    path.write_text(PROGRAM, encoding="utf-8")
    return path


def test_names_have_the_roles_that_a_reader_sees(program) -> None:
    found = [pair for line in labelled_lines(program) for pair in line]
    names = [(text, label) for text, label in found if text.isidentifier()]
    expected = [pair.rsplit(":", 1) for line, text in EXPECTED.items() for pair in text.split()]
    expected = [(word, label.replace("_", " ")) for word, label in expected]
    at = next(i for i, (word, _) in enumerate(expected) if word == "except")
    expected[at:at] = [("try", "keyword"), ("pass", "keyword")]
    inside_f_string = [("a", "read")] if ("a", "read") in names else []  # Python 3.12 and later look into f-strings
    at = next(i for i, (word, _) in enumerate(expected) if word == "print")
    expected[at + 1 : at + 1] = inside_f_string
    assert names == expected


def test_what_is_no_name(program) -> None:
    lines = list(labelled_lines(program))
    labels = {text: label for line in lines for text, label in line}
    assert labels['"""key"""'] == "string" and labels["# key"] == "comment" and labels["1"] == "number"
    assert all(labels[text] == "operator" for text in ("(", ":=", "**", ".", "@", "+="))
    assert lines[0][:2] == [("import", "keyword"), ("os", "import")]
    assert [text for text, _ in lines[4]] == ['"""key"""'] and lines[6][-1] == ("# key", "comment")


def test_patterns_bind_names(tmp_path) -> None:
    path = tmp_path / "pattern.py"
    path.write_text("match match:\n    case [case, *rest] if case: pass\n    case Key() | {'a': _, **more}: pass\n")
    found = [pair for line in labelled_lines(path) for pair in line if pair[0].isidentifier()]
    assert found == [
        ("match", "keyword"), ("match", "read"),
        ("case", "keyword"), ("case", "written"), ("rest", "written"), ("if", "keyword"), ("case", "read"),
        ("pass", "keyword"),
        ("case", "keyword"), ("Key", "read"), ("_", "keyword"), ("more", "written"), ("pass", "keyword"),
    ]  # fmt: skip


@pytest.mark.parametrize("length", [1, 5, 48])
def test_sentences_are_whole_statements_where_they_fit(program, length) -> None:
    lines = [[text for text, _ in line] for line in labelled_lines(program)]
    sentences = [words for words, _ in sentences_of(program, length)]
    assert [w for words in sentences for w in words] == [w for line in lines for w in line]
    assert max(map(len, sentences)) <= length
    if length == 48:
        starts = {tuple(line[:3]) for line in lines}
        assert all(tuple(words[:3]) in starts for words in sentences)


@pytest.mark.parametrize("text", ["def (:\n", "x = (1,\n", "'''never ends\n", "a\0b\n", "# -*- coding: nonsense -*-\n"])
def test_a_file_that_is_not_python_is_named(text, tmp_path) -> None:
    path = tmp_path / "bad.py"
    path.write_text(text)
    with pytest.raises(DataError, match=r"bad\.py cannot be read as Python 3"):
        list(labelled_lines(path))


@pytest.fixture
def library(tmp_path, monkeypatch) -> Path:
    """A library of thirty modules that share every line."""
    for i in range(30):
        (tmp_path / f"module{i}.py").write_text(PROGRAM, encoding="utf-8")
    (tmp_path / "_private.py").write_text("x = 1\n")
    monkeypatch.setattr(python_source.sysconfig, "get_path", lambda name: str(tmp_path))
    return tmp_path


def test_whole_modules_train_validate_and_test(library) -> None:
    data, again = PythonSource(), PythonSource()
    data.setup(0)
    again.setup(1)
    each = len(list(sentences_of(library / "module0.py", python_source.MAX_LENGTH)))
    sizes = [len(getattr(data, split)) for split in ("train", "val", "test")]
    assert sum(sizes) == 30 * each and all(size and size % each == 0 for size in sizes)
    assert data.train == again.train and data.test == again.test


def test_a_python_without_sources_is_explained(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(python_source.sysconfig, "get_path", lambda name: str(tmp_path))
    with pytest.raises(DataError, match=r"holds no sources .* data=conllu"):
        PythonSource().setup(0)
    with pytest.raises(ConfigError, match="max_length is at least 1"):
        PythonSource(max_length=0)


def test_every_token_of_a_module_of_the_library_is_kept_and_keywords_are_keywords() -> None:
    path = Path(tokenize.__file__)
    pairs = [pair for words, labels in sentences_of(path, 48) for pair in zip(words, labels, strict=True)]
    stream = tokenize.generate_tokens(io.StringIO(path.read_text(encoding="utf-8")).readline)
    assert [text for text, _ in pairs] == [t.string for t in stream if t.string.strip()]
    assert all(
        (label == "keyword") == keyword.iskeyword(text) for text, label in pairs if not keyword.issoftkeyword(text)
    )
    assert {label for text, label in pairs if text == "line"} >= {"parameter", "read", "written"}
