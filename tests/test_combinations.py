"""One training step of every option of every part, and of every pair of options of two parts.

Each option's file is composed once; the combinations are made from the plain dicts. What goes together learns;
what does not is refused with the reason.
"""

from __future__ import annotations

import copy
import itertools
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits

from vsattn.build import build
from vsattn.compose import groups, plain_config
from vsattn.errors import ConfigError, ShapeError
from vsattn.model import build_model
from vsattn.tokenizers.base import Tokenizer

PARTS = ("tokenizer", "positions", "structure", "score", "relation", "rotary", "norm", "encoder", "head")
#: The options for pictures, of groups that have others too.
PICTURES = {
    "tokenizer": ["conv_stem", "conv_stem_pooled", "patches", "pixels"],
    "encoder": ["cnn", "induced", "latent", "mlp", "transformer"],
    "head": ["attention", "cls", "mean", "pooling"],
}
#: Encoders that have attention.
ATTENDING = ("induced", "latent", "transformer")
SMALL = ["dim=16", "encoder.num_layers=1"]
DEFAULT = {
    "tokenizer": "patches", "positions": "sinusoidal", "structure": "full", "score": "scaled_dot", "relation": "none",
    "rotary": "none", "norm": "layer", "encoder": "transformer", "head": "attention",
}  # fmt: skip
#: What pictures cannot have, and what is said then.
REFUSED = {
    ("positions", "one_hot"): "OneHot.max_length counts the positions of a sequence",
    ("positions", "laplacian"): "needs one Edges in the set's structure",
    ("positions", "random_walk"): "needs one Edges in the set's structure",
    ("structure", "causal"): "sequence|would leak",
    ("structure", "window"): "sequence",
    ("relation", "alibi"): "needs one coordinate per vector",
    ("relation", "t5"): "needs one coordinate per vector",
    ("relation", "relative_vectors"): "needs one coordinate per vector",
    ("relation", "edge_features"): "reads edge_attr",
}
#: Parts of attention that only the Transformer takes up.
OF_THE_TRANSFORMER = ("structure", "relation", "rotary")


@cache
def option(part: str, name: str, encoder: str = "transformer") -> dict[str, Any]:
    return plain_config([f"encoder={encoder}", f"{part}={name}", *SMALL])[0]


@cache
def digits() -> tuple[list[np.ndarray], torch.Tensor]:
    images, targets = load_digits(return_X_y=True)
    pictures = [(picture.reshape(8, 8) * 15.9).astype(np.uint8) for picture in images[:4]]
    return pictures, torch.from_numpy(targets[:4]).long()


@cache
def tokenizer(name: str) -> Tokenizer:
    return build(option("tokenizer", name)["tokenizer"], Tokenizer).fit(digits()[0])


def combined(names: dict[str, str]) -> dict[str, Any]:
    """Return the config that `GROUP=OPTION ...` gives, without composing it anew."""
    encoder = names["encoder"]
    config = copy.deepcopy(option("encoder", encoder))
    for part in PARTS:
        if part != "encoder":
            config[part] = copy.deepcopy(option(part, names[part])[part])
    if names["head"] == "cls":
        config["encoder"]["num_prefix"] = 1
    if encoder == "transformer":
        taken = ("structure", "score", "relation", "rotary")
        config["encoder"]["attention"].update({part: config[part] for part in taken})
    elif encoder in ATTENDING:
        config["encoder"]["attention"]["score"] = config["score"]
    if encoder in ATTENDING:
        config["encoder"]["num_heads"] = 2
        config["encoder"]["norm"] = config["norm"]
    return config


def one_step(config: dict[str, Any], name: str) -> None:
    torch.manual_seed(0)
    pictures, targets = digits()
    model = build_model(config, tokenizer(name), num_classes=10)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loss = F.cross_entropy(model(tokenizer(name).collate(pictures, train=True)), targets)
    loss.backward()
    optimizer.step()
    assert torch.isfinite(loss)
    for path, parameter in model.named_parameters():
        assert parameter.grad is not None, f"{path} takes no part"
        assert torch.isfinite(parameter).all(), path
    assert any(not torch.equal(parameter, old) for parameter, old in zip(model.parameters(), before))


def refusals(names: dict[str, str]) -> list[str]:
    """Return what may be said against a combination; nothing if it learns."""
    found = [
        message
        for (part, name), message in REFUSED.items()
        if names[part] == name and (part not in OF_THE_TRANSFORMER or names["encoder"] == "transformer")
    ]
    if names["head"] == "cls" and names["encoder"] != "transformer":
        found.append("num_prefix")
    return found


def options(part: str) -> list[str]:
    return PICTURES.get(part) or groups()[part]


def choices() -> list[dict[str, str]]:
    """Return the defaults with every option of every two parts."""
    found = {}
    for first, second in itertools.combinations(PARTS, 2):
        for one, other in itertools.product(options(first), options(second)):
            names = {**DEFAULT, first: one, second: other}
            found[tuple(names.values())] = names
    return list(found.values())


def test_combining_by_hand_is_what_composing_gives() -> None:
    names = {"tokenizer": "patches", "positions": "learned", "structure": "full", "score": "cosine",
             "relation": "relative_2d", "rotary": "halves", "norm": "batch", "encoder": "transformer", "head": "cls"}  # fmt: skip
    words = [*SMALL, "encoder.num_heads=2", *(f"{part}={name}" for part, name in names.items())]
    composed, faults = plain_config(words)
    assert faults == []
    by_hand = combined(names)
    assert {part: by_hand[part] for part in PARTS} == {part: composed[part] for part in PARTS}


@pytest.mark.parametrize("encoder", PICTURES["encoder"])
def test_every_two_options_learn_or_say_why_not(encoder: str) -> None:
    tried = [names for names in choices() if names["encoder"] == encoder]
    assert tried
    for names in tried:
        config, against = combined(names), refusals(names)
        if against:
            with pytest.raises((ConfigError, ShapeError), match="|".join(against)):
                one_step(config, names["tokenizer"])
        else:
            one_step(config, names["tokenizer"])
