"""A trained model as a program of `torch.export`: tensors of a batch in, logits out, of any number and length."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from vsattn.crf import CrfHead
from vsattn.decoders.recurrent import RecurrentDecoder
from vsattn.encoder_decoder import EncoderDecoder
from vsattn.encoders.graph import GraphConvEncoder
from vsattn.encoders.recurrent import RecurrentEncoder
from vsattn.environment import loggers_at
from vsattn.errors import DataError, VsattnError
from vsattn.exporting.samples import made_up
from vsattn.heads import VectorHead
from vsattn.model import Model
from vsattn.positions.graphs import GraphPositions
from vsattn.predictor import Predictor
from vsattn.relations import EdgeFeatures
from vsattn.structure import EdgeList, Edges
from vsattn.tokenizers.base import Tokenizer
from vsattn.tokenizers.graph_nodes import GraphNodes, NodeEmbedder
from vsattn.tokenizers.images import ImageTokenizer
from vsattn.tokenizers.text_pairs import TextPairs
from vsattn.vectorset import VectorSet

#: The dimensions of what a program takes, by name; None stands for one that the model fixes.
INPUTS: dict[str, tuple[str | None, ...]] = {
    "image": ("batch", None, "height", "width"),
    "size": ("batch", None),
    "word": ("batch", "length"),
    "char": ("spellings", "characters"),
    "char_word": ("batch", "length"),
    "spelling": ("batch", "length", None),
    "frames": ("batch", "frames", None),
    "length": ("batch",),
    "x": ("batch", "length", None),
    "edge_index": (None, "edges"),
    "mask": ("batch", "length"),
    "source": ("batch", "length"),
    "target": ("batch", "written"),
}

#: What a program gives; the second, which vectors are real, of a head that answers for each alone.
OUTPUTS = ("logits", "real")

#: How many items a model is traced with, and how long the longest is if nothing else is asked for.
TRACED, LENGTH = 3, 24

#: The name under which its description lies in a file of `torch.export`.
DESCRIPTION = "vsattn.json"

Batch = dict[str, Tensor]
Run = Callable[[Batch], tuple[Tensor, ...]]

#: Parts that no program can be made of, and what to do instead.
UNFIT: dict[type[nn.Module], str] = {
    CrfHead: "finds the labels of a sequence by a search, which is no tensor program: train with head=vector",
    RecurrentEncoder: "packs sequences by their lengths, which are data: train with encoder=transformer or encoder=cnn",
    RecurrentDecoder: "writes step by step, as many as there are tokens: train with decoder=transformer",
    GraphConvEncoder: "collects along a list of edges: train with encoder=transformer_small or encoder=diffusion",
    GraphPositions: "is computed from a whole graph outside of the model: train with positions=none",
    EdgeFeatures: "reads the features of a list of edges: train with relation=none",
}


class MaskedEdges(Edges):
    """The edges of a graph as a mask of all pairs: the list is data, and a program cannot depend on what is in it."""

    def __post_init__(self) -> None:
        return None  # the tokenizer has made them, and while a program is made they cannot be looked at

    def edge_list(self, query_set: VectorSet, key_set: VectorSet) -> EdgeList | None:  # type: ignore[override]
        return None

    def allowed(self, query_set: VectorSet, key_set: VectorSet) -> Tensor:
        batch, num_queries, num_keys = query_set.x.shape[0], query_set.num_vectors, key_set.num_vectors
        key, query = self.edge_index
        place = query * num_keys + key - key // num_keys * num_keys  # `%` by a size is not in ONNX
        allowed = torch.zeros(batch * num_queries * num_keys, device=key.device)
        allowed = allowed.index_put((place,), allowed.new_ones(()))
        return allowed.view(batch, 1, num_queries, num_keys) > 0  # numbers: not every runtime scatters booleans

    def shifted(self, num_prefix: int, num_vectors: int) -> MaskedEdges:
        return MaskedEdges(self.edge_index + (self.edge_index // num_vectors + 1) * num_prefix)


class Program(nn.Module):
    """What is exported: ``batch -> logits``, or ``(logits, mask)`` of a head that answers for every vector."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch) -> tuple[Tensor, ...]:
        """Return logits, ``(B, C)`` or of tokens ``(B, M, V)``; or those of vectors, ``(B, N, C)``, and ``(B, N)``."""
        if isinstance(self.model, EncoderDecoder):
            return (self.model(batch),)
        vector_set = self.model.encoder(self._embedded(batch))
        logits = self.model.head(vector_set)
        if not isinstance(self.model.head, VectorHead):
            return (logits,)
        mask = vector_set.mask
        mask = torch.ones_like(logits[..., 0], dtype=torch.bool) if mask is None else mask[:, vector_set.num_prefix :]
        return logits, mask

    def _embedded(self, batch: Batch) -> VectorSet:
        embedder, positions = self.model.embedder, self.model.positions
        if not isinstance(embedder, NodeEmbedder):
            return self.model.embed(batch)
        x = embedder.project(batch["x"])
        nodes = VectorSet(x, batch["mask"], structure=MaskedEdges(batch["edge_index"]))
        return nodes if positions is None else positions(nodes)


