"""Ours, with the weights of torchaudio's wav2vec 2.0 and HuBERT, against them."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from parity import Parity, compare, same_in_training, shaken
from torchaudio.models import wav2vec2_base, wav2vec2_model, wavlm_model

from vsattn.convert import from_wav2vec2
from vsattn.errors import ConfigError

LENGTHS = torch.tensor([400, 251, 90])


def small(
    *, dropout: float = 0.0, mode: str = "group_norm", first: bool = False, aux: int | None = None, drop: float = 0.0
):
    return wav2vec2_model(
        extractor_mode=mode,
        extractor_conv_layer_config=[(12, 10, 5), (12, 3, 2), (10, 2, 2)],
        extractor_conv_bias=mode == "layer_norm",
        encoder_embed_dim=12,
        encoder_projection_dropout=dropout,
        encoder_pos_conv_kernel=6,
        encoder_pos_conv_groups=3,
        encoder_num_layers=3,
        encoder_num_heads=3,
        encoder_attention_dropout=dropout,
        encoder_ff_interm_features=20,
        encoder_ff_interm_dropout=dropout / 2,
        encoder_dropout=dropout,
        encoder_layer_norm_first=first,
        encoder_layer_drop=drop,
        aux_num_out=aux,
    )


def waves(dtype: torch.dtype, batch: int = 3, length: int = 400) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(batch, length, generator=generator, dtype=torch.float64).to(dtype)


def theirs(module, waveforms, *lengths):
    output, counts = module(waveforms, *lengths)
    return output if counts is None else output[torch.arange(output.shape[1]) < counts[:, None]]


def ours(module, waveforms, *lengths):
    output = module(waveforms, *lengths)
    return output.x if output.mask is None else output.x[output.mask]


def wav2vec2_case(dtype: torch.dtype, *, padding: bool = True, **options: object) -> Parity:
    lengths = [LENGTHS] if padding else []
    return compare(shaken(small(**options), dtype), from_wav2vec2, theirs, ours, [waves(dtype), *lengths])


def wav2vec2_base_case(dtype: torch.dtype) -> Parity:
    torch.manual_seed(0)
    lengths = torch.tensor([16000, 11000])
    return compare(wav2vec2_base().to(dtype).eval(), from_wav2vec2, theirs, ours, [waves(dtype, 2, 16000), lengths])


CASES = {
    "torchaudio `wav2vec2_model`, as base: post-norm, 3 layers of width 12": wav2vec2_case,
    "torchaudio `wav2vec2_model`, as large: pre-norm, with logits": partial(
        wav2vec2_case, mode="layer_norm", first=True, aux=5
    ),
}
LARGE = {"torchaudio `wav2vec2_base`, random weights, 1 s": wav2vec2_base_case}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("case", [*CASES.values(), partial(wav2vec2_case, padding=False, first=True)])
def test_outputs_and_gradients_equal_the_peers(case, dtype):
    case(dtype).check(dtype)


@pytest.mark.bench
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_wav2vec2_base_equals_the_peer(dtype):
    wav2vec2_base_case(dtype).check(dtype)


def test_padded_vectors_are_zero_and_lengths_are_the_peers():
    peer = shaken(small(), torch.float64)
    output = from_wav2vec2(peer)(waves(torch.float64), LENGTHS)
    assert torch.equal(output.mask.sum(1), peer(waves(torch.float64), LENGTHS)[1])
    assert not output.mask.all() and torch.equal(output.x[~output.mask], torch.zeros_like(output.x[~output.mask]))


@pytest.mark.parametrize("first", [False, True])
def test_dropout_and_layer_drop_fall_in_the_same_places(first):
    peer = shaken(small(dropout=0.2, drop=0.5, first=first), torch.float64)
    same_in_training(peer, from_wav2vec2, theirs, ours, [waves(torch.float64, 1)])


def test_what_is_not_known_is_refused():
    wavlm = wavlm_model(
        "group_norm", [(8, 10, 5)], False, 12, 0.0, 6, 3, 1, 3, 8, 16, 0.0, 20, 0.0, 0.0, False, 0.0, None
    )
    with pytest.raises(ConfigError, match=r"layers\.0\.attention is a WavLMSelfAttention, where SelfAttention"):
        from_wav2vec2(wavlm)
    peer = small()
    peer.encoder.transformer.layers[1].dropout.p = 0.1
    with pytest.raises(ConfigError, match=r"layers\.1 has branches of different dropout \(0.1, 0.0\)"):
        from_wav2vec2(peer)
    with pytest.raises(ConfigError, match="it is a Encoder, where Wav2Vec2Model"):
        from_wav2vec2(peer.encoder)
