"""All commands under one name, and what the shell completes."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from vsattn.__main__ import COMMANDS, main
from vsattn.completion import complete
from vsattn.extensions import groups

HEAVY = "{'torch', 'hydra', 'omegaconf', 'lightning', 'numpy', 'sklearn', 'matplotlib'}"


def vsattn(root: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run ``python -m vsattn`` in a process of its own."""
    command = [sys.executable, "-m", "vsattn", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd=root)


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[list[str]]]:
    """Put something in the place of a command; what it is given is kept, and its exit code is 7."""

    def install(name: str) -> list[list[str]]:
        calls: list[list[str]] = []
        module = importlib.import_module(f"vsattn.{name}")
        monkeypatch.setattr(module, "main", lambda words: calls.append(words) or 7)
        return calls

    return install


def test_no_help_and_no_completion_loads_anything_heavy_and_all_take_about_a_second(root: Path) -> None:
    words = [[], ["--version"], *([name, "--help"] for name in COMMANDS)]
    words += [
        ["completion", "bash"],
        ["completion", "--words", "run", "task="],
        ["completion", "--words", "predict", ""],
    ]
    code = f"import sys\nfrom vsattn.__main__ import main\nfor words in {words!r}: main(words)\n"
    code += f"print('heavy:', sorted({HEAVY} & set(sys.modules)))"
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True, cwd=root
    )
    assert time.perf_counter() - started < 10  # well below a second on a machine that does nothing else
    assert done.stdout.splitlines()[-1] == "heavy: []"


