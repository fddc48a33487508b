"""From the words of a command to one plain config, by Hydra; all faults at once, with the nearest valid names."""

from __future__ import annotations

import difflib
import itertools
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_module
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, IntervalSweep, Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from vsattn.errors import ConfigError, nearest
from vsattn.extensions import groups, published, shadowed

CONF = "vsattn.conf"
#: Groups that an encoder takes up or not.
ATTENTION_GROUPS = ("structure", "score", "relation", "rotary", "norm")
#: Sweepers and launchers that are packages of their own, and the extra of ours that brings each.
EXTRAS = {"optuna": "sweeps", "joblib": "joblib", "ray": "ray", "ray_aws": "ray"}
EXTRAS |= {"submitit_local": "submitit", "submitit_slurm": "submitit"}
#: A sweep of up to so many jobs is checked job by job before the first starts; a larger one, value by value.
MAX_CHECKED_JOBS = 64


def plain_config(
    overrides: Iterable[str], *, config_dir: str | Path | None = None, config_name: str = "config"
) -> tuple[dict[str, Any], list[str]]:
    """Compose ``key=value`` words into a plain, resolved config.

    Returns:
        The config of all words that are in order, and the faults of the others, one line each.
    """
    if config_dir is not None and not Path(config_dir).is_dir():
        raise ConfigError(f"there is no folder {config_dir} for --config-dir")
    table, faults = groups(config_dir), [] if config_dir is None else shadowed(config_dir)
    choices: list[Override] = []
    values: list[Override] = []
    for text in overrides:
        try:
            override = OverridesParser.create().parse_override(text)
        except HydraException as error:
            faults.append(_unreadable(text, table, error))
            continue
        name = override.key_or_group
        fault = _sweep_fault(override) or _group_fault(override, table)
        if fault:
            faults.append(fault)
        else:
            (choices if name in table or name.split(".")[0].split("/")[0] == "hydra" else values).append(override)
    try:
        with _hydra(config_dir) as compose:
            base = compose(config_name, choices)
            wrong = {id(o): fault for o in values if (fault := _key_fault(o, base, table))}
            accepted = [o for o in (*choices, *values) if id(o) not in wrong]
            config = compose(config_name, accepted) if len(accepted) > len(choices) else base
    except ConfigError as error:
        raise ConfigError("\n".join([*faults, str(error)])) from error
    plain, more = resolve(config, [o.key_or_group for o in accepted])
    return plain, [*faults, *wrong.values(), *more]


def resolve(config: DictConfig, chosen: Iterable[str]) -> tuple[dict[str, Any], list[str]]:
    """Turn a composed config into plain types; parts that the encoder does not take up become null.

    Args:
        config: as Hydra composed it.
        chosen: the keys that the user named, none of which may be one that has no effect.

    Returns:
        The config, and its faults: values that are missing, references to nothing, choices without effect.
    """
    raw = OmegaConf.to_container(config, resolve=False)
    assert isinstance(raw, dict)
    faults = [f"{key}: needs a value; add {key}=VALUE" for key in _missing(raw)]
    plain: dict[str, Any] = {}
    for key in map(str, config):
        try:
            part = config[key]
            plain[key] = OmegaConf.to_container(part, resolve=True) if OmegaConf.is_config(part) else part
        except OmegaConfBaseException as error:
            faults.append(f"{key}: {_first_line(error)}")
    for group in ATTENTION_GROUPS:
        others = str({key: value for key, value in raw.items() if key != group})
        if f"${{{group}}}" in others or f"${{{group}." in others:
            continue
        plain[group] = None
        named = [key for key in chosen if raw[group] and (key == group or key.startswith(f"{group}."))]
        target = (plain.get("encoder") or {}).get("_target_", "this encoder").rsplit(".", 1)[-1]
        faults += [f"{key}: {target} has no {group}, so this would do nothing; leave it out" for key in named]
    return plain, faults


