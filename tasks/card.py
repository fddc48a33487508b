"""The model card of a run: what the model is, what it learned from, how good it is, and what it is not for."""

from __future__ import annotations

import inspect
import json
from collections.abc import Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import yaml

from vsattn.build import resolve
from vsattn.errors import ConfigError

from .report import number, tables

#: What the sources of data sets say of their licence; of other data nothing is said but that it is not known.
LICENCES = {
    "Digits": "CC BY 4.0 (UCI Machine Learning Repository)",
    "DigitsGraph": "CC BY 4.0 (UCI Machine Learning Repository)",
    "FashionMNIST": "MIT",
    "FSDD": "CC BY-SA 4.0",
    "DigitStrings": "CC BY-SA 4.0",
    "SpeechCommands": "CC BY 4.0",
    "EnglishEWT": "CC BY-SA 4.0 for the annotations; for the texts see https://github.com/UniversalDependencies/UD_English-EWT",
    "Multi30k": "see the source, https://github.com/multi30k/dataset",
    "PythonSource": "PSF licence of Python",
}

#: Data sets that a program makes.
SYNTHETIC = ("Vowels", "VowelSequences", "VowelStrings", "NumberPhrases", "Toy")

#: What `predict` is given, by the task that trained the model.
ITEMS = {
    "ImageTask": '["picture.png"]',
    "LabelingTask": '[["Time", "flies", "like", "an", "arrow"]]',
    "SpeechTask": '["clip.wav"]',
    "RecognitionTask": '["recording.wav"]',
    "TranslationTask": '["ein Text"]',
    "NodeTask": "[vsattn.tokenizers.Graph(x, edge_index)]",
}

#: The parts of the config that say what the model is and how it learned.
EXCERPT = (
    "dim", "batch_size", "batch_vectors", "seed", "init_from", "freeze", "layer_decay", "data", "tokenizer",
    "positions", "encoder", "decoder", "head", "task", "optimizer", "schedule", "trainer",
)  # fmt: skip

#: Settings of a trainer that leave out a part of the data or of the training.
PARTIAL = ("fast_dev_run", "overfit_batches", "limit_train_batches", "limit_val_batches", "limit_test_batches")

#: More rows than this are left to metrics.json.
MOST_ROWS = 60


def write_card(folder: Path) -> Path:
    """Write ``MODEL_CARD.md`` into the folder of a run, from its ``metrics.json`` and ``config.yaml`` alone."""
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    path = folder / "MODEL_CARD.md"
    path.write_text(card(metrics, config), encoding="utf-8")
    return path


def card(metrics: dict[str, Any], config: dict[str, Any]) -> str:
    """Return the card, in Markdown; every number in it stands in ``metrics`` or ``config``."""
    config = without_folders(config)
    task, data = _name(config["task"]), _name(config["data"])
    parts = {
        "What it is": _model(metrics, config),
        "Data": _data(metrics, config),
        "Figures": _figures(metrics),
        "Training": _training(metrics),
        "Limits and intended use": _limits(metrics, config),
        "How to use it": _use(metrics, config),
        "Config": _config(config),
    }
    front = f"---\nlibrary_name: vsattn\ntags: [vsattn, attention, {task}]\n---\n"
    sections = [f"## {title}\n\n{text}\n" for title, text in parts.items()]
    return "\n".join([front, f"# {task} on {metrics.get('data/name', data)}\n", *sections])


