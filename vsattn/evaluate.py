"""The command: ``python -m vsattn.evaluate ckpt=FOLDER split=val``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from vsattn.errors import CheckpointError, ConfigError, DataError, ShapeError
from vsattn.extensions import groups, using
from vsattn.run import guarded
from vsattn.words import count, option, read_words, split_of

USAGE = """\
Judge a trained model: on any split of its data, or on other data of the same kind.

  python -m vsattn.evaluate ckpt=outputs/image/DATE_TIME             the test split again, as the run did
  python -m vsattn.evaluate ckpt=FOLDER split=val output=val.json    split=test, val or train
  python -m vsattn.evaluate ckpt=FOLDER data.root=PICTURES           its data with another setting
  python -m vsattn.evaluate ckpt=FOLDER data=image_folder data.root=PICTURES
  python -m vsattn.evaluate ckpt=FOLDER,FOLDER                       several models, their probabilities averaged
  python -m vsattn.evaluate ckpt=FOLDER task.beam_width=1 batch_size=8 device=cuda

ckpt is a checkpoint or the folder of a run, whose config holds but for what is said here: data=OPTION, data.KEY=VALUE,
paths.data=FOLDER (with data=OPTION) and task.KEY=VALUE as for a run, batch_size=N, num_workers=N, device=cpu, cuda or
cuda:N. Classes are matched by their names.

Options:
  -h, --help             show this and exit
  -cd, --config-dir DIR  a folder of your own config files; otherwise that of the variable VSATTN_CONFIG_DIR
"""

#: Settings of this command alone.
OWN = ("split", "output", "batch_size", "num_workers", "device")
#: Parts of a run's config that can be changed here.
OPEN = ("data", "task", "paths")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0, 2 for words that cannot be done, 1 for any other failure, 130."""
    words = list(sys.argv[1:] if argv is None else argv)
    if any(word in ("-h", "--help") for word in words):
        print(USAGE, end="")
        return 0
    return guarded(lambda: _run(words), "vsattn.evaluate", refused=(ConfigError, ShapeError))


def _run(words: list[str]) -> None:
    words, folder = option(words, "-cd", "--config-dir")
    with using(folder) as config_dir:
        _evaluate(words, config_dir)


def _evaluate(words: list[str], config_dir: Path | None) -> None:
    changes = [word for word in words if _root(word) in OPEN]
    settings = read_words(_refuse_parts([word for word in words if word not in changes]), ("ckpt",), OWN)
    split = split_of(settings, "test")
    numbers: dict[str, Any] = {
        name: count(name, settings[name], least)
        for name, least in (("batch_size", 1), ("num_workers", 0))
        if name in settings
    }

    from vsattn.checkpoint import locate
    from vsattn.ensemble import load_together, names_of

    ckpt = ", ".join(str(locate(name)) for name in names_of(settings["ckpt"]))
    predictor = load_together(settings["ckpt"])
    lacking = [name for name in ("data", "task", "seed", "batch_size", "trainer") if name not in predictor.config]
    if lacking:
        raise CheckpointError(f"{ckpt} does not say by which {lacking[0]} it was trained; use vsattn.load in Python")
    config = _changed(predictor.config, changes, config_dir)
    config.update(numbers)
    config["trainer"] = {**config["trainer"], **_device(settings.get("device"))}

    from vsattn.tasks.evaluation import evaluate
    from vsattn.tasks.report import show_tables, write_metrics

    print(f"model     {ckpt}", flush=True)
    found = evaluate(predictor, config, split=split, named=any(_root(word) == "data" for word in changes))
    show_tables(found, split)
    if "output" in settings:
        metrics = {f"{split}/{name.removeprefix('test/')}": value for name, value in found.items()}
        about = {"checkpoint": str(ckpt), "split": split, "seed": config["seed"], "data": config["data"]["_target_"]}
        try:
            write_metrics({**metrics, **about}, Path(settings["output"]))
        except OSError as error:
            raise DataError(f"{settings['output']} cannot be written: {error.strerror or error}") from error


def _changed(config: dict[str, Any], changes: list[str], config_dir: Path | None) -> dict[str, Any]:
    """Return the run's config with other data or settings of its task."""
    from vsattn.compose import overlay, plain_config

    faults: list[str] = []
    if any(_root(word) == "data" and "." not in word.partition("=")[0] for word in changes):
        own = [word for word in changes if _root(word) != "task"]
        name = _task_option(config["task"]["_target_"], config_dir)
        composed, faults = plain_config([*([f"task={name}"] if name else []), *own], config_dir=config_dir)
        config, changes = {**config, "data": composed["data"]}, [word for word in changes if _root(word) == "task"]
    faults += [f"{word}: goes with data=OPTION; here set data.root" for word in changes if _root(word) == "paths"]
    config, more = overlay(config, [word for word in changes if _root(word) != "paths"])
    if faults or more:
        raise ConfigError("\n".join([*faults, *more]))
    return config


def _task_option(target: str, config_dir: Path | None) -> str | None:
    """Return the option of the group ``task`` that names this class, whose data a data set's file may refer to."""
    import yaml

    roots: list[Any] = [resources.files("vsattn.conf"), *([] if config_dir is None else [config_dir])]
    for root in roots:
        for file in root.joinpath("task").iterdir() if root.joinpath("task").is_dir() else ():
            held = yaml.safe_load(file.read_text(encoding="utf-8")) if file.name.endswith(".yaml") else None
            if isinstance(held, dict) and (held.get("task") or held).get("_target_") == target:
                return file.name.removesuffix(".yaml")
    return None


def _refuse_parts(words: list[str]) -> list[str]:
    """Return the words that change nothing of the run's config, or raise ConfigError for those that do."""
    known = {*groups(), "trainer", "dim", "seed", "num_threads", "batch_vectors"}
    faults = [
        f"{word}: the model and its training are done; here the data can change (data=OPTION, data.KEY=VALUE), and "
        "vsattn.run trains another model"
        for word in words
        if _root(word) in known
    ]
    if faults:
        raise ConfigError("\n".join(faults))
    return words


def _root(word: str) -> str:
    """Return the first name of a key: data of ``+data.root=x``."""
    return word.partition("=")[0].lstrip("+~").split(".")[0].split("@")[0]


def _device(name: str | None) -> dict[str, Any]:
    """Return the trainer's arguments for a device."""
    kind, _, number = (name or "").partition(":")
    if name is None:
        return {}
    if kind not in ("cpu", "cuda", "mps") or (number and not number.isdecimal()):
        raise ConfigError(f"device={name}: cpu, cuda, cuda:N or mps is expected")
    return {"accelerator": "gpu" if kind == "cuda" else kind, "devices": [int(number)] if number else 1}


if __name__ == "__main__":
    sys.exit(main())
