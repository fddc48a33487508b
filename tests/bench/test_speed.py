"""Ours against the peers, in one process, taking turns: `python -m pytest -m bench tests/bench`.

Nothing is asserted about time; that the candidates compute the same is.
"""

from __future__ import annotations

import gc
import shutil
from typing import Any

import pytest
import torch

pytestmark = pytest.mark.bench
for package in ("pytest_benchmark", "x_transformers", "local_attention"):
    pytest.importorskip(package, reason="the benchmarks need pip install 'vsattn[bench]'")

import candidates  # noqa: E402
import measure  # noqa: E402
import report  # noqa: E402

DENSE = [(8, 128, 256, 8), (4, 512, 256, 8), (2, 1024, 512, 8)]
#: Problem, its options, sizes, by which option or part of the size it is plotted, tolerance (None: weights differ).
PROBLEMS: dict[str, tuple[str, dict[str, Any], list[Any], float | None]] = {
    "attention": ("dense", {}, DENSE, None),
    "attention, padded": ("dense", {"padded": True}, DENSE, None),
    "encoder layer, post-norm": ("layer", {}, DENSE, 1e-3),
    "encoder layer, pre-norm": ("layer", {"norm_first": True}, DENSE, 1e-3),
    "encoder of one layer": ("lucid_layer", {}, DENSE, None),
    "window of 64 + 64": ("window", {}, [512 * 2**i for i in range(8)], 1e-4),
    "window of 128, causal": ("window", {"causal": True}, [4096, 8192], 1e-4),
    "edges, dot": ("edges", {}, [("Cora size", 8), ("Cora size", 64), ("PubMed size", 8), ("PubMed size", 64),
                                 ("power law, a quarter", 64), ("power law", 8)], 1e-3),
    "edges, GAT": ("edges", {"score": "GAT"}, [("Cora size", 8), ("PubMed size", 8), ("PubMed size", 64)], 1e-3),
    "edges, GATv2": ("edges", {"score": "GATv2"}, [("Cora size", 8), ("PubMed size", 8), ("PubMed size", 64)], 1e-3),
    "graph layer": ("graph_layer", {}, [("Cora size", 8), ("Cora size", 64), ("PubMed size", 64)], None),
    "packed samples": ("packed", {}, [2048, 8192], 1e-4),
    "encoder, compiled": ("compiled", {}, [(8, 128, 256, 8)], 1e-3),
    "banded encoder, compiled": ("compiled", {"banded": True}, [(1, 4096, 256, 8)], 1e-3),
    "encoder layer, bfloat16": ("half", {}, DENSE, 0.1),
}  # fmt: skip
WITH_MEMORY = ("window", "edges", "packed")
CASES = [(name, size) for name, (_, _, sizes, _) in PROBLEMS.items() for size in sizes]


@pytest.mark.parametrize("name, size", CASES, ids=[f"{name}-{size}" for name, size in CASES])
def test_speed(name: str, size: Any, benchmark, rows: list[report.Row], request: pytest.FixtureRequest) -> None:
    problem, options, _, tolerance = PROBLEMS[name]
    if problem == "half" and not measure.supports_bfloat16():
        pytest.skip("this processor does not multiply bfloat16 in hardware")
    if problem == "compiled" and not shutil.which("g++"):
        pytest.skip("torch.compile needs a C++ compiler")
    torch.manual_seed(0)
    runs = getattr(candidates, problem)(size, **options)
    if tolerance is not None:
        candidates.agree(runs, tolerance)
    large = str(size[0]).startswith("power law") if isinstance(size, tuple) else size >= 16384
    rounds = max(3, request.config.getoption("--bench-rounds", default=21) // (4 if large else 1))
    found, count = [], float(candidates.work_of(size))
    for direction in ("forward", "both"):
        chosen = runs if direction == "forward" else {n: candidates.both_ways(run) for n, run in runs.items()}
        samples = measure.take_turns(chosen, rounds)
        found += report.rows_of(name, candidates.title(size), count, direction, samples)
    benchmark.extra_info["rows"] = [vars(row) for row in found]
    benchmark.pedantic(candidates.both_ways(runs["vsattn"]), rounds=3, warmup_rounds=1)
    del chosen
    names = list(runs)
    runs.clear()
    gc.collect()
    if problem in WITH_MEMORY:
        for candidate in names:
            megabytes = measure.peak_memory(problem, size, options, candidate)
            for row in found:
                if (row.candidate, row.direction) == (candidate, "both"):
                    row.megabytes = megabytes
    rows += found


def test_a_graph_of_200_thousand_nodes_trains() -> None:
    """Labels are what a node's neighbours say: only attention along the edges can learn them."""
    from vsattn import MultiHeadAttention, VectorSet

    torch.manual_seed(0)
    structure = candidates.graph("power law")
    nodes = candidates.GRAPHS["power law"][0]
    classes = torch.randint(0, 4, (nodes,))
    source, target = structure.edge_index
    votes = torch.zeros(nodes, 4).index_put((target, classes[source]), torch.ones(len(source)), accumulate=True)
    known = votes.sum(-1) > 0
    x = VectorSet(torch.eye(4)[classes][None] @ torch.randn(4, 64), structure=structure)
    layer, answer = MultiHeadAttention(64, 8), torch.nn.Linear(64, 4)
    optimizer = torch.optim.Adam([*layer.parameters(), *answer.parameters()], lr=1e-2)
    accuracies = []
    for _ in range(20):
        logits = answer(layer(x).x)[0]
        loss = torch.nn.functional.cross_entropy(logits[known], votes.argmax(-1)[known])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        accuracies.append(float((logits.argmax(-1) == votes.argmax(-1))[known].float().mean()))
    print(f"accuracy {accuracies[0]:.3f} -> {accuracies[-1]:.3f} in 20 steps")
    assert accuracies[-1] > 0.8 > accuracies[0]
