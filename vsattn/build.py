"""From a plain dict to an object: ``{"_target_": "package.Class", "argument": value, ...}``.

A config can come from anywhere, a downloaded checkpoint included, so naming a class must not be a way to run
code. Only classes are built, only those whose *own* module belongs to an allowed package, and only where the slot
that they fill expects their base class; a slot that expects no class in particular takes plain values alone. A path
that walks through a module to something else (``lightning.pytorch.cli.os.system``) ends at something that is not such
a class, and is refused.
"""

from __future__ import annotations

import collections.abc
import difflib
import functools
import importlib
import inspect
import pkgutil
import re
from pathlib import Path
from typing import Any

from torch import nn

from vsattn import extensions, signatures
from vsattn.errors import ConfigError, VsattnError

#: Packages whose classes a config may name.
ALLOWED_PACKAGES = ("vsattn", "torch.nn", "torch.optim", "torch_geometric", "lightning")
_user_packages: list[str] = []
_HERE = Path(__file__).resolve().parent
_OURS = ("_target_", "_partial_")
#: Packages of which no class fills a place for any module at all: some of them evaluate text or fetch files.
_ONLY_BY_BASE = ("torch_geometric", "lightning")
#: No dotted path is longer.
_LONGEST_PATH = 200


def allow_package(name: str) -> None:
    """Let configs of this process name classes of one more package, such as your own adapters.

    A config that comes out of a checkpoint needs this call too; nothing inside a config can make it.

    Raises:
        ConfigError: when ``name`` is not a dotted name.
    """
    if not isinstance(name, str) or not all(part.isidentifier() for part in name.split(".")):
        raise ConfigError(f"a package has a dotted name, not {name!r}")
    if name not in _user_packages:
        _user_packages.append(name)


def build(config: Any, slot: type, *, path: str = "", **injected: Any) -> Any:
    """Build what a config describes.

    Args:
        config: a dict with ``_target_``, the arguments, and ``_partial_: true`` for a `functools.partial` of the
            class. Arguments that are such dicts are built first.
        slot: the class or base class that is wanted here.
        path: where the config stands, for messages.
        injected: values known only at run time (``dim``, ``num_classes``), given to whatever has a parameter
            of that name and no value for it; not to a nested partial, whose maker completes it.

    Raises:
        ConfigError: naming every fault of the config at once, or why a class refused its arguments; another
            `VsattnError` when that is what the class raised.
    """
    faults = check(config, slot, path=path, injected=injected)
    if faults:
        raise ConfigError("\n".join(faults))
    return _make(config, path or "config", injected)


def check(config: Any, slot: type, *, path: str = "", injected: collections.abc.Iterable[str] = ()) -> list[str]:
    """Return all faults of a config, one line each, without building anything."""
    where, names = path or "config", frozenset(injected)
    if not isinstance(config, dict) or "_target_" not in config:
        return [f"{where}: a component is a mapping with a _target_, not {signatures.shown(config)}"]
    try:
        cls = resolve(config["_target_"])
    except ConfigError as error:
        return [f"{where}: {error}"]
    if not (inspect.isclass(slot) and issubclass(cls, slot)):
        return [f"{where}: {config['_target_']} is not a {slot.__name__}, and only that belongs here"]
    if slot in (nn.Module, object) and any(_is_below(cls.__module__, package) for package in _ONLY_BY_BASE):
        return [f"{where}: {config['_target_']} may evaluate text or fetch files; only classes of vsattn and torch.nn "
                "fill a place for any module"]  # fmt: skip
    partial = config.get("_partial_", False)
    if not isinstance(partial, bool):
        return [f"{where}._partial_: true or false is expected, not {signatures.shown(partial)}"]
    if inspect.isabstract(cls):
        return [f"{where}: {cls.__name__} is only a base class; name one of its subclasses"]
    arguments = {key: value for key, value in config.items() if key not in _OURS}
    faults = _unknown_keys(arguments, cls, where)
    parameters = parameters_of(cls)
    if not partial:
        faults += [
            f"{where}.{name}: {cls.__name__} needs a value for it"
            for name, parameter in parameters.items()
            if parameter.default is parameter.empty and name not in arguments and name not in names
        ]
    hints = signatures.hints(cls)
    for key, value in arguments.items():
        if not (value is None and key in names):
            place = f"{where}.{_key(key)}"
            faults += _check_value(value, hints.get(key, Any) if key in parameters else Any, place, names)
    return faults


def resolve(target: Any) -> type:
    """Return the class that a dotted path names, or raise ConfigError if it may not be built from a config."""
    short = isinstance(target, str) and len(target) <= _LONGEST_PATH
    if not short or not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)+", target):
        shown = signatures.shown(target)
        raise ConfigError(f"_target_ is a dotted path to a class, such as vsattn.scores.ScaledDot, not {shown}")
    module_name, _, name = target.rpartition(".")
    if not _is_allowed(module_name) or any(part.startswith("_") for part in target.split(".")):
        raise ConfigError(
            f"{target} may not be built from a config; allowed are public classes of {_allowed()} "
            "(add your own package in Python, by vsattn.build.allow_package, or as a file of your own config folder)"
        )
    extensions.refresh()
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        absent = isinstance(error, ModuleNotFoundError) and error.name == module_name
        hint = (extensions.missing(module_name) if absent else "") + _nearest_module(module_name)
        raise ConfigError(f"{target} cannot be imported: {error}{hint}") from error
    found = getattr(module, name, None)
    if found is None:
        close = difflib.get_close_matches(name, [n for n, _ in inspect.getmembers(module, inspect.isclass)], n=1)
        raise ConfigError(f"{module_name} has no class {name}" + (f"; did you mean {close[0]}?" if close else ""))
    if not inspect.isclass(found) or not _is_allowed(str(found.__module__)):
        raise ConfigError(f"{target} is not a class of an allowed package ({_allowed()})")
    return found


