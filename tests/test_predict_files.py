"""Answers for many files, of every task: what is batched, read ahead, wrong or written changes no answer."""

from __future__ import annotations

import csv
import io
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import conllu
import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

import vsattn
from vsattn.answers import Aligned, JsonLines, Separated
from vsattn.build import build
from vsattn.checkpoint import payload
from vsattn.ctc import Transcript
from vsattn.errors import ConfigError, DataError
from vsattn.hypotheses import Translation
from vsattn.model import build_model
from vsattn.predict import main
from vsattn.predictor import WINDOW, Prediction, Predictor
from vsattn.tokenizers import Graph
from vsattn.tokenizers.base import Tokenizer

RATE = 8000
ENCODER = {"_target_": "vsattn.encoders.TransformerEncoder", "num_layers": 1, "num_heads": 2}
SOUND = {"_target_": "vsattn.tokenizers.AudioFrames", "sample_rate": RATE, "num_features": 8, "max_vectors": 100}
TEXT = {"_target_": "vsattn.tokenizers.Text", "model": "words", "split": "spaces", "min_count": 1}


def clip(seconds: float, seed: int = 0, rate: int = RATE) -> np.ndarray:
    return np.random.default_rng(seed).normal(scale=0.1, size=int(seconds * rate)).astype(np.float32)


def graph(nodes: int) -> Graph:
    torch.manual_seed(nodes)
    return Graph(torch.rand(nodes, 3), torch.randint(nodes, (2, 2 * nodes)).unique(dim=1))


#: Of each task the parts that differ, the items it is fitted on, and three items to answer for.
TASKS: dict[str, tuple[dict[str, Any], list[Any], list[Any]]] = {
    "image.ImageTask": (
        {"tokenizer": {"_target_": "vsattn.tokenizers.Patches", "patch_size": 4}, "head": "MeanHead"},
        [np.zeros((8, 8), np.uint8)],
        [np.full((side, 8), side, np.uint8) for side in (8, 4, 12)],
    ),
    "speech.SpeechTask": (
        {"tokenizer": SOUND, "head": "MeanHead"},
        [clip(1)],
        [clip(0.3), (clip(0.2, rate=16000), 16000), clip(0.5, 2)],
    ),
    "recognition.RecognitionTask": (
        {"tokenizer": SOUND, "head": "CtcHead"},
        [clip(1)],
        [clip(0.3), clip(0.2, 1), clip(0.5, 2)],
    ),
    "labeling.LabelingTask": (
        {"tokenizer": {"_target_": "vsattn.tokenizers.Words", "min_count": 1}, "head": "VectorHead"},
        [["we", "can", "fish"]],
        [["we", "can"], ["fish"], ["we", "can", "can", "fish"]],
    ),
    "node.NodeTask": (
        {"tokenizer": {"_target_": "vsattn.tokenizers.GraphNodes"}, "head": "VectorHead", "positions": None},
        [graph(4)],
        [graph(5), graph(3), graph(9)],
    ),
    "translation.TranslationTask": (
        {
            "tokenizer": {"_target_": "vsattn.tokenizers.TextPairs", "source": TEXT, "max_length": 6},
            "head": "TiedHead",
            "decoder": {"_target_": "vsattn.decoders.TransformerDecoder", "num_layers": 1, "num_heads": 2},
        },
        [("a b c", "c b a")],
        ["a b", "c", "b a c"],
    ),
}


