"""Sweeps: what their summary says, how a search is aimed, and jobs that run at the same time."""

from __future__ import annotations

import csv
import importlib.util
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from vsattn.compose import plain_config
from vsattn.errors import ConfigError, DataError
from vsattn.jobs import find_sweep
from vsattn.run import main
from vsattn.sweep import main as summary
from vsattn.tasks.sweep import Job, collect, group
from vsattn.tasks.sweep_plots import _numeric_axis, draw

FAST = ["task=image", "debug=fast", "trainer=cpu", "dim=16", "encoder.num_layers=1"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: Path) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(root))
    return tmp_path


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[dict[str, Any]], dict[str, float]]], None]:
    """Put in the place of training a function from the config to metrics, written as a run writes them."""

    def install(measure: Callable[[dict[str, Any]], dict[str, float]]) -> None:
        def run(config: dict[str, Any], folder: Path, *, started: float | None = None) -> Any:
            (folder / "config.yaml").write_text(yaml.safe_dump(config))
            metrics = {**measure(config), "parameters": 1000, "wall_seconds": 2.0, "seed": config["seed"]}
            (folder / "metrics.json").write_text(json.dumps(metrics))
            return SimpleNamespace(metrics=metrics)

        monkeypatch.setattr("vsattn.tasks.experiment.run", run)

    return install


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def noisy(config: dict[str, Any]) -> dict[str, float]:
    """Return numbers that depend on rate and seed; one combination fails."""
    rate, seed = config["optimizer"]["lr"], config["seed"]
    if rate == 0.1 and seed == 1:
        raise DataError("the disk\nis full")
    if rate == 0.1 and seed == 2:
        raise ZeroDivisionError("a bug")
    return {"val/loss": rate + 0.25 * seed, "test/accuracy": 0.5 + rate + 0.125 * seed**2}


def test_the_summary_of_a_sweep(folder: Path, stand_in: Callable[..., None], capfd) -> None:
    stand_in(noisy)
    assert main(["-m", "optimizer.lr=0.01,0.1", "seed=0,1,2", "num_threads=1", "hydra.sweep.dir=s"]) == 1
    said = capfd.readouterr().out
    table = rows_of(folder / "s" / "sweep.csv")
    assert [float(row["optimizer.lr"]) for row in table] == [0.01, 0.1]
    for row, rate, seeds in zip(table, (0.01, 0.1), ([0, 1, 2], [0]), strict=True):
        values = np.array([0.5 + rate + 0.125 * seed**2 for seed in seeds])
        assert float(row["test/accuracy mean"]) == pytest.approx(values.mean())
        deviation = f"{values.std(ddof=1):.6f}" if len(seeds) > 1 else ""
        assert row["test/accuracy deviation"][:8] == deviation
        assert float(row["test/accuracy best"]) == values.max() and float(row["val/loss best"]) == rate
        assert (row["runs"], row["failed"]) == (str(len(seeds)), str(3 - len(seeds)))
    each = rows_of(folder / "s" / "runs.csv")
    assert [row["folder"] for row in each] == [str(i) for i in range(6)]
    assert [row["exit_code"] for row in each] == ["0"] * 4 + ["1", "1"]
    text = (folder / "s" / "sweep.md").read_text(encoding="utf-8")
    heading = "| optimizer.lr | val loss | accuracy % | best accuracy % | parameters | seconds | runs |"
    assert text.startswith(heading)
    assert "| 0.01 | 0.2600 ± 0.2500 | 71.83 ± 26.02 | 101.00 | 1,000 | 2 | 3 |" in text
    assert "| 0.1 | 0.1000 | 60.00 | 60.00 | 1,000 | 2 | 1 (failed: 4, 5) |" in text
    for told in (text, said):
        assert "best by val/loss (0.1000, runs: 1): optimizer.lr=0.1" in told
        assert f"failed: 4 (optimizer.lr=0.1 seed=1), the disk; {folder / 's' / '4'}" in told
        assert "failed: 5 (optimizer.lr=0.1 seed=2), ZeroDivisionError: a bug" in told
    with Image.open(folder / "s" / "sweep.png") as picture:
        assert picture.width > 900

    files = {name: (folder / "s" / name).read_bytes() for name in ("sweep.md", "sweep.csv", "runs.csv")}
    for name in [*files, "sweep.png"]:
        (folder / "s" / name).unlink()
    assert summary(["s"]) == 0
    assert {name: (folder / "s" / name).read_bytes() for name in files} == files
    assert (folder / "s" / "sweep.png").is_file()
    assert summary(["s", "test/accuracy"]) == 0
    assert "val/loss mean" not in rows_of(folder / "s" / "sweep.csv")[0]
    assert main(["-m", "seed=0,1", "hydra.sweep.dir=s"]) == 2  # never over an earlier sweep
    assert "holds an earlier sweep" in capfd.readouterr().err


