"""CoNLL-U: read as the package conllu reads it, written byte by byte, and every fault named with file and line."""

from __future__ import annotations

import hashlib
import io
import tarfile
from pathlib import Path

import conllu
import pytest

from vsattn.errors import ConfigError, DataError
from vsattn.tasks.data import conllu as module
from vsattn.tasks.data.conllu import Conllu, EnglishEWT, new_sentence, read_conllu

#: Repeated and empty comments, a range, an empty node, a value with two `=`, several blank lines, other line ends.
SAMPLE = (
    "# newdoc\n# sent_id = 1\n# text = I can't can it\n# note\n# note = a\n# note = b\n"
    "1\tI\tI\tPRON\tPRP\tCase=Nom|Number=Sing\t4\tnsubj\t4:nsubj|4.1:nsubj\t_\n"
    "2-3\tcan't\t_\t_\t_\t_\t_\t_\t_\t_\n"
    "2\tca\tcan\tAUX\tMD\tVerbForm=Fin\t4\taux\t4:aux\tCxn=free=rc-obj\n"
    "3\tn't\tnot\tPART\tRB\t_\t4\tadvmod\t4:advmod\t_\n"
    "4\tcan\tcan\tVERB\tVB\tVerbForm=Inf\t0\troot\t0:root\t_\n"
    "4.1\tcan\tcan\tVERB\tVB\t_\t_\t_\t0:exroot\tCopyOf=4\n"
    "5\tit\tit\tPRON\tPRP\tCase=Acc|Number=Sing\t4\tobj\t4:obj\tSpaceAfter=No\n"
    "\n\n"
    "# sent_id = 2\r\n"
    "1\tthe\tthe\tDET\tDT\t_\t2\tdet\t_\t_\r\n"
    "2\tcan\tcan\tNOUN\tNN\tNumber=Sing\t0\troot\t_\t_\r\n"
    "\r\n"
    "# sent_id = 3: no words\n"
    "\n"
    "# sent_id = 4\n"
    "1\ta\u2028b\tx\tX\tFW\t_\t0\troot\t_\t_"
)


@pytest.fixture
def sample(tmp_path: Path) -> Path:
    path = tmp_path / "sample.conllu"
    path.write_bytes(SAMPLE.encode())
    return path


def text_of(path: Path) -> str:
    return "".join(line for sentence in read_conllu(path) for line in sentence.lines)


def oracle(path: Path, column: str):
    parsed = conllu.parse(path.read_text(encoding="utf-8"))
    words = [[t for t in sentence if isinstance(t["id"], int)] for sentence in parsed]
    return [([t["form"] for t in s], [t[column] or "_" for t in s]) for s in words if s]


@pytest.mark.parametrize("column", ["upos", "xpos", "lemma", "deprel"])
def test_words_and_columns_are_those_of_the_package_conllu(sample, column) -> None:
    found = [(s.words, s.column(column)) for s in read_conllu(sample)]
    assert [pair for pair in found if pair[0]] == oracle(sample, column)
    assert [len(words) for words, _ in found] == [5, 2, 0, 1]


def test_what_is_read_can_be_written_byte_by_byte(sample) -> None:
    assert text_of(sample) == SAMPLE
    filled = "".join(s.filled("upos", s.column("upos")) for s in read_conllu(sample))
    assert filled == SAMPLE


def test_only_the_column_of_words_changes(sample) -> None:
    written = "".join(s.filled("xpos", ["?"] * len(s.words)) for s in read_conllu(sample))
    before, after = SAMPLE.split("\n"), written.split("\n")
    changed = [i for i, (a, b) in enumerate(zip(before, after, strict=True)) if a != b]
    assert [before[i].split("\t")[0] for i in changed] == ["1", "2", "3", "4", "5", "1", "2", "1"]
    for i in changed:
        a, b = before[i].split("\t"), after[i].split("\t")
        assert a[:4] == b[:4] and b[4] == "?" and a[5:] == b[5:]