def overlay(config: dict[str, Any], overrides: Iterable[str]) -> tuple[dict[str, Any], list[str]]:
    """Change values of a plain config, such as a checkpoint's, by ``key=value`` words.

    Returns:
        A changed copy, in which nothing is interpolated, and the faults of the words, one line each.
    """
    changed, faults = OmegaConf.create(config), []
    for text in overrides:
        try:
            override = OverridesParser.create().parse_override(text)
        except HydraException as error:
            faults.append(_unreadable(text, {}, error))
            continue
        fault = _sweep_fault(override) or _key_fault(override, changed, {})
        if override.is_delete():
            fault = f"{text}: nothing can be left out here; give another value"
        if fault:
            faults.append(fault)
        else:
            OmegaConf.update(changed, override.key_or_group, override.value(), force_add=True)
    return OmegaConf.to_container(changed, resolve=False), faults  # type: ignore[return-value]


def _missing(node: Any, path: str = "") -> list[str]:
    """Return the keys whose value is ``???``, which the user must give."""
    if isinstance(node, dict):
        return [key for name, item in node.items() for key in _missing(item, f"{path}.{name}" if path else str(name))]
    return [path] if node == "???" else []


def hydra_settings(overrides: Iterable[str], *, config_dir: str | Path | None, config_name: str) -> DictConfig:
    """Return Hydra's own settings: mode, sweeper, launcher and folders, by the choices that have one value."""
    table, chosen = groups(config_dir), []
    for text in overrides:
        with suppress(HydraException):  # what cannot be read is told where configs are checked
            override = OverridesParser.create().parse_override(text)
            own = override.key_or_group.split(".")[0].split("/")[0] == "hydra"
            if not override.is_sweep_override() and (own or override.key_or_group in table):
                chosen += [] if _group_fault(override, table) else [override]
    with _hydra(config_dir) as compose:
        return compose(config_name, chosen, return_hydra_config=True).hydra


def jobs(overrides: list[str], config_dir: str | Path | None = None) -> list[list[str]]:
    """Return the overrides of each job of a sweep (of a large one: every value once)."""
    table = groups(config_dir)
    options = [_values(text, table) for text in overrides]
    count = 1
    for values in options:
        count *= len(values)
    if count <= MAX_CHECKED_JOBS:
        return [list(job) for job in itertools.product(*options)]
    first = [values[0] for values in options]
    return [[*first[:i], value, *first[i + 1 :]] for i, values in enumerate(options) for value in values]


def _values(text: str, table: dict[str, list[str]]) -> list[str]:
    """Return the words that a sweep makes of one; an unreadable one is left as it is, for `plain_config` to judge."""
    try:
        override = OverridesParser.create().parse_override(text)
        if not override.is_sweep_override():
            return [text]
        sweep: Any = override.value()
        if isinstance(sweep, Glob):
            values: list[Any] = sweep.filter(table.get(override.key_or_group, []))
        elif isinstance(sweep, IntervalSweep):
            values = [sweep.start, sweep.end]
        else:
            values = list(override.sweep_string_iterator())
    except HydraException:
        return [text]
    return [f"{override.get_key_element()}={value}" for value in values] or [text]


@contextmanager
def _hydra(config_dir: str | Path | None) -> Iterator[Any]:
    GlobalHydra.instance().clear()
    extra = [] if config_dir is None else [f"hydra.searchpath=['file://{Path(config_dir).absolute()}']"]

    def compose(name: str, overrides: list[Override], **options: Any) -> DictConfig:
        try:
            return hydra_compose(name, [*extra, *(str(o.input_line) for o in overrides)], **options)
        except (HydraException, OmegaConfBaseException, YAMLError) as error:
            raise ConfigError(_extra(error) or _chain(error)) from error
        except (ValueError, TypeError, LookupError, AttributeError, AssertionError, OSError, RecursionError) as error:
            # What Hydra does not expect in a file: other encodings, headers or defaults lists that are none.
            files = [Path(config_dir or ".", o.key_or_group, f"{o.value()}.yaml") for o in overrides]
            own = " or ".join(str(file) for file in files if config_dir is not None and os.path.lexists(file))
            raise ConfigError(f"{own or name} cannot be read as a config: {_first_line(error)}") from error

    for name, target in published().items():
        ConfigStore.instance().store(group="tokenizer", name=name, node={"_target_": target})
    with initialize_config_module(CONF, version_base="1.3"):
        yield compose