def test_runs_of_any_folder_are_compared_by_their_configs(folder: Path) -> None:
    for number, words in enumerate((["seed=0"], ["seed=1"], ["encoder=cnn"], ["dim=32", "seed=2"])):
        config, faults = plain_config(words)
        assert not faults
        place = folder / "outputs" / f"run{number}"
        (place / "wandb" / "files").mkdir(parents=True)
        (place / "config.yaml").write_text(yaml.safe_dump(config))
        (place / "wandb" / "files" / "config.yaml").write_text("a logger's own: 1")
        (place / "metrics.json").write_text(json.dumps({"test/accuracy": number / 10, "wall_seconds": 1.0}))
    runs = collect(folder / "outputs")
    assert [run.name for run in runs] == ["run0", "run1", "run2", "run3"]
    rows = group(runs, ["test/accuracy"])
    assert [row["test/accuracy"] for row in rows] == [[0.0, 0.1], [0.2], [0.3]]
    deeper, faults = plain_config(["encoder.num_layers=3"])
    (folder / "outputs" / "run4").mkdir()
    (folder / "outputs" / "run4" / "config.yaml").write_text(yaml.safe_dump(deeper))
    (folder / "outputs" / "run4" / "metrics.json").write_text('{"test/accuracy": 0.4, "wall_seconds": 1.0}')
    rows = group(collect(folder / "outputs"), ["test/accuracy"])  # what differs within a part is told beside the part
    assert not faults and [row["test/accuracy"] for row in rows] == [[0.0, 0.1], [0.2], [0.3], [0.4]]
    assert [row["encoder.num_layers"] for row in rows][::3] == [runs[0].config["encoder"]["num_layers"], 3]
    settings = runs[2].settings
    assert settings["encoder"] == "ConvEncoder" and settings["dim"] == 64 and runs[3].settings["dim"] == 32
    assert not any(key.startswith(("encoder.", "seed", "paths")) for key in settings)
    assert summary(["outputs"]) == 0


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [([], 2, "name the folder"), (["nowhere"], 2, "no folder nowhere"), (["."], 1, "holds no runs"),
     (["r", "test/nothing"], 1, "has the metric test/nothing"), (["torn"], 1, "cannot be read")],
)  # fmt: skip
def test_what_the_command_refuses(folder: Path, words: list[str], code: int, says: str, capsys) -> None:
    for place, text in (("r", "{}"), ("torn", "{")) if words not in ([], ["."]) else ():
        (folder / place / "0").mkdir(parents=True)
        (folder / place / "0" / "config.yaml").write_text("seed: 0")
        (folder / place / "0" / "metrics.json").write_text(text)
    assert summary(words) == code
    assert says in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("job.json", "[1]", "it holds no values by name"),
        ("job.json", '{"words": "dim=8"}', "no sweep writes such words"),
        ("job.json", '{"words": [1]}', "no sweep writes such words"),
        ("job.json", '{"exit_code": "x", "folder": "/"}', "no sweep writes such exit_code, folder"),
        ("job.json", "[" * 100_000, "recursion"),
        ("metrics.json", '{"test/accuracy": "high"}', "test/accuracy in"),
        ("metrics.json", '{"test/accuracy": NaN}', "is no number: nan"),
        ("config.yaml", "a: !!python/object/apply:pathlib.Path.touch [ran]", "could not determine a constructor"),
        ("config.yaml", "&a\nb: *a", "Circular"),
        ("config.yaml", "- 1", "it holds no values by name"),
    ],
)
def test_files_that_no_run_has_written_give_one_line(folder: Path, name: str, text: str, says: str, capsys) -> None:
    for number in range(2):
        place = folder / "r" / str(number)
        place.mkdir(parents=True)
        (place / "config.yaml").write_text(f"dim: {number}\ncallbacks: [1]\ncompare: {{metrics: 3}}")
        (place / "metrics.json").write_text('{"test/accuracy": 0.5, "wall_seconds": 1.0}')
    assert summary(["r"]) == 0
    (folder / "r" / "1" / "metrics.json").write_text('{"test/accuracy": 0.5, "wall_seconds": 1.0}')
    (folder / "r" / "1" / name).write_text(
        text.replace("}", ', "wall_seconds": 1}') if name == "metrics.json" else text
    )
    assert summary(["r"]) == 1
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 2 and says in told[1] and str(folder / "r" / "1" / name) in told[1]
    assert not (folder / "ran").exists()


