"""A thousand damaged inputs: each is read right, or refused with the file's name and the place, and nothing else."""

from __future__ import annotations

import csv
import gzip
import io
import random
import re
import shutil
import wave
import zlib
from pathlib import Path
from typing import Any

import conllu
import numpy as np
import pytest
import soundfile
import torch
import yaml
from fuzzing import BYTES, LINES, Reader, Wrong, cells, cut, flip, insert, judge
from PIL import Image
from scipy import sparse

from vsattn.checkpoint import load, payload, read
from vsattn.compose import plain_config
from vsattn.errors import ConfigError
from vsattn.model import build_model
from vsattn.tasks.checks import faults
from vsattn.tasks.data.columns import read_columns
from vsattn.tasks.data.conllu import read_conllu
from vsattn.tasks.data.own_graph import read_adjacency, read_saved, read_tables
from vsattn.tasks.data.parallel import read_pairs
from vsattn.tokenizers import Patches
from vsattn.tokenizers.images import to_tensor
from vsattn.tokenizers.waveforms import read_audio, to_waveform


def text_of(path: Path, encoding: str = "utf-8") -> str:
    """Return what a text file holds."""
    content = path.read_bytes()
    if content.startswith(b"\x1f\x8b"):
        content = zlib.decompressobj(31).decompress(content)
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        raise Wrong(f"it is not UTF-8: {error}") from None
    if "\0" in text:
        raise Wrong("it holds a NUL")
    return text


class Treebank(Reader):
    """CoNLL-U, against the package conllu."""

    name, place = "conllu", r"line \d+"
    damages = (
        *BYTES,
        *LINES,
        *cells(b"\t"),
        *cells(b"\t"),
    )

    def files(self, chance: random.Random) -> dict[str, bytes]:
        lines = []
        for sentence in range(3):
            lines.append(f"# sent_id = {sentence}\n")
            for i in range(1, chance.randrange(2, 6)):
                lines += [f"{i}-{i + 1}\tdon't\t" + "\t".join("_" * 8) + "\n"] if chance.random() < 0.2 else []
                word, tag = chance.choice((("Häuser", "NOUN"), ("the", "DET"), ("3 000", "NUM"), ("=", "SYM")))
                head = chance.randrange(0, 6)
                lines.append(f"{i}\t{word}\t{word}\t{tag}\tX\tNumber=Sing|Case=Nom\t{head}\tdep\t_\tSpaceAfter=No\n")
                lines += [f"{i}.1\tgo\t" + "\t".join("_" * 8) + "\n"] if chance.random() < 0.2 else []
            lines.append("\n")
        return {"a.conllu": "".join(lines).encode()}

    def read(self, folder: Path) -> Any:
        read = read_conllu(folder / "a.conllu")
        assert (
            "".join(line for sentence in read for line in sentence.lines).encode() == (folder / "a.conllu").read_bytes()
        )
        return [list(zip(s.words, s.column("upos"), s.column("deprel"))) for s in read if s.words]

    def expected(self, folder: Path) -> Any:
        text = text_of(folder / "a.conllu")
        if text.startswith("\ufeff"):
            raise Wrong("it begins with a byte order mark")
        # The package also cuts at two spaces, which the format does not.
        lines = [
            line if line.startswith("#") or not line.strip() else line.replace(" ", "␣") for line in text.split("\n")
        ]
        keep = {name: lambda line, i: line[i] for name in ("feats", "head", "deps", "misc", "deprel", "xpos", "lemma")}
        try:
            parsed = conllu.parse("\n".join(lines), field_parsers=keep)
        except conllu.exceptions.ParseException as error:
            raise Wrong(str(error)) from None
        words = [[t for t in sentence if isinstance(t["id"], int)] for sentence in parsed]
        if any([t["id"] for t in sentence] != [*range(1, len(sentence) + 1)] for sentence in words):
            raise Wrong("its words are not numbered 1, 2, ...")
        if any(len(t) != 10 or not all(t.values()) for sentence in parsed for t in sentence):
            raise Wrong("a column is empty or missing")
        return [
            [(t["form"].replace("␣", " "), t["upos"].replace("␣", " "), t["deprel"].replace("␣", " ")) for t in s]
            for s in words
            if s
        ]


