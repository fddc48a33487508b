"""What the user of an exported program must know: inputs, outputs, limits, and what the tokenizer has learned."""

from __future__ import annotations

import re
from typing import Any

from torch import Tensor
from torch.export import ExportedProgram

from vsattn import __version__
from vsattn.encoder_decoder import EncoderDecoder
from vsattn.exporting.program import INPUTS, OUTPUTS, program_names
from vsattn.heads import CtcHead, VectorHead
from vsattn.predictor import Predictor
from vsattn.tokenizers.base import Tokenizer


def describe(predictor: Predictor, program: ExportedProgram) -> dict[str, Any]:
    """Return what a user of a program must know, as plain values: inputs, outputs, classes, the tokenizer's state."""
    names, tokenizer, config = _symbols(predictor.tokenizer, program), predictor.tokenizer, predictor.config
    tensors = {node.name: node.meta["val"] for node in program.graph.nodes if "val" in node.meta}
    outputs = [tensors[name] for name in program.graph_signature.user_outputs]
    batch = zip(program_names(program), (tensors[name] for name in program.graph_signature.user_inputs), strict=True)
    return {
        "vsattn": __version__,
        "task": (config.get("task") or {}).get("_target_"),
        "inputs": {name: _shape(value, names) for name, value in batch},
        "outputs": {name: _shape(value, names) for name, value in zip(OUTPUTS, outputs)},
        "limits": limits(predictor.tokenizer, program),
        "meaning": meaning(predictor),
        "classes": predictor.classes,
        "tokenizer": {
            "does": f"{(type(tokenizer).__doc__ or '').strip().splitlines()[0]}",
            "config": config.get("tokenizer"),
            "state": tokenizer.state,
        },
    }


def meaning(predictor: Predictor) -> str:
    """Say in words what the outputs are."""
    head = predictor.model.head
    if isinstance(predictor.model, EncoderDecoder):
        return "logits[b, m] score the classes as the token after target[b, : m + 1]; the last of target is not read"
    if isinstance(head, CtcHead):
        return "logits of the classes and, last, of the blank of CTC, for each vector; real is True where there is one"
    if isinstance(head, VectorHead):
        return "logits of the classes for each vector, whose softmax are probabilities; real is True where there is one"
    return "logits of the classes for each item, whose softmax are probabilities"


def limits(tokenizer: Tokenizer, program: ExportedProgram) -> dict[str, list[int | None]]:
    """Return the least and the largest size of each dimension that has one; None is no limit."""
    names, found = _symbols(tokenizer, program), {}
    for symbol, values in program.range_constraints.items():
        low, high = (int(v) if v.is_Integer else None for v in (values.lower, values.upper))
        if str(symbol) in names and ((low or 0) > 2 or high is not None):  # below 2 is not told apart
            found[names[str(symbol)]] = [1 if (low or 0) <= 2 else low, high]
    return found


def _symbols(tokenizer: Tokenizer, program: ExportedProgram) -> dict[str, str]:
    """Return the names of the dimensions by the names that `torch.export` gave them."""
    tensors = {node.name: node.meta["val"] for node in program.graph.nodes if "val" in node.meta}
    values = [tensors[name] for name in program.graph_signature.user_inputs]
    found: dict[str, str] = {}
    for name, value in zip(program_names(program), values, strict=True):
        for size, dimension in zip(value.shape, INPUTS[name], strict=True):
            if dimension is not None and not isinstance(size, int):
                found.setdefault(str(size), dimension)
    return found


def _shape(value: Tensor, names: dict[str, str]) -> dict[str, Any]:
    sizes = [size if isinstance(size, int) else renamed(str(size), names) for size in value.shape]
    return {"type": str(value.dtype).removeprefix("torch."), "shape": sizes}


def renamed(text: str, names: dict[str, str]) -> str:
    """Return an expression of sizes with the symbols of `torch.export` replaced by the names of dimensions."""
    return re.sub(r"\b[su]\d+\b", lambda found: names.get(found[0], found[0]), text)