def parameters_of(cls: Any) -> dict[str, inspect.Parameter]:
    """Return the named parameters of a class's constructor, or of a function."""
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {name: p for name, p in inspect.signature(cls).parameters.items() if p.kind in kinds}


def unknown(key: str, known: collections.abc.Iterable[str], owner: str) -> str:
    """Say that a key is not an argument of ``owner``, with the nearest that is."""
    names = list(known)
    close = difflib.get_close_matches(key, names, n=1, cutoff=0.5)
    takes = f"it takes {', '.join(names) or 'nothing'}"
    return f"{owner} has no argument '{key}'; " + (f"did you mean '{close[0]}'? ({takes})" if close else takes)


def _unknown_keys(arguments: dict[str, Any], cls: type, where: str) -> list[str]:
    known = parameters_of(cls)
    passes_on = any(p.kind is p.VAR_KEYWORD for p in inspect.signature(cls).parameters.values())
    return [
        f"{where}.{_key(key)}: {unknown(_key(key), known, cls.__name__)}"
        for key in arguments
        # A class that hands unnamed arguments on cannot say what it takes: only a near miss is a fault there.
        if key not in known
        and (not passes_on or not isinstance(key, str) or difflib.get_close_matches(key, known, n=1, cutoff=0.8))
    ]


def _is_allowed(module_name: str) -> bool:
    return any(_is_below(module_name, p) for p in _allowed_packages()) and not _lies_beside(module_name)


def _is_below(module_name: str, package: str) -> bool:
    return module_name == package or module_name.startswith(f"{package}.")


def _lies_beside(module_name: str) -> bool:
    """Tell whether a module is none of ours, although a checkout that is not installed would import it as such."""
    package, _, rest = module_name.partition(".")
    name = rest.partition(".")[0]
    if package != "vsattn" or name in ("", "tasks"):
        return False
    return not any((_HERE / found).exists() for found in (name, f"{name}.py"))


def _key(key: Any) -> str:
    """Return a key for a message, on one line."""
    return key if isinstance(key, str) and key.isprintable() and len(key) <= _LONGEST_PATH else signatures.shown(key)


def _allowed_packages() -> list[str]:
    return [*ALLOWED_PACKAGES, *_user_packages, *extensions.published_packages()]


def _allowed() -> str:
    return ", ".join(_allowed_packages())


def _nearest_module(module_name: str) -> str:
    parent, _, last = module_name.rpartition(".")
    if not parent or not _is_allowed(parent):
        return ""
    try:
        siblings = [module.name for module in pkgutil.iter_modules(importlib.import_module(parent).__path__)]
    except (ImportError, AttributeError):
        return ""
    close = difflib.get_close_matches(last, siblings, n=1)
    return f"; did you mean {parent}.{close[0]}?" if close and close[0] != last else ""


def _is_component(value: Any) -> bool:
    return isinstance(value, dict) and "_target_" in value


def _check_value(value: Any, annotation: Any, path: str, injected: frozenset[str]) -> list[str]:
    if _is_component(value):
        partial = value.get("_partial_", False) is True
        if not partial and signatures.wants_factory(annotation):
            return [f"{path}: {value['_target_']} is made when its sizes are known; add _partial_: true to it"]
        if partial and not signatures.takes_factory(annotation):
            return [f"{path}: an object is expected here, so _partial_ must go"]
        wanted = signatures.slot(annotation, partial)
        if wanted is object:  # an open slot would take any class with any arguments, and some of them evaluate text
            return [f"{path}: a plain value is expected here, not a component"]
        return check(value, wanted, path=path, injected=injected)
    if isinstance(value, dict):
        deep = ((f"{path}.{_key(key)}", item) for key, item in value.items())
        return [fault for place, item in deep for fault in _check_value(item, Any, place, injected) if item]
    if isinstance(value, (list, tuple)) and any(_is_component(item) for item in value):
        item_type = signatures.item(annotation)
        return [f for i, item in enumerate(value) for f in _check_value(item, item_type, f"{path}[{i}]", injected)]
    if signatures.fits(value, annotation):
        return []
    return [f"{path}: {signatures.describe(annotation)} is expected, not {signatures.shown(value)}"]


def _make(config: dict[str, Any], path: str, injected: dict[str, Any], nested: bool = False) -> Any:
    cls = resolve(config["_target_"])
    hints = signatures.hints(cls)
    arguments = {
        key: _make_value(value, hints.get(key, Any), f"{path}.{key}", injected)
        for key, value in config.items()
        if key not in _OURS
    }
    partial = config.get("_partial_", False)
    if not (partial and nested):
        missing = [name for name in parameters_of(cls) if name in injected and arguments.get(name) is None]
        arguments.update({name: injected[name] for name in missing})
    if partial:
        return functools.partial(cls, **arguments)
    try:
        return cls(**arguments)
    except VsattnError as error:
        raise type(error)(f"{path}: {error}") from error
    except (TypeError, ValueError, RuntimeError, ArithmeticError, AssertionError) as error:
        raise ConfigError(f"{path}: {cls.__name__} refused its arguments: {error}") from error


def _make_value(value: Any, annotation: Any, path: str, injected: dict[str, Any]) -> Any:
    if _is_component(value):
        return _make(value, path, injected, nested=True)
    if isinstance(value, (list, tuple)):
        item_type = signatures.item(annotation)
        items = [_make_value(item, item_type, f"{path}[{i}]", injected) for i, item in enumerate(value)]
        return tuple(items) if signatures.is_tuple(annotation) else items
    return value
