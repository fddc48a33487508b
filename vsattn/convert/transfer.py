"""How the weights of a peer's module become ours: each of theirs is read, each of ours is written."""

from __future__ import annotations

import copy
from contextlib import ExitStack
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from vsattn.errors import ConfigError

AnyModule = TypeVar("AnyModule", bound=nn.Module)


class Transfer:
    """Copies weights from a peer's module, and knows at the end whether one was left on either side.

    Within ``with Transfer(peer, Kind) as transfer`` new modules are made on the meta device: nothing is initialised,
    no random number is drawn, and a parameter of ours that nobody wrote is found at the end.

    Args:
        peer: the module to take over.
        kinds: the classes whose forward pass the converter knows.

    Raises:
        ConfigError: when the peer is of another class, or of a subclass that computes something else.
    """

    def __init__(self, peer: nn.Module, *kinds: type[nn.Module]) -> None:
        self.peer = peer
        self._names = {id(module): name for name, module in peer.named_modules() if name}
        self._read: set[int] = set()
        self._faults: dict[str, list[str]] = {}
        self._contexts = ExitStack()
        self.require(peer, *kinds)

    def __enter__(self) -> Transfer:
        self._contexts.enter_context(torch.enable_grad())  # so that a part of a learned weight counts as learned
        self._contexts.enter_context(torch.device("meta"))
        return self

    def __exit__(self, *exception: object) -> None:
        self._contexts.close()

    def require(self, module: nn.Module, *kinds: type[nn.Module]) -> None:
        """Raise ConfigError unless the module computes what one of the classes ``kinds`` does."""
        if not any(isinstance(module, kind) and type(module).forward is kind.forward for kind in kinds):
            known = " or ".join(kind.__name__ for kind in kinds)
            raise self.stop(module, f"is a {type(module).__name__}, where {known} (with its own forward) is known")

    def refuse(self, module: nn.Module, wrong: bool, text: str) -> None:
        """Note, if ``wrong``, what in a module of the peer's ours cannot express; :meth:`finish` raises all of it."""
        if wrong:
            self._faults.setdefault(text, []).append(self._names.get(id(module), "it"))

    def stop(self, module: nn.Module, text: str) -> ConfigError:
        """Return the error to raise at once, when the peer cannot be read any further."""
        self.refuse(module, True, text)
        return self._error()

    def read(self, *tensors: Tensor | None) -> None:
        """Note that these weights of the peer's are taken over, or have no effect there."""
        self._read.update(id(t) for t in tensors)

    def put(self, module: nn.Module, name: str, value: Tensor | None) -> None:
        """Make a copy of ``value`` the parameter ``name`` of ours, learned if it is; None takes the parameter away."""
        own = getattr(module, name)
        if value is not None:
            if own is not None and own.shape != value.shape:
                seen, expected = tuple(value.shape), tuple(own.shape)
                raise self.stop(self.peer, f"has a weight {seen} where {expected} is expected; is a part quantised?")
            self.read(value)
            value = nn.Parameter(value.detach().clone(), requires_grad=value.requires_grad)
        module.register_parameter(name, value)

    def copy(self, ours: AnyModule, theirs: Any) -> AnyModule:
        """Copy ``weight`` and ``bias`` of a linear map, a norm or a convolution, and return ours."""
        self.put(ours, "weight", theirs.weight)
        self.put(ours, "bias", theirs.bias)
        return ours

    def keep(self, module: AnyModule) -> AnyModule:
        """Return a copy of a part of the peer's that is no attention, to be used as it is."""
        self.read(*module.state_dict(keep_vars=True).values())
        return copy.deepcopy(module)

    def finish(self, ours: AnyModule) -> AnyModule:
        """Return ours in the peer's mode, training or evaluation.

        Raises:
            ConfigError: naming everything that ours cannot express, or the peer's weights that were not read.
        """
        if self._faults:
            raise self._error()
        left = [n for n, t in self.peer.state_dict(keep_vars=True).items() if id(t) not in self._read]
        if left:
            raise self.stop(
                self.peer, f"has weights that have no place here, {', '.join(left)}: remove what was added to it"
            )
        blank = [n for n, t in ours.state_dict(keep_vars=True).items() if t.is_meta]
        assert not blank, f"never written: {blank}"
        return ours.train(self.peer.training)

    def _error(self) -> ConfigError:
        more = {text: f" (and {len(places) - 1} more)" if places[1:] else "" for text, places in self._faults.items()}
        found = [f"{places[0]}{more[text]} {text}" for text, places in self._faults.items()]
        return ConfigError(f"this {type(self.peer).__name__} cannot be taken over: {'; '.join(found)}")