def program_inputs(tokenizer: Tokenizer, batch: dict[str, Any]) -> Batch:
    """Return what a program takes of a batch that the tokenizer made: the same tensors, and always the same of them.

    A collated batch leaves out what says nothing. Here pictures that may differ in size have their ``"size"``, nodes
    their ``"mask"``, and features of nodes are dense. The ``"target"`` is taken of text that is translated alone.
    """
    found = {name: value for name, value in batch.items() if name in INPUTS}
    if not isinstance(tokenizer, TextPairs):
        found.pop("target", None)
    if isinstance(tokenizer, ImageTokenizer) and _fixed_size(tokenizer) is None and "size" not in found:
        images = found["image"]
        found["size"] = torch.tensor([images.shape[2:]] * len(images), device=images.device)
    if isinstance(tokenizer, GraphNodes):
        if "x" not in found:
            count = batch["feature_count"]
            x = batch["feature_value"].new_zeros(count.numel(), tokenizer.state["num_features"])
            x[torch.repeat_interleave(count.flatten()), batch["feature_column"]] = batch["feature_value"]
            found["x"] = x.unflatten(0, count.shape)
        if "mask" not in found:
            found["mask"] = torch.ones_like(found["x"][..., 0], dtype=torch.bool)
    return {name: found[name] for name in INPUTS if name in found}


def export_program(predictor: Predictor, *, length: int | None = None) -> ExportedProgram:
    """Make a program of `torch.export` of a model, for batches of any number of items of any length.

    It is called with a batch, see :func:`program_inputs`, and returns what :class:`Program` does. Who may attend to
    whom in a graph becomes a mask of all pairs.

    Args:
        predictor: what :func:`vsattn.load` returns.
        length: of the longest item in the trace, in words, frames, pixels of a side, nodes or pieces. A window over
            sequences of 512 vectors or more is computed otherwise than over shorter ones, and a program serves the
            kind that it was traced with.

    Raises:
        VsattnError: for a model that no program can be made of, or which takes no item of that length.
    """
    model, tokenizer = predictor.model.eval(), predictor.tokenizer
    for module in model.modules():
        for kind, reason in UNFIT.items():
            if isinstance(module, kind):
                raise VsattnError(f"{type(module).__name__} cannot be exported: it {reason}")
    batch = program_inputs(tokenizer, made_up(tokenizer, TRACED, traced_length(tokenizer, length)))
    dimensions = _dimensions(tokenizer, batch)
    shapes = {name: {i: Dim.DYNAMIC for i, d in enumerate(names) if d} for name, names in dimensions.items()}
    try:
        with torch.no_grad(), quiet():
            program = torch.export.export(
                Program(model), (batch,), dynamic_shapes=(shapes,), prefer_deferred_runtime_asserts_over_guards=True
            )
    except VsattnError:
        raise
    except Exception as error:  # torch.export fails in many ways
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise VsattnError(f"torch.export cannot make a program of this {_parts(model)}: {reason}") from error
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # it names the folders of this machine
    return program


def traced_length(tokenizer: Tokenizer, length: int | None) -> int:
    """Return how long the longest item of a trace is: as long as is asked for, else as positions may be made for."""
    return min(LENGTH, tokenizer.sizes.get("max_length") or LENGTH) if length is None else length


def program_names(program: ExportedProgram) -> list[str]:
    """Return the names of the tensors in the batch that a program takes, in the order of its inputs."""
    assert program.call_spec.in_spec is not None
    spec: Any = program.call_spec.in_spec
    return list(spec.child(0).child(0).context)


def save_program(program: ExportedProgram, path: str | Path, description: dict[str, Any]) -> None:
    """Write a program with its description into one file, whose name ends in ``.pt2``."""
    text = json.dumps(description, ensure_ascii=False)
    with quiet():
        torch.export.save(program, str(path), extra_files={DESCRIPTION: text})


def load_program(path: str | Path) -> tuple[Run, dict[str, Any]]:
    """Return what a file of :func:`save_program` computes, and its description.

    Raises:
        DataError: for a file that is none.
    """
    files = {DESCRIPTION: ""}
    try:
        with quiet():
            program = torch.export.load(str(path), extra_files=files)
    except Exception as error:  # foreign bytes can fail in any way
        raise DataError(f"{path} is no program of torch.export ({type(error).__name__}: {error})") from None
    module = program.module()

    def run(batch: Batch) -> tuple[Tensor, ...]:
        with torch.no_grad():
            return module(batch)

    return run, json.loads(files[DESCRIPTION] or "{}")


@contextmanager
def quiet() -> Iterator[None]:
    """Keep back what exporters say of their own insides."""
    exporters = ("torch.onnx", "torch.export", "onnxscript", "onnx_ir", "root")
    with warnings.catch_warnings(), loggers_at(logging.ERROR, *exporters):
        warnings.simplefilter("ignore")
        yield


def _fixed_size(tokenizer: ImageTokenizer) -> tuple[int, int] | None:
    return tokenizer.size if isinstance(tokenizer.size, tuple) else None


def _dimensions(tokenizer: Tokenizer, batch: Batch) -> dict[str, tuple[str | None, ...]]:
    """Return the names of the dimensions of each tensor; None for what the model fixes."""
    found = {name: INPUTS[name] for name in batch}
    if isinstance(tokenizer, ImageTokenizer) and _fixed_size(tokenizer) is not None:
        found["image"] = ("batch", None, None, None)
    return found


def _parts(model: Model) -> str:
    found = [getattr(model, name, None) for name in ("embedder", "positions", "encoder", "decoder", "head")]
    return " -> ".join(type(part).__name__ for part in found if part is not None)
