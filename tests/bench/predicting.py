"""Files per second by the command `predict`, beside plain forward passes on batches that are in memory already.

  python tests/bench/predicting.py [--kinds sound,pictures] [--files 1000] [--rounds 5] [--batch-size 32] [--dim 128]

Clips are 0.4 to 2 s of noise at 16 kHz in WAV; pictures are 224 x 224 in PNG, read at 64 x 64. The models are those of
task=speech and of task=image with patches of 8 x 8, with random weights. Candidates take turns; one file at a time is
timed on a tenth of them. Cores are user and system time, of all threads and processes, over wall time.
"""

from __future__ import annotations

import argparse
import io
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from measure import hardware
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from vsattn.build import build, resolve
from vsattn.compose import plain_config
from vsattn.model import build_model
from vsattn.predict import _answer, _Answers, _asked
from vsattn.predictor import Job, Predictor, _jobs
from vsattn.tokenizers.base import Tokenizer

WORDS = {
    "sound": ["task=speech"],
    "pictures": ["task=image", "tokenizer=patches", "tokenizer.size=64", "tokenizer.patch_size=8"],
}


def write_files(kind: str, folder: Path, count: int) -> list[Path]:
    """Write files, and return their paths."""
    draw, paths = np.random.default_rng(0), []
    for i in range(count):
        if kind == "sound":
            paths.append(folder / f"{i:05}.wav")
            samples = draw.normal(scale=0.1, size=int(draw.uniform(0.4, 2) * 16000))
            soundfile.write(paths[-1], samples, 16000, subtype="PCM_16")
        else:
            paths.append(folder / f"{i:05}.png")
            blocks = Image.fromarray(draw.integers(0, 255, (14, 14, 3), dtype=np.uint8))
            blocks.resize((224, 224), Image.Resampling.BICUBIC).save(paths[-1])
    return paths


def untrained(kind: str, dim: int, paths: list[Path]) -> Predictor:
    """Make a model with random weights, of 10 classes."""
    config, faults = plain_config([f"dim={dim}", *WORDS[kind]])
    assert not faults
    tokenizer: Any = build(config["tokenizer"], Tokenizer, path="tokenizer").fit(paths[:100])
    torch.manual_seed(0)
    model = build_model(config, tokenizer, num_classes=10)
    return Predictor(model, tokenizer, [f"class {i}" for i in range(10)], config=config)


class Batches:
    """What loader processes collate, a batch for each index."""

    def __init__(self, tokenizer: Tokenizer, jobs: list[Job]) -> None:
        self.tokenizer, self.jobs = tokenizer, jobs

    def __len__(self) -> int:
        return len(self.jobs)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return self.tokenizer.collate([item for _, item in self.jobs[index]])


def candidates(predictor: Predictor, paths: list[Path], batch_size: int, cores: int) -> dict[str, tuple[int, Any]]:
    """Return for each candidate how many files it answers for, and what does it."""
    batches = Batches(predictor.tokenizer, list(_jobs(paths, batch_size)))
    held = [batches[i] for i in range(len(batches))]
    task = resolve(predictor.config["task"]["_target_"])

    @torch.inference_mode()
    def forward(given: Any) -> None:
        for batch in given:
            predictor.model(batch).softmax(-1)

    def command(num_workers: int) -> Callable[[], None]:
        def run() -> None:
            options = {"batch_size": batch_size, "num_workers": num_workers}
            asked = _asked(predictor, task.questions(predictor, [paths[0].parent]), options)
            answers = _Answers(predictor, task, "csv", io.StringIO(), every_class=False)
            assert _answer(asked, answers, live=False) == 0

        return run

    def processes() -> Iterator[dict[str, Tensor]]:
        return iter(DataLoader(batches, batch_size=None, num_workers=cores))  # type: ignore[arg-type]

    few = paths[:: max(1, len(paths) // 100)]
    return {
        "forward alone, in memory": (len(paths), lambda: forward(held)),
        f"predict, {cores} threads": (len(paths), command(cores)),
        "predict, no threads": (len(paths), command(0)),
        f"forward, {cores} processes read": (len(paths), lambda: forward(processes())),
        "one file at a time": (len(few), lambda: [predictor.predict([path]) for path in few]),
    }


def used() -> float:
    """Return the seconds that processors have worked for this process and those it started and ended."""
    own, others = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + others.ru_utime + others.ru_stime


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", default="sound,pictures")
    parser.add_argument("--files", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--dim", type=int, default=128)
    options = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    print(f"{hardware()}; {cores} cores")
    for kind in options.kinds.split(","):
        with tempfile.TemporaryDirectory() as folder:
            paths = write_files(kind, Path(folder), options.files)
            predictor = untrained(kind, options.dim, paths)
            size = sum(p.numel() for p in predictor.model.parameters())
            print(f"{kind}: {len(paths)} files, {size:,} parameters, batches of {options.batch_size}", flush=True)
            chosen = candidates(predictor, paths, options.batch_size, cores)
            found: dict[str, list[tuple[float, float]]] = {name: [] for name in chosen}
            for turn in range(options.rounds + 1):
                for name, (count, run) in chosen.items():
                    before, start = used(), time.perf_counter()
                    run()
                    wall = time.perf_counter() - start
                    if turn:  # the first is to warm up
                        found[name].append((count / wall, (used() - before) / wall))
            base = statistics.median(speed for speed, _ in found["forward alone, in memory"])
            for name, rows in found.items():
                speeds, busy = zip(*rows, strict=True)
                middle, low, high = statistics.median(speeds), min(speeds), max(speeds)
                print(
                    f"  {name:28} {middle:7.1f} files/s ({low:.1f} to {high:.1f})  {middle / base:5.2f} of forward  "
                    f"{statistics.median(busy):.2f} cores",
                    flush=True,
                )


if __name__ == "__main__":
    main()
