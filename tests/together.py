"""Small trainings, run by one process or by two (``torchrun --nproc-per-node 2 tests/together.py FOLDER NAME...``)."""

from __future__ import annotations

import contextlib
import random
import sys
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging

from tests.tiny import config
from vsattn.build import allow_package, build
from vsattn.errors import DataError, Stopped
from vsattn.run import guarded
from vsattn.tasks.callbacks import Checkpoints
from vsattn.tasks.data.base import Data
from vsattn.tasks.experiment import make_task, parts, prepare
from vsattn.tasks.training import train
from vsattn.tokenizers.base import Tokenizer

allow_package("tests")
PARTIAL = {"_partial_": True}
SGD = {"_target_": "torch.optim.SGD", **PARTIAL, "lr": 0.05, "momentum": 0.9}
SHARDED = {"_target_": "lightning.pytorch.strategies.ModelParallelStrategy", "save_distributed_checkpoint": False}


class Few(Data):
    """The first items of another data set."""

    def __init__(self, data: Data, sizes: list[int]) -> None:
        super().__init__()
        self.whole, self.sizes = data, sizes

    def setup(self, seed: int) -> None:
        self.whole.setup(seed)
        self.classes = self.whole.classes
        for split, size in zip(("train", "val", "test"), self.sizes, strict=True):
            setattr(self, split, [getattr(self.whole, split)[i] for i in range(size)])


class Broken(Few):
    """One of whose items cannot be read, by the process that has it in its share."""

    def setup(self, seed: int) -> None:
        super().setup(seed)
        self.train = Unreadable(self.train)


class Unreadable(list[Any]):
    """A list whose item 7 cannot be read."""

    def __getitem__(self, index: Any) -> Any:
        if index == 7:
            raise DataError("item 7 cannot be read")
        return super().__getitem__(index)