def saved(name: str, folder: Path) -> Path:
    """Save an untrained model of a task."""
    parts, items, _ = TASKS[name]
    config: dict[str, Any] = {"dim": 16, "encoder": ENCODER, "positions": {"_target_": "vsattn.positions.Sinusoidal"}}
    head, task = {"_target_": f"vsattn.heads.{parts['head']}"}, {"_target_": f"vsattn.tasks.{name}"}
    config |= {**parts, "head": head, "task": task}
    tokenizer = build(config["tokenizer"], Tokenizer, path="tokenizer").fit(items)
    classes = tokenizer.writes or ["ä", "b,", "c"]
    torch.manual_seed(0)
    model = build_model(config, tokenizer, num_classes=len(classes))
    state = {f"model.{key}": 3 * value for key, value in model.state_dict().items()}  # surer than it was
    torch.save({"state_dict": state, "vsattn": payload(config, tokenizer, classes)}, folder / f"{name}.ckpt")
    return folder / f"{name}.ckpt"


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {name.split(".")[0]: saved(name, folder) for name in TASKS}


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    """Nine recordings of unequal length, rate and kind, and the same sound once more in stereo."""
    folder = tmp_path / "clips"
    (folder / "deep").mkdir(parents=True)
    for i, seconds in enumerate((0.3, 0.1, 0.6, 0.02, 0.45, 0.2, 0.5, 0.15)):
        soundfile.write(folder / f"{i}.wav", clip(seconds, i, (RATE, 16000)[i % 2]), (RATE, 16000)[i % 2])
    sound, _ = soundfile.read(folder / "2.wav")
    soundfile.write(folder / "deep" / "2, two.flac", np.stack([sound, sound], 1), RATE)
    return folder


