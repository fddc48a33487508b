"""What length costs: time, peak memory and parameters of encoders against N, and how far each one sees."""

from __future__ import annotations

import json
import multiprocessing
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vsattn.attention import MultiHeadAttention
from vsattn.encoders import Encoder, RecurrentEncoder, TransformerEncoder, WindowMLP
from vsattn.errors import VsattnError
from vsattn.structure import Window
from vsattn.vectorset import VectorSet

from .plots import save_figure
from .report import aligned, environment, peak_memory

LENGTHS = tuple(2**i for i in range(5, 13))
DIM, HEADS, LAYERS, BATCH, ROUNDS = 64, 4, 2, 4, 7
#: How many neighbours on each side the window networks see.
REACHES = (1, 4, 16, 64)

_windowed = partial(MultiHeadAttention, structure=Window(64, 64))

#: The encoders that are compared, all of two layers but the window networks, whose reach is that of their one window.
ENCODERS: dict[str, Callable[[], Encoder]] = {
    "attention": lambda: TransformerEncoder(DIM, LAYERS, HEADS),
    "attention, window 64": lambda: TransformerEncoder(DIM, LAYERS, HEADS, attention=_windowed),
    "rnn": lambda: RecurrentEncoder(DIM, LAYERS, bidirectional=False),
    "birnn": lambda: RecurrentEncoder(DIM, LAYERS),
    **{f"window_mlp, k = {k}": partial(WindowMLP, DIM, 1, reach=k) for k in REACHES},
}


def reach(encoder: nn.Module, length: int, index: int) -> tuple[int, int]:
    """Return how many vectors to the left and to the right of ``index`` its output depends on.

    The output's gradient with respect to each input vector says so: it is 0 exactly where there is no path.
    """
    generator = torch.Generator().manual_seed(0)
    # In float64, because an LSTM's gradient fades below the least number of float32; along a random direction, because
    # the outputs of a norm have a sum that is always 0.
    x, direction = torch.randn(2, 1, length, DIM, generator=generator, dtype=torch.float64)
    x.requires_grad_()
    output = encoder.double().eval()(VectorSet(x, layout="sequence")).x
    (output * direction)[0, index].sum().backward()
    assert x.grad is not None
    seen = x.grad[0].abs().amax(-1).nonzero().flatten()
    return index - int(seen.min()), int(seen.max()) - index


def measure(name: str, lengths: tuple[int, ...] = LENGTHS) -> list[dict[str, Any]]:
    """Time one encoder forward and backward at each length, in growing order; run it in a fresh process.

    Returns:
        One row a length: median ``milliseconds`` a batch of `BATCH` sequences, ``peak_mb`` above what the process had
        held before, ``parameters``.
    """
    torch.manual_seed(0)
    torch.set_num_threads(1)  # the same for all, and steady where cores are shared
    encoder = ENCODERS[name]()
    parameters = sum(p.numel() for p in encoder.parameters())
    rows = []
    encoder(VectorSet(torch.randn(1, 8, DIM), layout="sequence")).x.sum().backward()  # loads what is loaded once
    before = peak_memory() or 0.0
    for length in lengths:
        sequence = VectorSet(torch.randn(BATCH, length, DIM), layout="sequence")
        seconds = []
        for _ in range(ROUNDS + 2):
            started = time.perf_counter()
            encoder(sequence).x.square().mean().backward()
            seconds.append(time.perf_counter() - started)
        peak = (peak_memory() or 0.0) - before
        milliseconds = 1000 * statistics.median(seconds[2:])
        rows.append({"encoder": name, "length": length, "milliseconds": milliseconds, "peak_mb": peak,
                     "parameters": parameters})  # fmt: skip
    return rows


def measure_all() -> list[dict[str, Any]]:
    """Measure every encoder, each in a fresh process, and how far each one sees from the middle of 257 vectors.

    Raises:
        VsattnError: when a process fails.
    """
    rows = []
    for name in ENCODERS:
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            try:
                found = pool.submit(measure, name).result()
            except (OSError, RuntimeError) as error:
                raise VsattnError(f"{name} could not be measured: {error}") from error
        left, right = reach(ENCODERS[name](), 257, 128)
        rows += [{**row, "reach_left": left, "reach_right": right} for row in found]
        print(f"{name}: {found[-1]['milliseconds']:.0f} ms at {found[-1]['length']}", flush=True)
    return rows


