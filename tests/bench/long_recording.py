"""A long recording labelled vector by vector: `python tests/bench/long_recording.py` prints the README's table.

Windowed attention on the whole at once, and chunk by chunk as the sound comes. Each cell is measured in a fresh
process: the time, and the peak of memory above what was held when the sound was there and the model was made.
"""

from __future__ import annotations

import argparse
import gc
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import torch

from vsattn.attention import MultiHeadAttention
from vsattn.encoders import TransformerEncoder
from vsattn.heads import VectorHead
from vsattn.model import Model
from vsattn.positions import Sinusoidal
from vsattn.predictor import Predictor
from vsattn.streaming_audio import StreamingAudio
from vsattn.structure import Window
from vsattn.tasks.data.vowels import VowelSequences
from vsattn.tokenizers import AudioFrames

MINUTES = (3.75, 7.5, 15.0, 30.0)
RATE, CHUNK = 8000, 8000  # a second at a time


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--one", nargs=2, metavar=("WAY", "MINUTES"), help="measure one cell, here")
    parser.add_argument("--window", type=int, default=64, help="vectors of 20 ms to the left and to the right")
    options = parser.parse_args()
    if options.one:
        print(*measure(options.one[0], float(options.one[1]), options.window))
        return
    print(f"window {options.window} + {options.window}, {torch.get_num_threads()} threads")
    print("| minutes | vectors | offline s | offline MB | streaming s | streaming MB |\n|---|---|---|---|---|---|")
    for minutes in MINUTES:
        cells: list[str] = []
        for way in ("offline", "streaming"):
            words = [sys.executable, __file__, "--one", way, str(minutes), "--window", str(options.window)]
            done = subprocess.run(words, capture_output=True, text=True, check=True)
            vectors, seconds, megabytes = map(float, done.stdout.split()[-3:])
            cells += [f"{seconds:.1f}", f"{megabytes:.0f}"]
        print(f"| {minutes:g} | {vectors:,.0f} | {' | '.join(cells)} |", flush=True)


def measure(way: str, minutes: float, window: int) -> tuple[int, float, float]:
    """Return the number of vectors, seconds, and megabytes at the peak."""
    torch.manual_seed(0)
    samples, predictor = sound(minutes), made(window)
    labels = {"offline": whole, "streaming": chunks}[way]
    labels(predictor, samples[: 2 * RATE])  # what is made once, at the first use
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before, start = held("VmRSS"), time.perf_counter()
    count = labels(predictor, samples)
    return count, time.perf_counter() - start, held("VmHWM") - before


def sound(minutes: float) -> torch.Tensor:
    """Return synthetic vowels and pauses, repeated to the length."""
    data = VowelSequences(speakers=(10, 1, 1), takes=4)
    data.setup(0)
    spoken = torch.cat(list(data.train.samples))
    count = int(minutes * 60 * RATE)
    return spoken.repeat(-(-count // len(spoken)))[:count].clone()


def made(window: int) -> Predictor:
    """Return a model with weights as drawn: time and memory are those of a trained one."""
    tokenizer = AudioFrames(sample_rate=RATE, normalise="none", max_vectors=10**6).fit([torch.zeros(RATE)])
    attention = partial(MultiHeadAttention, structure=Window(window, window))
    encoder = TransformerEncoder(64, 4, 4, attention=attention)
    model = Model(tokenizer.embedder(64), encoder, VectorHead(64, 11), positions=Sinusoidal(64))
    return Predictor(model, tokenizer, [str(label) for label in range(11)])


def whole(predictor: Predictor, samples: torch.Tensor) -> int:
    """Label the recording at once."""
    return len(predictor.logits([samples])[0].argmax(-1))


def chunks(predictor: Predictor, samples: torch.Tensor) -> int:
    """Label it as it comes, and keep nothing."""
    stream = StreamingAudio(predictor.model, predictor.tokenizer)
    return sum(len(stream.push(chunk).argmax(-1)) for chunk in samples.split(CHUNK)) + len(stream.finish())


def held(line: str) -> float:
    """Return VmRSS, what this process holds now, or VmHWM, the most since the peak started, in MB."""
    status = Path("/proc/self/status").read_text()
    return int(next(entry for entry in status.splitlines() if entry.startswith(line)).split()[1]) / 1024


if __name__ == "__main__":
    main()