def command(words: list[str], given: str | bytes, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Run the command with standard input; return its exit code and what it writes."""
    before, sys.stdin = sys.stdin, io.TextIOWrapper(io.BytesIO(given.encode() if isinstance(given, str) else given))
    try:
        code = main(words)
    finally:
        sys.stdin = before
    return code, *capsys.readouterr()


# In Python.


@pytest.mark.parametrize("name", list(TASKS))
def test_a_model_of_each_task_is_loaded_and_answers(name: str, checkpoints: dict[str, Path]) -> None:
    kind, _, items = name.split(".")[0], *TASKS[name][1:]
    model = vsattn.load(checkpoints[kind])
    answers = model.predict(items)
    assert len(answers) == 3
    for answer, alone in zip(answers, (model.predict([item])[0] for item in items), strict=True):
        if kind in ("image", "speech"):
            assert isinstance(answer, Prediction) and answer.label == alone.label
            assert sum(answer.probabilities.values()) == pytest.approx(1, abs=1e-5)
            assert answer.probabilities == pytest.approx(alone.probabilities, abs=1e-5)
        elif kind in ("labeling", "node"):
            assert [one.label for one in answer] == [one.label for one in alone]
        elif kind == "recognition":
            assert isinstance(answer, Transcript) and answer.text == alone.text
        else:
            assert isinstance(answer, Translation) and answer.text == alone.text
    for num_workers in (0, 2):
        assert len(model.predict(iter(items), batch_size=2, num_workers=num_workers)) == 3


@pytest.mark.parametrize(("batch_size", "num_workers"), [(4, 0), (3, 2), (64, 1)])
def test_batches_and_threads_change_nothing(batch_size, num_workers, checkpoints, clips, monkeypatch) -> None:
    monkeypatch.setattr("vsattn.predictor.BATCH_BYTES", 20_000)  # a second of sound
    model, threads = vsattn.load(checkpoints["speech"]), torch.get_num_threads()
    paths = [*sorted(clips.glob("*.wav")), clips / "deep" / "2, two.flac"]
    answers = model.predict(paths, batch_size=batch_size, num_workers=num_workers)
    alone = [model.predict([path])[0] for path in paths]
    assert [one.label for one in answers] == [one.label for one in alone] and len({one.label for one in alone}) > 1
    for one, other in zip(answers, alone, strict=True):
        assert one.probabilities == pytest.approx(other.probabilities, abs=1e-5)
    assert answers[2].probabilities == pytest.approx(answers[-1].probabilities, abs=1e-3)  # of 16 bits, in stereo
    assert torch.get_num_threads() == threads


def test_errors_in_the_places_of_answers(checkpoints) -> None:
    model = vsattn.load(checkpoints["speech"])
    items = [clip(0.2), np.full(2000, np.nan, np.float32), clip(0.3), clip(9), DataError("known"), "nothing.wav"]
    found = model.predict(items, errors="return", num_workers=1)
    assert [isinstance(one, DataError) for one in found] == [False, True, False, True, True, True]
    assert "item 1 cannot be predicted" in str(found[1]) and "NaN" in str(found[1]) and "9.0 s long" in str(found[3])
    assert str(found[4]) == "item 4 cannot be predicted: known"
    assert "there is no sound file nothing.wav" in str(found[5])
    with pytest.raises(DataError, match=r"item 1 cannot be predicted: .*NaN"):
        model.predict(items, num_workers=2)
    with pytest.raises(ConfigError, match="errors is 'raise' or 'return', not 'ignore'"):
        model.predict(items[:1], errors="ignore")
    with pytest.raises(DataError, match="num_workers at least 0"):
        model.predict(items, num_workers=-1)
    translator = vsattn.load(checkpoints["translation"])
    good, long = translator.predict(["a b", "a " * 9], errors="return")
    assert good == translator.predict(["a b"])[0] and "item 1 cannot be predicted" in str(long)


def test_a_model_that_answers_nan_says_so(checkpoints) -> None:
    model = vsattn.load(checkpoints["image"])
    for number in ("nan", "inf"):
        model.model.head.classify.bias.data.fill_(float(number))
        (found,) = model.predict([np.zeros((8, 8), np.uint8)], errors="return")
        assert "the model's answer is no number" in str(found)


@pytest.mark.parametrize(
    ("batch_size", "num_workers", "most"), [(1, 0, 1), (4, 0, 4 * WINDOW), (2, 2, 2 * (WINDOW + 5))]
)
def test_items_are_taken_as_they_are_needed(batch_size, num_workers, most, checkpoints) -> None:
    taken, ahead = 0, []

    def items() -> Iterator[np.ndarray]:
        nonlocal taken
        for i in range(100):
            taken += 1
            yield np.full((8, 8), i, np.uint8)

    model = vsattn.load(checkpoints["image"])
    for place, _ in enumerate(model.stream(items(), batch_size=batch_size, num_workers=num_workers)):
        ahead.append(taken - place)
    assert len(ahead) == taken == 100 and max(ahead) <= most


# By the command.


def test_one_bad_file_of_many(checkpoints, clips, capsys) -> None:
    good = [*sorted(clips.glob("*.wav")), clips / "deep" / "2, two.flac"]
    (clips / "cut.wav").write_bytes((clips / "2.wav").read_bytes()[:900])
    (clips / "empty.wav").write_bytes(b"")
    (clips / "kind.flac").write_bytes(b"no sound at all")
    soundfile.write(clips / "nan.wav", np.full(900, np.nan, np.float32), RATE, subtype="FLOAT")
    soundfile.write(clips / "long.wav", clip(9), RATE)
    (clips / "notes.txt").write_text("")
    words = [f"ckpt={checkpoints['speech']}", f"input={clips},{clips / 'missing.wav'}", "format=jsonl", "batch_size=3"]
    code, out, err = command([*words, "classes=all"], "", capsys)
    assert code == 1
    first, *lines, last = err.splitlines()
    assert first == f"{clips}: left out 1 .txt"
    assert [line.split(":")[0] for line in lines] == ["vsattn.predict"] * 6
    for line, name, reason in zip(
        lines,
        ("cut.wav", "empty.wav", "kind.flac", "long.wav", "nan.wav", "missing.wav"),
        ("cut short", "cannot be read", "cannot be read", "max_vectors=100", "NaN", "there is no"),
        strict=True,
    ):
        assert line.count(str(clips / name)) == 1 and reason in line
    assert last == "vsattn.predict: 6 of 15 failed, the others are answered"
    records = [json.loads(line) for line in out.splitlines()]
    assert [record["path"] for record in records] == [str(path) for path in good]
    for record, answer in zip(records, vsattn.load(checkpoints["speech"]).predict(good), strict=True):
        assert record["label"] == answer.label
        assert record["probabilities"] == pytest.approx(answer.probabilities, abs=2e-6)


def test_nothing_to_answer_for_is_one_error(checkpoints, tmp_path, capsys) -> None:
    (tmp_path / "none").mkdir()
    for input, says in (
        (tmp_path / "none", f"{tmp_path / 'none'} holds no file that ends in .wav"),
        (f"{tmp_path / 'a.wav'},{tmp_path / 'b.wav'}", f"there is no {tmp_path / 'a.wav'}, {tmp_path / 'b.wav'}"),
    ):
        code, out, err = command([f"ckpt={checkpoints['speech']}", f"input={input}"], "", capsys)
        assert code == 1 and out == "" and len(err.splitlines()) == 2 and says in err


def test_forms_of_the_same_answers(checkpoints, tmp_path, capsys) -> None:
    folder = tmp_path / 'of "mine", new'
    folder.mkdir()
    names = ["a,b.png", "line\nend.png", "return\r.png", os.fsdecode(b"\xff.png"), "写真.png"]
    for i, name in enumerate(names):
        Image.fromarray(np.full((8, 8), 60 * i, np.uint8)).save(folder / name)
    paths = [str(path) for path in sorted(folder.iterdir())]
    answers = vsattn.load(checkpoints["image"]).predict(paths)

    def written(form: str) -> str:
        output = tmp_path / "out"
        assert main([f"ckpt={checkpoints['image']}", f"input={folder}", f"format={form}", f"output={output}"]) == 0
        return output.read_bytes().decode()

    pairs = zip(paths, answers, strict=True)
    expected = [(path, one.label, pytest.approx(one.probability, abs=1e-6)) for path, one in pairs]
    assert [tuple(json.loads(line).values()) for line in written("jsonl").splitlines()] == expected
    for form, dialect in (("csv", "excel"), ("tsv", "excel-tab")):
        rows = list(csv.DictReader(io.StringIO(written(form), newline=""), dialect=dialect))
        seen = [(os.fsdecode(r["path"].encode().replace(rb"\udcff", b"\xff")), r["label"]) for r in rows]
        assert seen == [row[:2] for row in expected]
        assert [float(row["probability"]) for row in rows] == [row[2] for row in expected]
    header, *lines = written("table").splitlines()
    assert header.split() == ["path", "label", "probability"]
    shares = [float(line.split()[-1]) for line in lines]
    assert shares == [pytest.approx(one.probability, abs=1e-4) for one in answers]


def test_names_of_files(checkpoints, tmp_path, monkeypatch, capsys) -> None:
    """Many at once, more than one name may have letters; links to nothing; pipes, which would never end."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    names = [f"in/{'long' * 20}{i}.png" for i in range(60)]
    for name in names:
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(name)
    words = [f"ckpt={checkpoints['image']}", "format=csv"]
    code, out, _ = command([*words, f"input={','.join(names)},"], "", capsys)
    assert code == 0 and [line.split(",")[0] for line in out.splitlines()[1:]] == names
    monkeypatch.chdir("in")
    code, out, _ = command([*words, f"input={','.join(Path(name).name for name in names)}"], "", capsys)
    assert code == 0 and len(out.splitlines()) == 61
    for word, said in (
        ("input=~no one/a.png", "there is no ~no one/a.png"),
        ("input=,", "there is no ,"),
        (f"input={'a' * 300}", "there is no aaa"),
        ("batch_size=99999999999999999999", "a whole number of at least 1 and at most 999999999"),
        ("device=meta", "meta holds no numbers"),
        ("output=in.csv/out.csv", "in.csv/out.csv cannot be written"),
    ):
        (tmp_path / "in" / "in.csv").write_text("")
        given = [word] if word.startswith("input") else ["input=.", word]
        code, out, err = command([*words, *given], "", capsys)
        assert code in (1, 2) and out == "" and said in err
    os.mkfifo("pipe.png")
    os.symlink("nothing", "link.png")
    code, out, err = command([*words, "input=."], "", capsys)
    assert code == 1 and len(out.splitlines()) == 61 and "pipe.png is no file" in err and "link.png is no file" in err


def test_links_and_pipes_are_written_to(checkpoints, tmp_path) -> None:
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "a.png")
    words = [f"ckpt={checkpoints['image']}", f"input={tmp_path / 'a.png'}", "format=csv"]
    (tmp_path / "link").symlink_to(tmp_path / "target")
    assert main([*words, f"output={tmp_path / 'link'}"]) == 0
    assert (tmp_path / "link").is_symlink() and (tmp_path / "target").read_text().startswith("path,label")
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    assert main([*words, f"output={tmp_path / 'pipe'}"]) == 0
    assert os.read(reader, 10_000).decode() == (tmp_path / "target").read_text() and (tmp_path / "pipe").is_fifo()
    os.close(reader)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "link", "pipe", "target"]


