"""Pairs of texts: files read line by line whatever is in them, what is left out, Multi30k's download, and the toys."""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path

import pytest

from vsattn.errors import ConfigError, DataError
from vsattn.tasks.data import multi30k as module
from vsattn.tasks.data.multi30k import Multi30k
from vsattn.tasks.data.parallel import Parallel, read_pairs, read_texts
from vsattn.tasks.data.toys import Toy


def files_of(folder: Path, **lines: tuple[int, int]) -> dict[str, str]:
    """Write files of so many lines and return the arguments that name them."""
    named = {}
    for split, counts in lines.items():
        for side, count in zip(("source", "target"), counts, strict=True):
            path = folder / f"{split}.{side}"
            path.write_text("".join(f"{side} {split} {i}\n" for i in range(count)), encoding="utf-8")
            named[f"{split}_{side}"] = str(path)
    return named


def own(folder: Path, **options) -> Parallel:
    counts = {split: options.pop(split, (3, 3)) for split in ("train", "val", "test")}
    return Parallel(**files_of(folder, **counts), source_language="de", target_language="en", **options)


def test_own_files_are_pairs_of_lines(tmp_path) -> None:
    data = own(tmp_path, train=(5, 5), val=(2, 2))
    data.setup(0)
    assert [len(split) for split in (data.train, data.val, data.test)] == [5, 2, 3]
    assert data.train[4] == ("source train 4", "target train 4") and data.test[0] == ("source test 0", "target test 0")
    assert data.fit_items(1) == data.train and data.classes == []
    assert data.describe() == (
        "Parallel: de to en, 5 train, 2 val, 3 test pairs (15 and 15 words to train on)"
    )  # fmt: skip


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_unequal_numbers_of_lines_are_both_told(split, tmp_path) -> None:
    with pytest.raises(DataError, match=rf"{split}\.source has 7 lines and .*{split}\.target has 1,200: line i of one"):
        own(tmp_path, **{split: (7, 1200)}).setup(0)


def test_without_a_test_the_error_says_what_to_do(tmp_path) -> None:
    files = files_of(tmp_path, train=(3, 3), val=(3, 3))
    for one in ({}, {"test_source": files["val_source"]}):
        data = Parallel(**files, **one, source_language="de", target_language="en")
        with pytest.raises(DataError, match=r"give data\.test_source and data\.test_target"):
            data.setup(0)


def test_lines_end_at_line_ends_alone_and_gzip_is_known_by_its_bytes(tmp_path) -> None:
    lines = ["eins", "a\u2028b\x0bc\x85d", "", " zwei ", "drei"]
    plain, windows, packed, short = (tmp_path / name for name in ("plain", "windows", "packed", "short"))
    plain.write_bytes("".join(f"{line}\n" for line in lines).encode())
    windows.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    short.write_bytes("\n".join(lines).encode())
    assert read_texts(plain) == read_texts(windows) == read_texts(packed) == read_texts(short) == lines
    assert read_pairs(plain, packed) == [(line, line) for line in lines]


def test_faults_are_named_with_file_and_line(tmp_path) -> None:
    (tmp_path / "latin").write_bytes(b"a\nb\ncaf\xe9\n")
    (tmp_path / "blank").write_text(" \n\n")
    (tmp_path / "half.gz").write_bytes(gzip.compress(b"abc\n" * 1000)[:-12])
    (tmp_path / "bad.gz").write_bytes(b"\x1f\x8b" + b"nonsense" * 9)
    for name, message in (
        ("latin", "line 3: not UTF-8"),
        ("blank", "is empty"),
        ("half.gz", r"cannot be read: .*cut short"),
        ("bad.gz", "cannot be read: "),
        ("none", "cannot be read: No such file"),
    ):
        with pytest.raises(DataError, match=rf"{name}.*{message}"):
            read_texts(tmp_path / name)


