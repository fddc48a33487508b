"""Which weights decay and how fast each layer learns: groups of the optimizer, and what schedules make of them."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW, Rprop
from torch.optim.lr_scheduler import CosineAnnealingLR, CyclicLR, OneCycleLR

from vsattn.depth import depth_of, freeze, keep_frozen, sections
from vsattn.encoders import RecurrentEncoder, TransformerEncoder
from vsattn.errors import ConfigError
from vsattn.heads import ClsHead, TiedHead, VectorHead
from vsattn.model import Model
from vsattn.positions import Learned
from vsattn.tasks.optim import make_optimizer, make_schedule
from vsattn.tasks.schedules import InverseSqrt, Noam
from vsattn.tokenizers.patches import PatchEmbedder
from vsattn.tokenizers.word_pieces import WordPieces
from vsattn.tokenizers.words import TableEmbedder

LAYERS = 3
DECAY = 0.5


def model(layers: int = LAYERS) -> Model:
    encoder = TransformerEncoder(8, layers, 2, num_prefix=1, dropout=0.5)
    return Model(PatchEmbedder(1, 8, 2), encoder, ClsHead(8, 4), positions=Learned(8, grid=(2, 2)))


def rates(made: Any, optimizer: torch.optim.Optimizer) -> dict[str, float]:
    names = {id(p): name for name, p in made.named_parameters()}
    return {names[id(p)]: group["lr"] for group in optimizer.param_groups for p in group["params"]}


def expected_rate(name: str, lr: float) -> float:
    """BEiT's rule for a vision transformer: patches, positions and CLS are layer 0, the last norm is the head's."""
    if name.startswith(("embedder", "positions", "encoder.prefix")):
        layer = 0
    elif name.startswith("encoder.blocks."):
        layer = int(name.split(".")[2]) + 1
    else:
        layer = LAYERS + 1
    return lr * DECAY ** (LAYERS + 1 - layer)


@pytest.mark.parametrize("optimizer", [None, partial(AdamW, lr=0.1, weight_decay=0.3), partial(SGD, lr=0.1)])
def test_each_layer_learns_at_a_share_of_the_rate_of_the_one_above(optimizer: Any) -> None:
    made = model()
    lr = 0.001 if optimizer is None else 0.1
    found = rates(made, make_optimizer(made, optimizer, DECAY))
    assert found == pytest.approx({name: expected_rate(name, lr) for name, _ in made.named_parameters()})


def test_the_groups_hold_every_weight_once_and_decay_as_without_layers() -> None:
    made = model()
    one, other = (make_optimizer(made, partial(AdamW, weight_decay=0.3), decay) for decay in (None, DECAY))
    both = []
    for optimizer in (one, other):
        members = [(id(p), group["weight_decay"]) for group in optimizer.param_groups for p in group["params"]]
        assert len(members) == len(list(made.parameters()))
        both.append(dict(members))
    assert both[0] == both[1] and set(both[0].values()) == {0.3, 0.0}
    assert both[0][id(made.encoder.norm.weight)] == 0.0 and both[0][id(made.head.classify.weight)] == 0.3
    assert len({group["lr"] for group in one.param_groups}) == 1


def test_the_first_group_has_the_highest_rate_which_tables_show() -> None:
    groups = make_optimizer(model(), partial(Adam, lr=0.1), DECAY).param_groups
    assert groups[0]["lr"] == 0.1
    assert [group["lr"] for group in groups] == sorted((group["lr"] for group in groups), reverse=True)


@pytest.mark.parametrize(
    "schedule",
    [
        partial(OneCycleLR, pct_start=0.3),
        partial(OneCycleLR, max_lr=0.7, pct_start=0.3),
        partial(CyclicLR, base_lr=0.1, max_lr=0.9, step_size_up=3, cycle_momentum=False),
        partial(CosineAnnealingLR),
        partial(InverseSqrt, warmup=3),
    ],
)
def test_schedules_keep_the_layers_apart_at_every_step(schedule: Any) -> None:
    """Each group's rate is its share of what the schedule makes of the same model without layers."""
    made = model()
    optimizers = [make_optimizer(made, partial(AdamW, lr=0.2), decay) for decay in (DECAY, None)]
    schedules = [make_schedule(optimizer, schedule, 10)["scheduler"] for optimizer in optimizers]
    share = {name: expected_rate(name, 1.0) for name, _ in made.named_parameters()}
    for _ in range(9):
        layered, plain = (rates(made, optimizer) for optimizer in optimizers)
        assert layered == pytest.approx({name: rate * share[name] for name, rate in plain.items()}, abs=1e-12)
        for optimizer, one in zip(optimizers, schedules, strict=True):
            optimizer.step()
            one.step()


