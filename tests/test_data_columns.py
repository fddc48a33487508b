"""Files of columns, and entities judged as by seqeval."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from seqeval.metrics import f1_score

from vsattn.errors import ConfigError, DataError
from vsattn.tasks.data.columns import Columns, entity_scores, read_columns

SAMPLE = """-DOCSTART- -X- -X- O

EU NNP B-NP B-ORG
rejects VBZ B-VP O
German JJ B-NP B-MISC
call NN I-NP O

Peter\tNNP\tB-NP\tB-PER
Blackburn   NNP I-NP I-PER


-DOCSTART- -X- -X- O
BRUSSELS NNP B-NP B-LOC
"""


@pytest.fixture
def sample(tmp_path: Path) -> Path:
    path = tmp_path / "eng.train"
    path.write_text(SAMPLE)
    return path


def data_of(path: Path, **options) -> Columns:
    return Columns(train=str(path), val=str(path), test=str(path), **options)


def test_words_and_labels(sample) -> None:
    assert read_columns(sample, 0, -1) == [
        (["EU", "rejects", "German", "call"], ["B-ORG", "O", "B-MISC", "O"]),
        (["Peter", "Blackburn"], ["B-PER", "I-PER"]),
        (["BRUSSELS"], ["B-LOC"]),
    ]
    assert read_columns(sample, 0, 1)[2] == (["BRUSSELS"], ["NNP"])


def test_labels_of_entities_are_recognised(sample) -> None:
    data = data_of(sample)
    data.setup(0)
    assert data.entities and data.classes == ["B-LOC", "B-MISC", "B-ORG", "B-PER", "I-PER", "O"]
    assert data.describe().endswith("6 labels; these are judged as entities")
    parts_of_speech = data_of(sample, label_column=1)
    parts_of_speech.setup(0)
    assert parts_of_speech.describe().endswith("; these are not judged as entities")
    assert not parts_of_speech.entities and parts_of_speech.classes == ["JJ", "NN", "NNP", "VBZ"]


@pytest.mark.parametrize(
    "text, options, message",
    [
        ("a O\nb\n", {}, r"bad, line 2: 1 columns, and 2 before: 'b'"),
        ("a O\n", {"label_column": 2}, r"bad, line 1: data\.label_column=2, and there are 2 columns"),
        ("a O\n", {"word_column": -3}, r"bad, line 1: data\.word_column=-3"),
        ("\n\n", {}, "bad is empty"),
        ("-DOCSTART- O\n\n", {}, "at least two different labels; all are \\[\\]"),
    ],
)
def test_faults(text, options, message, tmp_path) -> None:
    path = tmp_path / "bad"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        data_of(path, **options).setup(0)


def test_a_missing_file(tmp_path) -> None:
    with pytest.raises(DataError, match="none cannot be read: No such file"):
        data_of(tmp_path / "none").setup(0)


def test_a_missing_package_is_named_before_anything_is_trained(sample, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "seqeval.metrics", None)
    with pytest.raises(ConfigError, match=r"seqeval: pip install 'vsattn\[labeling\]'"):
        data_of(sample).setup(0)
    data_of(sample, label_column=1).setup(0)  # labels that mark no entities do not need it


def test_entities_are_right_as_a_whole_alone() -> None:
    truth = [["B-PER", "I-PER", "O"], ["B-LOC", "O", "B-ORG"]]
    guess = [["B-PER", "O", "O"], ["B-LOC", "O", "B-ORG"]]  # one of three has the wrong end
    scores = entity_scores(truth, guess)
    assert scores == pytest.approx({f"test/entity_{name}": 2 / 3 for name in ("precision", "recall", "f1")})
    assert scores["test/entity_f1"] == pytest.approx(f1_score(truth, guess))
    assert entity_scores([["O"]], [["O"]])["test/entity_f1"] == 0.0