def test_training_leaves_out_what_is_empty_or_long_and_says_so(tmp_path) -> None:
    files = files_of(tmp_path, train=(9, 9), val=(2, 2), test=(2, 2))
    sources, targets = ["w"] * 9, ["w w"] * 9
    sources[0], targets[1], sources[2], targets[2] = "", " \t", "", ""
    sources[3], targets[4], targets[5] = "w " * 5, "w " * 4, "w " * 3
    for name, lines in (("train_source", sources), ("train_target", targets)):
        Path(files[name]).write_text("\n".join(lines))
    Path(files["val_source"]).write_text("\n" + "w " * 50)
    data = Parallel(**files, source_language="de", target_language="en", max_words=3)
    data.setup(0)
    assert len(data.train) == 4 and data.train[0] == ("w", "w w " + "w ")
    assert data.val[0][0] == "" and len(data.val) == len(data.test) == 2
    assert data.describe().endswith("left out of training: 3 with an empty side, 2 with more than 3 words")
    Path(files["train_target"]).write_text("\n" * 9)
    with pytest.raises(DataError, match="is empty"):
        data.setup(0)
    data.max_words = 1
    Path(files["train_target"]).write_text("w w\n" * 9)
    with pytest.raises(DataError, match=r"all 9 training pairs are left out .2 with an empty side, 7 with more than 1"):
        data.setup(0)
    with pytest.raises(ConfigError, match="max_words is at least 1"):
        own(tmp_path, max_words=0)


LINES = {"train": 6, "val": 3, "test_2016_flickr": 2}


def tiny(tokenised: bool = False, **counts: int) -> dict[str, bytes]:
    """Return a tiny Multi30k by the names of the maker's folder."""
    files = {}
    for split, count in {**LINES, **counts}.items():
        for language in module.LANGUAGES:
            text = "".join(f"{split} {language} {i}\n" for i in range(count)).encode()
            if tokenised:
                files[f"tok/{split}.lc.norm.tok.{language}"] = text
            else:
                files[f"raw/{split}.{language}.gz"] = gzip.compress(text)
    return files


@pytest.fixture
def published(monkeypatch, serve):
    """Serve a tiny Multi30k whose checksums are known, and return its files."""
    files = {**tiny(), **tiny(tokenised=True)}
    known = {path.split("/")[1]: hashlib.sha256(content).hexdigest() for path, content in files.items()}
    monkeypatch.setattr(module, "SHA256", {name: known[name] for name in module.SHA256})
    monkeypatch.setattr(module, "LINES", LINES)
    monkeypatch.setattr(module, "URL", serve(files).rstrip("/"))
    return files


@pytest.mark.parametrize("tokenised", [False, True])
@pytest.mark.parametrize("source, target", [("de", "en"), ("en", "fr")])
def test_multi30k_is_downloaded_once(source, target, tokenised, published, tmp_path, monkeypatch) -> None:
    options = {"source": source, "target": target, "tokenised": tokenised}
    data = Multi30k(tmp_path / "deep", **options)
    data.setup(0)
    assert data.train[5] == (f"train {source} 5", f"train {target} 5") and data.tokenised is tokenised
    assert [len(split) for split in (data.train, data.val, data.test)] == [6, 3, 2]
    assert (data.source_language, data.target_language) == (source, target)
    assert len(list((tmp_path / "deep" / "multi30k").iterdir())) == 6
    monkeypatch.setattr(module, "URL", "http://127.0.0.1:9")
    again = Multi30k(tmp_path / "deep", download=False, **options)
    again.setup(1)
    assert again.train == data.train and "official" not in again.describe()


def test_only_missing_files_are_fetched_and_unpacked_ones_are_found(published, tmp_path) -> None:
    folder = tmp_path / "multi30k"
    folder.mkdir()
    (folder / "train.de").write_text("".join(f"mine {i}\n" for i in range(6)))
    data = Multi30k(tmp_path)
    data.setup(0)
    assert data.train[0] == ("mine 0", "train en 0")
    assert not (folder / "train.de.gz").exists() and (folder / "train.en.gz").is_file()
    (folder / "val.de.gz").write_bytes(gzip.compress(b"x\ny\nz\n"))
    data.setup(0)
    assert data.describe().endswith("; not the files of the official repository")