def without_folders(value: Any) -> Any:
    """Return a config with nothing but the names of files and folders whose whole paths it holds."""
    if isinstance(value, dict):
        return {key: without_folders(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_folders(item) for item in value]
    if isinstance(value, str):
        for kind in (PurePosixPath, PureWindowsPath):
            if kind(value).is_absolute() or value.startswith("~"):
                return kind(value).name or value
    return value


def _model(metrics: dict[str, Any], config: dict[str, Any]) -> str:
    named = [config.get(part) for part in ("tokenizer", "positions", "encoder", "decoder", "head")]
    frozen, origin = metrics.get("parameters_frozen"), config.get("init_from")
    lines = [
        f"- Task: {_name(config['task'])}. {_said_of(config['task'])}",
        f"- Architecture: {' → '.join(_name(part) for part in named if part)}, vectors of width {config['dim']}",
        f"- Parameters: {metrics['parameters']:,}{f', and {frozen:,} that did not learn' if frozen else ''}",
        f"- Made with vsattn {metrics['versions/vsattn']}",
    ]
    if origin:
        lines.append(f"- Started from the weights of `{origin}`; what those learned from, this card does not say")
    return "\n".join(lines)


def _data(metrics: dict[str, Any], config: dict[str, Any]) -> str:
    name = _name(config["data"])
    sizes = [
        f"{metrics[f'data/{split}']:,} {split}" for split in ("train", "val", "test") if f"data/{split}" in metrics
    ]
    made = "yes, made by a program: no recording, text or picture of the world is in them"
    unknown = "not known to vsattn: ask whoever the data are from"
    lines = [
        f"- Name: {metrics.get('data/name', name)}. {_said_of(config['data'])}",
        f"- Items: {', '.join(sizes) or 'not counted'}",
        f"- Synthetic: {made if name in SYNTHETIC else 'not made by a program of vsattn'}",
        f"- Licence: {'none needed' if name in SYNTHETIC else LICENCES.get(name, unknown)}",
    ]
    return "\n".join(lines)


def _figures(metrics: dict[str, Any]) -> str:
    blocks = ["Measured once on the test split, with the weights that were best in validation."]
    if "best_epoch" not in metrics:
        blocks = ["Measured once on the test split, with the weights of the last step."]
    for heading, rows in tables(metrics):
        shown = rows[:MOST_ROWS]
        blocks.append(_table(heading, shown))
        if len(rows) > len(shown):
            blocks.append(f"{len(rows) - len(shown)} more rows stand in `metrics.json`.")
    if "floor/name" in metrics:
        values = [number(metrics[f"floor/accuracy{end}"]) for end in ("", "_low", "_high")]
        rows = [[str(metrics["floor/name"]), values[0], f"{values[1]} to {values[2]}"]]
        blocks += ["What a trivial baseline reaches on the same test split:"]
        blocks += [_table(["floor", _judged(metrics), "95% interval"], rows)]
    found = [[key, number(value)] for key, value in metrics.items() if key.startswith("val/")]
    if found:
        blocks += ["In validation:", _table(["val", "value"], found)]
    return "\n\n".join(blocks)


def _judged(metrics: dict[str, Any]) -> str:
    """Return the score that the trivial baseline is measured by: right answers, or texts written without a fault."""
    return "accuracy" if "test/accuracy" in metrics else "exact"


def _training(metrics: dict[str, Any]) -> str:
    rows = [
        [title, f"{metrics[key]:.1f}" if isinstance(metrics[key], float) else str(metrics[key])]
        for title, key in (
            ("epochs", "epochs"),
            ("best epoch", "best_epoch"),
            ("seconds in all", "wall_seconds"),
            ("peak memory, MB", "peak_memory_mb"),
            ("device", "device"),
            ("seed", "seed"),
            ("system", "platform"),
            ("git revision", "git_revision"),
        )
        if metrics.get(key) is not None
    ]
    rows += [[key.removeprefix("versions/"), value] for key, value in metrics.items() if key.startswith("versions/")]
    return _table(["", "value"], rows)


def _limits(metrics: dict[str, Any], config: dict[str, Any]) -> str:
    name = metrics.get("data/name", _name(config["data"]))
    lines = [
        f"The figures hold for items like those of the test split of {name}. Nothing else was tested: no other data, "
        "no other sources, devices, languages or conditions, no inputs made to mislead it.",
        "It is one run with one seed. The intervals say how sure a figure is for the items that were drawn, not how "
        "another training would come out.",
        "It was made to learn, compare and try things out. Whether it treats groups of people alike was not tested, "
        "and it is not meant for decisions about people.",
        "It answers whatever it is given, things that are none of its classes too; its probabilities were not "
        "calibrated.",
    ]
    if _name(config["data"]) in SYNTHETIC:
        lines.append("The data are synthetic: how it does on real ones is not known.")
    low, high = (metrics.get(f"test/{_judged(metrics)}_{end}") for end in ("low", "high"))
    if low is not None and high is not None and "floor/name" in metrics and low <= metrics["floor/accuracy_high"]:
        worse, alike = "worse than the trivial baseline above", "not clearly better than the trivial baseline above"
        lines.append(f"It is {worse if high < metrics['floor/accuracy_low'] else f'{alike}: their intervals overlap'}.")
    part = [f"{key}={config['trainer'][key]}" for key in PARTIAL if (config.get("trainer") or {}).get(key)]
    if part:
        lines.append(f"Training or testing saw only a part ({', '.join(part)}): this is a trial and no model to use.")
    return "\n".join(f"- {line}" for line in lines)


def _use(metrics: dict[str, Any], config: dict[str, Any]) -> str:
    if "best_epoch" not in metrics:
        return "No best checkpoint was kept by this run."
    items = ITEMS.get(_name(config["task"]), "[item]")
    return (
        "In the folder of this file, with vsattn installed:\n\n"
        "```sh\npython -m vsattn.predict ckpt=. input=FILE\n```\n\n"
        f'```python\nimport vsattn\n\nmodel = vsattn.load(".")\nprint(model.predict({items}))\n```\n\n'
        "`python -m vsattn.export ckpt=. output=model.onnx` makes a file that runs without vsattn, or says why not."
    )


def _config(config: dict[str, Any]) -> str:
    excerpt = {name: config[name] for name in EXCERPT if config.get(name) is not None}
    text = yaml.safe_dump(excerpt, sort_keys=False, allow_unicode=True)
    return f"An excerpt; all of it is in `config.yaml`.\n\n```yaml\n{text}```"


def _name(part: dict[str, Any]) -> str:
    return str(part["_target_"]).rsplit(".", 1)[-1]


def _said_of(part: dict[str, Any]) -> str:
    """Return the first paragraph of what a class says of itself."""
    try:
        text = inspect.getdoc(resolve(part["_target_"])) or ""
    except ConfigError:  # of an adapter that is not here
        return ""
    paragraph = " ".join(text.split("\n\n")[0].split())
    return paragraph.replace("``", "`")


def _table(heading: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [list(heading), ["---"] * len(heading), *rows]
    return "\n".join(f"| {' | '.join(_cell(cell) for cell in line)} |" for line in lines)


def _cell(value: Any) -> str:
    return " ".join(str(value).split()).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")
