"""Which sets of vectors a module joins: whose vectors look, and whose they look at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from torch import nn

from vsattn.encoder_decoder import EncoderDecoder
from vsattn.encoders import LatentEncoder
from vsattn.encoders.induced import InducedBlock
from vsattn.model import Model
from vsattn.recording import Record
from vsattn.vectorset import VectorSet

#: Modules with learned vectors of their own: which part of them looks from whose vectors to whose, True = learned ones.
LEARNED: dict[type[nn.Module], dict[str, tuple[bool, bool]]] = {
    LatentEncoder: {"encode": (True, False), "process": (True, True), "decode": (False, True)},
    InducedBlock: {"inducing": (True, False), "outer": (False, True)},
}


@dataclass
class Places:
    """The sets of a model that looks at one item.

    Args:
        model: whose paths are asked for.
        num_vectors: N of the item, without prefix.
        num_prefix: of the encoder.

    Attributes:
        sizes: the sets that were met, but for the item's own, by name, and how many vectors they have.
    """

    model: Model
    num_vectors: int
    num_prefix: int
    sizes: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        found = [(path, module) for path, module in self.model.named_modules() if type(module) in LEARNED]
        self._owners = [(f"{path}.", f"latent {i}", LEARNED[type(m)]) for i, (path, m) in enumerate(found, start=1)]

    @property
    def main(self) -> str:
        """The name of the item's own set."""
        return "source" if isinstance(self.model, EncoderDecoder) else "input"

    def of(self, record: Record) -> tuple[str, str, str]:
        """Return the part of the model that a record comes from, and the names of the sets of queries and keys."""
        root = record.path.split(".")[0]
        if root == "decoder":
            return ("decoder", "target", "written") if record.kind == "self" else ("cross", "target", self.main)
        if root == "head":
            self.sizes["pool"] = record.query_set.num_vectors
            return "pool", "pool", self.main
        if root == "embedder":
            self.sizes["pieces"] = record.query_set.num_vectors
            return "encoder", "pieces", "pieces"
        for owner, name, parts in self._owners:
            rest = record.path.removeprefix(owner).split(".")[0]
            if record.path.startswith(owner) and rest in parts:
                sides = zip(parts[rest], (record.query_set, record.key_set), strict=True)
                query, key = (self._learned(name, found) if learned else self.main for learned, found in sides)
                return "encoder", query, key
        query = self._unknown(record.query_set)
        return "encoder", query, query if record.kind == "self" else self._unknown(record.key_set)

    def _learned(self, name: str, found: VectorSet) -> str:
        self.sizes[name] = found.num_vectors
        return name

    def _unknown(self, found: VectorSet) -> str:
        """Return the name of a set inside an encoder that is not known: the item's own by its size, or another one."""
        if found.num_vectors - found.num_prefix == self.num_vectors:
            return self.main
        return self._learned(f"{found.num_vectors} vectors", found)


def spread(weights: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Return weights ``(H, n, m)`` for whole sets ``(H, N, M)``: vectors in front, which were not there, get 0."""
    if tuple(weights.shape) == tuple(shape):
        return weights
    whole = np.zeros(shape, weights.dtype)
    whole[:, shape[1] - weights.shape[1] :, shape[2] - weights.shape[2] :] = weights
    return whole