@pytest.mark.parametrize(
    "feats, key, value, expected",
    [
        ("_", "Number", "Sing", "Number=Sing"),
        ("Case=Nom|Person=3", "Number", "Plur", "Case=Nom|Number=Plur|Person=3"),
        ("Case=Nom|Number=Sing", "Number", "Plur", "Case=Nom|Number=Plur"),
        ("Case=Nom|Number=Sing", "Number", "_", "Case=Nom"),
        ("Number=Sing", "Number", "_", "_"),
    ],
)
def test_features_are_read_and_written(feats, key, value, expected, tmp_path) -> None:
    path = tmp_path / "one.conllu"
    path.write_text(f"1\tw\t_\t_\t_\t{feats}\t_\t_\t_\tA=b\n\n")
    (sentence,) = read_conllu(path)
    assert sentence.filled(key, [value]).split("\t")[5] == expected
    assert (
        conllu.parse(sentence.filled(key, [value]))[0][0]["feats"]
        == conllu.parse(f"1\tw\t_\t_\t_\t{expected}")[0][0]["feats"]
    )
    assert sentence.filled("misc:Label", ["B-X"]).endswith("\tA=b|Label=B-X\n\n")
    assert read_conllu(path)[0].column(key) == [dict(p.split("=") for p in feats.split("|") if "=" in p).get(key, "_")]


def test_a_new_sentence_is_conllu() -> None:
    sentence = new_sentence(["a\tb", "c\nd", "e"])
    (parsed,) = conllu.parse("".join(sentence.lines))
    assert [t["form"] for t in parsed] == ["a\\tb", "c\\nd", "e"] and parsed.metadata["text"] == "a\\tb c\\nd e"
    assert sentence.words == ["a\\tb", "c\\nd", "e"] and sentence.lines[-1] == "\n"


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "is empty"),
        ("\n \n", "is empty"),
        ("1\tthe\tthe\n", r"line 1: 3 columns; CoNLL-U has 10"),
        ("# c\n1 the the DET DT _ 0 root _ _\n", r"line 2: 1 columns"),
        ("1\ta" + "\t_" * 8 + "\n3\tb" + "\t_" * 8, r"line 2: the ID is 3, but word 2"),
        (
            "1\ta" + "\t_" * 8 + "\n1\tb" + "\t_" * 8,
            r"line 2: the ID is 1, but word 2 comes here; is a blank line missing",
        ),
        ("one\ta" + "\t_" * 8, r"line 1: the ID is 'one'"),
    ],
)
def test_faults_are_named_with_file_and_line(text, message, tmp_path) -> None:
    path = tmp_path / "bad.conllu"
    path.write_text(text)
    with pytest.raises(DataError, match=rf"bad\.conllu.*{message}"):
        read_conllu(path)


def test_a_missing_file_and_one_in_another_encoding(tmp_path) -> None:
    with pytest.raises(DataError, match=r"none\.conllu cannot be read: No such file"):
        read_conllu(tmp_path / "none.conllu")
    (tmp_path / "latin.conllu").write_bytes(b"# a\n# caf\xe9\n")
    with pytest.raises(DataError, match=r"latin\.conllu, line 2: not UTF-8"):
        read_conllu(tmp_path / "latin.conllu")
    (tmp_path / "marked.conllu").write_text(SAMPLE, encoding="utf-8-sig")
    with pytest.raises(DataError, match=r"marked\.conllu, line 1: begins with a byte order mark; save"):
        read_conllu(tmp_path / "marked.conllu")


def data_of(path: Path, **options) -> Conllu:
    return Conllu(train=str(path), val=str(path), test=str(path), **options)


def test_items_are_words_and_targets_classes(sample) -> None:
    data = data_of(sample)
    data.setup(0)
    named = [(words, [data.classes[t] for t in targets]) for words, targets in data.train]
    assert named == oracle(sample, "upos")  # the sentence without words is left out
    assert data.lengths("train") == [5, 2, 1] and list(data.fit_items(1)) == [words for words, _ in named]
    assert "3 train (8 words)" in data.describe()


def test_a_feature_as_label(sample) -> None:
    data = data_of(sample, column="Number")
    data.setup(0)
    assert data.classes == ["Sing", "_"]
    assert [data.classes[t] for t in data.train[0][1]] == ["Sing", "_", "_", "_", "Sing"]


def test_an_unknown_column_names_what_there_is(sample) -> None:
    with pytest.raises(DataError, match=r"data\.column=Numbr; did you mean 'Number'\?.*Case.*VerbForm.*upos"):
        data_of(sample, column="Numbr").setup(0)
    with pytest.raises(ConfigError, match="form is no label"):
        data_of(sample, column="form")