def test_a_download_that_is_not_as_published_leaves_nothing_behind(published, tmp_path, monkeypatch) -> None:
    good = module.SHA256["val.en.gz"]
    monkeypatch.setitem(module.SHA256, "val.en.gz", "0" * 64)
    with pytest.raises(DataError, match=rf"the SHA-256 of val\.en\.gz is {good}, not 0000") as caught:
        Multi30k(tmp_path).setup(0)
    assert list((tmp_path / "multi30k").iterdir()) == []
    for name in ("train.de.gz", "test_2016_flickr.en.gz"):
        assert f"  {tmp_path}/multi30k/{name}" in str(caught.value)
    assert "VSATTN_DATA" in str(caught.value) and "paths.data" in str(caught.value)


def test_what_cannot_be_downloaded_is_told(published, tmp_path, monkeypatch) -> None:
    del published["raw/val.de.gz"]
    with pytest.raises(DataError, match="HTTP Error 404"):
        Multi30k(tmp_path).setup(0)
    assert list((tmp_path / "multi30k").iterdir()) == []
    with pytest.raises(DataError, match=r"data\.download is false"):
        Multi30k(tmp_path / "other", download=False).setup(0)
    assert not (tmp_path / "other").exists()
    (tmp_path / "file").write_text("here")
    with pytest.raises(DataError, match="Multi30k is not complete"):
        Multi30k(tmp_path / "file").setup(0)


@pytest.mark.parametrize("source, target", [("de", "de"), ("de", "es"), ("", "en")])
def test_multi30k_has_four_languages(source, target, tmp_path) -> None:
    with pytest.raises(ConfigError, match="two of de, en, fr, cs"):
        Multi30k(tmp_path, source=source, target=target)


@pytest.mark.parametrize("tokenised", [False, True])
def test_the_real_multi30k(tokenised, root) -> None:
    folder = root.parent / "shared" / "data"
    if not (folder / "multi30k").is_dir():
        pytest.skip("no Multi30k in ../shared/data")
    data = Multi30k(folder, tokenised=tokenised, download=False)
    data.setup(0)
    assert [len(split) for split in (data.train, data.val, data.test)] == [29_000, 1_014, 1_000]
    assert data.as_released and not any(data.left_out.values())
    expected = (
        "Ein Mann mit einem orangefarbenen Hut, der etwas anstarrt.",
        "A man in an orange hat starring at something.",
    )
    if tokenised:
        expected = (
            "ein mann mit einem orangefarbenen hut , der etwas anstarrt .",
            "a man in an orange hat starring at something .",
        )
    assert data.test[0] == expected


@pytest.mark.parametrize("kind", ["copy", "reverse", "sort"])
def test_toys_are_what_they_are_called(kind) -> None:
    data = Toy(kind=kind, strings=[300, 20, 30], length=[2, 5], letters=6)
    data.setup(0)
    pairs = [*data.train, *data.val, *data.test]
    assert [len(split) for split in (data.train, data.val, data.test)] == [300, 20, 30]
    assert len({source for source, _ in pairs}) == 350  # none in two splits
    for source, target in pairs:
        letters = source.split()
        assert target.split() == {"copy": letters, "reverse": [*reversed(letters)], "sort": sorted(letters)}[kind]
        assert 2 <= len(letters) <= 5 and set(letters) <= set("abcdef")
    again, other = Toy(kind=kind, strings=[300, 20, 30], length=[2, 5], letters=6), data.train
    again.setup(0)
    assert again.train == other
    again.setup(1)
    assert again.train != other
    assert kind in data.describe() and data.tokenised


def test_toys_out_of_range() -> None:
    for options in ({"kind": "shift"}, {"strings": [1, 2]}, {"length": [3, 2]}, {"letters": 1}, {"letters": 27}):
        with pytest.raises(ConfigError):
            Toy(**options)
    with pytest.raises(DataError, match=r"fewer than 4,400 strings: raise data\.length or data\.letters"):
        Toy(length=[1, 2]).setup(0)