def test_a_run_that_was_cut_off_is_told(folder: Path, capsys) -> None:
    (folder / "s" / "0").mkdir(parents=True)
    (folder / "s" / "0" / "job.json").write_text('{"number": 0, "words": ["seed=0", "dim=8"]}')
    assert summary(["s"]) == 0
    assert "failed: 0 (seed=0), it was cut off" in capsys.readouterr().out


def row(settings: dict[str, Any], *values: float) -> dict[str, Any]:
    return {**settings, "failed": [], "test/accuracy": list(values), "val/loss": list(values), "parameters": [],
            "seconds": [1.0] * len(values)}  # fmt: skip


def test_plots_of_numbers_options_grids_and_searches(folder: Path) -> None:
    from matplotlib.figure import Figure

    metrics = ["val/loss", "test/accuracy"]
    rng = np.random.default_rng(0)
    numbers = [row({"dim": d}, *rng.random(3)) for d in (16, 32, 64)]
    options = [row({"encoder": e}, *rng.random(3)) for e in ("cnn", "transformer", "rnn")]
    grid = [row({"dim": d, "encoder": e}, *rng.random(2)) for d in (16, 32) for e in ("cnn", "rnn")]
    found = [row({"optimizer.lr": 10 ** rng.uniform(-4, -1), "dim": int(d)}, rng.random()) for d in range(8, 28)]
    widths = {}
    for name, rows in {"numbers": numbers, "options": options, "grid": grid, "search": found}.items():
        keys = [key for key in rows[0] if key in ("dim", "encoder", "optimizer.lr")]
        path = draw(rows, keys, metrics, folder / f"{name}.png")
        assert path is not None
        with Image.open(path) as picture:
            widths[name] = picture.width
    assert len(set(widths.values())) > 1
    assert draw(numbers[:1], ["dim"], metrics, folder / "one.png") is None
    empty = [*options, row({"encoder": "failed"})]
    assert draw(empty, ["encoder"], metrics, folder / "failed.png") is not None

    for values, scale in (([1e-4, 1e-3, 1e-2], "log"), ([16, 32, 64], "linear"), ([0, 10, 100], "linear")):
        axis = Figure().subplots()
        _numeric_axis(axis, values, "x")
        assert axis.get_xscale() == scale and ("logarithmic" in axis.get_xlabel()) == (scale == "log")
        assert [text.get_text() for text in axis.get_xticklabels()] == [f"{value:g}" for value in values]


@pytest.mark.parametrize("mode", ["min", "max"])
def test_a_search_goes_by_the_validation_measure(folder: Path, stand_in: Callable[..., None], mode: str) -> None:
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")

    def measure(config: dict[str, Any]) -> dict[str, float]:
        rate = config["optimizer"]["lr"]
        if rate == 0.005:
            raise DataError("this trial fails, and the search goes on")
        # The test measures would choose otherwise.
        return {"val/loss": abs(rate - 0.002), "val/accuracy": rate, "test/loss": -rate, "test/accuracy": -rate}

    stand_in(measure)
    words = ["-m", "hydra/sweeper=optuna", "hydra/sweeper/sampler=random", "hydra.sweeper.sampler.seed=2"]
    words += ["hydra.sweeper.n_trials=5", "optimizer.lr=0.001,0.002,0.005,0.01", "hydra.sweep.dir=s"]
    monitor = ["callbacks.checkpoint.monitor=val/accuracy", "callbacks.checkpoint.mode=max"] if mode == "max" else []
    assert main([*words, *monitor]) == 1
    runs = rows_of(folder / "s" / "runs.csv")
    ended = [run for run in runs if run["exit_code"] == "0"]
    assert len(runs) == 5 and 1 < len(ended) < 5
    name = "val/loss" if mode == "min" else "val/accuracy"
    best = (min if mode == "min" else max)(ended, key=lambda run: float(run[name]))
    found = yaml.safe_load((folder / "s" / "optimization_results.yaml").read_text())
    assert found["best_value"] == pytest.approx(float(best[name]))
    assert float(found["best_params"]["optimizer.lr"]) == float(best["optimizer.lr"])


