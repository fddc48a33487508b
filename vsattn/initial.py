"""Weights to start from: which of them a model takes, and which stay new."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from vsattn.build import parameters_of, resolve
from vsattn.checkpoint import model_weights, read
from vsattn.depth import by_reason, grouped, within
from vsattn.errors import CheckpointError, ConfigError
from vsattn.saved import real_weights
from vsattn.tokenizers.base import Tokenizer
from vsattn.vectorset import VectorSet

#: Settings that are used only in training or fitting, or only guard or resize: weights fit whatever they are.
FREE = {"dropout", "drop_path", "spec_augment", "max_vectors", "min_count", "vocab_size", "size"}

#: So many weights that do not fit are named.
SHOWN = 12

#: The parts of a config whose difference can hide behind weights of the same shapes.
COMPARED = ("positions", "encoder", "decoder")


@dataclass(frozen=True)
class Origin:
    """What a model starts from.

    Attributes:
        name: for messages.
        weights: by the names that they have in our model.
        tokenizer: config of the tokenizer that they were learned with; of a peer, what must be so.
        tokenizer_state: what that tokenizer had learned.
        classes: names of the answers; None: the head answers something else.
        config: the whole config of an own run.
        encode: of a peer, its own way from a batch to vectors, to compare with.
        part: of a peer, whose vectors these are: the encoder's, which a head reads, or the embedder's.
    """

    name: str
    weights: dict[str, Tensor]
    tokenizer: dict[str, Any]
    tokenizer_state: dict[str, Any]
    classes: list[str] | None = None
    config: dict[str, Any] | None = None
    encode: Callable[[dict[str, Tensor]], VectorSet] | None = None
    part: Literal["encoder", "embedder"] = "encoder"


@dataclass(frozen=True)
class Taken:
    """What a model took over, by name: ``new`` stays as it was made, ``left`` has no place; both with the reason."""

    taken: list[str]
    new: dict[str, str]
    left: dict[str, str]


def own_run(path: str | Path) -> Origin:
    """Read a checkpoint of ours, or the best one of a run's folder.

    Raises:
        CheckpointError: when it is missing, damaged or foreign, or does not say how it was made in words known here.
    """
    checkpoint = read(path)
    held, name = checkpoint["vsattn"], f"the checkpoint {path}"
    if not isinstance((held["config"] or {}).get("tokenizer"), dict):
        raise CheckpointError(f"{path} does not hold the config of its tokenizer, so what its rows mean is not known")
    try:
        for part in ("tokenizer", "head", *COMPARED):
            dict(_flat(held["config"].get(part), part))
    except ConfigError as error:
        raise CheckpointError(f"the config in {path} names what is not known here: {error}") from None
    return Origin(
        name=name,
        weights=real_weights(model_weights(checkpoint), name),
        tokenizer=held["config"]["tokenizer"],
        tokenizer_state=held["tokenizer_state"],
        classes=held["classes"],
        config=held["config"],
    )


def ready_tokenizer(
    tokenizer: Tokenizer,
    config: dict[str, Any],
    origin: Origin,
    items: Iterable[Any],
    choice: Literal["take", "fit"] | None = None,
) -> Tokenizer:
    """Return the tokenizer, with the origin's state or fitted.

    A row of a table of words means a word, so by default what the origin's tokenizer learned is taken over, if the
    tokenizers are the same.

    Args:
        tokenizer: not fitted.
        config: its config.
        origin: with the other config, and the state.
        items: of training.
        choice: ``"take"`` takes the state whatever settings say, ``"fit"`` learns it from the items.

    Raises:
        CheckpointError: without a choice, naming the settings that differ; or when the state does not fit.
        ConfigError: for ``"fit"`` with a peer's weights, which know no other input than theirs.
    """
    apart = differences(origin.tokenizer, config, "tokenizer", whole=origin.config is not None)
    if choice == "fit":
        if origin.config is None:
            raise ConfigError(f"init_tokenizer=fit: {origin.name} needs its input as it was; leave this out")
        return tokenizer.fit(items)
    if apart and choice is None:
        ways = "" if origin.config is None else (
            "; or init_tokenizer=fit to learn from these data (a new embedder), init_tokenizer=take to read them as "
            "there all the same"
        )  # fmt: skip
        raise CheckpointError(
            f"{origin.name} was learned with another tokenizer: {'; '.join(apart)}. Make them the same{ways}"
        )
    try:
        return tokenizer.load_state(origin.tokenizer_state)
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"what the tokenizer of {origin.name} learned does not fit this {type(tokenizer).__name__}: {error}; "
            "use its tokenizer, or init_tokenizer=fit for a new embedder"
        ) from None


def initialise(
    model: nn.Module,
    origin: Origin,
    *,
    classes: list[str],
    suits: bool = True,
    same_state: bool = True,
    same_grid: bool = True,
) -> Taken:
    """Give a model the weights that fit it, by name and shape.

    The head is new unless it answers the same classes in the same order.

    Args:
        model: changed in place.
        origin: of the weights.
        classes: that the model answers.
        suits: whether the embedder's weights suit the tokenizer.
        same_state: whether rows of its tables mean the same.
        same_grid: whether learned positions stand for the same places.

    Raises:
        CheckpointError: naming what does not fit, when less than half of the numbers between embedder and head were
            found (of a peer: any), or one of the weights is not finite.
    """
    own = model.state_dict()
    chosen, new, left = {}, {}, {}
    tables = {} if same_state else dict.fromkeys(_tables(model), "its rows mean other words")
    for name, value in own.items():
        part, given = name.split(".")[0], origin.weights.get(name)
        if given is None:
            new[name] = "not there"
        elif part == "head" and classes != origin.classes:
            new[name] = "other classes"
        elif name.startswith("head.beside."):
            new[name] = "further columns are learned anew"
        elif part in ("embedder", "target_embedder") and not suits:
            new[name] = "another tokenizer"
        elif part == "positions" and not same_grid:
            new[name] = "of another grid"
        elif name in tables:
            new[name] = tables[name]
        elif given.shape != value.shape:
            new[name] = f"{_shape(given)} there, {_shape(value)} here"
        else:
            chosen[name] = given
    left = {name: new.get(name, "no such weight here") for name in origin.weights if name not in chosen}
    _require_enough(own, chosen, new, left, origin)
    wrong = [name for name, value in chosen.items() if not bool(value.isfinite().all())]
    if wrong:
        raise CheckpointError(f"{origin.name} holds NaN or infinity in {grouped(wrong, own)}")
    model.load_state_dict(chosen, strict=False)
    return Taken(list(chosen), new, left)


def agree(model: Any, origin: Origin, batch: dict[str, Tensor]) -> float:
    """Return the largest difference of a model's vectors from the peer's for a batch, relative to the peer's largest.

    Raises:
        CheckpointError: when it is above what rounding explains: a setting that no weight shows is another one.
    """
    assert origin.encode is not None
    mode = model.training
    with torch.no_grad():
        way = model.eval().encode if origin.part == "encoder" else model.eval().embedder
        ours, theirs = way(batch).x, origin.encode(batch).x
    model.train(mode)
    if ours.shape != theirs.shape:
        raise CheckpointError(f"{origin.name} makes vectors {_shape(theirs)} of a batch, and this model {_shape(ours)}")
    apart = float((ours - theirs).abs().max() / theirs.abs().max().clamp(min=1e-12))
    if not apart < 1e-3:
        raise CheckpointError(
            f"with the weights of {origin.name} this model computes something else (largest difference {apart:.2g} of "
            "the largest number): a setting without weights differs, such as encoder.num_heads, "
            "encoder.norm_placement, norm.eps, or the activation"
        )
    return apart


def differences(there: Any, here: Any, path: str, *, whole: bool = True) -> list[str]:
    """Return the settings of two configs of one part that differ, defaults filled in, such as ``a.b: 1 there, 2 here``.

    Args:
        there, here: configs as `vsattn.build` reads them.
        path: of the part.
        whole: whether ``there`` says everything; otherwise only what it says is compared.
    """
    first, second = dict(_flat(there, path, fill=whole)), dict(_flat(here, path))
    found: dict[str, str] = {}
    for name in [*first, *(name for name in second if whole and name not in first)]:
        one, other = first.get(name), second.get(name)
        # Of another class, the settings are others too.
        if one != other and not FREE & set(name.split(".")) and not any(within(name, above) for above in found):
            found[name] = f"{name}: {one} there, {other} here"
    return list(found.values())


def _tables(model: nn.Module) -> list[str]:
    """Return the names of the tables of vectors that embedders look words up in, tied heads included."""
    tables = [
        (name, module.weight)
        for name, module in model.named_modules()
        if isinstance(module, nn.Embedding) and name.split(".")[0] in ("embedder", "target_embedder")
    ]
    shared = {id(weight) for _, weight in tables}
    return [name for name, weight in model.named_parameters(remove_duplicate=False) if id(weight) in shared]


def _require_enough(
    own: dict[str, Tensor], chosen: dict[str, Tensor], new: dict[str, str], left: dict[str, str], origin: Origin
) -> None:
    """Raise CheckpointError when an own run gives less than half of what lies between embedder and head, a peer any."""
    peer = origin.config is None
    apart = ("head",) if peer else ("head", "embedder", "target_embedder")
    body = [name for name in own if name.split(".")[0] not in apart]
    if origin.part == "embedder" or not body:  # of an encoder that has no weights
        body = [name for name in own if name.split(".")[0] == "embedder"]
    found, total = sum(own[name].numel() for name in body if name in chosen), sum(own[name].numel() for name in body)
    lost = [name for name in left if name not in own and name.split(".")[0] != "head"]
    if (found == total and not lost) if peer else (chosen and 2 * found >= total):
        return
    lines = by_reason({name: new[name] for name in body if name in new}, own)
    lines += by_reason(dict.fromkeys(lost, "there, not here"), origin.weights)
    if len(lines) > SHOWN:
        lines[SHOWN:] = [f"and {len(lines) - SHOWN} more"]
    raise CheckpointError(
        f"the weights of {origin.name} do not fit this model: {found:,} of the {total:,} numbers below its head were "
        "found. Build it as it was there (dim, tokenizer, positions, encoder):\n"
        + "\n".join(f"  {line}" for line in lines)
    )


def _flat(config: Any, path: str, *, fill: bool = True) -> Iterator[tuple[str, Any]]:
    """Yield the settings of a config by their dotted names; ``fill`` adds the defaults of what it leaves out."""
    if isinstance(config, type):  # the default of a factory
        config = {"_target_": f"{config.__module__}.{config.__qualname__}"}
    if not isinstance(config, dict):
        yield path, config
        return
    defaults: dict[str, Any] = {}
    if fill and "_target_" in config:
        parameters = parameters_of(resolve(config["_target_"])).items()
        defaults = {name: p.default for name, p in parameters if p.default is not p.empty}
        defaults = {name: list(value) if isinstance(value, tuple) else value for name, value in defaults.items()}
    for key, value in {**defaults, **config}.items():
        if key != "_partial_":
            yield from _flat(value, path if key == "_target_" else f"{path}.{key}", fill=fill)


def _shape(value: Tensor) -> str:
    return "x".join(map(str, value.shape)) or "one number"
