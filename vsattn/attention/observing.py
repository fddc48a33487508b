"""Who watches attention while it is computed: what `vsattn.record` and `vsattn.silence` share."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from vsattn.attention.case import Case
from vsattn.errors import ConfigError


@dataclass(frozen=True)
class Call:
    """One call of attention: the module that made it, what it asked for, and how its weights mix the values.

    ``mix`` maps weights to the output ``(B, H, Nq, dv)``; None is ``weights @ value``, with what the relation adds.
    """

    module: nn.Module | None
    case: Case
    mix: Callable[[Tensor], Tensor] | None = None


class Observer(Protocol):
    """Sees every call of attention, and returns the heads' output ``(B, H, Nq, dv)`` that the model goes on with."""

    def see(self, call: Call, output: Tensor) -> Tensor: ...


class Observable:
    """A module whose calls of attention name it, so that they can be recorded and silenced; it has ``num_heads``."""

    num_heads: int


_OBSERVERS: ContextVar[tuple[Observer, ...]] = ContextVar("vsattn_observers", default=())


def observed(
    output: Tensor, case: Case, module: nn.Module | None, mix: Callable[[Tensor], Tensor] | None = None
) -> Tensor:
    """Show a call to whoever watches, and return the output to go on with; compiled graphs are watched by nobody."""
    if torch.compiler.is_compiling():
        return output
    for observer in _OBSERVERS.get():
        output = observer.see(Call(module, case, mix), output)
    return output


@contextlib.contextmanager
def watching(observer: Observer, *, first: bool = False) -> Iterator[None]:
    """Let an observer see the calls that are made in this context and this thread, before all others if ``first``."""
    others = _OBSERVERS.get()
    _OBSERVERS.set((observer, *others) if first else (*others, observer))
    try:
        yield
    finally:  # (a token would bring back who watched then, though generators may end in another order)
        _OBSERVERS.set(tuple(other for other in _OBSERVERS.get() if other is not observer))


def observables(model: nn.Module) -> dict[str, Any]:
    """Return the modules of a model whose attention can be watched, by their paths, in the order of the model.

    Raises:
        ConfigError: for a compiled model, whose calls nobody sees, and one without attention.
    """
    found = {}
    for path, module in model.named_modules():
        if hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None:
            raise ConfigError(
                f"{path or type(module).__name__} is compiled, and nobody can watch attention inside a compiled graph: "
                "use the model as it was before torch.compile"
            )
        if isinstance(module, Observable):
            found[path] = module
    if not found:
        raise ConfigError(f"{type(model).__name__} has no attention: nothing in it looks from one vector at others")
    return found
