"""How it is timed: candidates take turns, so that noise hits all alike; memory in a process of its own."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).resolve().parent


def take_turns(candidates: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Run all candidates once to warm up, then ``rounds`` times in turn; milliseconds of each run."""
    for run in candidates.values():
        run()
    samples: dict[str, list[float]] = {name: [] for name in candidates}
    for turn in range(rounds):
        names = list(candidates)
        for name in names if turn % 2 else reversed(names):
            start = time.perf_counter()
            candidates[name]()
            samples[name].append(1000 * (time.perf_counter() - start))
    return samples


def ratio(ours: list[float], theirs: list[float], draws: int = 2000) -> tuple[float, float, float]:
    """Return the ratio of medians, theirs to ours, and its 95% interval by bootstrap over rounds."""
    a, b = torch.tensor(ours), torch.tensor(theirs)
    pick = torch.randint(0, len(a), (draws, len(a)), generator=torch.Generator().manual_seed(0))
    drawn = (b[pick].median(1).values / a[pick].median(1).values).sort().values
    return statistics.median(theirs) / statistics.median(ours), float(drawn[draws // 40]), float(drawn[-draws // 40])


def peak_memory(problem: str, size: Any, options: dict[str, Any], candidate: str) -> float:
    """Return the memory in MB that forward and backward add at their peak, in a fresh process."""
    request = json.dumps({"problem": problem, "size": size, "options": options, "candidate": candidate})
    done = subprocess.run(
        [sys.executable, str(HERE / "memory.py"), request],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(HERE.parents[1])},
    )
    return float(done.stdout.strip().splitlines()[-1])


def hardware() -> str:
    """Return one line on the processor, threads and versions."""
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    lines = [line.split(":", 1)[1] for line in info.splitlines() if line.startswith(("model name", "flags"))]
    name = lines[0].strip() if lines else platform.processor()
    flags = sorted(
        {flag for flag in " ".join(lines[1:2]).split() if flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16")}
    )
    return (
        f"{name}, {', '.join(flags) or 'no vector flags known'}, {torch.get_num_threads()} threads; "
        f"torch {torch.__version__}, {platform.python_version()}, {date.today()}"
    )


def supports_bfloat16() -> bool:
    """Tell whether the processor multiplies bfloat16 in hardware."""
    return any(flag in hardware() for flag in ("avx512_bf16", "amx_bf16"))
