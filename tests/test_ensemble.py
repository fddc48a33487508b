"""Several trained models that answer together."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import test_beside
import tiny
import torch
from sklearn.metrics import accuracy_score, log_loss

import vsattn
from vsattn.build import build
from vsattn.ensemble import Ensemble, load_together, together
from vsattn.errors import CheckpointError, ConfigError, DataError
from vsattn.evaluate import main as evaluate
from vsattn.predict import main as predict
from vsattn.tasks.data.base import Data
from vsattn.tasks.experiment import run


def test_the_probabilities_are_averaged() -> None:
    logits = [torch.randn(4, 3, generator=torch.Generator().manual_seed(i)) * 3 for i in range(5)]
    expected = np.mean(
        [np.exp(x) / np.exp(x).sum(-1, keepdims=True) for x in (one.double().numpy() for one in logits)], 0
    )
    torch.testing.assert_close(together(logits).exp().double(), torch.from_numpy(expected), atol=1e-6, rtol=0)
    with pytest.raises(DataError, match=r"different shapes for one item: \[\(2, 3\), \(4, 3\)\]"):
        together([logits[0], logits[1][:2]])


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three runs on pictures: of two seeds, and of another encoder and data split."""
    folder = tmp_path_factory.mktemp("ensemble")
    for name, changes in {
        "a": {},
        "b": {"seed": 1},
        "c": {"seed": 2, "encoder": {"_target_": "vsattn.encoders.Identity"}},
    }.items():
        run(tiny.config(**changes), folder / name)
    return folder


def test_the_test_of_an_ensemble_is_that_of_its_mean_probabilities(pictures: Path, capsys: Any) -> None:
    folders = [pictures / name for name in "abc"]
    output = pictures / "found.json"
    words = [f"ckpt={','.join(map(str, folders))}", f"output={output}"]
    assert evaluate(words) == 0
    found = json.loads(output.read_text())
    members = [vsattn.load(folder) for folder in folders]
    data: Data = build(members[0].config["data"], Data, path="data")
    data.setup(0)
    items, targets = zip(*(data.test[i] for i in range(len(data.test))), strict=True)
    mean = np.mean([member.logits(items).double().softmax(-1).numpy() for member in members], 0)
    assert found["test/accuracy"] == pytest.approx(accuracy_score(targets, mean.argmax(-1)))
    assert found["test/loss"] == pytest.approx(log_loss(targets, mean, labels=range(len(members[0].classes))), abs=1e-6)
    ensemble = load_together(words[0].removeprefix("ckpt="))
    assert isinstance(ensemble, Ensemble)
    for answer, row in zip(ensemble.predict(items), mean, strict=True):
        assert answer.label == ensemble.classes[row.argmax()]
        np.testing.assert_allclose(list(answer.probabilities.values()), row, atol=1e-6)
    np.testing.assert_allclose(ensemble.to("cpu").logits(items, batch_size=3).exp().numpy(), mean, atol=1e-6)


def test_one_model_is_itself_and_a_missing_one_is_named(pictures: Path) -> None:
    assert not isinstance(load_together(str(pictures / "a")), Ensemble)
    with pytest.raises(CheckpointError, match=r"there is no checkpoint .*nowhere"):
        load_together(f"{pictures / 'a'},{pictures / 'nowhere'}")
    for names, said in (("a,,b", "nothing between two commas"), ("a,b,a", "names a model twice")):
        with pytest.raises(ConfigError, match=said):
            load_together(",".join(name and str(pictures / name) for name in names.split(",")))
    with pytest.raises(ConfigError, match="two members at least, not 1"):
        Ensemble([vsattn.load(pictures / "a")])


def test_members_of_other_splits_are_judged_on_other_data_alone(pictures: Path, capsys: Any) -> None:
    both = f"ckpt={pictures / 'a'},{pictures / 'b'}"
    assert evaluate([both, "split=val"]) == 2
    assert "member 2 of the ensemble was trained beside another val split of" in capsys.readouterr().err
    assert evaluate([both, "split=val", "data=digits"]) == 0  # whoever names the data answers for them


