"""Scores, intervals, tables and figures."""

from __future__ import annotations

import json
import math
import subprocess

import numpy as np
import pytest
from PIL import Image
from scipy.stats import bootstrap as scipy_bootstrap
from sklearn.metrics import accuracy_score, f1_score

from vsattn.tasks.image import examples, pick
from vsattn.tasks.plots import confusion, curves
from vsattn.tasks.report import bootstrap, classification, git_revision, show_tables, tables, write_metrics

RNG = np.random.default_rng(3)
TARGETS = RNG.integers(0, 4, 500)
PREDICTIONS = np.where(RNG.random(500) < 0.9, TARGETS, RNG.integers(0, 4, 500))
NAMES = ["cat", "dog", "T-shirt/top", "é"]


def test_scores_equal_those_of_scikit_learn() -> None:
    scores = classification(TARGETS, PREDICTIONS, NAMES, seed=0)
    assert scores["test/accuracy"] == accuracy_score(TARGETS, PREDICTIONS)
    assert scores["test/f1_macro"] == pytest.approx(f1_score(TARGETS, PREDICTIONS, average="macro"))
    each = f1_score(TARGETS, PREDICTIONS, average=None)
    assert [scores[f"test/f1/{name}"] for name in NAMES] == pytest.approx(each)
    assert [scores[f"test/support/{name}"] for name in NAMES] == np.bincount(TARGETS).tolist()


def test_a_class_that_occurs_nowhere_does_not_count() -> None:
    scores = classification(np.array([0, 0, 1]), np.array([0, 1, 1]), NAMES, seed=0)
    assert "test/f1/é" not in scores
    assert scores["test/f1_macro"] == pytest.approx(f1_score([0, 0, 1], [0, 1, 1], average="macro"))


def test_interval_equals_the_percentile_bootstrap_of_scipy() -> None:
    correct = TARGETS == PREDICTIONS
    low, high = bootstrap(correct, seed=0)
    theirs = scipy_bootstrap(
        (correct.astype(float),),
        np.mean,
        n_resamples=10_000,
        method="percentile",
        batch=1000,
        rng=np.random.default_rng(1),
    ).confidence_interval
    assert (low, high) == (pytest.approx(theirs.low, abs=0.003), pytest.approx(theirs.high, abs=0.003))
    assert bootstrap(correct, seed=5) == bootstrap(correct, seed=5)
    assert bootstrap(np.ones(9, dtype=bool), seed=0) == (1.0, 1.0)


def test_metrics_are_flat_valid_json(tmp_path) -> None:
    write_metrics({"test/loss": math.nan, "test/f1/é": 0.5, "seed": 3}, tmp_path / "m.json")
    text = (tmp_path / "m.json").read_text(encoding="utf-8")
    assert json.loads(text, parse_constant=pytest.fail) == {"test/loss": None, "test/f1/é": 0.5, "seed": 3}


def test_tables_hold_every_score_and_every_class(capsys) -> None:
    scores = classification(TARGETS, PREDICTIONS, NAMES, seed=0)
    (whole_heading, whole), (heading, rows) = tables({"val/accuracy": 0.1, **scores})
    assert whole_heading == ["test", "value", "95% interval"]
    low, high = scores["test/accuracy_low"], scores["test/accuracy_high"]
    assert whole[0] == ["accuracy", f"{scores['test/accuracy']:.4f}", f"{low:.4f} to {high:.4f}"]
    assert heading == ["class", "precision", "recall", "f1", "support"]
    assert [row[0] for row in rows] == NAMES
    show_tables(scores)
    printed = capsys.readouterr().out
    assert f"{scores['test/f1/T-shirt/top']:.4f}" in printed and "\x1b" not in printed


def test_git_revision_of_a_checkout_and_of_none(tmp_path) -> None:
    assert git_revision(tmp_path) is None
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    (tmp_path / "f").write_text("1")
    for command in (["init", "-q"], ["add", "f"], ["commit", "-qm", "m"]):
        subprocess.run([*git, *command], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    assert git_revision(tmp_path) == head
    (tmp_path / "f").write_text("2")
    assert git_revision(tmp_path) == f"{head}-dirty"


def size(path) -> tuple[int, int]:
    with Image.open(path) as picture:
        assert len(set(picture.convert("L").resize((64, 64)).tobytes())) > 3  # something is drawn
        return picture.size


@pytest.mark.parametrize("count", [2, 10, 100, 400])
def test_confusion_stays_readable(tmp_path, count) -> None:
    targets = np.arange(count).repeat(3)
    path = confusion(targets, np.roll(targets, 1), [f"class number {i}" for i in range(count)], tmp_path / "c.png")
    width, height = size(path)
    assert 400 < width < 3000 and 300 < height < 3000


def test_confusion_has_true_classes_in_rows(tmp_path, monkeypatch) -> None:
    from matplotlib.axes import Axes

    shown = []
    real = Axes.imshow
    monkeypatch.setattr(Axes, "imshow", lambda self, x, *a, **k: shown.append(x) or real(self, x, *a, **k))
    confusion(np.array([0, 0, 0, 1]), np.array([0, 1, 1, 1]), ["a", "b"], tmp_path / "c.png")
    assert np.allclose(shown[0], [[1 / 3, 2 / 3], [0, 1]])


def test_curves_with_gaps_and_with_one_epoch(tmp_path) -> None:
    rows = [{"epoch": 1, "train/loss": 1.0}, {"epoch": 2, "train/loss": 0.5, "val/loss": 0.7, "val/accuracy": 0.8}]
    path = curves(rows, tmp_path / "curves.png", best_epoch=2)
    assert path is not None and size(path)[0] > 900
    assert curves(rows[:1], tmp_path / "one.png") is not None
    assert curves([], tmp_path / "none.png") is None


def test_shown_pictures_are_wrong_ones_first_then_right_ones() -> None:
    chosen = pick(1000, list(range(0, 1000, 10)))
    assert len(set(chosen)) == 40 and sum(i % 10 == 0 for i in chosen) == 20
    assert pick(5, [3]) == [3, 0, 1, 2, 4]
    assert (
        sorted(pick(60, list(range(60)))) == sorted(set(pick(60, list(range(60)))))
        and len(pick(60, list(range(60)))) == 40
    )


def test_examples_mark_wrong_pictures_in_red(tmp_path) -> None:
    grey = np.full((8, 8, 1), 128, np.uint8)
    colour = np.full((30, 12, 3), 128, np.uint8)

    def red_pixels(rows) -> int:
        with Image.open(examples(rows, "t", tmp_path / "e.png")) as picture:
            pixels = np.asarray(picture.convert("RGB")).astype(int)
        return int(((pixels[..., 0] > 150) & (pixels[..., 1] < 90) & (pixels[..., 2] < 90)).sum())

    assert red_pixels([(grey, "a", 0.9, "a"), (colour, "b", 0.5, "b")]) == 0
    assert red_pixels([(grey, "a", 0.9, "b"), (colour, "b" * 40, 0.5, "b" * 40)]) > 200
