"""One training step of every combination of tokenizer, positions, structure, score, relation, encoder and head.

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

PARTS = ("tokenizer", "positions", "structure", "score", "relation", "encoder", "head")
SMALL = ["dim=16", "encoder.num_layers=1"]
#: Structures of sequences, which a grid of vectors cannot have.
FOR_SEQUENCES = ("causal", "window")


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


def combined(encoder: str, names: dict[str, str]) -> dict[str, Any]:
    """Return the config that `GROUP=OPTION ...` gives, without composing it anew."""
    config = copy.deepcopy(option("encoder", encoder))
    for part, name in names.items():
        config[part] = copy.deepcopy(option(part, name, encoder)[part])
    config["encoder"]["num_prefix"] = option("head", names["head"], encoder)["encoder"].get("num_prefix", 0)
    if encoder == "cnn" and not config["encoder"]["num_prefix"]:
        del config["encoder"]["num_prefix"]
    if encoder == "transformer":
        config["encoder"]["attention"].update({part: config[part] for part in ("structure", "score", "relation")})
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


def test_combining_by_hand_is_what_composing_gives() -> None:
    names = {"tokenizer": "patches", "positions": "learned", "structure": "full", "score": "cosine",
             "relation": "relative_2d", "head": "cls"}  # fmt: skip
    composed, faults = plain_config([*SMALL, *(f"{part}={name}" for part, name in names.items())])
    assert faults == []
    by_hand = combined("transformer", names)
    assert {part: by_hand[part] for part in PARTS} == {part: composed[part] for part in PARTS}


@pytest.mark.parametrize("head", groups()["head"])
@pytest.mark.parametrize("name", groups()["tokenizer"])
def test_transformer(name: str, head: str) -> None:
    choices = [groups()[part] for part in ("positions", "structure", "score", "relation")]
    for positions, structure, score, relation in itertools.product(*choices):
        names = {"tokenizer": name, "positions": positions, "structure": structure, "score": score,
                 "relation": relation, "head": head}  # fmt: skip
        config = combined("transformer", names)
        if structure in FOR_SEQUENCES:
            with pytest.raises(ShapeError, match=r"sequence|would leak"):
                one_step(config, name)
        else:
            one_step(config, name)


@pytest.mark.parametrize("head", groups()["head"])
@pytest.mark.parametrize("name", groups()["tokenizer"])
def test_cnn(name: str, head: str) -> None:
    for positions in groups()["positions"]:
        config = combined("cnn", {"tokenizer": name, "positions": positions, "head": head})
        if head == "cls":
            with pytest.raises(ConfigError, match="num_prefix"):
                one_step(config, name)
        else:
            one_step(config, name)
