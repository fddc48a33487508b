"""Standard data sets in their own layout and formats, with a few made-up items each: what a recipe reads, in small."""

from __future__ import annotations

import gzip
import os
import pickle
import struct
import wave
import zlib
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from scipy import sparse

from vsattn.tasks.data import python_source
from vsattn.tasks.data.audio import FSDD
from vsattn.tasks.data.conllu import EWT_FILES
from vsattn.tasks.data.multi30k import LINES

PROGRAM = "def reverse(words, times=2):\n    found = [word for word in words]\n    return found[::-1] * times\n\n\n"


def make(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put all of them below ``root``; FSDD has fewer recordings of each speaker, and Python fewer modules."""
    fashion_mnist(root / "FashionMNIST" / "raw")
    monkeypatch.setattr(FSDD, "TAKES", FSDD.TEST_TAKES + 3)
    spoken_digits(root / "fsdd" / "recordings")
    captions(root / "multi30k")
    treebank(root / "UD_English-EWT")
    citations(root / "planetoid" / "Cora" / "raw")
    monkeypatch.setattr(python_source.sysconfig, "get_path", lambda name: str(root / "python"))
    modules(root / "python")


def fashion_mnist(folder: Path) -> None:
    """IDX files of 40 and 20 pictures."""
    folder.mkdir(parents=True)
    for split, count in (("train", 40), ("t10k", 20)):
        pixels = np.random.default_rng(count).integers(0, 256, (count, 28, 28))
        for name, array in (("images-idx3", pixels), ("labels-idx1", np.arange(count) % 10)):
            header = struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
            (folder / f"{split}-{name}-ubyte").write_bytes(header + array.astype(np.uint8).tobytes())


def spoken_digits(folder: Path) -> None:
    """A tone for each digit, under the names of all recordings."""
    folder.mkdir(parents=True)
    for digit in range(10):
        tone = folder.parent / f"{digit}.wav"
        with wave.open(str(tone), "wb") as file:
            file.setparams((1, 2, 8000, 0, "NONE", ""))
            file.writeframes((8000 * np.sin(np.arange(1600) * (digit + 2) / 20)).astype("<i2").tobytes())
        for speaker in FSDD.SPEAKERS:
            for take in range(FSDD.TAKES):
                os.link(tone, folder / f"{digit}_{speaker}_{take}.wav")


def captions(folder: Path) -> None:
    """Thirty pairs of lines in each split."""
    folder.mkdir(parents=True)
    for split in LINES:
        for language, (noun, verb) in {"de": ("Hund", "läuft"), "en": ("dog", "runs")}.items():
            lines = "".join(f"{noun} {i % 7} {verb} {i % 5}.\n" for i in range(30))
            (folder / f"{split}.{language}.gz").write_bytes(gzip.compress(lines.encode(), mtime=0))


def treebank(folder: Path) -> None:
    """Twenty sentences in each split."""
    folder.mkdir(parents=True)
    for name in EWT_FILES:
        lines = []
        for i in range(20):
            words = (
                ("the", "DET", "DT", "_"),
                (f"dog{i % 3}", "NOUN", "NN", "Number=Sing"),
                ("runs", "VERB", "VBZ", "_"),
            )
            for place, (word, tag, finer, features) in enumerate(words, start=1):
                lines.append(f"{place}\t{word}\t{word}\t{tag}\t{finer}\t{features}\t0\troot\t_\t_\n")
            lines.append("\n")
        (folder / name).write_text("".join(lines), encoding="utf-8")


def citations(folder: Path) -> None:
    """A ring of 560 papers in seven classes; the public split trains on 14, validates on 500 and tests on 20."""
    folder.mkdir(parents=True)
    train, rest, test = 14, 526, 20
    features = sparse.csr_matrix(np.eye(7, dtype=np.float32)[np.arange(train + rest + test) % 7])
    labels = np.eye(7, dtype=np.int32)[np.arange(train + rest + test) % 7]
    known, total = train + rest, train + rest + test
    graph = defaultdict(list, {i: [(i - 1) % total, (i + 1) % total] for i in range(total)})
    parts = {
        "x": features[:train], "tx": features[known:], "allx": features[:known],
        "y": labels[:train], "ty": labels[known:], "ally": labels[:known], "graph": graph,
    }  # fmt: skip
    for name, part in parts.items():
        (folder / f"ind.cora.{name}").write_bytes(pickle.dumps(part, protocol=2))
    (folder / "ind.cora.test.index").write_text("".join(f"{i}\n" for i in range(known, total)))


def modules(folder: Path) -> None:
    """A few modules of Python, at least one in each split."""
    folder.mkdir(parents=True)
    for split in (0, 1, 2, 3, 4):  # 0 tests and 1 validates
        name = next(f"module{i}" for i in range(1000) if zlib.crc32(f"module{i}".encode()) % 10 == split)
        (folder / f"{name}.py").write_text(PROGRAM * 4)
