"""What the tests of the page's pictures, sounds and graphs share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tests import view_documents as views


def finished(inputs: list[dict[str, Any]], arrays: views.Arrays, title: str = "Panels") -> tuple[dict[str, Any], bytes]:
    """A document of the inputs."""
    made = {"schema": 1, "title": title, "note": "A weight is not a cause.", "precision": {"kind": "exact"}}
    made |= {"model": {"task": "test", "name": "transformer", "layers": 1, "heads": 2}, "inputs": inputs}
    return made, bytes(arrays.buffer)


def one_set(
    made: dict[str, Any], weights: np.ndarray, arrays: views.Arrays | None = None, **fields: Any
) -> tuple[dict, bytes]:
    """A document of one set that attends to itself with weights (H, N, N)."""
    arrays = arrays or views.Arrays()
    given = {"name": "A", "caption": "one", "answer": "yes", "sets": {"input": made}}
    return finished([given | {"maps": [views.dense_map(arrays, weights, name="encoder 1", **fields)]}], arrays)


def read(page: Any, selector: str, expression: str) -> list[Any]:
    """What a JavaScript expression says of each element ``one``."""
    return page.eval_on_selector_all(selector, f"all => all.map((one) => {expression})")


def saved(page: Any, kind: str) -> bytes:
    """What a button for saving writes."""
    with page.expect_download() as download:
        page.click(f".save button[data-kind={kind}]")
    assert download.value.suggested_filename.endswith(f".{kind.lower()}")
    return Path(download.value.path()).read_bytes()
