"""The command that answers for files."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny
import torch
from PIL import Image
from sklearn.datasets import load_digits

import vsattn
from vsattn.predict import main
from vsattn.tasks.experiment import run


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    run(tiny.config(), folder / "a")
    return folder / "a"


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    (tmp_path / "in" / "deep").mkdir(parents=True)
    for i, name in enumerate(("b.png", "deep/a.png")):
        Image.fromarray((load_digits().images[i] * 15.9).astype("uint8")).save(tmp_path / "in" / name)
    (tmp_path / "in" / "notes.txt").write_text("no picture")
    return tmp_path / "in"


def test_pictures_of_a_folder(trained: Path, pictures: Path, tmp_path: Path, capsys) -> None:
    assert main([f"ckpt={trained}", f"input={pictures}", f"output={tmp_path / 'out.tsv'}"]) == 0
    assert capsys.readouterr().err == f"{pictures}: left out 1 .txt\n"
    header, *lines = [line.split("\t") for line in (tmp_path / "out.tsv").read_text().splitlines()]
    paths = [pictures / "b.png", pictures / "deep" / "a.png"]
    assert header == ["path", "label", "probability"] and [line[0] for line in lines] == [str(path) for path in paths]
    for line, answer in zip(lines, vsattn.load(trained).predict(paths), strict=True):
        assert line[1:] == [answer.label, str(round(answer.probability, 6))]
    assert main([f"ckpt={trained}", f"input={paths[1]},{paths[0]}"]) == 0
    shown = [line.split(",") for line in capsys.readouterr().out.splitlines()]
    assert shown == [header, *lines[::-1]]


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        ([], 2, "ckpt: is missing; add ckpt=PATH"),
        (["ckpt=x", "inptu=y"], 2, "did you mean 'input'?"),
        (["x"], 2, "x: settings are written key=value"),
        (["ckpt=x", "input=a.png", "input=b.png"], 2, "input is given twice; several files are written input=a,b"),
        (["ckpt=nowhere", "input=nothing.png"], 1, "there is no nothing.png"),
        (["ckpt=nowhere", "input=."], 1, "there is no checkpoint nowhere"),
        (["ckpt=RUN", "input=PICTURES/notes.txt"], 1, "notes.txt cannot be read as a picture"),
        (["ckpt=RUN"], 2, "input: is missing; this model answers for files"),
        (["ckpt=RUN", "input=PICTURES", "format=json"], 2, "ImageTask has no such form; did you mean 'jsonl'?"),
        (["ckpt=RUN", "input=PICTURES", "format=conllu"], 2, "choices: csv, jsonl, table, tsv"),
        (["ckpt=RUN", "input=PICTURES", "classes=all"], 2, "classes=all: add format=jsonl"),
        (["ckpt=RUN", "input=PICTURES", "classes=2"], 2, "classes=2: only classes=all is known"),
        (["ckpt=RUN", "input=PICTURES", "device=tpu9"], 2, "device: tpu9 cannot be used here"),
        (["ckpt=x", "input=.", "batch_size=0"], 2, "batch_size=0: a whole number of at least 1"),
        (["ckpt=x", "input=.", "num_workers=two"], 2, "num_workers=two: a whole number of at least 0"),
        (["ckpt=RUN", "input=PICTURES/empty"], 1, "holds no file that ends in .png"),
        (["ckpt=RUN", "input=PICTURES", "output=PICTURES"], 1, "cannot be written: Is a directory"),
    ],
)
def test_mistakes(words: list[str], code: int, says: str, trained: Path, pictures: Path, capsys) -> None:
    (pictures / "empty").mkdir()
    words = [word.replace("RUN", str(trained)).replace("PICTURES", str(pictures)) for word in words]
    assert main(words) == code
    assert says in capsys.readouterr().err


def test_the_output_is_complete_or_what_it_was(trained: Path, pictures: Path, capsys) -> None:
    output, notes = pictures / "out.csv", pictures / "notes.txt"
    output.write_text("mine")
    words = [f"ckpt={trained}", f"output={output}"]
    assert main([*words, f"input={notes}"]) == 1
    assert "nothing was answered: 1 of 1 failed" in capsys.readouterr().err
    assert output.read_text() == "mine" and not (pictures / "out.csv.part").exists()
    assert main([*words, f"input={pictures / 'b.png'},{notes}"]) == 1
    first, last = capsys.readouterr().err.splitlines()
    assert str(notes) in first and last == "vsattn.predict: 1 of 2 failed, the others are answered"
    assert [line.split(",")[0] for line in output.read_text().splitlines()] == ["path", str(pictures / "b.png")]
    own = pictures / "own.png"
    own.write_bytes((pictures / "b.png").read_bytes())
    assert main([f"ckpt={trained}", f"input={own}", f"output={own}"]) == 0
    assert own.read_text().startswith(f"path,label,probability\n{own},")


def test_a_task_that_writes_nothing_says_so(trained: Path, pictures: Path, tmp_path: Path, capsys) -> None:
    checkpoint = torch.load(trained / "checkpoints" / "best.ckpt", weights_only=True)
    for target, says in (
        (None, "does not say by which task"),
        ("vsattn.tasks.base.Task", "Task writes no answers"),
        ("vsattn.encoders.ConvEncoder", "trained by ConvEncoder, which is no task"),
    ):
        checkpoint["vsattn"]["config"]["task"] = {"_target_": target}
        torch.save(checkpoint, tmp_path / "other.ckpt")
        assert main([f"ckpt={tmp_path / 'other.ckpt'}", f"input={pictures}"]) != 0
        assert says in capsys.readouterr().err


def test_help(capsys) -> None:
    assert main(["-h"]) == 0
    assert "python -m vsattn.predict ckpt=" in capsys.readouterr().out
