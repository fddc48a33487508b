"""Sentences per second: our search, the same without cache, and `generate` of a Marian model of equal size.

  OMP_NUM_THREADS=1 python tests/bench/decoding.py [--steps 20] [--rounds 7] [--batches 1,64] [--beams 1,5]

All weights are random; 3 + 3 layers, 256 wide with 1,024 inside, 8 heads, 8,000 tokens in one tied table. Nothing ends,
so that all write the same number of tokens.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from measure import hardware, ratio, take_turns
from torch import Tensor
from transformers import MarianConfig, MarianMTModel
from transformers.utils import logging

from vsattn.decoders import Decoder, RecurrentDecoder, TransformerDecoder
from vsattn.encoder_decoder import EncoderDecoder
from vsattn.encoders import Encoder, RecurrentEncoder, TransformerEncoder
from vsattn.heads import TiedHead
from vsattn.layers import FeedForward
from vsattn.positions import Sinusoidal
from vsattn.search import MaxLength, Writer, beam_search, greedy
from vsattn.tokenizers.text import BOS, PADDING
from vsattn.tokenizers.text_pairs import TokenEmbedder
from vsattn.vectorset import VectorSet

DIM, HIDDEN, LAYERS, HEADS, ROWS = 256, 1024, 3, 8, 8000
NEVER = -1  # an end that no token is


def transformer() -> EncoderDecoder:
    """Make ours."""
    inside = partial(FeedForward, hidden_dim=HIDDEN)
    encoder = TransformerEncoder(DIM, LAYERS, HEADS, feed_forward=inside)
    return _model(encoder, TransformerDecoder(DIM, LAYERS, HEADS, feed_forward=inside), Sinusoidal(DIM))


def recurrent() -> EncoderDecoder:
    """Make the GRU of 2014 with a hidden width of 512."""
    encoder = RecurrentEncoder(DIM, 1, cell="gru", hidden_dim=1024, project=False)
    return _model(encoder, RecurrentDecoder(DIM, memory_dim=1024), None)


def _model(encoder: Encoder, decoder: Decoder, positions: Sinusoidal | None) -> EncoderDecoder:
    source = TokenEmbedder("source", ROWS, DIM, scale=True)
    target = TokenEmbedder("target", ROWS, DIM, scale=True)
    target.table = source.table
    parts = {"target_embedder": target, "positions": positions, "target_positions": positions}
    return EncoderDecoder(source, encoder, decoder, TiedHead(DIM, ROWS), **parts).eval()


def marian() -> MarianMTModel:
    """Make the peer: without what its configuration forbids or forces at the end, which would only cost it time."""
    config = MarianConfig(
        vocab_size=ROWS, d_model=DIM, max_position_embeddings=256, scale_embedding=True,
        encoder_layers=LAYERS, encoder_ffn_dim=HIDDEN, encoder_attention_heads=HEADS,
        decoder_layers=LAYERS, decoder_ffn_dim=HIDDEN, decoder_attention_heads=HEADS,
        decoder_start_token_id=BOS, pad_token_id=PADDING, eos_token_id=None, forced_eos_token_id=None,
    )  # fmt: skip
    return MarianMTModel(config).eval()


@dataclass(frozen=True)
class Prefix:
    """The state of a search without cache: the memory and all tokens so far."""

    memory: VectorSet
    ids: Tensor

    def select(self, rows: Tensor) -> Prefix:
        """Take rows."""
        rows, mask = rows.flatten(), self.memory.mask
        memory = self.memory.replace(x=self.memory.x[rows], mask=None if mask is None else mask[rows])
        return Prefix(memory, self.ids[rows])


class WithoutCache:
    """A model that reads all tokens so far at every step."""

    def __init__(self, model: EncoderDecoder) -> None:
        self.model = model

    def start(self, batch: dict[str, Tensor]) -> Prefix:
        """Encode, once."""
        memory = self.model.encode(batch)
        return Prefix(memory, batch["source"].new_zeros(len(memory.x), 0))

    def step(self, ids: Tensor, state: Prefix) -> tuple[Tensor, Prefix]:
        """Decode anew."""
        ids = torch.cat([state.ids, ids[:, None]], 1)
        target = self.model.target_embedder({"target": ids})
        target = target if self.model.target_positions is None else self.model.target_positions(target)
        written = self.model.decoder(target, state.memory)
        logits = self.model.head(written.replace(x=written.x[:, -1:], mask=None, layout="free"))[:, 0]
        return logits.log_softmax(-1), Prefix(state.memory, ids)


def ours(model: Writer, batch: dict[str, Tensor], beams: int, steps: int) -> Callable[[], Any]:
    """Return a search of so many steps."""
    lengths, most = (batch["source"] != PADDING).sum(1), MaxLength(factor=0.0, extra=steps)
    if beams == 1:
        return lambda: greedy(model, batch, lengths=lengths, max_length=most, eos=NEVER)
    return lambda: beam_search(model, batch, lengths=lengths, width=beams, max_length=most, eos=NEVER)


def theirs(model: MarianMTModel, batch: dict[str, Tensor], beams: int, steps: int) -> Callable[[], Any]:
    """Return theirs."""
    source, mask = batch["source"], (batch["source"] != PADDING).long()
    return lambda: model.generate(
        source, attention_mask=mask, num_beams=beams, max_new_tokens=steps, do_sample=False, use_cache=True
    )


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batches", default="1,64")
    parser.add_argument("--beams", default="1,5")
    options = parser.parse_args()
    logging.set_verbosity_error()
    torch.manual_seed(0)
    attention, gru, peer = transformer(), recurrent(), marian()
    sizes = {
        n: sum(p.numel() for p in m.parameters()) for n, m in (("ours", attention), ("gru", gru), ("Marian", peer))
    }
    print(f"{hardware()}\nparameters: {sizes}; {options.steps} tokens each; sentences per second")
    for beams in map(int, options.beams.split(",")):
        for count in map(int, options.batches.split(",")):
            source = torch.randint(4, ROWS, (count, 16))
            source[torch.arange(16) >= torch.randint(8, 17, (count, 1)).clamp(min=16 if count == 1 else 8)] = PADDING
            batch, turn = {"source": source}, (beams, options.steps)
            candidates = {
                "ours": ours(attention, batch, *turn),
                "without cache": ours(WithoutCache(attention), batch, *turn),
                "Marian generate": theirs(peer, batch, *turn),
                "gru": ours(gru, batch, *turn),
                "gru without cache": ours(WithoutCache(gru), batch, *turn),
            }
            found = take_turns(candidates, options.rounds)
            speeds = "  ".join(f"{n} {1000 * count / statistics.median(ms):.1f}" for n, ms in found.items())
            middle, low, high = ratio(found["ours"], found["Marian generate"])
            print(
                f"beam {beams}, batch {count}: {speeds}  ours/Marian {middle:.2f} ({low:.2f} to {high:.2f})", flush=True
            )


if __name__ == "__main__":
    main()
