"""One HTML file that shows a document of attention: no request, no library, a strict content policy."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
from importlib import resources
from typing import Any

from vsattn.viewing.quantise import compressed

#: The code in its order: reading, state and colours; then drawing; then panels; then what starts the page.
SCRIPTS = (
    *("data", "matrix", "state", "colour", "view", "controls", "drawing", "text", "curves", "heatmap", "table", "grid"),
    *("image", "sound", "shapes", "neighbours", "graph", "figure", "fonts", "save", "main"),
)
STYLES = ("page", "panels")


def render(document: dict[str, Any], buffer: bytes) -> str:
    """Return the page of a document: its JSON and its arrays, as one compressed buffer, beside the code to read them.

    Nothing of the document becomes markup but the title, which is escaped; the code puts every label in as text.
    The policy allows the one script and the one style sheet by their SHA-256, and pictures that the file itself holds.
    """
    script = "(() => {\n'use strict';\n" + "\n".join(_asset(f"{name}.js") for name in SCRIPTS) + "\n})();"
    style = "\n".join(_asset(f"{name}.css") for name in STYLES)
    policy = (
        f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )
    text = json.dumps(_finite(document), allow_nan=False, separators=(",", ":"))
    parts = {
        "policy": policy,
        "title": html.escape(str(document["title"])),
        "style": style,
        # The only way out of a script element is "<"; inside a JSON string it can be written otherwise.
        "document": text.replace("<", "\\u003c"),
        "buffer": base64.b64encode(compressed(buffer)).decode("ascii"),
        "script": script,
    }
    pieces = _asset("page.html").split("@@")
    return "".join(parts[piece] if i % 2 else piece for i, piece in enumerate(pieces))


def _asset(name: str) -> str:
    return resources.files(__package__).joinpath("page").joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")


def _finite(value: Any) -> Any:
    """Return the value with null for NaN and infinity, which JSON cannot say; the page shows null as a dash."""
    if isinstance(value, dict):
        return {str(key): _finite(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