def test_labels_that_training_never_shows_are_counted_and_said(sample, tmp_path) -> None:
    other = tmp_path / "other.conllu"
    other.write_text("1\tw\t_\tINTJ" + "\t_" * 6 + "\n2\tw\t_\tDET" + "\t_" * 6 + "\n")
    data = Conllu(train=str(sample), val=str(other), test=str(other))
    data.setup(0)
    assert data.unseen == {"INTJ": 2} and data.classes[-1] == "INTJ" and data.classes[:-1] == sorted(data.classes[:-1])
    assert "2 words of val and test have labels that training never shows: INTJ (2)" in data.describe()


def test_one_label_is_not_enough(tmp_path) -> None:
    path = tmp_path / "one.conllu"
    path.write_text("1\tw\t_\tX" + "\t_" * 6 + "\n")
    with pytest.raises(DataError, match=r"at least two different labels; all are \['X'\]"):
        data_of(path).setup(0)


@pytest.fixture
def release(sample, tmp_path, monkeypatch) -> Path:
    """Point the download at an archive here, as GitHub makes them, of the sample three times."""
    archive = tmp_path / "served" / "r2.16.tar.gz"
    archive.parent.mkdir()
    names = [*module.EWT_FILES, "README.md", "not-to-release/sources/en_ewt-ud-dev.conllu"]
    with tarfile.open(archive, "w:gz") as tar:
        for name in names:
            member = tarfile.TarInfo(f"UD_English-EWT-r2.16/{name}")
            member.size = len(SAMPLE.encode())
            tar.addfile(member, io.BytesIO(SAMPLE.encode()))
    monkeypatch.setattr(module, "EWT_URL", archive.as_uri())
    monkeypatch.setattr(
        module, "EWT_FILES", dict.fromkeys(module.EWT_FILES, hashlib.sha256(SAMPLE.encode()).hexdigest())
    )
    return archive


def test_the_treebank_is_downloaded_once_and_checked(release, tmp_path) -> None:
    root = tmp_path / "data"
    data = EnglishEWT(root)
    data.setup(0)
    assert len(data.train) == 3 and sorted(p.name for p in (root / "UD_English-EWT").iterdir()) == sorted(
        module.EWT_FILES
    )
    release.unlink()
    EnglishEWT(root).setup(0)  # now it is there
    assert "not release" not in data.describe()


def test_another_archive_is_refused_and_leaves_nothing(release, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(module, "EWT_FILES", dict.fromkeys(module.EWT_FILES, "0" * 64))
    with pytest.raises(DataError, match=r"UD_English-EWT is not there .*the SHA-256 of en_ewt-ud-train\.conllu is"):
        EnglishEWT(tmp_path / "data").setup(0)
    assert list((tmp_path / "data").iterdir()) == []


def test_a_folder_that_is_there_is_used_as_it_is(sample, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(module, "EWT_URL", "file:///nowhere")
    folder = tmp_path / "ud-english-ewt"
    folder.mkdir()
    for name in module.EWT_FILES:
        (folder / name).write_bytes(SAMPLE.encode())
    data = EnglishEWT(tmp_path, column="xpos")
    data.setup(0)
    assert "MD" in data.classes and data.describe().endswith("; not release 2.16")
    (folder / "en_ewt-ud-dev.conllu").unlink()
    with pytest.raises(DataError, match=r"en_ewt-ud-dev\.conllu cannot be read"):
        EnglishEWT(tmp_path).setup(0)


def treebank(root: Path) -> Path:
    folder = root.parent / "shared" / "data" / "ud-english-ewt"
    if not folder.is_dir():
        pytest.skip(f"no English Web Treebank at {folder}")
    return folder


def test_the_english_web_treebank_round_trips_byte_by_byte(root) -> None:
    folder = treebank(root)
    for name, digest in module.EWT_FILES.items():
        assert hashlib.sha256(text_of(folder / name).encode()).hexdigest() == digest


def test_the_english_web_treebank_is_read_as_the_package_conllu_reads_it(root) -> None:
    folder = treebank(root)
    data = EnglishEWT(folder.parent)
    data.setup(0)
    named = [(words, [data.classes[t] for t in targets]) for words, targets in data.test]
    assert named == oracle(folder / "en_ewt-ud-test.conllu", "upos")
    assert (len(data.train), len(data.val), len(data.test), len(data.classes)) == (12544, 2001, 2077, 17)
    assert [sum(data.lengths(split)) for split in ("train", "val", "test")] == [204577, 25147, 25094]
    assert max(len(w) for words, _ in (*data.train, *data.val, *data.test) for w in words) == 473
