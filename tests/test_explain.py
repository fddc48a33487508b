"""The command explain: text, picture, sound, graph and translation become files; what means nothing is refused."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from view_schema import check

from vsattn.build import build
from vsattn.checkpoint import payload
from vsattn.explain import main
from vsattn.model import build_model
from vsattn.tokenizers import Graph
from vsattn.tokenizers.base import Tokenizer
from vsattn.viewing.document import Document
from vsattn.words import numbers

RATE = 8000
ENCODER = {"_target_": "vsattn.encoders.TransformerEncoder", "num_layers": 2, "num_heads": 2}
TEXT = {"_target_": "vsattn.tokenizers.Text", "model": "words", "split": "spaces", "min_count": 1}
CHAIN = Graph(torch.eye(4), torch.tensor([[0, 1, 2], [1, 2, 3]]))

#: Of each task the parts that differ, and the items that it is fitted on.
TASKS: dict[str, tuple[dict[str, Any], list[Any]]] = {
    "labeling.LabelingTask": (
        {"tokenizer": {"_target_": "vsattn.tokenizers.Words", "min_count": 1}, "head": "VectorHead"},
        [["we", "can", "fish"]],
    ),
    "image.ImageTask": (
        {"tokenizer": {"_target_": "vsattn.tokenizers.Patches", "patch_size": 4}, "head": "MeanHead"},
        [np.zeros((8, 8), np.uint8)],
    ),
    "speech.SpeechTask": (
        {"tokenizer": {"_target_": "vsattn.tokenizers.AudioFrames", "sample_rate": RATE}, "head": "MeanHead"},
        [np.zeros(RATE, np.float32)],
    ),
    "node.NodeTask": (
        {"tokenizer": {"_target_": "vsattn.tokenizers.GraphNodes"}, "head": "VectorHead", "positions": None},
        [CHAIN],
    ),
    "translation.TranslationTask": (
        {
            "tokenizer": {"_target_": "vsattn.tokenizers.TextPairs", "source": TEXT, "max_length": 9},
            "head": "TiedHead",
            "decoder": {"_target_": "vsattn.decoders.TransformerDecoder", "num_layers": 1, "num_heads": 2},
        },
        [("a b c", "c b a")],
    ),
    "image.ImageTask CNN": (
        {
            "tokenizer": {"_target_": "vsattn.tokenizers.Patches", "patch_size": 4},
            "head": "MeanHead",
            "encoder": {"_target_": "vsattn.encoders.ConvEncoder", "num_layers": 1},
        },
        [np.zeros((8, 8), np.uint8)],
    ),
    "image.ImageTask Digits": (
        {
            "tokenizer": {"_target_": "vsattn.tokenizers.Patches", "patch_size": 4},
            "head": "MeanHead",
            "data": {"_target_": "vsattn.tasks.data.images.Digits"},
            "seed": 0,
            "batch_size": 8,
        },
        [np.zeros((8, 8), np.uint8)],
    ),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """An untrained model of each task."""
    folder, found = tmp_path_factory.mktemp("models"), {}
    for name, (parts, items) in TASKS.items():
        target = name.split()[0]
        config: dict[str, Any] = {
            "dim": 16,
            "encoder": ENCODER,
            "positions": {"_target_": "vsattn.positions.Sinusoidal"},
        }
        config |= {**parts, "head": {"_target_": f"vsattn.heads.{parts['head']}"}}
        config |= {"task": {"_target_": f"vsattn.tasks.{target}"}}
        tokenizer = build(config["tokenizer"], Tokenizer, path="tokenizer").fit(items)
        classes = tokenizer.writes or (list("0123456789") if "data" in parts else ["ä", "b,", "c"])
        torch.manual_seed(0)
        state = {
            f"model.{k}": v for k, v in build_model(config, tokenizer, num_classes=len(classes)).state_dict().items()
        }
        path = folder / f"{name}.ckpt"
        torch.save({"state_dict": state, "vsattn": payload(config, tokenizer, classes)}, path)
        found[name.split(".")[0] + name.partition(" ")[2]] = path
    return found


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a file of each kind, and the command is called in it."""
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    Image.fromarray(random.integers(0, 256, (9, 14), np.uint8)).save("a.png")
    soundfile.write("a.wav", random.normal(scale=0.1, size=RATE // 4), RATE)
    Path("text.txt").write_text("we can fish\nthey can\n", "utf-8")
    Path("nodes.csv").write_text("id,w,x,y,z\n" + "".join(f"n{i},{i},1,0,0\n" for i in range(4)), "utf-8")
    Path("edges.csv").write_text("source,target\nn0,n1\nn1,n2\nn2,n3\n", "utf-8")
    return tmp_path


def command(words: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    return main(words), *capsys.readouterr()


def document(path: str) -> Document:
    found = Document.read(path)
    check(found.data, found.buffer)
    return found


def labels(found: Document, which: int = 0, name: str = "input") -> list[str]:
    return found.data["inputs"][which]["sets"][name]["labels"]


def test_text_becomes_a_page_and_the_words_that_are_said_about_it(models, here, capsys) -> None:
    code, said, errors = command([f"ckpt={models['labeling']}", "text=we can fish"], capsys)
    assert (code, errors) == (0, "") and Path("explain.html").read_text("utf-8").startswith(
        "<!doctype html>".upper()[:2]
    )
    lines = [line.split(maxsplit=1) for line in said.splitlines()]
    assert [line[0] for line in lines] == ["input", "answer", "shows", "written", "trust", "python"]
    assert lines[0][1] == "we can fish" and "4 heads of 2 layers, rollout, relevance; weights exact" in said
    assert f"explain.html ({Path('explain.html').stat().st_size / 1e6:.2f} MB)" in said
    assert f"python -m vsattn.measure ckpt={models['labeling']}" in said
    assert command([f"ckpt={models['labeling']}", "text=we can"], capsys)[0] == 0
    assert sorted(path.name for path in here.glob("explain*")) == ["explain-2.html", "explain.html"]
    words = [f"ckpt={models['labeling']}", "text=we can", "other=they can fish", "output=a.json"]
    assert command([*words, "relevance=no", "heads=2", "layers=2", "queries=1-2"], capsys)[0] == 0
    found = document("a.json")
    assert labels(found, 1) == ["they", "can", "fish"]
    raw, _, _ = found.data["inputs"][0]["maps"]
    assert (raw["path"], raw["heads"], raw["queries"]) == ("encoder.blocks.1.attention", ["2"], [0, 1])
    assert all(each["mode"] != "relevance" for each in found.data["inputs"][0]["maps"])


def test_files_of_each_kind(models, here, capsys) -> None:
    code, said, errors = command([f"ckpt={models['image']}", "input=a.png", "output=image.json"], capsys)
    assert (code, errors) == (0, "") and "input    a.png" in said
    assert document("image.json").data["inputs"][0]["sets"]["input"]["grid"] == [3, 4]
    assert command([f"ckpt={models['speech']}", "input=a.wav", "output=sound.json"], capsys)[0] == 0
    assert document("sound.json").data["inputs"][0]["sets"]["input"]["duration"] == 0.25
    assert command([f"ckpt={models['speech']}", "input=a.wav", "format=png"], capsys)[0] == 0
    with Image.open("explain.png") as drawn:
        assert min(drawn.size) > 100
    words = [f"ckpt={models['node']}", "input=nodes.csv,edges.csv"]
    assert command([*words, "node=n1", "hops=1", "output=part.json"], capsys)[0] == 0
    assert labels(document("part.json")) == ["n0", "n1", "n2"]
    code, said, _ = command([*words, "output=whole.json"], capsys)
    assert labels(document("whole.json")) == ["n0", "n1", "n2", "n3"] and "input    nodes.csv" in said
    code, _, errors = command([*words, "node=n7"], capsys)
    assert code == 2 and "node=n7: no node of nodes.csv has that name; did you mean" in errors


def test_one_of_several_items_is_chosen(models, here, capsys, monkeypatch) -> None:
    words = [f"ckpt={models['labeling']}", "input=text.txt", "output=a.json"]
    code, _, errors = command(words, capsys)
    assert code == 0 and "sentence 1 of text.txt is shown, and there are more: item=N chooses" in errors
    assert command([*words, "item=2"], capsys)[2] == "" and labels(document("a.json")) == ["they", "can"]
    assert "item=9: there are fewer in text.txt" in command([*words, "item=9"], capsys)[2]
    assert command([*words, "item=2", "other=text.txt"], capsys)[0] == 0
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"can fish\n")))
    assert command([f"ckpt={models['labeling']}", "output=a.json"], capsys)[0] == 0
    assert labels(document("a.json")) == ["can", "fish"]


