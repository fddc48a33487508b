"""A folder of one's own: what is put there runs, and nothing is overwritten."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from vsattn.compose import plain_config
from vsattn.extensions import groups, using
from vsattn.init import EXAMPLES, main
from vsattn.tasks.checks import faults


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Each test works in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_recipe_runs_as_it_is_and_the_next_command_says_how(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["my"]) == 0
    shown = capsys.readouterr().out
    assert shown.splitlines()[-1] == "next: vsattn run --config-dir my experiment=mine"
    assert {str(path) for path in Path("my").rglob("*.*")} == {"my/README.md", "my/experiment/mine.yaml"}
    config, found = plain_config(["experiment=mine"], config_dir="my")
    assert found + faults(config) == [] and config["trainer"]["max_epochs"] == 5
    # Its comments are settings too.
    text = Path("my/experiment/mine.yaml").read_text(encoding="utf-8").replace("# encoder", "encoder")
    text = text.replace("#   num_layers", "  num_layers").replace("  # - override", "  - override")
    Path("my/experiment/all.yaml").write_text(text.replace("encoder: cnn", "encoder: transformer"), encoding="utf-8")
    config, found = plain_config(["experiment=all"], config_dir="my")
    assert found + faults(config) == [] and config["encoder"]["num_layers"] == 4
    assert config["positions"] == plain_config(["positions=learned"])[0]["positions"]


@pytest.mark.parametrize("option", ["encoder/transformer_small", "head/cls", "tokenizer/patches", "experiment/fsdd"])
def test_a_copied_option_is_the_shipped_one_under_another_name(option: str) -> None:
    group, name = option.split("/")
    Path("my").mkdir()
    assert main(["my", "--copy", f"{group}/{name}", "--copy", f"{group}/{name}=other"]) == 0
    assert groups("my")[group] == sorted([*groups()[group], f"my_{name}", "other"])
    shipped = plain_config([f"{group}={name}"])
    assert plain_config([f"{group}=my_{name}"], config_dir="my") == shipped
    assert plain_config([f"{group}=other"], config_dir="my") == shipped


def test_nothing_is_overwritten_and_a_folder_can_be_added_to(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["my", "--copy", "head/mean"]) == 0
    Path("my/head/my_mean.yaml").write_text("changed", encoding="utf-8")
    before = {path: path.read_bytes() for path in Path("my").rglob("*.*")}
    for words, named in ((["my"], "my/README.md"), (["my", "--copy", "head/cls", "--copy", "head/mean"], "my_mean")):
        assert main(words) == 1
        assert named in capsys.readouterr().err
        assert {path: path.read_bytes() for path in Path("my").rglob("*.*")} == before  # all or nothing
    assert main(["my", "--copy", "head/cls"]) == 0
    assert Path("my/head/my_cls.yaml").is_file()


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_is_complete(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["my", "--example", name]) == 0
    assert f"vsattn run --config-dir my experiment={name}" in capsys.readouterr().out
    with using("my") as own:
        config, found = plain_config([f"experiment={name}"], config_dir=own)
        assert found + faults(config) == []
    assert config["tokenizer"]["_target_"].startswith(f"vsattn.adapters.{name}.")
    for group in ("data", "tokenizer"):  # the file shows every setting
        assert set(yaml.safe_load(Path(f"my/{group}/{name}.yaml").read_text(encoding="utf-8"))) == set(config[group])


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "folder"),
        (["my", "--example", "point"], "did you mean 'points'?"),
        (["my", "--copy", "encodr/cnn"], "did you mean 'encoder'?"),
        (["my", "--copy", "encoder/cnnn"], "did you mean 'cnn'?"),
        (["my", "--copy", "encoder/cnn=gat"], "needs a name of its own"),
        (["my", "--copy", "encoder/cnn=../x"], "needs a name of its own"),
        (["my", "--copy", "../secret"], "there is no group"),
        (["my", "--copy", "encoder/../config"], "there is no shipped encoder"),
        (["task=image"], "a folder is expected"),
        (["my", "--exmple", "points"], "--help"),
    ],
)
def test_what_cannot_be_done_is_said_and_nothing_is_made(
    words: list[str], says: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    assert says in capsys.readouterr().err
    assert list(folder.iterdir()) == []
