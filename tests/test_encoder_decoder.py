"""The encoder-decoder: what it computes all at once it computes token by token, and padding is nothing to it."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial

import pytest
import torch

from vsattn import (
    CtcHead,
    EncoderDecoder,
    RecurrentEncoder,
    TiedHead,
    TransformerDecoder,
    TransformerEncoder,
    VectorHead,
)
from vsattn.decoders import Decoder
from vsattn.decoders.recurrent import RecurrentDecoder
from vsattn.encoders import Encoder
from vsattn.errors import ConfigError, ShapeError
from vsattn.model import build_model
from vsattn.positions import Learned, Sinusoidal
from vsattn.tokenizers import Words
from vsattn.tokenizers.text import BOS, EOS, PADDING, Text
from vsattn.tokenizers.text_pairs import TextPairs, TokenEmbedder

ROWS, DIM = 11, 8


def transformer(**words: object) -> EncoderDecoder:
    source = TokenEmbedder("source", ROWS, DIM)
    target = TokenEmbedder("target", ROWS, DIM)
    target.table = source.table
    positions = Sinusoidal(DIM), Learned(DIM, max_length=20)
    encoder, decoder = TransformerEncoder(DIM, 2, 2), TransformerDecoder(DIM, 2, 2)
    return made(
        source, encoder, decoder, target, TiedHead(DIM, ROWS), positions=positions[0], target_positions=positions[1]
    )


def recurrent() -> EncoderDecoder:
    embedders = TokenEmbedder("source", ROWS, DIM, scale=False), TokenEmbedder("target", ROWS, DIM, scale=False)
    encoder = RecurrentEncoder(DIM, 1, cell="gru", hidden_dim=12, project=False)
    decoder = RecurrentDecoder(DIM, memory_dim=12, hidden_dim=6)
    return made(embedders[0], encoder, decoder, embedders[1], VectorHead(DIM, ROWS))


def made(
    source: TokenEmbedder, encoder: Encoder, decoder: Decoder, target: TokenEmbedder, head: VectorHead, **words: object
) -> EncoderDecoder:
    model = EncoderDecoder(source, encoder, decoder, head, target_embedder=target, **words)  # type: ignore[arg-type]
    return model.double().eval()


MODELS = pytest.mark.parametrize("make", [transformer, recurrent])


def some_batch() -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    source, target = torch.randint(4, ROWS, (3, 6)), torch.randint(4, ROWS, (3, 5))
    source[1, 3:], source[2, 5:] = PADDING, PADDING
    target[:, 0], target[2, 4:] = BOS, PADDING
    source[0, 5] = source[1, 2] = source[2, 4] = target[0, 4] = EOS
    return {"source": source, "target": target}


@MODELS
def test_step_by_step_is_all_at_once(make: Callable[[], EncoderDecoder]) -> None:
    torch.manual_seed(0)
    model, batch = make(), some_batch()
    expected = model(batch).log_softmax(-1)
    state = model.start(batch)
    for place in range(4):
        found, state = model.step(batch["target"][:, place], state)
        real = batch["target"][:, place] != PADDING
        torch.testing.assert_close(found[real], expected[real, place])
    assert state.length == 4


@MODELS
def test_a_pair_alone_is_the_pair_in_a_batch(make: Callable[[], EncoderDecoder]) -> None:
    torch.manual_seed(0)
    model, batch = make(), some_batch()
    together = model(batch)
    for row, (length, tokens) in enumerate([(6, 5), (3, 5), (5, 4)]):
        alone = {"source": batch["source"][row : row + 1, :length], "target": batch["target"][row : row + 1, :tokens]}
        torch.testing.assert_close(model(alone)[0], together[row, : tokens - 1])


@MODELS
def test_select_takes_rows_of_the_state(make: Callable[[], EncoderDecoder]) -> None:
    torch.manual_seed(0)
    model, batch, rows = make(), some_batch(), torch.tensor([2, 0, 0])
    first, second = batch["target"][:, 0], batch["target"][:, 1]
    _, state = model.step(first, model.start(batch))
    expected, _ = model.step(second, state)
    found, _ = model.step(second[rows], state.select(rows))
    torch.testing.assert_close(found, expected[rows])


@MODELS
def test_attention_is_over_real_source_tokens(make: Callable[[], EncoderDecoder]) -> None:
    torch.manual_seed(0)
    model, batch = make(), some_batch()
    weights = model.attention(batch)  # (B, L, H, M, N)
    assert weights.shape[0] == 3 and weights.shape[-2:] == (4, 6)
    given = batch["target"][:, :-1] != PADDING
    total = weights.sum(-1).permute(0, 3, 1, 2)[given]
    torch.testing.assert_close(total, torch.ones_like(total))
    assert weights[1, ..., 3:].abs().max() == 0


@MODELS
def test_without_teacher_forcing_the_model_reads_itself(make: Callable[[], EncoderDecoder]) -> None:
    torch.manual_seed(0)
    model, batch = make(), some_batch()
    free = model(batch, teacher_forcing=0.0)
    own = {**batch, "target": torch.cat([batch["target"][:, :1], free[..., 1:].argmax(-1) + 1], 1)}
    torch.testing.assert_close(free, model(own))
    torch.testing.assert_close(model(batch, teacher_forcing=1.0 - 1e-9)[:2], model(batch)[:2])  # by steps, all true
    free.sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_tied_tables_are_one_parameter() -> None:
    model = transformer()
    assert isinstance(model.head, TiedHead)
    assert model.head.classify.weight is model.target_embedder.table.weight
    assert sum(p.numel() == ROWS * DIM for p in model.parameters()) == 1
    with pytest.raises(ShapeError, match="head=vector"):
        TiedHead(DIM, ROWS + 1).tie(model.target_embedder.table)


def test_a_decoder_is_made_for_what_its_encoder_gives() -> None:
    texts = TextPairs(source=Text(model="words", split="spaces", min_count=1)).fit([("a b", "c d")])
    recurrent = {"_target_": "vsattn.RecurrentEncoder", "num_layers": 1, "hidden_dim": 12, "project": False}
    plain = {"_target_": "vsattn.TransformerEncoder", "num_layers": 1, "num_heads": 2}
    decoders = {"_target_": "vsattn.decoders.RecurrentDecoder"}, {**plain, "_target_": "vsattn.TransformerDecoder"}
    config = {"dim": DIM, "head": {"_target_": "vsattn.TiedHead"}, "positions": None}
    batch = {**texts.collate(["a b"]), "target": texts.targets(["c d"])}
    for encoder, decoder in itertools.product((recurrent, plain), decoders):
        model = build_model({**config, "encoder": encoder, "decoder": decoder}, texts, num_classes=len(texts.writes))
        assert model(batch).isfinite().all()
        assert model.encode(batch).x.shape[-1] == (model.encoder.output_dim or DIM)
    words = Words(min_count=1).fit([["a", "b"]])
    with pytest.raises(ConfigError, match="head=vector"):
        build_model({**config, "encoder": plain}, words, num_classes=3)
    with pytest.raises(ConfigError, match=r"vectors of 12 and the head reads 8: set encoder\.project=true"):
        build_model({**config, "encoder": recurrent}, words, num_classes=3)


def test_what_does_not_fit_is_refused() -> None:
    embedder = partial(TokenEmbedder, rows=ROWS, dim=DIM)
    with pytest.raises(ConfigError, match="head=tied"):
        made(embedder("source"), TransformerEncoder(DIM, 1, 2), TransformerDecoder(DIM, 1, 2), embedder("target"),
             CtcHead(DIM, ROWS))  # fmt: skip
    with pytest.raises(ShapeError, match="no target"):
        transformer()({"source": torch.ones(1, 2, dtype=torch.long)})
