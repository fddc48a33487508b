"""The command: ``python -m vsattn.export ckpt=FOLDER output=model.onnx``."""

from __future__ import annotations

import json
import math
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vsattn.errors import ConfigError, DataError, VsattnError, nearest
from vsattn.run import guarded
from vsattn.words import read_words

if TYPE_CHECKING:
    from vsattn.exporting.program import Run
    from vsattn.predictor import Predictor
    from vsattn.tasks.judging import Judge

USAGE = """\
Make a file of a trained model that runs without vsattn, and check it against the model.

  python -m vsattn.export ckpt=outputs/image/DATE_TIME output=model.pt2       a program of torch.export
  python -m vsattn.export ckpt=FOLDER output=model.onnx                       ONNX
  python -m vsattn.export ckpt=FOLDER output=small.onnx format=int8           ONNX with weights of 8 bits

The file takes the tensors that the model's tokenizer makes of a batch, of any number of items of any length, and gives
logits. Beside it lies FILE.json: inputs, outputs, classes, and what the tokenizer has learned. Before either is there,
the file is loaded anew and compared with the model, on made-up items in two other numbers and lengths than it was made
with, and on items of the run's data where they are found. What int8 loses is measured on them.

Settings:
  format=torch|onnx|int8     what output ends in says it, .pt2 or .onnx; int8 is asked for
  split=val|test|train|none  of the run's data, for the check and for the accuracy; none looks for no data
  length=N                   of the longest item that the model is traced with, see limits in the output
  tolerance=X                largest difference of logits, 1e-4, in units of the largest logit where that is above 1
  overwrite=true             replace what is there
"""

#: What a file is, by how its name ends.
SUFFIXES = {".pt2": "torch", ".onnx": "onnx"}
FORMATS, SPLITS = ("torch", "onnx", "int8"), ("train", "val", "test", "none")


@dataclass(frozen=True)
class Settings:
    """What the command was told."""

    ckpt: str
    output: Path
    format: str
    split: str = "val"
    length: int | None = None
    tolerance: float = 1e-4


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0, 2 for words that mean nothing, 1 for any other failure, 130."""
    words = list(sys.argv[1:] if argv is None else argv)
    if any(word in ("-h", "--help") for word in words):
        print(USAGE, end="")
        return 0
    return guarded(lambda: _export(read_settings(words)), "vsattn.export")


def read_settings(words: Sequence[str]) -> Settings:
    """Return the settings that words mean.

    Raises:
        ConfigError: for words that mean nothing, and for a file that is there already.
    """
    optional = ("format", "split", "length", "tolerance", "overwrite")
    given = read_words(words, ("ckpt", "output"), optional)
    output = Path(given["output"])
    form = given.get("format") or SUFFIXES.get(output.suffix)
    suffix = ".pt2" if form == "torch" else ".onnx"
    faults = []
    if form not in FORMATS:
        known = nearest(str(form), FORMATS) if form else "end it in .pt2 or .onnx, or say format=torch, onnx or int8"
        faults.append(f"{'format' if form else 'output'}: {form or output}: {known}")
    elif output.suffix != suffix:
        faults.append(f"output: {output}: a file of format={form} ends in {suffix}")
    if (split := given.get("split", "val")) not in SPLITS:
        faults.append(f"split: {split}: {nearest(split, SPLITS)}")
    if (overwrite := given.get("overwrite", "false")) not in ("true", "false"):
        faults.append(f"overwrite: is true or false, not {overwrite}")
    length = given.get("length")
    if length is not None and (not length.isdecimal() or int(length) < 4):
        faults.append(f"length: is a whole number of at least 4, not {length}")
    tolerance = _number(given.get("tolerance", "1e-4"))
    if not 0 < tolerance < math.inf:
        faults.append(f"tolerance: is a number above 0, not {given['tolerance']}")
    if folders := [str(path) for path in (output, notes_of(output)) if path.is_dir()]:
        faults.append(f"output: {' and '.join(folders)}: is a folder; choose another name")
    taken = [str(path) for path in (output, notes_of(output)) if path.is_file()]
    if taken and overwrite != "true":
        faults.append(f"output: {' and '.join(taken)}: there already; choose another name, or say overwrite=true")
    if faults:
        raise ConfigError("\n".join(faults))
    return Settings(given["ckpt"], output, str(form), split, None if length is None else int(length), tolerance)


def notes_of(output: Path) -> Path:
    """Return the file beside an exported one that describes it."""
    return output.with_name(f"{output.name}.json")


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _export(settings: Settings) -> None:
    if settings.format != "torch":
        from vsattn.exporting.onnx import require

        require()
    from vsattn.checkpoint import load
    from vsattn.exporting.description import describe
    from vsattn.exporting.program import export_program

    predictor = load(settings.ckpt)
    judge = _judge(settings, predictor)
    program = export_program(predictor, length=settings.length)
    notes = describe(predictor, program)
    for name in ("inputs", "outputs"):
        print(f"{name:8} {', '.join(f'{key} {_shape(value)}' for key, value in notes[name].items())}")
    for name, (low, high) in notes["limits"].items():
        most = "" if high is None else f"at most {high}"
        print(f"limits   {name} {' and '.join(filter(None, [f'at least {low}' if low > 1 else '', most]))}")
    print(f"meaning  {notes['meaning']}", flush=True)
    output = settings.output
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=output.parent, prefix=".export-") as folder:
            made = Path(folder) / output.name
            _write(settings, predictor, program, notes, made, judge)
            notes_of(made).write_text(json.dumps(notes, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
            for path in (notes_of(made), made):
                os.replace(path, output.with_name(path.name))
    except OSError as error:
        raise DataError(f"{output} cannot be written: {error.strerror or error}") from error
    print(f"written  {output} ({_megabytes(output)}), and {notes_of(output).name} with what its user must know")


def _write(
    settings: Settings, predictor: Predictor, program: Any, notes: dict[str, Any], made: Path, judge: Judge | None
) -> None:
    """Write the file and check it."""
    from vsattn.exporting.onnx import load_onnx, quantize, to_onnx
    from vsattn.exporting.program import load_program, save_program

    if settings.format == "torch":
        save_program(program, made, notes)
        _check(load_program(made)[0], settings, predictor, notes, judge)
        return
    whole = made if settings.format == "onnx" else made.with_name("whole.onnx")
    to_onnx(program, whole, notes)
    run = load_onnx(whole)[0]
    _check(run, settings, predictor, notes, judge)
    if settings.format == "int8":
        quantize(whole, made)
        _lost(settings, predictor, run, load_onnx(made)[0], (whole, made), judge, notes)


def _judge(settings: Settings, predictor: Predictor) -> Judge | None:
    """Return what judges by the run's own data, or None without them, which is said."""
    if settings.split == "none":
        return None
    from vsattn.tasks.judging import Judge

    try:
        return Judge.of(predictor, settings.split)
    except (DataError, ConfigError) as error:  # also of a class that is not here
        if settings.format == "int8":
            raise DataError(
                f"what int8 loses cannot be measured: {error}; to go without a measurement, say split=none"
            ) from error
        print(f"check    on made-up items alone, for the run's data are not here: {error}", flush=True)
    return None