def test_what_has_one_rate_only_is_refused() -> None:
    optimizer = make_optimizer(model(), partial(AdamW, lr=0.2), DECAY)
    with pytest.raises(ConfigError, match="schedule=noam gives all layers one rate"):
        make_schedule(optimizer, partial(Noam, dim=8), 10)
    assert make_schedule(make_optimizer(model(), None, 1.0), partial(Noam, dim=8), 10)


def test_optimizers_without_weight_decay_have_layers_too() -> None:
    made = model()
    found = rates(made, make_optimizer(made, partial(Rprop, lr=0.1), DECAY))
    assert found == pytest.approx({name: expected_rate(name, 0.1) for name, _ in made.named_parameters()})


@pytest.mark.parametrize("count", range(LAYERS + 1))
def test_a_number_freezes_the_lowest_layers(count: int) -> None:
    made = model()
    freeze(made, count)
    frozen = {name for name, p in made.named_parameters() if not p.requires_grad}
    low = ["embedder", "positions", "encoder.prefix", *(f"encoder.blocks.{i}." for i in range(count))]
    assert frozen == {name for name, _ in made.named_parameters() if name.startswith(tuple(low))}
    trained = {id(p) for group in make_optimizer(made, None).param_groups for p in group["params"]}
    assert trained == {id(p) for p in made.parameters() if p.requires_grad}


def test_names_freeze_parts_and_what_is_frozen_stays_in_evaluation_mode() -> None:
    made = model()
    names = freeze(made, ["encoder.blocks.0.attention", "encoder.prefix"])
    made.train()
    keep_frozen(made, names)
    assert {n for n, p in made.named_parameters() if not p.requires_grad} == {
        "encoder.prefix", *(n for n, _ in made.named_parameters() if n.startswith("encoder.blocks.0.attention."))
    }  # fmt: skip
    block = made.encoder.blocks[0]
    assert not any(m.training for m in block.attention.modules()) and block.feed_forward.training
    names = freeze(made, 1)
    made.train()
    keep_frozen(made, names)
    assert not made.encoder.dropout.training and made.encoder.blocks[1].training and made.head.training


def test_a_weight_of_two_parts_is_frozen_with_either() -> None:
    for part in ("embedder", "head", "head.classify.weight"):
        embedder = TableEmbedder("word", 5, 8)
        made = Model(embedder, TransformerEncoder(8, 1, 2), TiedHead(8, 5))
        made.head.tie(embedder.table)
        freeze(made, [part])
        assert not embedder.table.weight.requires_grad and made.encoder.norm.weight.requires_grad


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (LAYERS + 1, "the model has 3 layers, so a number from 0 to 3, not 4"),
        (["encodr"], "no part encodr; did you mean 'encoder'"),
        (["encoder.blocks.0", "head.classifi"], "no part head.classifi"),
        (["embedder", "positions", "encoder", "head"], "nothing is left to train"),
    ],
)
def test_what_cannot_be_frozen(what: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        freeze(model(), what)


def test_an_encoder_of_one_piece_is_one_layer() -> None:
    made = Model(nn.Linear(1, 8), RecurrentEncoder(8, num_layers=2, bidirectional=True), VectorHead(8, 4))
    assert sections(made) == {"embedder": 0, "encoder": 1, "head": 2}


def test_an_embedder_with_an_encoder_of_its_own_has_its_layers() -> None:
    tokenizer = WordPieces(num_layers=2, num_heads=2, hidden_dim=8, min_count=1, vocab_size=30)
    embedder = tokenizer.fit([["a", "b"]]).embedder(8)
    depths = sections(Model(embedder, TransformerEncoder(8, 1, 2), VectorHead(8, 4)))
    blocks = "embedder.bert.encoder.blocks"
    order = ["embedder.bert.embedder.words.weight", f"{blocks}.0.attention.query_proj.weight", f"{blocks}.1.x"]
    assert [depth_of(name, depths) for name in [*order, "encoder.blocks.0.x", "encoder.norm.weight", "head.x"]] == [
        0, 1, 2, 3, 4, 4
    ]  # fmt: skip
