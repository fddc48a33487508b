"""One training step of every option of every part, and of every pair of options of two parts.

Each option's file is composed once; the combinations are made from the plain dicts. What goes together learns;
what does not is refused with the reason.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from vsattn.build import build
from vsattn.compose import groups, plain_config
from vsattn.errors import ConfigError, ShapeError
from vsattn.model import build_model
from vsattn.tokenizers import Graph
from vsattn.tokenizers.base import Tokenizer

PARTS = ("tokenizer", "positions", "structure", "score", "relation", "rotary", "norm", "encoder", "head")
#: Encoders that have attention.
ATTENDING = ("induced", "latent", "transformer", "transformer_small", "transformer_wide")
TRANSFORMERS = ("transformer", "transformer_small", "transformer_wide")
#: Parts of attention that only these take up.
OF_THE_TRANSFORMER = ("structure", "relation", "rotary")
DEFAULT = {
    "positions": "sinusoidal", "structure": "full", "score": "scaled_dot", "relation": "none",
    "rotary": "none", "norm": "layer", "encoder": "transformer", "head": "attention",
}  # fmt: skip
PER_SET = ["attention", "cls", "mean", "pooling"]


@dataclass(frozen=True)
class Modality:
    """Items, the options that are for them among groups that have others too, and what is said against the rest.

    The first option of a list is the one that others are combined with.
    """

    items: Callable[[], list[Any]]
    options: dict[str, list[str]]
    refused: dict[tuple[str, str], str]


@cache
def pictures() -> list[np.ndarray]:
    return [(picture.reshape(8, 8) * 15.9).astype(np.uint8) for picture in load_digits().images[:4]]


def sentences() -> list[list[str]]:
    return [text.split() for text in ("the dog barks", "a dog", "the bark of the old tree is rough", "dogs")]


def clips() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [0.1 * torch.randn(length, generator=generator) for length in (2000, 900, 1600, 3000)]


def networks() -> list[Graph]:
    generator = torch.Generator().manual_seed(0)
    return [
        Graph(torch.rand(size, 5, generator=generator), torch.randint(size, (2, 3 * size), generator=generator))
        for size in (6, 4, 5)
    ]


NEEDS_EDGES = "needs one Edges in the set's structure"
NO_POSITIONS = "these vectors have no positions"
SEQUENCES = {
    ("positions", "laplacian"): NEEDS_EDGES,
    ("positions", "random_walk"): NEEDS_EDGES,
    ("relation", "relative_2d"): r"needs \(row, column\) positions",
    ("relation", "relative_2d_convolution"): r"needs \(row, column\) positions",
    ("relation", "edge_features"): "reads edge_attr",
}
MODALITIES = {
    "pictures": Modality(
        pictures,
        {
            "tokenizer": ["patches", "conv_stem", "conv_stem_pooled", "pixels"],
            "encoder": ["transformer", "cnn", "induced", "latent", "mlp"],
            "head": PER_SET,
        },
        {
            ("positions", "one_hot"): "OneHot.max_length counts the positions of a sequence",
            ("positions", "laplacian"): NEEDS_EDGES,
            ("positions", "random_walk"): NEEDS_EDGES,
            ("structure", "causal"): "sequence|would leak",
            ("structure", "window"): "sequence",
            ("relation", "alibi"): "needs one coordinate per vector",
            ("relation", "t5"): "needs one coordinate per vector",
            ("relation", "relative_vectors"): "needs one coordinate per vector",
            ("relation", "edge_features"): "reads edge_attr",
        },
    ),
    "words": Modality(
        sentences,
        {
            "tokenizer": ["words", "words_large", "words_only"],
            "encoder": [
                "transformer",
                "transformer_wide",
                "birnn",
                "cnn",
                "identity",
                "induced",
                "latent",
                "mlp",
                "rnn",
                "window_mlp",
            ],
            "head": ["vector", *PER_SET],
        },
        SEQUENCES,
    ),
    "sound": Modality(
        clips,
        {
            "tokenizer": ["log_mel", "log_mel_coarse", "mfcc", "raw_audio"],
            "encoder": [
                "transformer",
                "transformer_small",
                "birnn",
                "cnn",
                "induced",
                "latent",
                "mlp",
                "rnn",
                "window_mlp",
            ],
            "head": ["attention", "vector", "ctc", *PER_SET[1:]],
        },
        SEQUENCES,
    ),
    "graphs": Modality(
        networks,
        {
            "tokenizer": ["graph_nodes"],
            "encoder": ["transformer", "diffusion", "gat", "gcn", "mlp", "sage"],
            "head": ["vector", *PER_SET],
            "positions": ["none", *(name for name in groups()["positions"] if name != "none")],
        },
        {
            ("positions", "learned"): "got None and None",
            ("positions", "one_hot"): "OneHot.max_length counts the positions of a sequence",
            ("positions", "sinusoidal"): NO_POSITIONS,
            ("structure", "causal"): NO_POSITIONS + "|would leak",
            ("structure", "window"): NO_POSITIONS,
            **{
                ("relation", name): NO_POSITIONS
                for name in groups()["relation"]
                if name not in ("none", "edge_features")
            },
            ("relation", "edge_features"): "reads edge_attr",
            **{("rotary", name): NO_POSITIONS for name in groups()["rotary"] if name != "none"},
        },
    ),
}


@cache
def option(part: str, name: str, encoder: str = "transformer") -> dict[str, Any]:
    layers = [] if "diffusion" in (encoder, name) else ["encoder.num_layers=1"]
    return plain_config([f"encoder={encoder}", f"{part}={name}", "dim=16", *layers])[0]


@cache
def tokenizer(modality: str, name: str) -> Tokenizer:
    return build(option("tokenizer", name)["tokenizer"], Tokenizer).fit(MODALITIES[modality].items())


def combined(names: dict[str, str]) -> dict[str, Any]:
    """Return the config that `GROUP=OPTION ...` gives, without composing it anew."""
    encoder = names["encoder"]
    config = copy.deepcopy(option("encoder", encoder))
    for part in PARTS:
        if part != "encoder":
            config[part] = copy.deepcopy(option(part, names[part])[part])
    if names["head"] == "cls":
        config["encoder"]["num_prefix"] = 1
    if encoder in TRANSFORMERS:
        taken = ("structure", "score", "relation", "rotary")
        config["encoder"]["attention"].update({part: config[part] for part in taken})
    elif encoder in ATTENDING:
        config["encoder"]["attention"]["score"] = config["score"]
    if encoder in ATTENDING:
        config["encoder"]["num_heads"] = 2
        config["encoder"]["norm"] = config["norm"]
    if encoder == "diffusion":
        config["encoder"]["score"] = config["score"]
    return config


def one_step(modality: str, names: dict[str, str]) -> None:
    torch.manual_seed(0)
    tokens = tokenizer(modality, names["tokenizer"])
    model = build_model(combined(names), tokens, num_classes=10)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    output = model(tokens.collate(MODALITIES[modality].items(), train=True))
    loss = (output * torch.randn(output.shape)).sum()
    loss.backward()
    optimizer.step()
    assert torch.isfinite(loss)
    for path, parameter in model.named_parameters():
        assert parameter.grad is not None, f"{path} takes no part"
        assert torch.isfinite(parameter).all(), path
    assert any(not torch.equal(parameter, old) for parameter, old in zip(model.parameters(), before))


def refusals(modality: str, names: dict[str, str]) -> list[str]:
    """Return what may be said against a combination; nothing if it learns."""
    found = [
        message
        for (part, name), message in MODALITIES[modality].refused.items()
        if names[part] == name and (part not in OF_THE_TRANSFORMER or names["encoder"] in TRANSFORMERS)
    ]
    if names["head"] == "cls" and names["encoder"] not in TRANSFORMERS:
        found.append("num_prefix")
    if names["head"] == "cls" and names["structure"] == "causal" and names["encoder"] in TRANSFORMERS:
        found.append("would leak")
    return found


def choices(modality: str) -> list[dict[str, str]]:
    """Return the defaults with every option of every two parts."""
    own = MODALITIES[modality].options
    default = {**DEFAULT, **{part: names[0] for part, names in own.items()}}
    found = {}
    for first, second in itertools.combinations(PARTS, 2):
        for one, other in itertools.product(*(own.get(part) or groups()[part] for part in (first, second))):
            names = {**default, first: one, second: other}
            found[tuple(names.values())] = names
    return list(found.values())


def test_combining_by_hand_is_what_composing_gives() -> None:
    names = {"tokenizer": "patches", "positions": "learned", "structure": "full", "score": "cosine",
             "relation": "relative_2d", "rotary": "halves", "norm": "batch", "encoder": "transformer",
             "head": "cls"}  # fmt: skip
    words = [
        "dim=16",
        "encoder.num_layers=1",
        "encoder.num_heads=2",
        *(f"{part}={name}" for part, name in names.items()),
    ]
    composed, faults = plain_config(words)
    assert faults == []
    by_hand = combined(names)
    assert {part: by_hand[part] for part in PARTS} == {part: composed[part] for part in PARTS}


PAIRS = [(modality, encoder) for modality, one in MODALITIES.items() for encoder in one.options["encoder"]]


@pytest.mark.parametrize(("modality", "encoder"), PAIRS)
def test_every_two_options_learn_or_say_why_not(modality: str, encoder: str) -> None:
    tried = [names for names in choices(modality) if names["encoder"] == encoder]
    assert tried
    for names in tried:
        if against := refusals(modality, names):
            with pytest.raises((ConfigError, ShapeError), match="|".join(against)):
                one_step(modality, names)
        else:
            one_step(modality, names)


@pytest.mark.parametrize("group", ["tokenizer", "encoder", "head"])
def test_every_option_is_tried_with_something(group: str) -> None:
    tried = {name for modality in MODALITIES.values() for name in modality.options[group]}
    elsewhere = {"crf", "multi_task"}  # their weights learn by a loss of their own: test_crf.py, test_beside.py
    elsewhere |= {"waves", "word_pieces"}  # of the width of a peer's model, see test_finetune.py
    elsewhere |= {"bigru", "tied", "subwords", "subwords_small", "word_pairs"}  # of a model with a decoder
    assert set(groups()[group]) - tried <= elsewhere
