"""What twice as many vectors cost under a window: `python tests/bench/doubling.py` prints the README's figures.

All sizes take turns in one process, so that a ratio compares runs of the same minutes.
"""

from __future__ import annotations

import argparse
import itertools

import candidates
import measure
import torch

SIZES = tuple(4096 * 2**i for i in range(5))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    torch.manual_seed(0)
    runs = {size: candidates.window(size)["vsattn"] for size in SIZES}
    print(f"{measure.hardware()}; {rounds} rounds")
    print("| from N to 2 N | forward | both |\n|---|---|---|")
    samples = []
    for passes in (runs, {size: candidates.both_ways(run) for size, run in runs.items()}):
        samples.append(measure.take_turns({str(size): run for size, run in passes.items()}, rounds))
    for small, large in itertools.pairwise(SIZES):
        cells = ["{:.2f} ({:.2f} to {:.2f})".format(*measure.ratio(s[str(small)], s[str(large)])) for s in samples]
        print(f"| {small:,} to {large:,} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
