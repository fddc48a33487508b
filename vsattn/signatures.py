"""What the annotations of a constructor say about the values that a config gives."""

from __future__ import annotations

import collections.abc
import inspect
import os
import reprlib
import sys
import types
import typing
from typing import Any

_SEQUENCES = (list, tuple, collections.abc.Sequence, collections.abc.Iterable)
_MAPPINGS = (dict, collections.abc.Mapping, collections.abc.MutableMapping)
#: No count or size is larger; what takes a whole number often keeps it in 64 bits.
LARGEST = 2**63 - 1
_shortened = reprlib.Repr()
_shortened.maxlevel, _shortened.maxdict, _shortened.maxlist, _shortened.maxtuple = 4, 12, 12, 12
_shortened.maxstring = _shortened.maxlong = _shortened.maxother = 160
_PLAIN = (bool, int, float, str, list, tuple, dict, type(None))


def hints(cls: Any) -> dict[str, Any]:
    """Return the annotations of a constructor or function; one that cannot be resolved here counts as Any."""
    function = cls.__init__ if inspect.isclass(cls) else cls
    scope = getattr(inspect.unwrap(function), "__globals__", {})
    found = {}
    for name, annotation in getattr(function, "__annotations__", {}).items():
        holder = types.SimpleNamespace(__annotations__={name: annotation})
        try:
            found[name] = typing.get_type_hints(holder, globalns=scope)[name]
        except (NameError, TypeError, AttributeError, SyntaxError):
            found[name] = Any
    return found


def options(annotation: Any) -> list[Any]:
    """Return the members of a union, or the annotation alone."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return [option for member in typing.get_args(annotation) for option in options(member)]
    return [annotation]


def wants_factory(annotation: Any) -> bool:
    """Tell whether only a partial will do: the annotation is ``Callable[..., X]`` with X a class."""
    return any(_product(option) is not None for option in options(annotation)) and not any(
        inspect.isclass(option) and option is not type(None) for option in options(annotation)
    )


def takes_factory(annotation: Any) -> bool:
    """Tell whether a partial will do."""
    return any(
        option in (Any, object, typing.Callable, collections.abc.Callable)
        or typing.get_origin(option) is collections.abc.Callable
        for option in options(annotation)
    )


def slot(annotation: Any, partial: bool) -> type:
    """Return what a parameter expects: its class, or what a ``Callable[..., X]`` makes; object where that is open."""
    for option in options(annotation):
        product = _product(option)
        if partial and product is not None:
            return product
        plain = option in (Any, type(None)) or typing.get_origin(option) is not None  # Any is a class since Python 3.11
        if not partial and inspect.isclass(option) and not plain:
            return option
    return object


def item(annotation: Any) -> Any:
    """Return the annotation of a sequence's items, or Any."""
    for option in options(annotation):
        if typing.get_origin(option) in _SEQUENCES:
            return typing.get_args(option)[0]
    return Any


def is_tuple(annotation: Any) -> bool:
    """Tell whether a list from a config should become a tuple."""
    kinds = [typing.get_origin(option) or option for option in options(annotation)]
    return tuple in kinds and list not in kinds


def fits(value: Any, annotation: Any) -> bool:
    """Tell whether a plain value suits an annotation; what is no plain type is not judged beyond that."""
    return any(_fits_one(value, option) for option in options(annotation))


def _fits_one(value: Any, option: Any) -> bool:
    origin = typing.get_origin(option)
    if option is Any:
        return True
    if option is None or option is type(None):
        return value is None
    if origin is typing.Literal:
        return any(value == choice and type(value) is type(choice) for choice in typing.get_args(option))
    if option is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
    if option is int:
        return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= LARGEST
    if option in (bool, str):
        return isinstance(value, option)
    if (origin or option) in _SEQUENCES:
        return isinstance(value, (list, tuple)) and _items_fit(value, origin, typing.get_args(option))
    if (origin or option) in _MAPPINGS:
        return isinstance(value, dict)
    if inspect.isclass(option) and option is not object:
        if isinstance(value, str) and issubclass(option, os.PathLike):
            return True
        return isinstance(value, option) if not _is_protocol(option) else not isinstance(value, _PLAIN)
    if origin is collections.abc.Callable:
        return callable(value)
    return True


def _items_fit(value: list[Any] | tuple[Any, ...], origin: Any, arguments: tuple[Any, ...]) -> bool:
    if origin is tuple and arguments and arguments[-1] is not ...:
        return len(value) == len(arguments) and all(fits(v, a) for v, a in zip(value, arguments))
    return not arguments or all(fits(v, arguments[0]) for v in value)


def shown(value: Any) -> str:
    """Return a value for a message, on one line and shortened: it may come from anywhere."""
    return _shortened.repr(value)


def describe(annotation: Any) -> str:
    """Say in words what an annotation allows."""
    return " or ".join(_describe_one(option) for option in options(annotation))


def _describe_one(option: Any) -> str:
    if typing.get_origin(option) is typing.Literal:
        return "one of " + ", ".join(repr(value) for value in typing.get_args(option))
    if option is None or option is type(None):
        return "null"
    product = _product(option)
    if product is not None:
        return f"a component that makes a {product.__name__}"
    if typing.get_origin(option) is None and inspect.isclass(option):
        simple = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
        return simple.get(option, option.__name__)
    return str(option).replace("typing.", "").replace("collections.abc.", "")


def _product(option: Any) -> type | None:
    """Return X of ``Callable[..., X]``, or None."""
    if typing.get_origin(option) is not collections.abc.Callable or len(typing.get_args(option)) != 2:
        return None
    arguments, made = typing.get_args(option)
    return made if arguments is ... and inspect.isclass(made) and made is not type(None) else None


def _is_protocol(option: type) -> bool:
    return bool(getattr(option, "_is_protocol", False))
