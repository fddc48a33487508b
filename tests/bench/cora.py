"""Cora's public split by our attention and by torch-geometric's GAT, trained by the same loop.

  python tests/bench/cora.py paths.data=FOLDER [--models ours,gat] [--seeds 10] [KEY=VALUE ...]

Weights are chosen by the validation loss, with a patience of 100 epochs, and tested once.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch.optim import Adam, Optimizer
from torch_geometric.nn import GATConv

from vsattn.build import build
from vsattn.compose import plain_config
from vsattn.tasks.data.base import Data
from vsattn.tasks.experiment import make_task, parts, prepare
from vsattn.tasks.node import NodeTask
from vsattn.tasks.training import train
from vsattn.tokenizers.base import Tokenizer


class PeerGAT(nn.Module):
    """The paper's GAT: 8 heads of width 8, then one to the classes; dropout .6 (Velickovic et al. 2018, section 3)."""

    def __init__(self, num_features: int, num_classes: int) -> None:
        super().__init__()
        self.first = GATConv(num_features, 8, heads=8, dropout=0.6)
        self.second = GATConv(64, num_classes, heads=1, concat=False, dropout=0.6)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """Return logits ``(1, N, C)``."""
        x = F.dropout(batch["x"][0], 0.6, self.training)
        x = F.elu(self.first(x, batch["edge_index"]))
        return self.second(F.dropout(x, 0.6, self.training), batch["edge_index"])[None]


class PeerTask(NodeTask):
    """The peer's optimizer: Adam 5e-3 with weight decay 5e-4 on every weight."""

    def configure_optimizers(self) -> Optimizer:  # type: ignore[override]
        """Make it."""
        return Adam(self.parameters(), lr=5e-3, weight_decay=5e-4)


def run(model: str, config: dict[str, Any], seed: int) -> dict[str, float]:
    """Train one model with one seed and return its measures."""
    prepare({**config, "seed": seed})
    data: Data = build(config["data"], Data, path="data")
    data.setup(seed)
    tokenizer: Tokenizer = build(config["tokenizer"], Tokenizer, path="tokenizer").fit(data.fit_items(1))
    if model == "gat":
        tokenizer.load_state({**tokenizer.state, "sparse": False})  # the peer takes dense features
        task: NodeTask = PeerTask(PeerGAT(tokenizer.state["num_features"], len(data.classes)), tokenizer, data.classes)
    else:
        task = make_task(config, data, tokenizer)  # type: ignore[assignment]
    with tempfile.TemporaryDirectory() as folder:
        callbacks = parts(config["callbacks"], Callback, "callbacks", dirpath=f"{folder}/checkpoints")
        began, work = time.perf_counter(), time.process_time()
        result = train(
            task, data, folder=Path(folder), batch_size=1, trainer=config["trainer"], callbacks=callbacks, seed=seed
        )
        wall, work = time.perf_counter() - began, time.process_time() - work
    found, epochs = result.metrics, result.metrics["epochs"]
    names = ("val/loss", "val/accuracy", "test/accuracy")
    seconds = statistics.median(row["seconds"] for row in result.rows)
    return {n: found[n] for n in names} | {
        "epochs": epochs,
        "s/epoch": seconds,
        "cpu s/epoch": work / epochs,
        "s": wall,
    }


def main() -> None:
    """Print one line a run, and mean and deviation over the seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="ours,gat")
    parser.add_argument("--seeds", type=int, default=10)
    options, words = parser.parse_known_args()
    config, faults = plain_config(["experiment=cora", *words])
    if faults:
        raise SystemExit("\n".join(faults))
    for model in options.models.split(","):
        rows = []
        for seed in range(options.seeds):
            rows.append(run(model, config, seed))
            print(f"{model} seed {seed}: " + "  ".join(f"{k} {v:.4f}" for k, v in rows[-1].items()), flush=True)
        columns = {name: [row[name] for row in rows] for name in rows[0]}
        deviation = statistics.stdev if len(rows) > 1 else statistics.pstdev
        print(
            f"{model}: " + "  ".join(f"{k} {statistics.mean(v):.4f} +- {deviation(v):.4f}" for k, v in columns.items())
        )


if __name__ == "__main__":
    main()