def test_a_translation(models, here, capsys, monkeypatch) -> None:
    code, said, errors = command([f"ckpt={models['translation']}", "text=a c", "output=a.json"], capsys)
    assert (code, errors) == (0, "") and said.startswith("input    a c\nanswer  ")
    assert labels(document("a.json"), 0, "source") == ["a", "c", "<eos>"]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a b c\n")))
    assert command([f"ckpt={models['translation']}", "input=-", "output=b.json"], capsys)[0] == 0
    assert labels(document("b.json"), 0, "source") == ["a", "b", "c", "<eos>"]


@pytest.mark.parametrize(
    ("model", "words", "code", "message"),
    [
        ("labeling", ["input=we can fish"], 1, "input: there is no we can fish; write text=... for the text itself"),
        ("labeling", ["text=a", "input=b"], 2, "text: is given beside input"),
        ("labeling", ["text=a", "item=2"], 2, "item: chooses from a file; text= is one item itself"),
        ("labeling", ["text="], 2, "text=: nothing stands after the ="),
        ("image", ["input=b.png"], 1, "input: there is no b.png\n"),
        ("labeling", ["text=a", "format=gif"], 2, "format=gif: choices: html, json, pdf, png, svg"),
        ("labeling", ["text=a", "output=a.txt"], 2, "output=a.txt: end it in .html, .png, .svg, .pdf, .json"),
        ("labeling", ["text=a", "output=a.png", "format=html"], 2, "a file of format=html ends in .html"),
        ("labeling", ["text=a", "heads=0"], 2, "heads=0: numbers from 1 are expected, such as heads=1,3-5"),
        (
            "labeling",
            ["text=a", "heads=7"],
            2,
            "no layer has one of [6] (here counted from 0; the words of the command count from 1)",
        ),
        ("labeling", ["text=a", "layers=7"], 2, "layers: there is no 6"),
        ("labeling", ["text=a", "queries=9"], 2, "queries: each of [8] is a vector from 0 to 0"),
        ("labeling", ["text=a", "relevance=maybe"], 2, "relevance=maybe: is yes or no"),
        ("labeling", ["text=a", "budget_mb=none"], 2, "budget_mb=none: a number above 0"),
        ("labeling", ["text=a", "node=n1"], 2, "node: belongs to graphs"),
        ("labeling", ["text=a", "colour=red"], 2, "colour=red: there is no setting 'colour'"),
        ("labeling", ["text= "], 1, "nothing to look at"),
        ("labeling", ["input=-", "other=-"], 2, "other: standard input is what is looked at"),
        ("image", ["text=a"], 2, "text: a model of Patches looks at files: input=PATH"),
        ("image", ["input=text.txt"], 1, "text.txt cannot be read as a picture"),
        ("imageCNN", ["input=a.png"], 2, "no attention to look at: its encoder is ConvEncoder"),
        ("image", [], 2, "add input=PATH"),
    ],
)
def test_what_cannot_be_explained_is_named(model, words, code, message, models, here, capsys, monkeypatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a\n")))
    found, said, errors = command([f"ckpt={models[model]}", *words], capsys)
    assert (found, said) == (code, "") and message in errors and "Traceback" not in errors
    assert not list(here.glob("explain*"))


def test_numbers_and_help(root: Path, capsys) -> None:
    assert numbers("heads", "3,1-2,2") == [0, 1, 2]
    assert main(["--help"]) == 0 and "budget_mb=X" in capsys.readouterr().out
    code = "import sys\nfrom vsattn.explain import main\nmain(['--help'])\n"
    code += "print({'torch', 'lightning', 'numpy', 'matplotlib'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert done.stdout.splitlines()[-1] == "set()"
    assert done.stderr == ""


def test_an_item_of_the_data_that_a_model_was_trained_on(models, here, capsys) -> None:
    ckpt = f"ckpt={models['imageDigits']}"
    code, out, _ = command([ckpt, "split=test", "item=3", "other=5", "output=a.json"], capsys)
    assert code == 0 and "test 3" in out and "test 5" in out
    code, _, err = command([ckpt, "split=test", "item=99999"], capsys)
    assert code == 1 and "item=99999: the test split has " in err
    assert command([ckpt, "split=tset"], capsys)[0] == 2
    assert "split: is given beside input" in command([ckpt, "split=test", "input=a.png"], capsys)[2]


def test_the_words_of_a_drawing(models, here, capsys, monkeypatch) -> None:
    told: dict[str, Any] = {}
    monkeypatch.setattr(
        "vsattn.viewing.static.draw", lambda document, path, **words: (told.update(words), path.touch())
    )
    words = [f"ckpt={models['labeling']}", "text=we can fish", "relevance=no"]
    assert (
        command([*words, "format=svg", "head=2", "query=can", "scale=log", "map=encoder.blocks.0.attention"], capsys)[0]
        == 0
    )
    assert told == {"head": 1, "query": "can", "scale": "log", "map": "encoder.blocks.0.attention"}
    assert command([*words, "format=svg", "head=mean", "query=3"], capsys)[0] == 0
    assert (told["head"], told["query"]) == ("mean", 2)
    code, _, err = command([*words, "head=2"], capsys)
    assert code == 2 and "head: belongs to a drawing" in err
