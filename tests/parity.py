"""How far a peer's module and ours lie apart, and the README's table of it: ``python tests/parity.py [--large]``."""

from __future__ import annotations

import copy
import importlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

#: The largest difference that a test allows, of outputs and of gradients.
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}
HOMES = ("torch_nn", "torchvision_vit", "geometric", "wav2vec2", "bert")


@dataclass(frozen=True)
class Parity:
    """Largest absolute differences: of the output, of gradients by the inputs, of gradients by the weights.

    A gradient's difference is measured in units of that gradient's largest entry, where this is above 1.
    """

    output: float
    inputs: float
    weights: float

    @property
    def gradients(self) -> float:
        return max(self.inputs, self.weights)

    def check(self, dtype: torch.dtype) -> None:
        for name in ("output", "inputs", "weights"):
            assert getattr(self, name) <= TOLERANCE[dtype], f"{name} differ by {getattr(self, name):.2e} in {dtype}"


def shaken(module: nn.Module, dtype: torch.dtype, seed: int = 0) -> nn.Module:
    """Return the module in this dtype and in evaluation, no weight left at 0 or 1."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return module.to(dtype).eval()


def compare(
    peer: nn.Module,
    convert: Callable[[nn.Module], nn.Module],
    run_peer: Callable[..., Tensor],
    run_ours: Callable[..., Tensor],
    inputs: Sequence[Tensor],
    *,
    reparametrized: Sequence[str] = (),
) -> Parity:
    """Run both forward and backward on the same inputs.

    Args:
        run_peer: called with the peer and the inputs; returns what is compared (real vectors alone).
        run_ours: the same for ours.
        reparametrized: names of our parameters that no weight of the peer's is.
    """
    ours = convert(peer)
    outputs, gradients = [], []
    for run, module in ((run_peer, peer), (run_ours, ours)):
        leaves = [t.clone().requires_grad_() if t.is_floating_point() else t for t in inputs]
        output = run(module, *leaves)
        probe = torch.randn(output.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        module.zero_grad()
        (output * probe.to(output.dtype)).sum().backward()
        outputs.append(output.detach())
        gradients.append([torch.zeros_like(t) if t.grad is None else t.grad for t in leaves if t.is_floating_point()])
    expected = {name: p for name, p in convert(_of_gradients(peer)).named_parameters() if name not in reparametrized}
    found = dict(ours.named_parameters())
    weights = [(p, found[name].grad) for name, p in expected.items() if found[name].requires_grad]
    assert all(p.abs().max() > 0 for p, _ in weights if p.ndim > 1), "some weights have no gradient to compare"
    return Parity(
        float((outputs[0] - outputs[1]).abs().max()),
        max((_apart(a, b) for a, b in zip(*gradients, strict=True)), default=0.0),
        max((_apart(a.detach(), b) for a, b in weights), default=0.0),
    )


def same_in_training(
    peer: nn.Module,
    convert: Callable[[nn.Module], nn.Module],
    run_peer: Callable[..., Tensor],
    run_ours: Callable[..., Tensor],
    inputs: Sequence[Tensor],
) -> None:
    """Check that in training, from one seed, the same entries are dropped in the same places.

    The inputs are batches of one, in which a peer that puts time first in memory draws in the same order as ours.
    """
    outputs = []
    for run, module in ((run_peer, peer.train()), (run_ours, convert(peer))):
        assert module.training
        torch.manual_seed(3)
        outputs.append(run(module, *inputs))
    torch.testing.assert_close(outputs[1], outputs[0], atol=1e-10, rtol=0)
    assert (run_peer(peer.eval(), *inputs) - outputs[0]).abs().max() > 1e-3, "nothing was dropped"


def _of_gradients(peer: nn.Module) -> nn.Module:
    """Return a copy of the peer that holds its gradients for weights: converted, they are what ours should be."""
    shadow = copy.deepcopy(peer)
    with torch.no_grad():
        for held, parameter in zip(shadow.parameters(), peer.parameters(), strict=True):
            held.copy_(torch.zeros_like(parameter) if parameter.grad is None else parameter.grad)
    return shadow


def _apart(expected: Tensor, found: Tensor | None) -> float:
    found = torch.zeros_like(expected) if found is None else found
    return float((expected - found).abs().max() / expected.abs().max().clamp(min=1))


def main(large: bool) -> None:
    """Print the table, one row for each case that the tests have."""
    print("| architecture | outputs fp32 | outputs fp64 | gradients fp64 | test |")
    print("|---|---|---|---|---|")
    for home in HOMES:
        module = importlib.import_module(f"test_convert_{home}")
        for name, case in {**module.CASES, **(getattr(module, "LARGE", {}) if large else {})}.items():
            found = []
            for dtype in (torch.float32, torch.float64):
                torch.manual_seed(0)
                found.append(case(dtype))
            shown = (found[0].output, found[1].output, found[1].gradients)
            figures = " | ".join(f"{figure:.0e}" if figure else "0" for figure in shown)
            test = f"tests/test_convert_{home}.py"
            print(f"| {name} | {figures} | [`{test}`]({test}) |", flush=True)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    main("--large" in sys.argv)
