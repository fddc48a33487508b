"""The README's Python runs as printed and prints what it says."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest

TEXT = (Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```\n(?:\n```text\n(.*?)```)?", TEXT, re.DOTALL)


@pytest.mark.parametrize("code, output", EXAMPLES, ids=lambda part: part.strip().splitlines()[-1][:30] if part else "-")
def test_example_runs_and_prints_what_the_readme_shows(code, output):
    import torch

    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            exec(compile(code, "README.md", "exec"), {})
    finally:
        torch.set_printoptions(profile="default")
    assert printed.getvalue() == output


def test_there_are_examples_with_output():
    assert len(EXAMPLES) >= 3 and all(output for _, output in EXAMPLES)


def test_files_that_the_readme_links_to_are_there():
    root = Path(__file__).resolve().parents[1]
    links = re.findall(r"\]\((?!http)([^)#]+)\)", TEXT)
    assert links and all((root / link).exists() for link in links), links