@pytest.mark.parametrize("kind", ["translation", "node", "labeling", "image"])
def test_what_is_missing_beside_what_is_there(kind, checkpoints, tmp_path, capsys) -> None:
    (tmp_path / "in").mkdir()
    one = graph(3)
    torch.save({"x": one.x, "edge_index": one.edge_index}, tmp_path / "a.pt")
    (tmp_path / "a.txt").write_text("a b\n")
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "a.png")
    good = tmp_path / {"node": "a.pt", "image": "a.png"}.get(kind, "a.txt")
    inputs = f"input={good},{tmp_path / 'in'},{tmp_path / 'none'}"
    code, out, err = command([f"ckpt={checkpoints[kind]}", inputs, "format=jsonl"], "", capsys)
    assert code == 1 and str(good) in out and f"{tmp_path / 'in'} holds no file that ends in" in err
    assert f"there is no {tmp_path / 'none'}" in err and "2 of 3 failed" in err


def test_tables_line_up() -> None:
    out = io.StringIO()
    table = Aligned(out)
    table.write([{"path": "写真", "n": 5, "label": "e\u0301"}, {"path": "a\tb", "n": 12, "label": "x", "nested": [1]}])
    table.close()
    assert out.getvalue() == "path   n  label\n写真   5  e\u0301\na\\tb  12  x\n"
    many = io.StringIO()
    table = Aligned(many)
    for i in range(2000):
        table.write([{"i": i}])
    table.close()
    assert [int(line) for line in many.getvalue().splitlines()[1:]] == list(range(2000))