class StopAt(Callback):
    """Asks a training to end after a step, as a signal to one of its processes does."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        (saver,) = (callback for callback in trainer.callbacks if isinstance(callback, Checkpoints))
        saver.request.number = 15 * (trainer.global_step >= self.step and trainer.global_rank == 1)


class Letters(Data):
    """Strings of letters of very different lengths; the label of each says whether the one before it is the same."""

    def setup(self, seed: int) -> None:
        self.classes = ["other", "same"]
        drawn, pairs = random.Random(seed), []
        for _ in range(40):
            letters = [drawn.choice("abc") for _ in range(drawn.choice([1, 2, 3, 9, 17]))]
            pairs.append((letters, [int(a == b) for a, b in zip(letters, ["", *letters[:-1]], strict=True)]))
        self.train, self.val, self.test = pairs[:23], pairs[23:30], pairs[30:]

    def lengths(self, split: str) -> list[int]:
        return [len(item) for item, _ in getattr(self, split)]


DIGITS = {"_target_": "tests.together.Few", "data": config()["data"], "sizes": [23, 12, 9]}
TRANSFORMER = {"_target_": "vsattn.encoders.TransformerEncoder", "num_layers": 2, "num_heads": 2, "dropout": 0.0}
TEXT = {"_target_": "vsattn.tokenizers.Text", "model": "words", "vocab_size": None, "min_count": 1, "split": "spaces"}
#: Batches of 11: the last one of training has a single item, and of validation too.
CASES: dict[str, dict[str, Any]] = {
    "image": {"data": DIGITS, "tokenizer": {"_target_": "vsattn.tokenizers.Patches", "patch_size": 2}},
    "batch_norm": {"data": DIGITS},
    "labeling": {
        "task": {"_target_": "vsattn.tasks.labeling.LabelingTask"},
        "data": {"_target_": "tests.together.Letters"},
        "tokenizer": {"_target_": "vsattn.tokenizers.Words", "min_count": 1, "dropout": 0.0},
        "head": {"_target_": "vsattn.heads.VectorHead"},
        "batch_vectors": 40,
    },
    "node": {  # one graph: the second process is idle
        "task": {"_target_": "vsattn.tasks.node.NodeTask"},
        "data": {"_target_": "vsattn.tasks.data.graphs.Karate"},
        "tokenizer": {"_target_": "vsattn.tokenizers.GraphNodes"},
        "positions": None,
        "encoder": {**TRANSFORMER, "norm": {"_target_": "vsattn.layers.BatchNorm", **PARTIAL}},
        "head": {"_target_": "vsattn.heads.VectorHead"},
    },
    "translation": {
        "task": {"_target_": "vsattn.tasks.translation.TranslationTask", "label_smoothing": 0.1},
        "data": {"_target_": "vsattn.tasks.data.toys.Toy", "strings": [25, 5, 5], "length": [1, 4], "letters": 3},
        "tokenizer": {"_target_": "vsattn.tokenizers.TextPairs", "source": TEXT, "target": TEXT},
        "encoder": {**TRANSFORMER, "num_layers": 1},
        "decoder": {"_target_": "vsattn.decoders.TransformerDecoder", "num_layers": 1, "num_heads": 2},
        "head": {"_target_": "vsattn.heads.TiedHead"},
    },
}
CASES["resumed"] = CASES["image"]  # by two processes: after a stop in the second epoch
CASES["accumulated"] = {**CASES["image"], "trainer": {"accumulate_grad_batches": 2}}
#: With the weights spread over the processes, which is done in single precision alone.
SPREAD = {"trainer": {"strategy": SHARDED, "precision": "32-true"}}
CASES |= {f"{name}_sharded": {**CASES[name], **SPREAD} for name in ("batch_norm", "translation", "resumed")}
NOT_A_CASE = {"broken": {**CASES["image"], "data": {**DIGITS, "_target_": "tests.together.Broken"}}}


def run(name: str, folder: Path, *, average: bool = False, **trainer: Any) -> dict[str, Any]:
    """Train one of the cases, and return weights, rows and metrics; one process alone, unless more are asked for."""
    world = 2 if torch.distributed.is_torchelastic_launched() or name == "broken" else trainer.get("devices", 1)
    more = dict({**CASES, **NOT_A_CASE}[name])
    given = {"accelerator": "cpu", "devices": world, "max_epochs": 3, "precision": "64-true", **more.pop("trainer", {})}
    if world == 1 and not average:
        given.pop("strategy", None)
    given |= trainer
    settings = config(**{"encoder": TRANSFORMER, "batch_size": 11, "optimizer": SGD, "schedule": None} | more)
    if name.startswith("resumed") and world == 2:
        with contextlib.suppress(Stopped, SystemExit):  # the second process leaves without a word
            _train(settings, given, folder / name, [StopAt(5)])
        return _train(settings, given, folder / name, [], resume=folder / name / "checkpoints" / "last.ckpt")
    return _train(settings, given, folder / f"{name}_{world}", [EMAWeightAveraging()] if average else [])


def _train(
    settings: dict[str, Any], trainer: dict[str, Any], folder: Path, more: list[Callback], **options: Any
) -> Any:
    prepare(settings)
    data: Data = build(settings["data"], Data)
    data.setup(0)
    tokenizer: Tokenizer = build(settings["tokenizer"], Tokenizer).fit(data.fit_items(1000))
    task = make_task(settings, data, tokenizer)
    callbacks = parts(settings["callbacks"], object, "callbacks", dirpath=str(folder / "checkpoints")) + more
    options |= {"batch_size": 11, "batch_vectors": settings.get("batch_vectors"), "callbacks": callbacks}
    result = train(task, data, folder=folder, trainer={"gradient_clip_val": 0.5, **trainer}, seed=0, **options)
    return {"weights": task.state_dict(), "rows": result.rows, "metrics": result.metrics}


def main() -> None:
    """Train the named cases, and let the first process save what came out."""
    out = Path(sys.argv[1])
    for case in sys.argv[2:]:
        found = run(case, out)
        if torch.distributed.get_rank() == 0:
            torch.save(found, out / f"{case}.pt")


if __name__ == "__main__":
    sys.exit(guarded(main, "together"))