class ColumnFile(Reader):
    """Words and labels in columns, against a split at blanks."""

    name, place = "columns", r"line \d+"
    damages = (
        *BYTES,
        *LINES,
        *cells(b" "),
    )

    def files(self, chance: random.Random) -> dict[str, bytes]:
        lines = ["-DOCSTART- -X- O", ""]
        for _ in range(3):
            lines += [
                f"{chance.choice(('EU', 'rejects', 'Ärger'))} NN {chance.choice(('O', 'B-ORG', 'I-PER'))}"
                for _ in range(4)
            ]
            lines.append("")
        return {"a.txt": "\n".join(lines).encode()}

    def read(self, folder: Path) -> Any:
        return [list(zip(*sentence)) for sentence in read_columns(folder / "a.txt", 0, -1)]

    def expected(self, folder: Path) -> Any:
        sentences: list[list[tuple[str, str]]] = [[]]
        widths = set()
        for line in text_of(folder / "a.txt").split("\n"):
            fields = line.split()
            if not fields:
                sentences.append([])
            elif fields[0] != "-DOCSTART-":
                widths.add(len(fields))
                sentences[-1].append((fields[0], fields[-1]))
        if len(widths) > 1:
            raise Wrong(f"it has lines of {widths} columns")
        return [sentence for sentence in sentences if sentence]


class Translations(Reader):
    """Two files line by line, plain or gzip."""

    name, place = "parallel", r"line \d+|has [\d,]+ lines"
    damages = (
        *BYTES,
        *LINES,
        *LINES,
    )

    def files(self, chance: random.Random) -> dict[str, bytes]:
        sides = [
            "\n".join(f"{word} {chance.randrange(99)} – ok" for _ in range(6)) + "\n" for word in ("größer", "bigger")
        ]
        packed = [gzip.compress(side.encode(), mtime=0) if chance.random() < 0.3 else side.encode() for side in sides]
        return {"a.de": packed[0], "a.en": packed[1]}

    def read(self, folder: Path) -> Any:
        return read_pairs(folder / "a.de", folder / "a.en")

    def expected(self, folder: Path) -> Any:
        sides = []
        for name in ("a.de", "a.en"):
            with io.TextIOWrapper(
                io.BytesIO(text_of(folder / name, "utf-8-sig").encode()), "utf-8", newline="\n"
            ) as file:
                sides.append([line.removesuffix("\n").removesuffix("\r") for line in file])
        if len(sides[0]) != len(sides[1]):
            raise Wrong(f"there are {len(sides[0])} lines and {len(sides[1])}")
        return list(zip(*sides))


class Tables(Reader):
    """Tables of nodes and edges, against `csv.DictReader`."""

    name, place = "tables", r"line \d+|node '|[Tt]he (train|val|test) split"
    damages = (
        *BYTES,
        *LINES,
        *cells(b","),
        *cells(b","),
    )

    def files(self, chance: random.Random) -> dict[str, bytes]:
        names = ["x", "y", "z", "Zoë", "5"]
        nodes = ["id,label,split,a,b"] + [
            f"{n},{chance.choice('rg')},{chance.choice(('train', 'val'))},{chance.randrange(9)},{chance.random():.3f}"
            for n in names
        ]
        edges = ["source,target,w"] + [f"{chance.choice(names)},{chance.choice(names)},1.5" for _ in range(6)]
        return {"nodes.csv": "\n".join(nodes).encode(), "edges.csv": "\n".join(edges).encode()}

    def read(self, folder: Path) -> Any:
        found = read_tables(folder / "nodes.csv", folder / "edges.csv")
        graph = found.graph
        ends = [[found.names[i] for i in side] for side in graph.edge_index.tolist()]
        weights = None if graph.edge_attr is None else graph.edge_attr.tolist()
        return found.names, found.labels, found.splits, graph.x.tolist(), ends, weights

    def expected(self, folder: Path) -> Any:
        (_, nodes), (columns, edges) = (self._rows(folder / name) for name in ("nodes.csv", "edges.csv"))
        names = [row["id"] for row in nodes]
        if len(set(names)) < len(names):
            raise Wrong("an id is there twice")
        numbers = [[self._number(v) for k, v in row.items() if k not in ("id", "label", "split")] for row in nodes]
        weights = [[self._number(v) for k, v in row.items() if k not in ("source", "target")] for row in edges]
        ends = [[row[side] for row in edges] for side in ("source", "target")]
        if not {*ends[0], *ends[1]} <= {*names}:
            raise Wrong("an edge leads to no node")
        said = [[row[key] for row in nodes] if key in nodes[0] else None for key in ("label", "split")]
        return names, *said, numbers, ends, weights if len(columns) > 2 else None

    @staticmethod
    def _rows(path: Path) -> tuple[list[str], list[dict[str, str]]]:
        text = text_of(path, "utf-8-sig")
        try:
            rows = list(csv.reader(io.StringIO(text, newline=""), strict=True))
        except csv.Error as error:
            raise Wrong(str(error)) from None
        header, *rest = rows
        rest = [row for row in rest if row]
        if any(len(row) != len(header) for row in rest):
            raise Wrong("rows differ in length")
        return header, [{k.strip(): v.strip() for k, v in zip(header, row)} for row in rest]

    @staticmethod
    def _number(cell: str) -> float:
        if not re.fullmatch(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", cell, re.ASCII) or not np.isfinite(
            np.float32(float(cell))
        ):
            raise Wrong(f"{cell!r} is no number")
        return float(np.float32(float(cell)))


