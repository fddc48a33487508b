"""The shapes of everything that goes through an encoder-decoder, printed before training."""

from __future__ import annotations

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from vsattn.decoders.recurrent import RecurrentDecoder
from vsattn.encoder_decoder import EncoderDecoder
from vsattn.errors import ConfigError
from vsattn.tokenizers.text import BOS, EOS, UNKNOWN


class ShowShapes(Callback):
    """Prints what each stage gives for one batch of random tokens; lengths come first, as in most drawings of an RNN.

    Args:
        batch: B, sentences.
        source: N, tokens of each source.
        target: M, tokens of each target that are given or written; the target with both BOS and EOS has one more.

    Raises:
        ConfigError: for numbers below 1, or a model that is no encoder-decoder.
    """

    def __init__(self, *, batch: int = 8, source: int = 17, target: int = 15) -> None:
        if min(batch, source, target) < 1:
            raise ConfigError(f"ShowShapes takes numbers of at least 1, not {batch}, {source} and {target}")
        self.batch, self.source, self.target = batch, source, target

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print."""
        model = pl_module.model
        if not isinstance(model, EncoderDecoder):
            raise ConfigError(f"debug=shapes shows task=translation's models, not {type(model).__name__}")
        for name, shape in self.stages(model, pl_module.device).items():
            print(f"shape     {name:46} {' x '.join(map(str, shape))}", flush=True)

    @torch.no_grad()
    def stages(self, model: EncoderDecoder, device: torch.device) -> dict[str, tuple[int, ...]]:
        """Return the shape of every stage by its name, in order."""
        was_training = model.training
        model.eval()
        batch = {
            "source": _tokens(self.batch, self.source, len(model.embedder.table.weight)),  # type: ignore[union-attr, arg-type]
            "target": _tokens(self.batch, self.target + 1, len(model.target_embedder.table.weight)),
        }
        batch["target"][:, 0] = BOS
        batch = {name: ids.to(device) for name, ids in batch.items()}
        embedded, memory = model.embed(batch), model.encode(batch)
        state = model.decoder.start(memory)
        found = {"source tokens": _first(batch["source"]), "source vectors": _first(embedded.x)}
        found["encoder outputs"] = _first(memory.x)
        if isinstance(model.decoder, RecurrentDecoder):
            half = memory.x.shape[-1] // 2
            found["encoder hidden (last forward, first backward)"] = (2, self.batch, half)
            found["first decoder state"] = tuple(state.hidden.shape)
        weights = model.attention(batch)  # (B, L, H, M, N)
        found["attention of one step"] = tuple(weights[:, -1, 0, 0].shape)
        found["attention, layers x heads x target x source"] = (self.batch, *weights.shape[1:])
        found["target tokens given"] = _first(batch["target"][:, :-1])
        written = model.decoder(model._embedded(batch["target"][:, :-1]), memory).x
        found["decoder outputs"] = _first(written)
        found["scores of the next tokens"] = _first(model(batch))
        model.train(was_training)
        return found


def _tokens(batch: int, length: int, rows: int) -> Tensor:
    tokens = torch.randint(min(UNKNOWN + 1, rows - 1), rows, (batch, length))
    tokens[:, -1] = EOS
    return tokens


def _first(values: Tensor) -> tuple[int, ...]:
    """Return the shape with the sequence before the batch."""
    return tuple(values.transpose(0, 1).shape)