def test_intervals_are_sampled_and_their_ends_are_checked(folder: Path, stand_in: Callable[..., None], capsys) -> None:
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    stand_in(lambda config: {"val/loss": config["optimizer"]["lr"], "test/accuracy": config["dim"] / 100})
    words = ["-m", "hydra/sweeper=optuna", "hydra.sweeper.n_trials=3", "hydra.sweeper.sampler.seed=1"]
    words += ["hydra.sweep.dir=s", "dim=choice(16,32)"]
    assert main([*words, "optimizer.lr=tag(log,interval(0.0001,0.01))", "encoder.num_layers=range(1,3)"]) == 0
    runs = rows_of(folder / "s" / "runs.csv")
    rates = [float(run["optimizer.lr"]) for run in runs]
    assert len(set(rates)) == 3 and all(0.0001 <= rate <= 0.01 for rate in rates)
    assert {run["dim"] for run in runs} == {"16", "32"}
    assert main([*words, "optimizer.lr=interval(-1,1)", "hydra.sweep.dir=other"]) == 2
    assert "Invalid learning rate: -1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["optimizer.lr=interval(0.1,1)"], "an interval is for a search, which needs hydra/sweeper=optuna"),
        (["hydra/sweeper=optuna", "encoder=glob(*)"], "a search needs the options themselves, as in encoder=A,B"),
        (["hydra/sweeper=optuna", "hydra.sweeper.direction=maximize"], "whose mode is min"),
        (["hydra/sweeper=optuna", "callbacks.checkpoint=null"], "callbacks.checkpoint: a search goes by its monitor"),
        (["hydra/launcher=jolib"], "Could not find 'hydra/launcher/jolib'"),
    ],
)
def test_what_a_sweep_cannot_do_is_told_before_it_starts(folder: Path, words: list[str], says: str, capsys) -> None:
    assert main(["-m", *words]) == 2
    assert says in capsys.readouterr().err
    assert list(folder.iterdir()) == []


def test_a_sweep_written_into_an_experiment(folder: Path, stand_in: Callable[..., None]) -> None:
    own = folder / "own" / "experiment"
    own.mkdir(parents=True)
    text = "# @package _global_\nhydra:\n  mode: MULTIRUN\n  sweeper:\n    params:\n      dim: 16,32\n"
    (own / "widths.yaml").write_text(text)
    stand_in(lambda config: {"val/loss": 1.0, "test/accuracy": config["dim"] / 100})
    assert main(["--config-dir", "own", "experiment=widths", "hydra.sweep.dir=s"]) == 0
    assert [row["dim"] for row in rows_of(folder / "s" / "sweep.csv")] == ["16", "32"]
    (own / "widths.yaml").write_text(text.replace("16,32", "16,0"))
    assert main(["--config-dir", "own", "experiment=widths"]) == 2


@pytest.mark.skipif(importlib.util.find_spec("ray") is not None, reason="Ray is installed")
def test_a_launcher_that_is_not_installed() -> None:
    with pytest.raises(ConfigError, match=r"hydra/launcher/ray: is not installed; pip install 'vsattn\[ray\]'"):
        find_sweep(["hydra/launcher=ray"], True)


@pytest.mark.parametrize("launcher", ["joblib", "submitit_local", "submitit_slurm", "ray"])
def test_launchers_compose(launcher: str) -> None:
    package = f"hydra_plugins.hydra_{launcher.split('_')[0]}_launcher"
    pytest.importorskip(package, reason=f"{package} is not installed")
    sweep = find_sweep([f"hydra/launcher={launcher}"], True)
    assert sweep is not None and not sweep.searches