class Matrices(Reader):
    """An adjacency matrix or a saved graph; a zip knows by its checksums whether it is as it was."""

    name, place = "matrices", r"matrix|graph|edge|x (is|holds)|y is|mask"
    damages = BYTES

    def files(self, chance: random.Random) -> dict[str, bytes]:
        dense = (np.random.default_rng(chance.randrange(9)).random((5, 5)) < 0.4).astype(np.float32)
        buffer = io.BytesIO()
        kind = chance.choice(("dense.npz", "sparse.npz", "tensor.pt", "saved.pt"))
        if kind == "dense.npz":
            np.savez(buffer, dense)
        elif kind == "sparse.npz":
            sparse.save_npz(buffer, sparse.csr_array(dense))
        elif kind == "tensor.pt":
            torch.save(torch.from_numpy(dense), buffer)
        else:
            edges = torch.from_numpy(np.stack(np.nonzero(dense)))
            torch.save({"x": torch.ones(5, 2), "edge_index": edges, "y": torch.arange(5)}, buffer)
        self.edges = np.argwhere(dense).tolist()
        self.kind = kind
        return {kind: buffer.getvalue()}

    def read(self, folder: Path) -> Any:
        path = folder / self.kind
        index = read_saved(path).graph.edge_index if path.name == "saved.pt" else read_adjacency(path, 5, "source")[0]
        return sorted(index.T.tolist())

    def expected(self, folder: Path) -> Any:
        return self.edges


class Sound(Reader):
    """WAV, against the module wave; FLAC, whose samples are those that were written."""

    name, place = "sound", r"cut short|holds|channels|rate"
    damages = BYTES

    def files(self, chance: random.Random) -> dict[str, bytes]:
        channels, rate = chance.choice((1, 1, 2)), chance.choice((8000, 44100))
        samples = np.random.default_rng(chance.randrange(99)).integers(-(2**15), 2**15, (300, channels)).astype("<i2")
        buffer = io.BytesIO()
        if chance.random() < 0.3:
            soundfile.write(buffer, samples, rate, format="FLAC")
            self.file, self.whole = "a.flac", samples
            return {self.file: buffer.getvalue()}
        with wave.open(buffer, "wb") as file:
            file.setnchannels(channels)
            file.setsampwidth(2)
            file.setframerate(rate)
            file.writeframes(samples.tobytes())
        self.file = "a.wav"
        return {self.file: buffer.getvalue()}

    def read(self, folder: Path) -> Any:
        path = folder / self.file
        samples, rate = read_audio(path)
        assert bool(to_waveform(path, 8000, "the clip").isfinite().all())
        return rate, [round(v, 6) for v in samples.tolist()]

    def expected(self, folder: Path) -> Any:
        path = folder / self.file
        if path.suffix == ".flac":
            samples, rate = self.whole / 2**15, soundfile.info(path).samplerate
        else:
            rate, samples = self._wave(path)
        return rate, [round(v, 6) for v in samples.astype(np.float32).mean(1).tolist()]

    @staticmethod
    def _wave(path: Path) -> tuple[int, np.ndarray]:
        try:
            with wave.open(str(path)) as file:
                rate, channels, width, count = (
                    file.getframerate(),
                    file.getnchannels(),
                    file.getsampwidth(),
                    file.getnframes(),
                )
                content = file.readframes(count)
        except (wave.Error, EOFError):  # another kind of WAV by now, or a header that this module is strict about
            samples, rate = soundfile.read(path, always_2d=True)
            return rate, samples
        if count * channels * width > len(content) and count * channels * width < 0x7FFFF000:
            raise Wrong(f"it has {len(content)} bytes of {count * channels * width}")
        if width != 2:
            samples, rate = soundfile.read(path, always_2d=True)
            return rate, samples
        whole = len(content) // (2 * channels) * channels
        return rate, np.frombuffer(content, "<i2", whole).reshape(-1, channels) / 2**15


