"""The command: ``python -m vsattn.init FOLDER``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from vsattn.errors import ConfigError, DataError, nearest
from vsattn.extensions import VARIABLE, groups
from vsattn.run import guarded

if TYPE_CHECKING:
    from importlib.abc import Traversable

USAGE = """\
Make a folder for configs and classes of your own.

  python -m vsattn.init my                                  a folder with a recipe to change
  python -m vsattn.init my --copy encoder/transformer       also a shipped option, as my/encoder/my_transformer.yaml
  python -m vsattn.init my --copy encoder/transformer=deep  under that name: encoder=deep
  python -m vsattn.init my --example points                 also a worked example of a new modality, points or series

In a folder that is there already only what is asked for is added. No file is ever overwritten.

Options:
  -h, --help  show this and exit
"""

#: The examples: a module of `vsattn.examples`, and options of that name.
EXAMPLES = {"points": "shapes as clouds of points in space", "series": "time series of several channels, with gaps"}

RECIPE = """\
# @package _global_
# A recipe of your own: vsattn run {option}experiment=mine
defaults: # which options it takes; `vsattn run --help` lists all, and yours beside them
  - override /task: image
  # - override /encoder: cnn
  # - override /positions: learned

# What follows comes after the options and wins over them; the command's own words win over this.
seed: 0

trainer:
  max_epochs: 5

# encoder:
#   num_layers: 4
"""

README = """\
# Configs and classes of your own

Name this folder by `--config-dir {folder}`, or once for all commands: `export {variable}={absolute}`.

| file | what it is | chosen by |
|---|---|---|
| `experiment/NAME.yaml` | a recipe: options and values together | `experiment=NAME` |
| `GROUP/NAME.yaml` | an option beside the shipped ones, under another name than theirs | `GROUP=NAME` |
| `adapters/NAME.py` | classes of your own: a tokenizer, data | `_target_: vsattn.adapters.NAME.CLASS` in a YAML file |

`vsattn run --help` lists the groups and their options, `vsattn run {option}--cfg job experiment=mine` shows what a
recipe comes to, and `vsattn init {folder} --copy encoder/transformer` puts a shipped file here to be changed.

A model that was trained with an adapter needs this folder to be loaded: checkpoints hold no code.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0, 2 for words that mean nothing, 1 for a file that is there."""
    words = list(sys.argv[1:] if argv is None else argv)
    if any(word in ("-h", "--help") for word in words):
        print(USAGE, end="")
        return 0
    return guarded(lambda: _run(words), "vsattn.init")


def _run(words: list[str]) -> None:
    folder, copies, examples = _parse(words)
    option = f"--config-dir {folder} "
    files: dict[str, str] = {}
    if not (copies or examples) or not folder.exists():
        given = {"folder": folder, "absolute": folder.absolute(), "variable": VARIABLE, "option": option}
        files = {"README.md": README.format(**given), "experiment/mine.yaml": RECIPE.format(**given)}
    following = "experiment=mine"
    for word in copies:
        (name, text), following = _copy(word), _choice(word)
        files[name] = text
    for name in examples:
        files |= _example(name)
        following = f"experiment={name}"
    write(folder, files)
    print("\n".join([f"{folder / name}" for name in files]))
    print(f"\nnext: vsattn run {option}{following}")


def write(folder: Path, files: dict[str, str]) -> None:
    """Write all files or none.

    Raises:
        DataError: naming those that are there already, or what cannot be written.
    """
    there = [str(folder / name) for name in files if (folder / name).exists()]
    if there:
        raise DataError(f"nothing is overwritten, and there is already {', '.join(there)}")
    try:
        for name, text in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise DataError(f"{error.filename} cannot be written: {error.strerror}") from error


def _parse(words: list[str]) -> tuple[Path, list[str], list[str]]:
    """Return the folder, the options to copy and the examples."""
    import argparse

    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("folder")
    parser.add_argument("--copy", action="append", default=[])
    parser.add_argument("--example", action="append", default=[])

    def refuse(message: str) -> NoReturn:
        raise ConfigError(f"{message}; --help shows how")

    parser.error = refuse  # type: ignore[method-assign, assignment]
    options = parser.parse_intermixed_args(words)
    faults = [f"--copy {word}: {fault}" for word in options.copy if (fault := _copy_fault(word))]
    faults += [
        f"--example {name}: there is no such example; {nearest(name, EXAMPLES)}"
        for name in options.example
        if name not in EXAMPLES
    ]
    if "=" in options.folder:
        faults.append(f"{options.folder}: a folder is expected, not a setting")
    if faults:
        raise ConfigError("\n".join(faults))
    return Path(options.folder).expanduser(), options.copy, options.example


def _copy_fault(word: str) -> str:
    """Say what is wrong with GROUP/OPTION or GROUP/OPTION=NAME; "" if nothing is."""
    shipped, (group, _, option) = groups(), word.partition("=")[0].partition("/")
    if group not in shipped:
        return f"GROUP/OPTION is expected, and there is no group '{group}'; {nearest(group, shipped)}"
    if option not in shipped[group] or not _shipped(group, option).is_file():  # a published tokenizer has no file
        return f"there is no shipped {group} '{option}'; {nearest(option, shipped[group])}"
    name = _choice(word).partition("=")[2]
    if not name or not name.replace("-", "_").isidentifier() or name in shipped[group]:
        return f"the copy needs a name of its own, in letters, digits and _, not '{name}'"
    return ""


def _choice(word: str) -> str:
    """Return the setting that chooses a copy: ``encoder=my_transformer``."""
    option, _, name = word.partition("=")
    group, _, option = option.partition("/")
    return f"{group}={name or f'my_{option}'}"


def _copy(word: str) -> tuple[str, str]:
    """Return the place of a copy in the folder, and its text."""
    group, _, name = _choice(word).partition("=")
    option = word.partition("=")[0].partition("/")[2]
    return f"{group}/{name}.yaml", _shipped(group, option).read_text(encoding="utf-8")


def _shipped(group: str, option: str) -> Traversable:
    return resources.files("vsattn.conf") / group / f"{option}.yaml"


def _example(name: str) -> dict[str, str]:
    """Return the files of an example by their places in the folder."""
    home = resources.files("vsattn.examples")
    files = {f"adapters/{name}.py": home.joinpath(f"{name}.py").read_text(encoding="utf-8")}
    for group in ("data", "tokenizer", "experiment"):
        files[f"{group}/{name}.yaml"] = (home / "conf" / group / f"{name}.yaml").read_text(encoding="utf-8")
    return files


if __name__ == "__main__":
    sys.exit(main())