def table(rows: list[dict[str, Any]]) -> list[list[str]]:
    """Return heading and one line an encoder: reach, parameters, and time and memory at some lengths."""
    shown = [LENGTHS[0], LENGTHS[4], LENGTHS[-1]]
    heading = ["encoder", "sees (of 128 left, 128 right)", "parameters", *(f"ms at {n}" for n in shown),
               f"MB at {shown[-1]}"]  # fmt: skip
    lines = [heading]
    for name in dict.fromkeys(row["encoder"] for row in rows):
        own = {row["length"]: row for row in rows if row["encoder"] == name}
        last = own[shown[-1]]
        lines.append([name, f"{last['reach_left']}, {last['reach_right']}", f"{last['parameters']:,}",
                      *(f"{own[n]['milliseconds']:.1f}" for n in shown), f"{last['peak_mb']:.0f}"])  # fmt: skip
    return lines


def report(rows: list[dict[str, Any]], folder: Path) -> None:
    """Print the table and write ``lengths.md``, ``lengths.json`` and ``lengths.png``."""
    cells = table(rows)
    print("\n" + "\n".join(aligned(cells)))
    told = environment()
    note = (f"Forward and backward of {BATCH} sequences, width {DIM}, {HEADS} heads, one thread, median of {ROUNDS}; "
            f"memory above that of the process before; {told['platform']}")  # fmt: skip
    lines = ["| " + " | ".join(line) + " |" for line in cells]
    text = ["`python -m vsattn.compare lengths`", "", lines[0], "|" + "---|" * len(cells[0]), *lines[1:], "", note]
    (folder / "lengths.md").write_text("\n".join(text) + "\n", encoding="utf-8")
    kept = json.dumps({"rows": rows, **told}, indent=2)
    (folder / "lengths.json").write_text(kept + "\n", encoding="utf-8")
    picture(rows, folder / "lengths.png")
    print(f"\nlengths.md, lengths.json and lengths.png lie in {folder}", flush=True)


def picture(rows: list[dict[str, Any]], path: Path) -> Path:
    """Draw time and memory against N, both on logarithmic axes, and the number of parameters."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(row["encoder"] for row in rows))
    figure = Figure(figsize=(15, 4.6), layout="constrained")
    axes = figure.subplots(1, 3, width_ratios=[1.2, 1.2, 1.0])
    panels = (("milliseconds", "ms, forward and backward"), ("peak_mb", "peak memory, MB"))
    windows = [name for name in names if name.startswith("window_mlp")]
    for i, name in enumerate(names):
        own = [row for row in rows if row["encoder"] == name]
        if name in windows:
            style = {"color": colormaps["Greys"](0.35 + 0.5 * windows.index(name) / len(windows)), "linestyle": "--"}
        else:
            style = {"color": colormaps["tab10"](i)}
        for axis, (key, _) in zip(axes, panels):
            drawn = [row for row in own if row[key] > 0]
            lengths, values = [row["length"] for row in drawn], [row[key] for row in drawn]
            axis.plot(lengths, values, marker="o", markersize=3, label=name, **style)
        axes[2].barh(len(names) - i, own[0]["parameters"] / 1000, color=style["color"])
    for axis, (key, label) in zip(axes, panels):
        measured = any(row[key] > 0 for row in rows)  # memory need not grow beyond what was held before
        axis.set(xscale="log", yscale="log" if measured else "linear", xlabel="N, vectors in the set", ylabel=label)
        axis.set_xticks(LENGTHS[::2], [f"{n:,}" for n in LENGTHS[::2]], minor=False)
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=8, frameon=False)
    axes[2].set_yticks([len(names) - i for i in range(len(names))], names)
    axes[2].set_xlabel("parameters, thousands")
    axes[2].locator_params(axis="x", nbins=4)
    return save_figure(figure, path)
