"""Further columns of labels, learned beside the classes of words."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import conllu
import pytest
import tiny
import torch
import torch.nn.functional as F
from sklearn.metrics import accuracy_score

import vsattn
from vsattn.build import build
from vsattn.errors import ConfigError, DataError
from vsattn.evaluate import main as evaluate
from vsattn.heads import MultiTaskHead
from vsattn.predict import main as predict
from vsattn.run import main
from vsattn.tasks.classification import IGNORED
from vsattn.tasks.data.conllu import Conllu
from vsattn.tasks.data.tagged import Labels
from vsattn.tasks.experiment import make_task, run
from vsattn.vectorset import VectorSet

BESIDE = {"xpos": 3, "Number": 2}
HEAD = {"_target_": "vsattn.heads.MultiTaskHead", "beside": BESIDE}


def line(i: int, word: str, upos: str, xpos: str, feats: str) -> str:
    return "\t".join([str(i), word, "_", upos, xpos, feats, "0", "root", "_", "_"]) + "\n"


def write(path: Path, count: int, seed: int, rare: bool = False) -> None:
    """Write sentences in which `can` is a noun after `the` and a verb elsewhere; XPOS and Number follow."""
    draw, text = random.Random(seed), ""
    for _ in range(count):
        rows: list[tuple[str, str, str, str]] = []
        for _ in range(draw.randint(1, 4)):
            rows += draw.choice(
                (
                    [("the", "DET", "DT", "_"), ("can", "NOUN", "NN", "Case=Nom|Number=Sing")],
                    [("we", "PRON", "DT", "Number=Plur"), ("can", "VERB", "VB", "_")],
                )
            )
        text += "".join(line(i, *row) for i, row in enumerate(rows, start=1)) + "\n"
    if rare:
        text += line(1, "alas", "INTJ", "UH", "_") + "\n# an empty sentence\n\n"
    path.write_text(text)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    for seed, (split, count) in enumerate({"train": 150, "val": 30, "test": 30}.items()):
        write(tmp_path / f"{split}.conllu", count, seed, rare=True)
    return tmp_path


def config_of(folder: Path, beside: Any = BESIDE, head: Any = HEAD) -> dict[str, Any]:
    paths = {split: str(folder / f"{split}.conllu") for split in ("train", "val", "test")}
    return tiny.config(
        task={"_target_": "vsattn.tasks.labeling.LabelingTask", "label_smoothing": 0.1},
        data={"_target_": "vsattn.tasks.data.conllu.Conllu", **paths, "beside": beside},
        tokenizer={"_target_": "vsattn.tokenizers.Words"},
        head=head,
        trainer={"max_epochs": 40, "accelerator": "cpu", "devices": 1},
        batch_vectors=100,
    )


def data_of(folder: Path, **options: Any) -> Conllu:
    paths = {split: str(folder / f"{split}.conllu") for split in ("train", "val", "test")}
    data = Conllu(**paths, **options)
    data.setup(0)
    return data


def test_the_logits_are_those_of_the_classes_unless_all_columns_are_asked_for() -> None:
    head, x = MultiTaskHead(4, 3, beside={"a": 2, "b": 5}), torch.randn(2, 6, 4)
    head.eval()
    narrow = head(VectorSet(x))
    with head.all_columns():
        wide = head(VectorSet(x))
    assert torch.equal(head(VectorSet(x)), narrow) and wide.shape == (2, 6, 10)
    own, others = head.split(wide)
    assert torch.equal(own, narrow) and torch.equal(narrow, F.linear(x, head.classify.weight, head.classify.bias))
    both = F.linear(x, head.beside.weight, head.beside.bias)
    assert list(others) == ["a", "b"]
    assert torch.equal(others["a"], both[..., :2]) and torch.equal(others["b"], both[..., 2:])
    with pytest.raises(RuntimeError, match="in between"), head.all_columns():
        raise RuntimeError("in between")
    assert head(VectorSet(x)).shape == (2, 6, 3)


@pytest.mark.parametrize("beside", [{}, None, {"xpos": 0}])
def test_a_head_without_columns_says_what_to_choose(beside: Any) -> None:
    with pytest.raises(ConfigError, match="choose head=vector"):
        MultiTaskHead(4, 3, beside=beside)


def test_the_most_frequent_labels_of_a_column_are_taught(files: Path) -> None:
    data = data_of(files, beside=BESIDE)
    tagged = [list(zip(s, t, t.beside, strict=True)) for s, t in data.train if isinstance(t, Labels)]
    assert len(tagged) == len(data.train) == 151  # the empty sentence is none
    by_word: dict[str, set[tuple[int, ...]]] = {}
    for word, _, row in (part for sentence in tagged for part in sentence):
        by_word.setdefault(word, set()).add(tuple(row))
    assert {xpos for xpos, _ in by_word["the"] | by_word["we"] | by_word["can"]} == {0, 1, 2}
    ((rare, number),) = by_word["alas"]
    assert rare == IGNORED  # UH is the fourth
    numbers = {n for rows in by_word.values() for _, n in rows}
    assert numbers == {0, 1, IGNORED} and number in (0, 1)  # of "_", Sing and Plur the two most frequent


@pytest.mark.parametrize(
    ("beside", "error", "said"),
    [
        ({"form": 5}, ConfigError, "data.beside: form is no label"),
        ({"upos": 5}, ConfigError, "data.beside: upos is data.column already"),
        ({"xpos": 1}, ConfigError, "data.beside.xpos says how many labels are taught, at least 2, not 1"),
        ({"xpos": True}, ConfigError, "at least 2, not True"),
        ({"xpos": "many"}, ConfigError, "at least 2, not 'many'"),
        ({"Numbr": 5}, DataError, "no word has a value for data.beside.Numbr; did you mean 'Number'"),
    ],
)
def test_what_is_no_column_is_named(files: Path, beside: Any, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        data_of(files, beside=beside)


def test_training_adds_the_cross_entropy_of_each_column(files: Path) -> None:
    config, data = config_of(files), data_of(files, beside=BESIDE)
    tokenizer = build(config["tokenizer"], object, path="tokenizer").fit(data.fit_items(1))
    task = make_task(config, data, tokenizer).eval()
    batch = task.collate([data.train[i] for i in (0, 1, 2, len(data.train) - 1)])
    output = task(batch)
    assert output.shape[-1] == len(data.classes) + 5 and task.model(batch).shape[-1] == len(data.classes)
    own, others = task.columns.split(output)
    expected = F.cross_entropy(own.flatten(0, 1), batch["target"].flatten(), label_smoothing=0.1)
    for k, logits in enumerate(others.values()):
        part = F.cross_entropy(logits.flatten(0, 1), batch["beside"][..., k].flatten(), label_smoothing=0.1)
        expected = expected + 0.5 * part
    assert (batch["beside"] == IGNORED).any()
    torch.testing.assert_close(task.training_loss(output, batch), expected)
    torch.testing.assert_close(task.loss(output, batch), F.cross_entropy(own.flatten(0, 1), batch["target"].flatten()))
    nowhere = batch | {"beside": torch.full_like(batch["beside"], IGNORED)}
    plain = F.cross_entropy(own.flatten(0, 1), batch["target"].flatten(), label_smoothing=0.1)
    torch.testing.assert_close(task.training_loss(output, nowhere), plain)


def test_a_run_learns_and_judges_all_columns_and_answers_one(files: Path) -> None:
    result = run(config_of(files), files / "run")
    metrics = result.metrics
    truth, columns, sentences = [], list(BESIDE), conllu.parse((files / "test.conllu").read_text())
    for sentence in sentences:
        truth += [(t["xpos"], (t["feats"] or {}).get("Number", "_")) for t in sentence]
    right = [kept.guesses == kept.beside for kept in result.task.remembered]
    assert sum(map(len, right)) == len(truth)
    known = len(truth) - 1  # UH is not among the three that are taught
    assert metrics["test/accuracy_xpos"] == pytest.approx(known / len(truth))
    assert metrics["test/accuracy_xpos_low"] < metrics["test/accuracy_xpos"] <= metrics["test/accuracy_xpos_high"]
    for k, name in enumerate(columns):
        column = [bool(row[k]) for part in right for row in part]
        assert metrics[f"test/accuracy_{name}"] == accuracy_score([True] * len(column), column)
    predictor = vsattn.load(files / "run")
    assert [w.label for w in predictor.predict([["we", "can", "the", "can"]])[0]] == ["PRON", "VERB", "DET", "NOUN"]
    assert set(predictor.predict([["we"]])[0][0].probabilities) == set(result.data.classes)
    mine = files / "mine.conllu"
    mine.write_text(line(1, "we", "_", "KEPT", "_") + "\n")
    words = [f"ckpt={files / 'run'}", f"input={mine}", f"output={files / 'out.conllu'}"]
    assert predict(words) == 0
    assert (files / "out.conllu").read_text() == line(1, "we", "PRON", "KEPT", "_") + "\n"


@pytest.mark.parametrize(
    ("beside", "head", "said"),
    [
        (
            BESIDE,
            {"_target_": "vsattn.heads.VectorHead"},
            "data.beside names xpos, Number, which head=multi_task alone",
        ),
        (None, HEAD, "the data have no further columns: set data.beside"),
        ({"xpos": 3}, HEAD, "leave head.beside to follow it"),
        ({"Number": 2, "xpos": 3}, HEAD, "leave head.beside to follow it"),
        ({"xpos": 4, "Number": 3}, HEAD, "leave head.beside to follow it"),
    ],
)
def test_columns_of_the_data_and_the_head_must_be_the_same(files: Path, beside: Any, head: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        run(config_of(files, beside, head), files / "run")
    assert not (files / "run").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("task=labeling head=multi_task", "set data.beside (of data=conllu or ud_ewt), or choose head=vector"),
        ("task=labeling data=conllu FILES head=multi_task", "set data.beside (of data=conllu or ud_ewt)"),
        ("task=labeling data=conllu FILES data.beside={xpos:3}", "choose it, or data.beside=null"),
        ("task=node data=karate head=multi_task head.beside={xpos:3}", "trained by task=labeling alone"),
    ],
)
def test_a_command_without_columns_says_what_to_do(words: str, said: str, capsys: Any, files: Path) -> None:
    named = " ".join(f"data.{split}={files / f'{split}.conllu'}" for split in ("train", "val", "test"))
    assert main([*words.replace("FILES", named).split(), f"hydra.run.dir={files / 'run'}"]) == 2
    assert said in capsys.readouterr().err and not (files / "run" / "config.yaml").exists()


def test_other_files_are_judged_by_the_names_of_labels(files: Path, capsys: Any) -> None:
    config = config_of(files)
    run(config, files / "run")
    own = dict(vsattn.load(files / "run").beside)
    assert own == data_of(files, beside=BESIDE).beside_labels and set(own["xpos"]) == {"DT", "NN", "VB"}
    other = files / "other"
    other.mkdir()
    for split in ("train", "val", "test"):
        text = (files / f"{split}.conllu").read_text()
        lone = line(1, "can", "AUX", "MD", "_") + "\n"  # other labels, in another order, in training alone
        (other / f"{split}.conllu").write_text(text + (lone * 400 if split == "train" else ""))
    changed = [f"data.{split}={other / f'{split}.conllu'}" for split in ("train", "val", "test")]
    asked = {"same": changed[2:], "renumbered": changed}
    found = {}
    for name, words in asked.items():
        assert evaluate([f"ckpt={files / 'run'}", *words, f"output={files / name}.json"]) == 0, capsys.readouterr().err
        found[name] = json.loads((files / f"{name}.json").read_text())
    assert data_of(other, beside=BESIDE).beside_labels["xpos"][0] == "MD" != own["xpos"][0]
    keys = [key for key in found["same"] if key.startswith("test/accuracy") and "known" not in key and "amb" not in key]
    assert {"test/accuracy_xpos", "test/accuracy_Number", "test/accuracy"} <= set(keys)
    assert found["same"]["test/accuracy_xpos"] > 0.9
    # MD takes the place of one of three labels: what has that one has no number, and counts as wrong
    assert 0.3 < found["renumbered"]["test/accuracy_xpos"] < found["same"]["test/accuracy_xpos"]
    assert found["renumbered"]["test/accuracy"] == found["same"]["test/accuracy"]
    assert found["renumbered"]["test/accuracy_Number"] == found["same"]["test/accuracy_Number"]
    bare = files / "bare.conllu"
    bare.write_text(line(1, "we", "PRON", "_", "_") + line(2, "can", "VERB", "_", "_") + "\n")
    assert evaluate([f"ckpt={files / 'run'}", f"data.test={bare}", f"output={files / 'bare.json'}"]) == 0
    judged = json.loads((files / "bare.json").read_text())
    assert judged["test/accuracy"] == 1.0 and not any("xpos" in key or "Number" in key for key in judged)


def test_fine_tuning_and_resuming_know_what_the_columns_are(files: Path, capsys: Any) -> None:
    config = config_of(files)
    config["trainer"]["max_epochs"] = 1
    run(config, files / "run")
    capsys.readouterr()
    run(config | {"init_from": str(files / "run")}, files / "tuned")
    assert "further columns are learned anew" in capsys.readouterr().out
    longer = config | {"trainer": {**config["trainer"], "max_epochs": 2}, "schedule": None}
    run(longer | {"trainer": config["trainer"]}, files / "first")
    resumed = run(longer, files / "first", resume=files / "first" / "checkpoints" / "last.ckpt")
    assert resumed.metrics["test/accuracy_xpos"] > 0 and dict(vsattn.load(files / "first").beside)["xpos"]


def test_a_share_below_nothing_is_refused(files: Path) -> None:
    config = config_of(files)
    config["task"]["beside_weight"] = -0.1
    with pytest.raises(ConfigError, match=r"task\.beside_weight must not be negative, but is -0\.1"):
        run(config, files / "run")