def test_numbers_of_json_are_finite() -> None:
    with pytest.raises(ValueError):
        JsonLines(io.StringIO()).write([{"x": float("nan")}])
    out = io.StringIO()
    JsonLines(out).write([{"x": 1 / 3, "y": [{"z": 2 / 3}], "probabilities": {"a": 1.0}}])
    assert out.getvalue() == '{"x": 0.333333, "y": [{"z": 0.666667}]}\n'
    out = io.StringIO()
    Separated(out).write([{"x": 1 / 3, "y": [{"z": 2 / 3}]}])
    assert out.getvalue() == "x\n0.333333\n"


def test_words_of_standard_input(checkpoints, capsys) -> None:
    words = [f"ckpt={checkpoints['labeling']}"]
    answers = vsattn.load(checkpoints["labeling"]).predict([["we", "can"], ["fish"]])
    labels = [[one.label for one in answer] for answer in answers]
    code, out, err = command(words, "we  can\n\nfish\n", capsys)
    assert (code, err) == (0, "")
    assert [[t["misc"]["Label"] for t in s] for s in conllu.parse(out)] == labels
    empty = "\t_" * 8
    lines = f"# 1\n1-2\twecan{empty}\n1\twe{empty}\n2\tcan{empty}\n\n1\tfish{empty}\n\n"
    code, out, err = command([*words, "input=-", "batch_size=1"], lines, capsys)
    assert (code, err) == (0, "") and out.startswith("# 1\n1-2\twecan\t_\t_\t_\t_\t_\t_\t_\t_\n1\twe\t")
    assert [[t["misc"]["Label"] for t in s if isinstance(t["id"], int)] for s in conllu.parse(out)] == labels
    code, out, err = command([*words, "format=csv"], "we can\n", capsys)
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [(r["path"], r["sentence"], r["index"], r["word"], r["label"]) for r in rows] == [
        ("-", "1", "1", "we", labels[0][0]), ("-", "1", "2", "can", labels[0][1])
    ]  # fmt: skip
    code, out, err = command(words, b"we\n\xff\n", capsys)
    assert code == 1 and "line 2 of standard input is no UTF-8 text" in err and "\twe\t" in out
    assert command(words, "", capsys) == (0, "", "")