def test_words_and_their_further_columns_are_judged_together(tmp_path: Path) -> None:
    for seed, (split, count) in enumerate({"train": 40, "val": 10, "test": 30}.items()):
        test_beside.write(tmp_path / f"{split}.conllu", count, seed, rare=True)
    for seed in (0, 1):
        config = test_beside.config_of(tmp_path) | {"seed": seed}
        run(config | {"trainer": {**config["trainer"], "max_epochs": 2}}, tmp_path / str(seed))
    ckpt, output = f"ckpt={tmp_path / '0'},{tmp_path / '1'}", tmp_path / "found.json"
    assert evaluate([ckpt, f"output={output}"]) == 0
    found = json.loads(output.read_text())
    members = [vsattn.load(tmp_path / str(seed)) for seed in (0, 1)]
    data = test_beside.data_of(tmp_path, beside=test_beside.BESIDE)
    right = {name: [] for name in ("accuracy", *test_beside.BESIDE)}
    losses = []
    for words, target in data.test:
        parts: list[list[np.ndarray]] = []
        for member in members:
            head = member.model.head
            with torch.no_grad(), head.all_columns():
                own, others = head.split(member.model(member.tokenizer.collate([words]))[0])
            parts.append([x.double().softmax(-1).numpy() for x in (own, *others.values())])
        mean = [np.mean(column, 0) for column in zip(*parts, strict=True)]
        truth = np.array([[t, *row] for t, row in zip(target, target.beside, strict=True)])
        for k, name in enumerate(right):
            right[name] += (mean[k].argmax(-1) == truth[:, k]).tolist()
        losses += (-np.log(mean[0][np.arange(len(words)), truth[:, 0]])).tolist()
    assert 0.3 < np.mean(right["accuracy"]) < 1
    assert found["test/accuracy"] == pytest.approx(np.mean(right["accuracy"]))
    assert found["test/loss"] == pytest.approx(np.mean(losses), abs=1e-5)
    for name in test_beside.BESIDE:
        assert found[f"test/accuracy_{name}"] == pytest.approx(np.mean(right[name]))
    mine = tmp_path / "mine.conllu"
    mine.write_text(test_beside.line(1, "we", "_", "_", "_") + "\n")
    assert predict([ckpt, f"input={mine}", f"output={tmp_path / 'out.conllu'}"]) == 0
    label = load_together(ckpt.removeprefix("ckpt=")).predict([["we"]])[0][0].label
    assert (tmp_path / "out.conllu").read_text() == test_beside.line(1, "we", label, "_", "_") + "\n"


def test_what_cannot_be_averaged_is_refused(pictures: Path, tmp_path: Path, capsys: Any) -> None:
    first, second = (vsattn.load(pictures / name) for name in "ab")
    second.classes = [*second.classes[:-1], "tenth"]
    with pytest.raises(ConfigError, match=r"member 2 of the ensemble has other classes than the first: .*tenth"):
        Ensemble([first, second])
    second.classes = first.classes[::-1]
    with pytest.raises(ConfigError, match="other classes than the first in another order"):
        Ensemble([first, second])
    test_beside.write(tmp_path / "train.conllu", 10, 0)
    for split in ("val", "test"):
        test_beside.write(tmp_path / f"{split}.conllu", 5, 1)
    config = test_beside.config_of(tmp_path, None, {"_target_": "vsattn.crf.CrfHead"})
    run(config | {"trainer": {**config["trainer"], "max_epochs": 1}}, tmp_path / "field")
    shutil.copytree(tmp_path / "field", tmp_path / "copy")
    assert evaluate([f"ckpt={tmp_path / 'field'},{tmp_path / 'copy'}"]) == 2
    assert "member 1 has a CrfHead, which finds a whole sequence" in capsys.readouterr().err
