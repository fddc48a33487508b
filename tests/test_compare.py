"""The command that compares models under one budget, and what length costs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest
from PIL import Image

from vsattn.compare import main, waited
from vsattn.tasks.comparison import collect, picture, table
from vsattn.tasks.lengths import measure
from vsattn.tasks.lengths import picture as picture_of_lengths
from vsattn.tasks.lengths import table as table_of_lengths

SMALL = ["task=image", "debug=fast", "trainer=cpu", "dim=16", "encoder.num_layers=1"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: Path) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(root))
    return tmp_path


def test_models_are_compared_and_one_that_fails_does_not_stop_the_others(folder: Path, capfd) -> None:
    broken = '+compare.models.broken=["positions=laplacian"]'
    words = [*SMALL, broken, "models=attention,broken,cnn", "compare.seeds=[3]"]
    assert main([*words, "-o", "result"]) == 1
    said = capfd.readouterr().out
    assert "broken seed_3: failed with exit code" in said and "result/broken/seed_3.log" in said
    kept = json.loads((folder / "result" / "comparison.json").read_text())
    attention, broken, cnn, floor = kept["rows"]
    for row, name in ((attention, "attention"), (cnn, "cnn")):
        run = json.loads((folder / "result" / name / "seed_3" / "metrics.json").read_text())
        assert row["test/accuracy"] == [run["test/accuracy"]] and row["parameters"] == [run["parameters"]]
        assert run["seed"] == 3 and row["failed"] == []
    assert broken["failed"] == [3] and broken["test/accuracy"] == []
    assert floor["model"] == "logistic regression on pixels" and 0.9 < floor["test/accuracy"][0] < 0.96
    text = (folder / "result" / "comparison.md").read_text()
    assert f"| attention | {100 * attention['test/accuracy'][0]:.2f} |" in text and "python -m vsattn.compare" in text
    with Image.open(folder / "result" / "comparison.png") as drawn:
        assert min(drawn.size) > 200


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["task=imgae"], "did you mean 'image'?"),
        (['+compare.models.a=["encoder=cnnn"]'], "a: encoder=cnnn: there is no encoder 'cnnn'"),
        (['+compare.models.a=["encoder=cnnn"]', '+compare.models.b=["encodr=x"]'], "b: encodr=x: there is no group"),
        (["models=cn"], "models=cn: there is no such model; did you mean 'cnn'?"),
        (["compare.models=3"], "compare.models: names with lists of words"),
        (["compare.seeds=[]"], "compare.seeds: a list of whole numbers"),
        (["compare.seeds=[0,0]"], "compare.seeds: each seed once"),
        (["lengths", "-cd", "mine"], "lengths takes no words"),
        (["compare.metrics=[]"], "compare.metrics: a list of names"),
        (["+compare.sseds=[1]"], "did you mean 'seeds'?"),
        (["-o"], "-o needs a folder"),
        (["lengths", "task=image"], "lengths takes no words"),
    ],
)
def test_a_mistake_is_told_before_anything_runs(words: list[str], says: str, folder: Path, capsys) -> None:
    assert main(words) == 2
    assert says in capsys.readouterr().err
    assert not list(folder.iterdir())


def test_a_folder_that_holds_something_is_left_alone(folder: Path, capsys) -> None:
    (folder / "result").mkdir()
    (folder / "result" / "mine").write_text("x")
    assert main([*SMALL, "-o", "result"]) == 1
    assert "holds something already" in capsys.readouterr().err


def test_mean_and_deviation_over_seeds(folder: Path) -> None:
    for seed, accuracy in enumerate((0.5, 0.7)):
        (folder / "a" / f"seed_{seed}").mkdir(parents=True)
        numbers = {"test/accuracy": accuracy, "parameters": 10, "wall_seconds": 2.0 * seed, "peak_memory_mb": None}
        (folder / "a" / f"seed_{seed}" / "metrics.json").write_text(json.dumps(numbers))
    rows = collect(folder, ["a"], [0, 1, 2], ["test/accuracy"])
    heading, line = table(rows, ["test/accuracy"])
    assert heading == ["model", "accuracy %", "parameters", "seconds", "memory MB", "runs"]
    assert line == ["a", "60.00 ± 14.14", "10", "1", "", "2 (failed: 2)"]
    assert picture(rows, "test/accuracy", folder / "p.png").is_file()


def test_a_floor_of_whole_answers_stands_beside_exact_matches(folder: Path) -> None:
    (folder / "a" / "seed_0").mkdir(parents=True)
    numbers = {"test/exact": 0.5, "parameters": 10, "wall_seconds": 2.0, "floor/name": "guess", "floor/accuracy": 0.25}
    (folder / "a" / "seed_0" / "metrics.json").write_text(json.dumps(numbers))
    heading, *lines = table(collect(folder, ["a"], [0], ["test/exact"]), ["test/exact"])
    assert heading[1] == "exact %" and [line[:2] for line in lines] == [["a", "50.00"], ["guess", "25.00"]]


def test_what_length_costs(folder: Path) -> None:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        found = pool.submit(measure, "attention", (8, 2048)).result()
    rows = [{**row, "reach_left": 1, "reach_right": 2} for row in found]
    assert [row["length"] for row in rows] == [8, 2048]
    assert rows[0]["milliseconds"] < rows[1]["milliseconds"]
    assert rows[1]["peak_mb"] > 4 * 2048 * 64 * 4 / 1e6  # more than one layer's vectors
    full = [{**rows[0], "encoder": name, "length": 2**i} for name in ("a", "b") for i in range(5, 13)]
    heading, *lines = table_of_lengths(full)
    assert heading[0] == "encoder" and [line[:2] for line in lines] == [["a", "1, 2"], ["b", "1, 2"]]
    for memory in (3.0, 0.0):  # a small encoder may need no more than what the process had held before
        drawn = [{**row, "peak_mb": memory} for row in full]
        assert picture_of_lengths(drawn, folder / f"{memory}.png").is_file()


def test_help(capsys) -> None:
    assert main(["--help"]) == 0
    assert "python -m vsattn.compare lengths" in capsys.readouterr().out


def test_a_comparison_that_is_terminated_ends_its_run_first(folder: Path) -> None:
    code = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(open('ended', 'w').write('') or 143))\n"
        "open('begun', 'w').close(); time.sleep(60)"
    )

    def ask() -> None:
        while not Path("begun").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    asker = threading.Thread(target=ask)
    asker.start()
    with pytest.raises(SystemExit) as caught:
        waited(subprocess.Popen([sys.executable, "-c", code]))
    asker.join()
    assert caught.value.code == 143 and Path("ended").exists() and signal.getsignal(signal.SIGTERM) == before
    assert waited(subprocess.Popen([sys.executable, "-c", "raise SystemExit(5)"])) == 5
