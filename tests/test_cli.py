"""The command: what it prints, what it writes, and its exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from vsattn.compose import plain_config
from vsattn.errors import CheckpointError, ConfigError, DataError, ShapeError
from vsattn.run import main

FAST = ["task=image", "debug=fast", "trainer=cpu", "encoder.num_layers=1", "dim=16"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Each test works in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[dict[str, Any]]]:
    """Put something quick in the place of training; what it is given is kept."""

    def install(*outcomes: BaseException | None) -> list[dict[str, Any]]:
        calls: list[dict[str, Any]] = []

        def run(config: dict[str, Any], folder: Path, *, started: float | None = None) -> SimpleNamespace:
            calls.append({"config": config, "folder": folder, "started": started})
            outcome = outcomes[len(calls) - 1] if len(calls) <= len(outcomes) else None
            if outcome is not None:
                raise outcome
            return SimpleNamespace(metrics={})

        monkeypatch.setattr("vsattn.tasks.experiment.run", run)
        return calls

    return install


def in_python(root: Path, code: str) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter that sees the package as this one does."""
    code = f"import sys; sys.path.insert(0, {str(root)!r})\n{code}"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("word", ["--help", "-h", "--version"])
def test_help_is_quick_because_it_loads_nothing_heavy(root: Path, word: str) -> None:
    heavy = "{'torch', 'hydra', 'lightning', 'numpy', 'omegaconf'}"
    done = in_python(
        root, f"from vsattn.run import main\ncode = main([{word!r}])\nsys.exit(code or len({heavy} & set(sys.modules)))"
    )
    assert done.returncode == 0, done.stderr
    assert "vsattn" in done.stdout


def test_help_lists_every_group_and_option(capsys: pytest.CaptureFixture[str], root: Path) -> None:
    assert main(["task=image", "--help"]) == 0
    shown = capsys.readouterr().out
    lines = {line.split()[0]: line.split()[1:] for line in shown.splitlines() if line.startswith("  ") and line.split()}
    for group in (path for path in (root / "conf").iterdir() if path.is_dir() and not path.name.startswith("_")):
        assert sorted(o.lstrip("*") for o in lines[group.name]) == sorted(f.stem for f in group.glob("*.yaml"))
    assert "*image" in lines["task"] and "*conv_stem" in lines["tokenizer"] and "*none" in lines["relation"]
    assert "python -m vsattn.run task=image" in shown


def test_a_whole_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*FAST, "seed=7"]) == 0
    (run,) = (folder / "outputs" / "image").iterdir()
    kept = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    assert kept == plain_config([*FAST, "seed=7"])[0]
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["seed"] == 7 and 0 <= metrics["test/accuracy"] <= 1
    for name in ("metrics.csv", "checkpoints/best.ckpt", "checkpoints/last.ckpt", "plots/confusion.png"):
        assert (run / name).is_file(), name
    assert str(run) in capsys.readouterr().out
    assert [path.name for path in folder.iterdir()] == ["outputs"]

    assert main([*FAST, f"hydra.run.dir={run}"]) == 2  # never over an earlier run
    assert "earlier run" in capsys.readouterr().err


def test_the_command_in_a_process_of_its_own(root: Path) -> None:
    words = [sys.executable, "-m", "vsattn.run", "taks=image", "optimizer.lrr=1"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False, cwd=root)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.splitlines()[0] == "vsattn.run: this cannot be run (2 faults)"
    assert "did you mean 'task'?" in done.stderr and "did you mean 'lr'?" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "words",
    [["task=imgae"], ["+optimizer.lrr=1"], ["encoder=cnn", "score=additive"], ["data=image_folder"], ["seed=["],
     ["--seed=3"], ["--config-path", "x"], ["--config-dir", "nowhere"], ["--cfg", "jobb"], ["hydra.runn.dir=x"],
     ["-m", "seed=0,1", "score=dot,additiv"], ["-m", "seed=0,1", "trainer.strategy=ddp"]],
)  # fmt: skip
def test_a_bad_config_exits_2_and_starts_nothing(
    words: list[str], folder: Path, capsys: pytest.CaptureFixture[str], stand_in: Callable[..., Any]
) -> None:
    calls = stand_in()
    assert main(words) == 2
    assert capsys.readouterr().err.startswith("vsattn.run: this cannot be run")
    assert calls == [] and list(folder.iterdir()) == []