def _unreadable(text: str, table: dict[str, list[str]], error: Exception) -> str:
    if "=" not in text:
        options = f"; for example {text}={table[text][0]}" if table.get(text) else ""
        return f"{text}: settings are written key=value{options}"
    return f"{text}: cannot be read ({_first_line(error)}); put quotes around special characters, as in 'key=\"a, b\"'"


def _sweep_fault(override: Override) -> str | None:
    if not override.is_sweep_override():
        return None
    return f"{override.input_line}: several values are for a sweep, which needs -m; a list is written [a,b]"


def _group_fault(override: Override, table: dict[str, list[str]]) -> str | None:
    name, text = override.key_or_group, override.input_line
    if name not in table:
        foreign = "/" in name and not name.startswith("hydra/")
        return f"{text}: there is no group '{name}'; {nearest(name, table)}" if foreign else None
    if override.is_delete():
        return f"{text}: group {name} cannot be left out; choose one of {', '.join(table[name])}"
    if override.is_add() and not override.is_force_add():
        return f"{text}: group {name} is there already; write {str(text).lstrip('+')}"
    value = override.value()
    if value is None and name in ("experiment", "debug"):
        return None
    if isinstance(value, str) and value in table[name]:
        return None
    shown = "null" if value is None else value
    return f"{text}: there is no {name} '{shown}'; {nearest(str(shown), table[name])}"


def _key_fault(override: Override, config: DictConfig, table: dict[str, list[str]]) -> str | None:
    """Say what is wrong with the key of ``key=value``, which must be in the config already, or of ``+key=value``."""
    node: Any = OmegaConf.to_container(config, resolve=False)
    parts = override.key_or_group.split(".")
    adds = override.is_add() or override.is_force_add()
    for depth, part in enumerate(parts):
        if isinstance(node, str) and node.startswith("${") and node.endswith("}"):
            name = ".".join([node[2:-1], *parts[depth:]])
            return f"{override.input_line}: {'.'.join(parts[:depth])} is {node}; write {name} instead"
        if isinstance(node, list) and part.isdigit() and int(part) < len(node):
            node = node[int(part)]
        elif isinstance(node, dict) and part in node:
            node = node[part]
        else:
            return None if adds else _unknown_key(override, parts, depth, node, table)
    return None


def _unknown_key(override: Override, parts: list[str], depth: int, node: Any, table: dict[str, list[str]]) -> str:
    text, part, where = override.input_line, parts[depth], ".".join(parts[:depth])
    if not isinstance(node, dict):
        return f"{text}: {where} is {'null' if node is None else node!r} and has nothing inside"
    known = [str(key) for key in node if not str(key).startswith("_")]
    if depth == 0:
        return f"{text}: there is no group and no setting '{part}'; {nearest(part, [*known, *table])}"
    takes = _arguments(where, node)
    if part in takes:
        return f"{text}: {where} takes '{part}' but does not set it yet; write +{str(text).lstrip('+')}"
    close = difflib.get_close_matches(part, takes, n=1) if not difflib.get_close_matches(part, known, n=1) else []
    if close:
        return f"{text}: {where} has no '{part}'; did you mean '{close[0]}'? (write +{where}.{close[0]}=VALUE)"
    return f"{text}: {where} has no '{part}'; {nearest(part, known)}"


def _arguments(where: str, node: dict[str, Any]) -> list[str]:
    """Return the names of what a part of the config could be given, where that is known."""
    from vsattn.build import parameters_of, resolve

    if where == "trainer":
        from lightning.pytorch import Trainer

        return list(parameters_of(Trainer))
    try:
        return list(parameters_of(resolve(node["_target_"])))
    except (KeyError, ConfigError):
        return []


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].strip()


def _extra(error: BaseException) -> str:
    """Say what to install when an error is that a sweeper or launcher is missing; "" for any other error."""
    missing = re.search(r"hydra/(?:sweeper|launcher)/(\w+)", str(error))
    if missing is None or missing[1] not in EXTRAS:
        return ""
    return f"{missing[0]}: is not installed; pip install 'vsattn[{EXTRAS[missing[1]]}]'"


def _chain(error: BaseException) -> str:
    """Return what an error says, or what caused it when it says nothing itself."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    cause = error.__cause__
    if cause is not None and _first_line(cause) not in lines:
        lines.append(_first_line(cause))
    return "\n  ".join(lines) or type(error).__name__
