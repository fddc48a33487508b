"""Made-up items for a tokenizer, from which a model can be traced and its exported program be tried."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Generator, Tensor

from vsattn.errors import VsattnError
from vsattn.tokenizers.audio import AudioFrames
from vsattn.tokenizers.base import Tokenizer
from vsattn.tokenizers.graph import Graph
from vsattn.tokenizers.graph_nodes import GraphNodes
from vsattn.tokenizers.images import ImageTokenizer
from vsattn.tokenizers.text import SPECIALS, Text
from vsattn.tokenizers.text_pairs import TextPairs
from vsattn.tokenizers.words import WordTokenizer


def made_up(tokenizer: Tokenizer, count: int, length: int, *, seed: int = 0) -> dict[str, Tensor]:
    """Return a batch of ``count`` random items, the longest of about ``length`` words, frames, pixels, nodes or pieces.

    The items pass through the tokenizer, so that the batch is as it makes them; of text that is to be translated it has
    the ``"target"`` too.

    Raises:
        VsattnError: for a tokenizer whose items are not known here.
    """
    random = torch.Generator().manual_seed(seed)
    lengths = [length, *(_draw(max(1, length // 2), length, random) for _ in range(count - 1))]
    if isinstance(tokenizer, TextPairs):
        sides = (tokenizer.source, tokenizer.target)
        texts = [[_text(side, n, tokenizer.max_length, random) for n in lengths] for side in sides]
        return {**tokenizer.collate(texts[0]), "target": tokenizer.targets(texts[1])}
    for kind, make in _ITEMS:
        if isinstance(tokenizer, kind):
            return tokenizer.collate([make(tokenizer, n, random) for n in lengths])
    raise VsattnError(f"{type(tokenizer).__name__} cannot be exported: what its items are is not known")


def _picture(tokenizer: ImageTokenizer, length: int, random: Generator) -> Tensor:
    shape = tokenizer.state["channels"], length, length + 1 + _draw(0, 2, random)
    return torch.randint(256, shape, generator=random, dtype=torch.uint8)


def _sentence(tokenizer: WordTokenizer, length: int, random: Generator) -> list[str]:
    known = list(_names(tokenizer.state)) or ["a"]
    return [known[_draw(0, len(known) - 1, random)] for _ in range(length)]


def _names(state: Any) -> Iterator[str]:
    """Yield all entries of the vocabularies in a state: words, and characters and endings, which make odd words."""
    if isinstance(state, dict):
        for value in state.values():
            yield from _names(value)
    elif isinstance(state, list) and state and isinstance(state[0], str):
        yield from state


def _clip(tokenizer: AudioFrames, length: int, random: Generator) -> Tensor:
    return 0.1 * torch.randn(tokenizer.window + (length - 1) * tokenizer.hop, generator=random)


def _graph(tokenizer: GraphNodes, length: int, random: Generator) -> Graph:
    features, edge_dim = tokenizer.state["num_features"], tokenizer.state["edge_dim"]
    index = torch.randint(length, (2, 2 * length), generator=random)
    attr = torch.randn(index.shape[1], edge_dim, generator=random) if edge_dim else None
    return Graph(torch.rand(length, features, generator=random), index, attr)


def _text(text: Text, length: int, limit: int, random: Generator) -> str:
    found = text.decode([_draw(len(SPECIALS), len(text) - 1, random) for _ in range(length)])
    while len(text.encode(found)) >= limit:  # what is joined may be cut into more
        found = found[: len(found) // 2]
    return found


def _draw(low: int, high: int, random: Generator) -> int:
    return int(torch.randint(low, high + 1, (), generator=random))


_ITEMS: Sequence[tuple[type[Tokenizer], Any]] = (
    (ImageTokenizer, _picture),
    (WordTokenizer, _sentence),
    (AudioFrames, _clip),
    (GraphNodes, _graph),
)
