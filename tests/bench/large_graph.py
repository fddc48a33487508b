"""A graph of 200,000 nodes learned by neighbour-sampled batches: `python tests/bench/large_graph.py [KEY=VALUE ...]`.

Nodes of ten groups, two million edges of which four in five join nodes of one group, and features that hardly tell the
group: 2% of the nodes train, and as many validate.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch

from vsattn.compose import plain_config
from vsattn.tasks.experiment import run

NODES, EDGES, GROUPS, WITHIN, WIDTH = 200_000, 2_000_000, 10, 0.8, 32


def made() -> dict[str, torch.Tensor]:
    """Return features, edges, labels and masks."""
    torch.manual_seed(0)
    label = torch.randint(GROUPS, (NODES,))
    by_group = [(label == group).nonzero()[:, 0] for group in range(GROUPS)]
    target, source = torch.randint(NODES, (2, EDGES))
    same = torch.rand(EDGES) < WITHIN
    for group, members in enumerate(by_group):
        chosen = same & (label[target] == group)
        source[chosen] = members[torch.randint(len(members), (int(chosen.sum()),))]
    x = torch.randn(NODES, WIDTH) + 0.15 * torch.randn(GROUPS, WIDTH)[label]
    part = torch.rand(NODES)
    masks = {"train_mask": part < 0.02, "val_mask": (part >= 0.02) & (part < 0.04), "test_mask": part >= 0.04}
    return {"x": x, "edge_index": torch.stack([source, target]), "y": label, **masks}


def main() -> None:
    """Train and test."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "graph.pt"
        torch.save(made(), path)
        words = ["task=node", "data=own_graph", f"data.graph={path}", "data.fan_outs=[10,10]", "encoder.num_layers=2"]
        words += ["data.evaluation_fan_outs=[10,10]", "batch_size=500", "trainer.max_epochs=5", "logger=none"]
        config, faults = plain_config([*words, *sys.argv[1:]])
        if faults:
            raise SystemExit("\n".join(faults))
        run(config, Path(folder) / "run")


if __name__ == "__main__":
    main()