def test_files_of_words_with_a_fault(checkpoints, tmp_path, capsys) -> None:
    (tmp_path / "a.conllu").write_text("1\twe" + "\t_" * 8 + "\n")
    (tmp_path / "b.conllu").write_text("1\twe" + "\t_" * 8 + "\n\n3\twe" + "\t_" * 8 + "\n")
    (tmp_path / "c.txt").write_text("fish\n")
    code, out, err = command([f"ckpt={checkpoints['labeling']}", f"input={tmp_path}"], "", capsys)
    assert code == 1 and "b.conllu, line 3: the ID is 3, but word 1 comes here" in err
    assert "1 of 3 failed" in err
    assert [[t["form"] for t in s] for s in conllu.parse(out)] == [["we"], ["fish"]]


def test_answers_come_before_the_next_line_is_read(checkpoints, monkeypatch) -> None:
    out, seen = io.StringIO(), []

    class Lines:
        def __iter__(self) -> Iterator[bytes]:
            for line in (b"we\n", b"can\n", b"fish\n"):
                seen.append(out.getvalue().count("# text"))
                yield line

    monkeypatch.setattr(sys, "stdin", type("Input", (), {"buffer": Lines()}))
    monkeypatch.setattr(sys, "stdout", out)
    assert main([f"ckpt={checkpoints['labeling']}", "batch_size=1"]) == 0
    assert seen == [0, 1, 2] and out.getvalue().count("# text") == 3


def test_a_line_that_cannot_be_translated_keeps_its_place(checkpoints, tmp_path, capsys) -> None:
    words, text = [f"ckpt={checkpoints['translation']}"], f"a b\n{'a ' * 9}\n\nc\n"
    code, out, err = command(words, text, capsys)
    assert code == 1 and "vsattn.predict: line 2 of standard input: " in err and "1 of 4 failed" in err
    model = vsattn.load(checkpoints["translation"])
    texts = [one.text for one in model.predict(["a b", "", "c"])]
    assert out.split("\n") == [texts[0], "", "", texts[2], ""]
    (tmp_path / "in.txt").write_text(text)
    code, out, _ = command([*words, f"input={tmp_path}", "format=jsonl"], "", capsys)
    assert [(r["line"], r["source"], r["translation"]) for r in map(json.loads, out.splitlines())] == [
        (1, "a b", texts[0]), (3, "", ""), (4, "c", texts[2])
    ]  # fmt: skip
    code, _, err = command([*words, "format=jsonl", "classes=all"], text, capsys)
    assert code == 2 and "TranslationTask has no such probabilities" in err


def test_a_folder_of_graphs(checkpoints, tmp_path, capsys) -> None:
    for name, nodes in (("b", 3), ("a", 5)):
        one = graph(nodes)
        torch.save({"x": one.x, "edge_index": one.edge_index}, tmp_path / f"{name}.pt")
    (tmp_path / "c.pt").write_bytes(b"")
    code, out, err = command([f"ckpt={checkpoints['node']}", f"input={tmp_path}", "format=jsonl"], "", capsys)
    assert code == 1 and "c.pt cannot be read as a saved graph" in err
    rows = [json.loads(line) for line in out.splitlines()]
    assert [(Path(row["graph"]).name, row["node"]) for row in rows] == [("a.pt", str(i)) for i in range(5)] + [
        ("b.pt", str(i)) for i in range(3)
    ]
    answers = vsattn.load(checkpoints["node"]).predict([graph(5), graph(3)])
    assert [row["label"] for row in rows] == [one.label for answer in answers for one in answer]


def test_recordings_become_one_object_each(checkpoints, clips, capsys) -> None:
    code, out, _ = command([f"ckpt={checkpoints['recognition']}", f"input={clips}"], "", capsys)
    rows = [json.loads(line) for line in out.splitlines()]
    assert code == 0 and len(rows) == 9 and list(rows[0]) == ["path", "text", "words"]
    for row in rows:
        assert [word["word"] for word in row["words"]] == row["text"].split()
    assert isinstance(vsattn.load(checkpoints["recognition"]), Predictor)