class Pictures(Reader):
    """Pictures, against PIL; a PNG knows by its checksums whether it is as it was."""

    name, place = "pictures", r"pixels|picture|mode"
    damages = BYTES

    def files(self, chance: random.Random) -> dict[str, bytes]:
        pixels = np.random.default_rng(chance.randrange(99)).integers(0, 256, (9, 12, 3), dtype=np.uint8)
        kind = chance.choice(("png", "png", "jpg", "gif", "bmp", "ppm", "tif", "webp"))
        image, buffer = Image.fromarray(pixels), io.BytesIO()
        image = image.quantize() if kind == "gif" else image
        image.save(buffer, {"jpg": "jpeg", "tif": "tiff"}.get(kind, kind))
        self.file, self.whole = f"a.{kind}", pixels if kind == "png" else None
        return {self.file: buffer.getvalue()}

    def read(self, folder: Path) -> Any:
        path = folder / self.file
        return (to_tensor(path, "picture") * 255).round().int().tolist()

    def expected(self, folder: Path) -> Any:
        path = folder / self.file
        if self.whole is not None:
            return self.whole.transpose(2, 0, 1).tolist()
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("L" if image.mode in ("1", "L") else "RGB")).astype(int)
        return (pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)).tolist()


class Checkpoints(Reader):
    """A checkpoint, whose parts have checksums: what can be loaded is what was saved."""

    name, place = "checkpoints", r"checkpoint|written by vsattn|rebuilt|damaged|schema"
    damages = BYTES
    content: bytes = b""

    def files(self, chance: random.Random) -> dict[str, bytes]:
        if not self.content:
            config = {
                "dim": 4,
                "tokenizer": {"_target_": "vsattn.tokenizers.Patches", "patch_size": 4},
                "encoder": {"_target_": "vsattn.encoders.TransformerEncoder", "num_layers": 1, "num_heads": 1},
                "head": {"_target_": "vsattn.heads.MeanHead"},
            }
            tokenizer = Patches(patch_size=4).fit([np.eye(4, dtype=np.uint8)])
            weights = {f"model.{n}": w for n, w in build_model(config, tokenizer, num_classes=2).state_dict().items()}
            buffer = io.BytesIO()
            torch.save({"state_dict": weights, "vsattn": payload(config, tokenizer, ["a", "b"])}, buffer)
            self.content = buffer.getvalue()
            self.answer = self._answer(io.BytesIO(self.content))
        return {"a.ckpt": self.content}

    def read(self, folder: Path) -> Any:
        return self._answer(folder / "a.ckpt")

    def expected(self, folder: Path) -> Any:
        return self.answer

    @staticmethod
    def _answer(file: Any) -> Any:
        if isinstance(file, io.BytesIO):
            held = torch.load(file, weights_only=True)
            return held["vsattn"], {name: weight.tolist() for name, weight in held["state_dict"].items()}
        predictor, held = load(file), read(file)
        assert bool(predictor.logits([np.eye(4, dtype=np.uint8)]).isfinite().all())
        return held["vsattn"], {f"model.{n}": weight.tolist() for n, weight in predictor.model.state_dict().items()}