def test_jobs_in_two_processes_share_the_cores_and_end_together(folder: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    jobs = ["optimizer.lr=0.01,1e30", "trainer.max_epochs=1,100000", "callbacks.early_stopping=null"]
    words = [*FAST, *jobs, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "hydra.sweep.dir=s"]
    done = subprocess.Popen(
        [sys.executable, "-m", "vsattn.run", "-m", *words],
        env={key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    deadline = time.monotonic() + 240

    def ended() -> list[int | None]:
        return [json.loads(file.read_text() or "{}").get("exit_code") for file in sorted(folder.glob("s/*/job.json"))]

    while ended() != [0, None, 1, 1] and time.monotonic() < deadline and done.poll() is None:
        time.sleep(0.2)
    os.kill(done.pid, signal.SIGINT)  # the command alone: a batch system does not tell its children
    try:
        said, _ = done.communicate(timeout=120)
    except subprocess.TimeoutExpired:
        os.killpg(done.pid, signal.SIGKILL)
        raise
    assert done.returncode == 130, said
    for _ in range(100):  # the group of the command and all that it started
        try:
            os.killpg(done.pid, 0)
        except ProcessLookupError:
            break
        time.sleep(0.1)
    else:
        os.killpg(done.pid, signal.SIGKILL)
        pytest.fail("a process of the sweep went on")
    runs = rows_of(folder / "s" / "runs.csv")
    assert [run["exit_code"] == "0" for run in runs] == [True, False, False, False]
    assert "loss became" in runs[2]["error"] and "loss became" in runs[3]["error"]
    share = max(1, len(os.sched_getaffinity(0)) // 2)
    assert f"cpu, {share} threads" in (folder / "s" / "0" / "log.txt").read_text()
    assert "epoch 1/1" not in said  # their words are in their own logs
    assert "optimizer.lr=1e+30 trainer.max_epochs=1 callbacks.early_stopping=null: failed (the" in said


def test_a_batch_system_runs_jobs(folder: Path, stand_in: Callable[..., None], monkeypatch, capsys) -> None:
    submitit = pytest.importorskip("hydra_plugins.hydra_submitit_launcher.submitit_launcher")
    monkeypatch.setattr(submitit.LocalLauncher, "_EXECUTOR", "debug")  # in this process
    stand_in(lambda config: {"val/loss": 1.0, "test/accuracy": config["seed"] / 100})
    assert main(["-m", "hydra/launcher=submitit_local", "seed=3,4", "hydra.sweep.dir=s"]) == 0
    assert [json.loads((folder / "s" / name / "metrics.json").read_text())["seed"] for name in "01"] == [3, 4]
    assert "sweep.md" in capsys.readouterr().out


def test_lists_none_and_numbers_are_settings_and_lacking_numbers_are_told(folder: Path, capsys) -> None:
    places = itertools.product(("[16,32]", "[8,8]"), ("null", "0.5"), (0, 1))
    for number, (widths, clip, seed) in enumerate(places):
        words = [f"tokenizer.widths={widths}", f"trainer.gradient_clip_val={clip}", f"seed={seed}"]
        job = Job(folder / "s" / str(number), number=number, words=words, exit_code=0)
        job.write()
        accuracy = None if clip == "0.5" and seed else 0.5 + seed / 8
        metrics = {"test/accuracy": accuracy, "parameters": 1, "wall_seconds": 1.0}
        (job.folder / "metrics.json").write_text(json.dumps(metrics))
    assert summary(["s"]) == 0
    rows = rows_of(folder / "s" / "sweep.csv")
    keys = [(row["tokenizer.widths"], row["trainer.gradient_clip_val"], row["runs"]) for row in rows]
    assert keys == [(widths, clip, "2") for widths in ("[16,32]", "[8,8]") for clip in ("null", "0.5")]
    for row, values in zip(rows, [[0.5, 0.625], [0.5]] * 2, strict=True):
        assert float(row["test/accuracy mean"]) == pytest.approx(np.mean(values))
        deviation = row["test/accuracy deviation"]
        assert float(deviation) == pytest.approx(np.std(values, ddof=1)) if len(values) > 1 else deviation == ""
    lacking = "test/accuracy is a number in 1 of 2 runs (tokenizer.widths=[8,8] trainer.gradient_clip_val=0.5)"
    assert lacking in capsys.readouterr().out
