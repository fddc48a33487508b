"""Each task's default model, trained for a part of its time, is better than the trivial baseline beyond doubt.

Words are in test_labeling.py, on a part of the library.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from vsattn.compose import plain_config
from vsattn.tasks.experiment import run

RUNS = {
    "image": ("logistic regression on pixels", ["trainer.max_epochs=28"]),
    "speech": ("logistic regression on mean log-mel", ["trainer.max_epochs=6"]),
    "node": ("logistic regression on the features, without the graph", []),
}


@pytest.mark.parametrize("task", RUNS)
def test_a_short_run_beats_the_floor_with_the_intervals_apart(task: str, tmp_path: Path) -> None:
    name, words = RUNS[task]
    config, faults = plain_config([f"task={task}", "logger=none", "num_threads=1", *words])
    assert faults == []
    found = run(config, tmp_path / "run").metrics
    assert found["floor/name"] == name
    assert 0.3 < found["floor/accuracy"] < found["floor/accuracy_high"] < found["test/accuracy_low"]
