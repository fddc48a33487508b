"""Options of the benchmarks, and the one report that they write."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--bench-out", default="outputs/bench", help="folder for results.json, results.md and results.png")
    parser.addoption("--bench-rounds", type=int, default=21, help="how often each candidate takes its turn")


@pytest.fixture(scope="session")
def rows(request: pytest.FixtureRequest):
    """Collect the rows of all benchmarks and write them at the end."""
    import report

    found: list[report.Row] = []
    yield found
    if found:
        folder = Path(request.config.getoption("--bench-out", default="outputs/bench"))
        report.write(found, folder)
        print(f"\nresults in {folder}")