def test_settings_with_dashes_are_explained(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seed=3"]) == 2
    assert "without dashes: seed=3" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("outcome", "code"),
    [
        (None, 0),
        (ConfigError("a\nb"), 2),
        (ShapeError("shapes"), 2),
        (DataError("no such file"), 1),
        (CheckpointError("damaged"), 1),
        (RuntimeError("a bug"), 1),
        (KeyboardInterrupt(), 130),
    ],
)
def test_exit_codes(
    outcome: BaseException | None, code: int, capsys: pytest.CaptureFixture[str], stand_in: Callable[..., Any]
) -> None:
    calls = stand_in(outcome)
    assert main(["task=image"]) == code
    shown = capsys.readouterr().err
    assert len(calls) == 1 and calls[0]["started"] is not None
    if isinstance(outcome, RuntimeError):
        assert "Traceback" in shown and "a bug" in shown
    elif outcome is not None:
        assert "Traceback" not in shown and all(f"  {line}" in shown for line in str(outcome).splitlines())


def test_lightnings_ways_to_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    """It leaves with 1 when interrupted, and with 0 when terminated, which a batch system would take for success."""
    from lightning.pytorch.utilities.exceptions import SIGTERMException

    from vsattn.tasks.telling import plain_errors

    @plain_errors()
    def interrupted(*_: Any, **__: Any) -> None:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            sys.exit(1)

    @plain_errors()
    def terminated(*_: Any, **__: Any) -> None:
        raise SIGTERMException

    for way, code in ((interrupted, 130), (terminated, 143)):
        monkeypatch.setattr("vsattn.tasks.experiment.run", way)
        assert main(["task=image"]) == code
        assert main(["-m", "task=image", "seed=0,1"]) == code


def test_what_parts_do_not_go_together_is_said_before_training(capsys: pytest.CaptureFixture[str]) -> None:
    for words, says in ((["dim=63"], "63"), (["structure=causal"], "Causal"), (["dim=20"], "20")):
        assert main([*FAST, *words]) == 2
        shown = capsys.readouterr()
        assert says in shown.err and "epoch" not in shown.out


def test_missing_data_exit_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*FAST, "data=image_folder", "data.root=nowhere"]) == 1
    assert "nowhere" in capsys.readouterr().err


def test_a_sweep_goes_on_after_a_failure_and_tells_it(folder: Path, stand_in: Callable[..., Any]) -> None:
    calls = stand_in(None, DataError("gone"), None)
    assert main(["-m", "task=image", "seed=0,1,2"]) == 1
    assert [call["config"]["seed"] for call in calls] == [0, 1, 2]
    assert [call["folder"].name for call in calls] == ["0", "1", "2"]
    assert calls[0]["folder"].parent.parent == folder / "outputs" / "sweeps" / "image"
    assert [call["started"] for call in calls] == [None] * 3


def test_a_sweep_over_encoders_takes_up_what_each_uses(stand_in: Callable[..., Any]) -> None:
    calls = stand_in()
    assert main(["-m", "encoder=cnn,transformer"]) == 0
    assert calls[0]["config"]["score"] is None
    assert calls[1]["config"]["score"]["_target_"].endswith("ScaledDot")


def test_own_configs(folder: Path, stand_in: Callable[..., Any]) -> None:
    own = folder / "my configs" / "experiment"
    own.mkdir(parents=True)
    (own / "mine.yaml").write_text("# @package _global_\ndim: 24\n", encoding="utf-8")
    calls = stand_in()
    assert main(["--config-dir", "my configs", "experiment=mine"]) == 0
    assert calls[0]["config"]["dim"] == 24


def test_the_config_can_be_looked_at(capsys: pytest.CaptureFixture[str], stand_in: Callable[..., Any]) -> None:
    calls = stand_in()
    assert main(["--cfg", "job", "--resolve", "seed=5"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["seed"] == 5
    assert calls == []
