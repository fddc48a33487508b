"""The command that measures attention: tables, files, what it leaves out, and its exit codes."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import vsattn
from tests import tiny
from tests.test_evaluate import SENTENCES, word_files
from vsattn.compose import plain_config
from vsattn.measure import main
from vsattn.tasks.experiment import run
from vsattn.tasks.measuring import Subject

FAST = {"max_epochs": 1, "accelerator": "cpu", "devices": 1}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of small runs of all kinds of answers."""
    folder = tmp_path_factory.mktemp("runs")
    words = word_files(folder / "words", SENTENCES)
    vector = {"_target_": "vsattn.heads.VectorHead"}
    configs: dict[str, dict[str, Any]] = {
        "image": tiny.config(trainer=FAST, head={"_target_": "vsattn.heads.AttentionHead"}),
        "labeling": tiny.config(
            task={"_target_": "vsattn.tasks.labeling.LabelingTask"},
            data={"_target_": "vsattn.tasks.data.conllu.Conllu", **words},
            tokenizer={"_target_": "vsattn.tokenizers.Words"},
            head=vector,
            batch_size=3,
        ),
        "node": tiny.config(
            task={"_target_": "vsattn.tasks.node.NodeTask"},
            data={"_target_": "vsattn.tasks.data.graphs.Karate"},
            tokenizer={"_target_": "vsattn.tokenizers.GraphNodes"},
            positions=None,
            head=vector,
        ),
        "cnn": tiny.config(
            trainer=FAST,
            encoder={"_target_": "vsattn.encoders.ConvEncoder", "num_layers": 1},
            head={"_target_": "vsattn.heads.AttentionHead"},
        ),
    }
    more = {
        "translation": [
            "data.phrases=[300,20,20]",
            "batch_vectors=1000",
            "tokenizer.max_length=60",
            "task.beam_width=1",
        ],
        "recognition": ["data.strings=[30,8,8]", "data.speakers=[4,2,2]", "data.takes=1", "batch_vectors=2000"],
    }
    for task, changes in more.items():
        settings = [f"task={task}", "dim=16", "encoder.num_layers=1", "logger=none", "trainer.max_epochs=1", *changes]
        configs[task], faults = plain_config([*settings, "num_threads=null"])
        assert not faults
    for name, config in configs.items():
        run(config, folder / name)
    return {name: folder / name for name in configs}


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("task", ["image", "labeling", "node", "recognition", "translation"])
def test_every_kind_of_answer_is_measured(
    task: str, runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([f"ckpt={runs[task]}", "n=8", f"output={tmp_path / 'm'}"]) == 0
    shown, found = capsys.readouterr().out, json.loads((tmp_path / "m" / "measure.json").read_text(encoding="utf-8"))
    model = vsattn.load(runs[task]).model
    paths = [path for path, module in model.named_modules() if isinstance(module, vsattn.Observable)]
    assert sorted({row["path"] for row in found["heads"]}) == sorted(paths)
    for row in found["heads"]:
        assert 0 <= row["entropy_share"] <= 1.0001 and 0 <= row["sink"] <= 1.0001
        assert row["change"] == pytest.approx(row["without"] - found["score"])
        assert row["says"] == "not told" if row["p"] >= 0.05 else row["says"] in ("needed", "harmful")
        assert row["change_low"] <= row["change"] + 1e-9 and row["change"] <= row["change_high"] + 1e-9
    curves = found["faithfulness"]
    for kind, ends in (("deletion", (0, -1)), ("insertion", (-1, 0))):  # all orders begin and end alike
        for end in ends:
            assert len({round(values[end], 9) for values in curves[kind].values()}) == 1
    assert curves["deletion"]["random"][0] == pytest.approx(curves["insertion"]["random"][-1])
    assert "(24 comparisons, each by its own 95% interval" in shown
    for sentence in curves["sentences"]:
        assert sentence in shown
    for name in ("heads.png", "faithfulness.png"):
        assert Image.open(tmp_path / "m" / name).size[0] > 400
    rows = read(tmp_path / "m" / "faithfulness.csv")
    assert len(rows) == 5 * 2 * 6 and {row["order"] for row in rows} == {*curves["means"]}
    assert len(read(tmp_path / "m" / "heads.csv")) == len(found["heads"])
    assert ("alignment" in found) == (task == "translation") != ("alignment is left out" in shown)


def test_the_score_of_the_whole_model_is_the_run_s_own(runs: dict[str, Path]) -> None:
    for task, name in (("image", "test/accuracy"), ("node", "test/accuracy"), ("translation", "test/token_accuracy")):
        subject = Subject.of(vsattn.load(runs[task]), "test", count=10_000, seed=0)
        right, total = subject.right()
        wanted = json.loads((runs[task] / "metrics.json").read_text(encoding="utf-8"))[name]
        assert float(right.sum() / total.sum()) == pytest.approx(wanted)
    subject = Subject.of(vsattn.load(runs["recognition"]), "test", count=10_000, seed=0)
    right, total = subject.right()
    wanted = json.loads((runs["recognition"] / "metrics.json").read_text(encoding="utf-8"))["test/wer_greedy"]
    assert 1 - float(right.sum() / total.sum()) == pytest.approx(wanted)


def test_questions_are_about_labelled_vectors_and_what_the_model_says(runs: dict[str, Path]) -> None:
    predictor = vsattn.load(runs["labeling"])
    subject = Subject.of(predictor, "test", count=10, seed=0)
    (batch,), (asked,) = subject.batches, subject.questions()
    assert asked.vector is not None and bool((asked.vector < (batch["target"] >= 0).sum(1)).all())
    said = predictor.model(batch)[torch.arange(len(asked)), asked.vector].argmax(-1)
    assert torch.equal(asked.answer, said)
    nodes = Subject.of(vsattn.load(runs["node"]), "test", count=5, seed=1)
    assert nodes.count == 5 == sum(len(part) for part in nodes.questions())


def test_the_same_seed_measures_the_same_and_another_one_does_not(runs: dict[str, Path], tmp_path: Path) -> None:
    found = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        words = [f"ckpt={runs['image']}", "n=20", "what=faithfulness", f"seed={seed}", f"output={tmp_path / name}"]
        assert main(words) == 0
        found.append(json.loads((tmp_path / name / "measure.json").read_text(encoding="utf-8"))["faithfulness"])
    assert found[0] == found[1] != found[2]


def test_alignment_is_chosen_in_validation_and_told_of_the_split(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [f"ckpt={runs['translation']}", "split=test", "what=alignment", "n=15", f"output={tmp_path / 'm'}"]
    assert main(words) == 0
    flat, *rows = read(tmp_path / "m" / "alignment.csv")
    layers, heads = 2, 4
    assert len(rows) == 2 * layers * (heads + 1) and flat["reading"] == "diagonal"
    assert [row["val"] for row in rows] == sorted((row["val"] for row in rows), key=float)
    assert f"{float(rows[0]['rate']):.4f} on 15 pairs of test" in capsys.readouterr().out
    assert not (tmp_path / "m" / "heads.png").exists()


def test_a_model_that_mixes_otherwise_is_measured_as_far_as_it_goes(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([f"ckpt={runs['cnn']}", "n=8", f"output={tmp_path / 'm'}"]) == 0
    shown = capsys.readouterr().out
    assert "faithfulness is left out: ConvEncoder cannot do without vectors" in shown and "head, 1" in shown
    assert not (tmp_path / "m" / "faithfulness.png").exists()
    assert main([f"ckpt={runs['cnn']}", "n=8", "what=faithfulness", f"output={tmp_path / 'n'}"]) == 2
    assert "ConvEncoder cannot do without vectors" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["split=vall"], 2, "split=vall: there is no such split; did you mean 'val'?"),
        (["what=heads,abl"], 2, "what=abl: there is no such measure; did you mean 'ablation'?"),
        (["n=1"], 2, "n=1: a whole number of at least 2"),
        (["n=many"], 2, "n=many: a whole number"),
        (["seed=-1"], 2, "seed=-1: a whole number"),
        (["task=image"], 2, "there is no setting 'task'"),
        (["what=alignment"], 2, "which words belong together is known of data=numbers"),
        (["output=full"], 1, "full holds something already; choose another folder with output=FOLDER"),
    ],
)
def test_what_cannot_be_done(
    words: list[str], code: int, said: str, runs: dict[str, Path], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("x", encoding="utf-8")
    assert main([f"ckpt={runs['image']}", *words]) == code
    assert said in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["mine.txt"]


def test_a_missing_checkpoint_and_missing_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([f"ckpt={tmp_path / 'none'}"]) == 1 and "there is no checkpoint" in capsys.readouterr().err
    assert main([]) == 2 and "ckpt: is missing" in capsys.readouterr().err
    assert main(["--help"]) == 0 and "what=heads,ablation" in capsys.readouterr().out


def test_a_checkpoint_that_does_not_say_its_data_is_refused(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(runs["image"] / "checkpoints" / "best.ckpt", tmp_path / "x.ckpt")
    held = torch.load(tmp_path / "x.ckpt", weights_only=True)
    data = held["vsattn"]["config"]["data"]
    held["vsattn"]["config"]["data"] = {"_target_": "os.system", "command": "true"}
    torch.save(held, tmp_path / "x.ckpt")
    assert main([f"ckpt={tmp_path / 'x.ckpt'}", f"output={tmp_path / 'm'}"]) in (1, 2)
    assert "os" in capsys.readouterr().err and not (tmp_path / "m").exists()
    held["vsattn"]["config"] |= {"data": data, "seed": 2**80}
    torch.save(held, tmp_path / "x.ckpt")
    assert main([f"ckpt={tmp_path / 'x.ckpt'}", f"output={tmp_path / 'm'}"]) == 1
    assert "no training has seed=1208925819614629174706176" in capsys.readouterr().err and not (tmp_path / "m").exists()
