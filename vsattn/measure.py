"""The command: ``python -m vsattn.measure ckpt=FOLDER split=val``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from vsattn.errors import ConfigError, DataError, ShapeError, nearest
from vsattn.extensions import using
from vsattn.run import guarded
from vsattn.words import SPLITS, count, free_folder, option, read_words

USAGE = """\
Measure what the attention of a trained model says, and how far it can be believed.

  python -m vsattn.measure ckpt=outputs/image/DATE_TIME              200 items of the validation split, everything
  python -m vsattn.measure ckpt=FOLDER split=test n=1000             more of another split
  python -m vsattn.measure ckpt=FOLDER what=heads,ablation           some of it
  python -m vsattn.measure ckpt=FOLDER output=FOLDER seed=1          where to, and other random choices

ckpt is a checkpoint or the folder of a run; what is any of these, of which those are left out that the model does not
allow, unless they are named:

  heads         entropy, mean distance and first-vector mass of each head
  ablation      change of the score when one head is silent, with an interval
  faithfulness  what happens to answers when the vectors that attention, rollout and relevance name are taken away,
                against random and evenly spaced ones
  alignment     alignment error rate of a translation model (data=numbers)
  pointing      how often each head points from a pronoun at the noun that it means (data=pronouns)

Tables are printed, and measure.json, heads.csv, faithfulness.csv, alignment.csv, heads.png and faithfulness.png written
to outputs/measure/DATE_TIME or where output says.

Options:
  -h, --help             show this and exit
  -cd, --config-dir DIR  a folder of your own classes; otherwise that of the variable VSATTN_CONFIG_DIR
"""

WHAT = ("heads", "ablation", "faithfulness", "alignment", "pointing")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0, 2 for words that cannot be done, 1 for any other failure, 130."""
    words = list(sys.argv[1:] if argv is None else argv)
    if any(word in ("-h", "--help") for word in words):
        print(USAGE, end="")
        return 0
    return guarded(lambda: _run(words), "vsattn.measure", refused=(ConfigError, ShapeError))


def _run(words: list[str]) -> None:
    words, folder = option(words, "-cd", "--config-dir")
    settings = read_words(words, ("ckpt",), ("split", "n", "what", "output", "seed"))
    split = settings.get("split", "val")
    what = settings["what"].split(",") if "what" in settings else list(WHAT)
    faults = [f"what={name}: there is no such measure; {nearest(name, WHAT)}" for name in what if name not in WHAT]
    if split not in SPLITS:
        faults.append(f"split={split}: there is no such split; {nearest(split, SPLITS)}")
    if faults:
        raise ConfigError("\n".join(faults))
    numbers = {"count": count("n", settings.get("n", "200"), 2), "seed": count("seed", settings.get("seed", "0"), 0)}
    with using(folder):
        from vsattn.checkpoint import load, locate

        ckpt = locate(settings["ckpt"])
        place = _folder(settings.get("output"))
        predictor = load(ckpt)
        print(f"model     {ckpt}", flush=True)

        from vsattn.tasks.measurement import measure

        measure(predictor, place, split=split, what=what, chosen="what" in settings, ckpt=str(ckpt), **numbers)


def _folder(given: str | None) -> Path:
    try:
        return free_folder(given, "measure")
    except DataError as error:
        raise DataError(str(error).replace("-o FOLDER", "output=FOLDER")) from None


if __name__ == "__main__":
    sys.exit(main())
