"""What a model does without some of its heads."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn

from vsattn.attention.observing import Call, observables, watching
from vsattn.errors import ConfigError


@contextlib.contextmanager
def silence(model: nn.Module, heads: Mapping[str, Iterable[int]]) -> Iterator[None]:
    """Let heads of a model give 0 in place of what they mixed, before the heads are joined, while the context lasts.

    Args:
        model: of which these are modules.
        heads: the numbers of the heads, from 0, by the path of their module, such as
            ``{"encoder.layers.0.attention": [1]}``; :attr:`vsattn.Recording.paths` has the paths.

    Raises:
        ConfigError: naming a path that has no attention, or a head that it has not; for a compiled model.

    Source: Michel et al. 2019, "Are Sixteen Heads Really Better than One?", section 2.3.
    """
    known, silent = observables(model), {}
    for path, numbers in heads.items():
        if path not in known:
            raise ConfigError(f"silence: {path} has no attention; what has: {', '.join(known)}")
        chosen, count = list(numbers), known[path].num_heads
        if wrong := [head for head in chosen if not 0 <= head < count]:
            raise ConfigError(f"silence: {path} has heads 0 to {count - 1}, not {', '.join(map(str, wrong))}")
        silent[known[path]] = chosen
    with watching(_Silencer(silent)):
        yield


class _Silencer:
    def __init__(self, heads: dict[nn.Module, list[int]]) -> None:
        self.heads = heads

    def see(self, call: Call, output: Tensor) -> Tensor:
        heads = self.heads.get(call.module) if call.module is not None else None
        if not heads:
            return output
        silent = torch.zeros(output.shape[1], dtype=torch.bool, device=output.device)
        silent[heads] = True
        return output.masked_fill(silent[:, None, None], 0.0)
