"""What the texts give as reasons, measured: `python tests/bench/reasons.py` prints the README's tables.

Scaling: entropy of the softmax and gradient of the queries for `Dot` and `ScaledDot`. Heads: accuracy at equal
parameters. Norms: how much a vector's normalised value depends on the rest of its batch.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time

import measure
import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

from vsattn import AttentionHead, Model, TransformerEncoder, VectorSet, attend, attention_weights
from vsattn.layers import BatchNorm, LayerNorm
from vsattn.positions import Sinusoidal
from vsattn.scores import Dot, ScaledDot
from vsattn.tokenizers import Patches

WIDTHS, KEYS = (4, 16, 64, 256, 1024), 64


def spread(values: list[float], digits: int = 3) -> str:
    return f"{statistics.mean(values):.{digits}f} ± {statistics.stdev(values):.{digits}f}"


def scaling(seeds: int) -> None:
    """Entropy of the weights as a share of log N, and the norm of the gradient that reaches a query."""
    print("| head width | entropy / log N, scaled | unscaled | median gradient of a query, scaled | unscaled |")
    print("|---|---|---|---|---|")
    for width in WIDTHS:
        cells = []
        for quantity in (_entropy, _at_queries):
            for score in (ScaledDot, Dot):
                cells.append(spread([quantity(score(1, width), width, seed) for seed in range(seeds)]))
        print(f"| {width} | " + " | ".join(cells) + " |")


def _drawn(width: int, seed: int) -> tuple[list[Tensor], VectorSet]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(8, 1, KEYS, width, generator=generator) for _ in range(3)], VectorSet(torch.zeros(8, KEYS, 1))


def _entropy(score: nn.Module, width: int, seed: int) -> float:
    (q, k, _), sets = _drawn(width, seed)
    weights = attention_weights(q, k, sets, sets, score=score)
    return float(-(weights * weights.clamp(min=1e-30).log()).sum(-1).mean()) / math.log(KEYS)


def _at_queries(score: nn.Module, width: int, seed: int) -> float:
    """Median norm of the gradient at a query, for a loss that is a random projection of its output."""
    (q, k, v), sets = _drawn(width, seed)
    probe = torch.randn(q.shape, generator=torch.Generator().manual_seed(seed)) / math.sqrt(width)
    output = attend(q.requires_grad_(), k, v, sets, sets, score=score)
    (gradient,) = torch.autograd.grad((output * probe).sum(), q)
    return float(gradient.norm(dim=-1).median())


def heads(seeds: int, epochs: int) -> None:
    """Accuracy by 5-fold cross-validation inside the digits' training half, folds of neighbours (writers)."""
    images, labels = load_digits(return_X_y=True)
    pictures = [(p.reshape(8, 8) * 15.9).astype(np.uint8) for p in images[: len(images) // 2]]
    targets, folds = torch.from_numpy(labels[: len(pictures)]), np.array_split(np.arange(len(pictures)), 5)
    print("| heads | head width | parameters | accuracy % | seconds a fold |\n|---|---|---|---|---|")
    for number in (1, 2, 4, 8):
        start, by_seed, parameters = time.perf_counter(), [], 0
        for seed in range(seeds):
            right = 0
            for fold in folds:
                kept = np.setdiff1d(np.arange(len(pictures)), fold)
                model, tokenizer = _digits_model(number, seed, pictures)
                _train(model, tokenizer.collate([pictures[i] for i in kept]), targets[kept], epochs, seed)
                with torch.inference_mode():
                    answers = model.eval()(tokenizer.collate([pictures[i] for i in fold])).argmax(-1)
                right += int((answers == targets[fold]).sum())
                parameters = sum(p.numel() for p in model.parameters())
            by_seed.append(100 * right / len(pictures))
        seconds = (time.perf_counter() - start) / seeds / len(folds)
        print(f"| {number} | {64 // number} | {parameters:,} | {spread(by_seed, 2)} | {seconds:.1f} |", flush=True)


def _digits_model(num_heads: int, seed: int, pictures: list[np.ndarray]) -> tuple[Model, Patches]:
    torch.manual_seed(seed)
    tokenizer = Patches(patch_size=2).fit(pictures)
    encoder = TransformerEncoder(64, num_layers=2, num_heads=num_heads)
    return Model(tokenizer.embedder(64), encoder, AttentionHead(64, 10), positions=Sinusoidal(64)), tokenizer


def _train(model: Model, batch: dict[str, Tensor], targets: Tensor, epochs: int, seed: int) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05)
    steps = epochs * math.ceil(len(targets) / 64)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=2e-3, total_steps=steps)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        for rows in torch.randperm(len(targets), generator=generator).split(64):
            loss = F.cross_entropy(model({name: t[rows] for name, t in batch.items()}), targets[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()


def norms(seeds: int, batches: int = 200, size: int = 16, length: int = 32, width: int = 64) -> None:
    """Change of one vector's normalised value, as the rest of its batch is drawn anew."""
    print("| lengths | padding | LayerNorm | BatchNorm, real vectors | BatchNorm, padding too | shift by padding |")
    print("|---|---|---|---|---|---|")
    for reach in (0, 8, 16, 24, 31):
        rows: dict[str, list[float]] = {"layer": [], "real": [], "padded": [], "shift": [], "share": []}
        for seed in range(seeds):
            generator = torch.Generator().manual_seed(seed)
            found: dict[str, list[Tensor]] = {"layer": [], "real": [], "padded": []}
            share = []
            layer, real, padded = LayerNorm(width), BatchNorm(width), nn.BatchNorm1d(width)
            probe = torch.randn(width, generator=generator) + 1
            for _ in range(batches):
                sizes = torch.randint(length - reach, length + reach + 1, (size, 1), generator=generator)
                mask = torch.arange(int(sizes.max())) < sizes
                own = torch.randn(size, 1, width, generator=generator)  # what the vectors of one sequence share
                x = torch.randn(*mask.shape, width, generator=generator) + own + 1
                x[0, 0] = probe
                x = x * mask[..., None]
                found["layer"].append(layer(x)[0, 0])
                found["real"].append(real(x, mask)[0, 0])
                found["padded"].append(padded(x.flatten(0, 1)).view_as(x)[0, 0])
                share.append(1 - float(mask.float().mean()))
            for name, values in found.items():
                rows[name].append(float(torch.stack(values).detach().std(0).mean()))
            means = [torch.stack(found[name]).detach().mean(0) for name in ("padded", "real")]
            rows["shift"].append(float((means[0] - means[1]).abs().mean()))
            rows["share"].append(statistics.mean(share))
        cells = [spread(rows[name]) for name in ("layer", "real", "padded", "shift")]
        share_now = f"{100 * statistics.mean(rows['share']):.0f} %"
        print(f"| {length - reach} to {length + reach} | {share_now} | " + " | ".join(cells) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5, help="how many, from 0")
    parser.add_argument("--epochs", type=int, default=20, help="of each digits training")
    parser.add_argument("--part", choices=["scaling", "heads", "norms", "all"], default="all")
    options = parser.parse_args()
    torch.set_num_threads(1)
    start = time.perf_counter()
    parts = {"scaling": lambda: scaling(options.seeds), "norms": lambda: norms(options.seeds),
             "heads": lambda: heads(options.seeds, options.epochs)}  # fmt: skip
    for name, part in parts.items():
        if options.part in (name, "all"):
            part()
            print()
    print(f"{time.perf_counter() - start:.0f} s, {options.seeds} seeds, {measure.hardware()}")


if __name__ == "__main__":
    main()