def _check(run: Run, settings: Settings, predictor: Predictor, notes: dict[str, Any], judge: Judge | None) -> None:
    """Compare a program with its model, and say how far they are apart.

    Raises:
        VsattnError: when that is too far.
    """
    from vsattn.exporting.check import difference, made_up_differences

    found = [
        ("made-up items", one) for one in made_up_differences(run, predictor, notes["limits"], length=settings.length)
    ]
    if judge is not None:
        found.append((f"items of the {settings.split} split", difference(run, predictor, next(judge.batches()))))
    for name, one in found:
        print(f"check    {name}, {one.shapes}: differs by {one.largest:.1e}, logits up to {one.scale:.1f}", flush=True)
    wrong = [one for _, one in found if not one.within(settings.tolerance)]
    if wrong:
        raise VsattnError(
            f"the {settings.format} file does not answer as the model: on {wrong[0].shapes} logits differ by "
            f"{wrong[0].largest:.2e}, and tolerance={settings.tolerance:g} is allowed; no file was written"
        )


def _lost(
    settings: Settings,
    predictor: Predictor,
    whole: Run,
    small: Run,
    files: tuple[Path, Path],
    judge: Judge | None,
    notes: dict[str, Any],
) -> None:
    """Measure what 8 bits lose, print it, and note it."""
    from vsattn.exporting.check import made_up_differences
    from vsattn.exporting.program import program_inputs

    for one in made_up_differences(small, predictor, notes["limits"], length=settings.length):
        print(f"int8     made-up items, {one.shapes}: differs by {one.largest:.1e}, logits up to {one.scale:.1f}")
        if not math.isfinite(one.largest):
            raise VsattnError("the int8 file gives no finite numbers, or other vectors; no file was written")
    sizes = [_megabytes(path) for path in files]
    rows = [["", "float32", "int8", "change"], ["file", *sizes, ""]]
    if judge is None:
        print("int8     what it loses was not measured: split=none", flush=True)
    else:
        measured = [
            judge.measure(lambda batch, run=run: run(program_inputs(predictor.tokenizer, batch))[0])  # type: ignore[misc]
            for run in (whole, small)
        ]
        (before, slow), (after, quick) = measured
        for name in before:
            change = after[name] - before[name]
            rows.append([f"{settings.split}/{name}", f"{before[name]:.4f}", f"{after[name]:.4f}", f"{change:+.4f}"])
        rows.append(["ms per item", f"{slow:.3f}", f"{quick:.3f}", f"x {quick / slow:.2f}"])
        notes["int8"] = {
            "split": settings.split, "items": len(judge.pairs), "float32": before, "int8": after
        }  # fmt: skip
    from vsattn.tasks.report import aligned

    print("\n".join(f"int8     {line}" for line in aligned(rows)), flush=True)


def _shape(tensor: dict[str, Any]) -> str:
    return f"({', '.join(map(str, tensor['shape']))}) {tensor['type']}"


def _megabytes(path: Path) -> str:
    return f"{path.stat().st_size / 1e6:.2f} MB"


if __name__ == "__main__":
    sys.exit(main())