def test_help_lists_every_command_and_each_shows_examples(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    for name, text in COMMANDS.items():
        assert f"  {name} " in shown and text in shown
        assert main([name, "--help"]) == 0
        own = capsys.readouterr().out
        assert f"  vsattn {name} " in own or f" vsattn {name} " in own, own
        assert "python -m vsattn." not in own
    # Every module with words of a command is one of the commands.
    modules = {file.stem for file in (root / "vsattn").glob("*.py") if "\ndef main(argv" in file.read_text("utf-8")}
    assert modules - {"__main__"} == set(COMMANDS)


@pytest.mark.parametrize(
    ("words", "command", "given"),
    [
        (["run", "task=image", "-m"], "run", ["task=image", "-m"]),
        (["task=image", "seed=1"], "run", ["task=image", "seed=1"]),
        (["-m", "task=image"], "run", ["-m", "task=image"]),
        (["evaluate", "ckpt=x"], "evaluate", ["ckpt=x"]),
        (["translate"], "translate", []),
    ],
)
def test_words_go_to_the_command_and_its_exit_code_comes_back(
    words: list[str], command: str, given: list[str], stand_in: Callable[[str], list[list[str]]]
) -> None:
    calls = stand_in(command)
    assert main(words) == 7
    assert calls == [given]


def test_a_mistyped_command_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evalute"]) == 2
    shown = capsys.readouterr().err
    assert "did you mean 'evaluate'?" in shown and all(name in shown for name in COMMANDS)
    assert main(["xyz"]) == 2 and main([]) == 2


def test_messages_name_the_command_as_the_user_wrote_it(root: Path) -> None:
    done = vsattn(root, "predict", "ckp=x")
    assert done.returncode == 2 and done.stderr.startswith("vsattn predict: this cannot be run")
    done = vsattn(root, "predit")
    assert done.returncode == 2 and done.stderr.startswith("vsattn: this cannot be run")
    done = subprocess.run(
        [sys.executable, "-m", "vsattn.predict", "ckp=x"], capture_output=True, text=True, check=False, cwd=root
    )
    assert done.stderr.startswith("vsattn.predict: this cannot be run")


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder with one recipe."""
    (tmp_path / "own" / "experiment").mkdir(parents=True)
    (tmp_path / "own" / "experiment" / "mine.yaml").write_text("# @package _global_\ndim: 24\n", encoding="utf-8")
    return tmp_path / "own"


def test_completion_knows_commands_groups_options_and_settings(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shipped = groups()
    assert complete([""])[: len(COMMANDS)] == list(COMMANDS)
    assert complete(["ev"]) == ["evaluate"]
    assert complete(["run", "task="]) == [f"task={name}" for name in shipped["task"]] == complete(["task="])
    assert complete(["run", "-m", "encoder=cnn,r"]) == ["encoder=cnn,rnn"]
    assert {f"{name}=" for name in (*shipped, "seed", "dim", "batch_size")} <= set(complete(["run", ""]))
    assert "--config-dir" in complete(["run", "--"])
    assert {"ckpt=", "input=", "output="} <= set(complete(["predict", ""]))
    assert complete(["evaluate", "ckpt=x", "split=v"]) == ["split=val"]
    assert complete(["evaluate", "ckpt=x", "data=digits_"]) == ["data=digits_graph"]
    assert complete(["evaluate", "ckpt=out"]) == [] == complete(["run", "--config-dir", "o"])  # files: the shell's
    assert complete(["completion", ""])[:3] == ["bash", "zsh", "fish"]
    assert complete(["run", "experiment=mi"]) == []
    assert complete(["run", "--config-dir", str(own), "experiment=mi"]) == ["experiment=mine"]
    monkeypatch.setenv("VSATTN_CONFIG_DIR", str(own))
    assert complete(["run", "experiment=mi"]) == ["experiment=mine"]


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
@pytest.mark.parametrize(
    ("line", "replies"),
    [
        ("vsattn tra", ["translate"]),
        ("vsattn run task=im", ["image"]),  # bash divides words at =, and replaces what follows
        ("vsattn run tokeniz", ["tokenizer="]),
        ("vsattn run encoder=cnn,rn", ["cnn,rnn"]),
        ("vsattn evaluate split=", ["test", "val", "train"]),
        ("vsattn predict ckpt=out", []),
        ("vsattn completion ", ["bash", "zsh", "fish", "--help"]),
    ],
)
def test_real_bash_completes(line: str, replies: list[str], root: Path, tmp_path: Path) -> None:
    program = tmp_path / "vsattn"
    program.write_text(f'#!/bin/sh\nPYTHONPATH="{root}" exec "{sys.executable}" -m vsattn "$@"\n')
    program.chmod(0o755)
    script = 'eval "$(vsattn completion bash)"; complete -p vsattn; _vsattn; printf "%s\\n" "${COMPREPLY[@]}"'
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "COMP_LINE": line}
    done = subprocess.run(
        ["bash", "--norc", "-c", script],
        env={**environment, "COMP_POINT": str(len(line)), "COMP_WORDBREAKS": " \t\n\"'@><=;|&(:"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    registered, *found = done.stdout.split("\n")
    assert registered == "complete -o default -F _vsattn vsattn"
    assert [word for word in found if word] == replies, done.stderr


def test_other_shells_get_a_script_and_unknown_ones_a_list(capsys: pytest.CaptureFixture[str]) -> None:
    for shell, mark in (("zsh", "compdef _vsattn vsattn"), ("fish", "complete -c vsattn")):
        assert main(["completion", shell]) == 0
        assert mark in capsys.readouterr().out
    assert main(["completion", "csh"]) == 2
    assert "bash, fish, zsh" in capsys.readouterr().err


def test_a_folder_that_is_not_there_is_told_with_the_name_of_the_variable(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("VSATTN_CONFIG_DIR", str(tmp_path / "nowhere"))
    for words in (["run", "task=image"], ["compare", "task=image"], ["evaluate", "ckpt=x"], ["run", "--help"]):
        assert main(words) == 2
        assert (
            f"there is no folder {tmp_path / 'nowhere'} for the variable VSATTN_CONFIG_DIR" in capsys.readouterr().err
        )


def test_the_variable_names_the_folder_for_a_run(own: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calls = []

    def run(config: dict[str, Any], folder: Path, **_: Any) -> SimpleNamespace:
        calls.append(config)
        return SimpleNamespace(metrics={})

    monkeypatch.setattr("vsattn.tasks.experiment.run", run)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VSATTN_CONFIG_DIR", "own")
    assert main(["run", "experiment=mine"]) == 0
    assert calls[0]["dim"] == 24
    (own / "encoder").mkdir()
    (own / "encoder" / "cnn.yaml").write_text("_target_: vsattn.encoders.ConvEncoder\n", encoding="utf-8")
    assert main(["run", "experiment=mine"]) == 2  # the shipped file would win, so the user's would do nothing
    assert len(calls) == 1