class Configs(Reader):
    """A file of a user's own config folder, against PyYAML."""

    name, below = "configs", "experiment"
    place = r"(line|position) \d+|(^|\n)\s*\S+(: |=)|Key '|cannot be read as a config"
    damages = (*LINES, *cells(b":"), *cells(b" "), flip, cut, insert)

    def files(self, chance: random.Random) -> dict[str, bytes]:
        pieces = ["seed: 7", "dim: 24", "batch_size: 3", "optimizer:\n  lr: 0.5", "task:\n  label_smoothing: 0.25"]
        pieces += chance.sample(HOSTILE_YAML, 1) if chance.random() < 0.5 else []
        chance.shuffle(pieces)
        return {"mine.yaml": "\n".join(["# @package _global_", *pieces, ""]).encode()}

    def aliases(self, name: str) -> list[str]:
        items = ["seed", "dim", "batch_size", "optimizer", "task", "label_smoothing"]
        return ["mine", "Key '", "there is no such setting", *items]

    def read(self, folder: Path) -> Any:
        config, found = plain_config(["experiment=mine"], config_dir=folder)
        if found := [*found, *faults(config)]:
            raise ConfigError("\n".join(found))
        return (
            config["seed"],
            config["dim"],
            config["batch_size"],
            config["optimizer"],
            config["task"]["label_smoothing"],
        )

    def expected(self, folder: Path) -> Any:
        try:
            held = yaml.safe_load((folder / "experiment" / "mine.yaml").read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise Wrong(str(error)) from None
        usual = {"seed": 0, "dim": 64, "batch_size": 64}
        found = {**usual, **(held or {})}
        optimizer = {**plain_config([])[0]["optimizer"], **(found.get("optimizer") or {})}
        smoothing = (found.get("task") or {}).get("label_smoothing", 0.1)
        return found["seed"], found["dim"], found["batch_size"], optimizer, smoothing


#: What a config file should not hold.
HOSTILE_YAML = [
    "x: !!python/object/apply:os.system [touch PWNED]", "x: !!python/name:os.system", "x: !!binary aGk=", "dim: 25",
    "y: &y [*y]", "a: &a [1, 1]\nb: &b [*a, *a]\nx: [*b, *b]", "? [a, b]\n: c", "3: 4", "\tdim: 3", "dim: 1e999",
    "dim: ${oc.env:HOME}", "dim: ${dim}", "seed: ${optimizer.lr}", "seed: 2001-01-01", "defaults:\n  - no_such: x",
    "defaults: 3", "optimizer: 3", "task: [1]", "optimizer:\n  _target_: os.system", "hydra:\n  run: 3", "dim: 0o17",
    "optimizer:\n  lr: .inf", "task:\n  label_smoothing: .nan", "seed: -1", "dim: 2.5", "seed: yes", "x" * 5000,
]  # fmt: skip

READERS = {reader.name: (reader, count) for reader, count in (
    (Treebank(), 160), (ColumnFile(), 70), (Translations(), 120), (Tables(), 190), (Matrices(), 90),
    (Sound(), 120), (Pictures(), 120), (Checkpoints(), 70), (Configs(), 70),
)}  # fmt: skip


def test_there_are_a_thousand() -> None:
    assert sum(count for _, count in READERS.values()) >= 1000


@pytest.mark.parametrize("name", READERS)
def test_what_is_damaged_is_read_right_or_refused_by_name(name: str, tmp_path: Path) -> None:
    reader, count = READERS[name]
    outcomes = {"read": 0, "refused": 0}
    wrong = []
    for seed in range(count):
        outcome, fault = judge(reader, seed, tmp_path / str(seed))
        outcomes[outcome] += 1
        wrong += [f"{name}, seed {seed}: {fault}"] if fault else []
        shutil.rmtree(tmp_path / str(seed))
    assert not wrong, f"{len(wrong)} of {count}:\n" + "\n".join(wrong)
    assert min(outcomes.values()) > 0, outcomes
