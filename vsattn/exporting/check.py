"""Whether an exported program answers as its model does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from vsattn.encoder_decoder import EncoderDecoder
from vsattn.errors import VsattnError
from vsattn.exporting.program import Run, program_inputs, traced_length
from vsattn.exporting.samples import made_up
from vsattn.heads import VectorHead
from vsattn.predictor import Predictor


@dataclass(frozen=True)
class Difference:
    """How far the logits of a program are from those of its model, on one batch.

    Args:
        shapes: of the batch, in words.
        largest: absolute difference.
        scale: of the logits, the largest absolute one.
        same_mask: whether it says of the same vectors that they are real.
    """

    shapes: str
    largest: float
    scale: float
    same_mask: bool = True

    def within(self, tolerance: float) -> bool:
        """Tell whether the difference is at most so much, in units of the largest logit where that is above 1."""
        return self.same_mask and self.largest <= tolerance * max(1.0, self.scale)  # False for NaN


def difference(run: Run, predictor: Predictor, batch: dict[str, Any]) -> Difference:
    """Compare a program with its model on a batch that the tokenizer made, wherever a vector is real.

    Raises:
        VsattnError: when the program does not take the batch.
    """
    inputs = program_inputs(predictor.tokenizer, batch)
    shapes = ", ".join(f"{name} {tuple(value.shape)}" for name, value in inputs.items())
    try:
        logits, *masks = run(inputs)
    except Exception as error:  # each runtime has errors of its own
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise VsattnError(
            f"the program does not take {shapes}, as its model does: {reason}; no file was written"
        ) from error
    model, mask = predictor.model.eval(), None
    with torch.no_grad():
        expected = model(batch)
        if isinstance(model.head, VectorHead) and not isinstance(model, EncoderDecoder):
            vector_set = model.encode(batch)
            mask = vector_set.mask
            whole = torch.ones(expected.shape[:2], dtype=torch.bool)
            mask = whole if mask is None else mask[:, vector_set.num_prefix :]
    same = logits.shape == expected.shape and (mask is None or bool((masks[0] == mask).all()))
    if not same:
        return Difference(shapes, float("inf"), 0.0, same_mask=False)
    if mask is not None:
        logits, expected = logits[mask], expected[mask]
    largest = (logits - expected).abs().max() if logits.numel() else torch.zeros(())
    return Difference(shapes, float(largest), float(expected.abs().max()) if expected.numel() else 0.0)


def other_sizes(traced: int, limits: dict[str, list[int | None]]) -> list[tuple[int, int]]:
    """Return two other numbers and lengths of items than a model was traced with, within the program's limits."""
    low = max([1, *(least for least, _ in limits.values() if least)])
    high = min([2 * traced, *(most for _, most in limits.values() if most)])
    longer = traced + traced // 2 + 1
    return [(1, max(low, traced // 2)), (5, max(low, longer if longer <= high else traced - 1))]


def made_up_differences(
    run: Run, predictor: Predictor, limits: dict[str, list[int | None]], *, length: int | None = None
) -> list[Difference]:
    """Compare a program with its model on made-up items, in two other numbers and lengths than it was traced with.

    Args:
        run: the program.
        predictor: the model.
        limits: of the program.
        length: that it was traced with, see :func:`~vsattn.exporting.export_program`.
    """
    sizes = other_sizes(traced_length(predictor.tokenizer, length), limits)
    return [difference(run, predictor, made_up(predictor.tokenizer, n, size, seed=n)) for n, size in sizes]
