"""Streaming: chunk by chunk equals all at once, in memory that does not grow, and what cannot stream says so."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import SCORES, SEQUENCE_RELATIONS
from torch import nn

from vsattn.attention import MultiHeadAttention
from vsattn.ctc import Greedy, greedy
from vsattn.encoders import RecurrentEncoder, TransformerEncoder
from vsattn.errors import ConfigError, DataError, ShapeError
from vsattn.heads import CtcHead, MeanHead, VectorHead
from vsattn.layers import BatchNorm, FeedForward, RMSNorm
from vsattn.model import Model
from vsattn.positions import Learned, Rotary, Sinusoidal
from vsattn.predictor import Predictor
from vsattn.streaming import MIN_PIECE, Streaming
from vsattn.streaming_audio import StreamingAudio
from vsattn.structure import Causal, Dense, Full, Window
from vsattn.tokenizers import AudioFrames, Pixels
from vsattn.vectorset import VectorSet

DIM = 12
WINDOW = Window(3, 2)
KINDS = {
    **{name: {"attention": {"score": score}} for name, score in SCORES.items()},
    **{f"relation_{name}": {"attention": {"relation": relation}} for name, relation in SEQUENCE_RELATIONS.items()},
    "rotary": {"attention": {"rotary": Rotary}},
    "grouped": {"attention": {"num_key_value_heads": 1}},
    "causal": {"attention": {"structure": Causal()}},
    "causal_window": {"attention": {"structure": Causal() & Window(4, 3)}},
    "window_or_window": {"attention": {"structure": Window(1, 2) | Window(4, 0)}},
    "nothing_ahead": {"attention": {"structure": Window(2, 0)}},
    "nothing_behind": {"attention": {"structure": Window(0, 2)}},
    "itself": {"attention": {"structure": Window(0, 0)}},
    "post": {"norm_placement": "post"},
    "sandwich": {"norm_placement": "sandwich"},
    "deepnorm": {"norm_placement": "deepnorm"},
    "rms": {"norm": RMSNorm},
    "batch_norm": {"norm": BatchNorm},
    "swiglu": {"feed_forward": partial(FeedForward, activation="swiglu")},
}
CHUNKS = st.lists(st.integers(0, 9), min_size=1, max_size=8).filter(sum)


def made(kind="scaled_dot", num_layers=2, **attention):
    torch.manual_seed(0)
    options = dict(KINDS[kind])
    attention = {"structure": WINDOW, **options.pop("attention", {}), **attention}
    encoder = TransformerEncoder(DIM, num_layers, 3, attention=partial(MultiHeadAttention, **attention), **options)
    encoder.double()
    for parameter in encoder.parameters():  # biases and tables start at 0, where faults would not show
        parameter.data.add_(torch.randn_like(parameter) * 0.1)
    for module in encoder.modules():
        if isinstance(module, BatchNorm):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return encoder.eval()


def vectors(seed, batch, count):
    return torch.randn(batch, count, DIM, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def streamed(stream, x, sizes):
    outputs = [stream.push(chunk) for chunk in x.split(sizes, 1)] + [stream.finish()]
    return torch.cat([o.x for o in outputs], 1), torch.cat([o.pos[0, :, 0] for o in outputs])


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 2**20), st.integers(1, 3), CHUNKS)
@pytest.mark.parametrize("kind", KINDS)
def test_chunk_by_chunk_equals_all_at_once(kind, seed, batch, sizes):
    encoder, x = made(kind), vectors(seed, batch, sum(sizes))
    positions = Sinusoidal(DIM)
    with torch.no_grad():
        expected = encoder(positions(VectorSet(x, layout="sequence"))).x
    output, pos = streamed(Streaming(encoder, positions=positions), x, sizes)
    torch.testing.assert_close(output, expected, atol=1e-10, rtol=0)
    assert torch.equal(pos, torch.arange(sum(sizes)).double())


@pytest.mark.parametrize("chunk", [1, 7, 300])
def test_a_long_stream_equals_the_banded_kernel(chunk):
    encoder, x = made(structure=Window(20, 10)), vectors(0, 1, 1500)
    with torch.no_grad():
        expected = encoder(VectorSet(x, layout="sequence")).x  # long enough for the band
    output, _ = streamed(Streaming(encoder), x, chunk)
    torch.testing.assert_close(output, expected, atol=1e-10, rtol=0)


@pytest.mark.parametrize("layers", [1, 3])
def test_vectors_are_final_exactly_after_the_look_ahead(layers):
    stream = Streaming(made(num_layers=layers))
    assert stream.look_ahead == layers * WINDOW.right
    x, returned = vectors(0, 1, 30), 0
    for i in range(30):
        returned += stream.push(x[:, i : i + 1]).num_vectors
        assert returned == max(0, i + 1 - stream.look_ahead)
    assert stream.finish().num_vectors == stream.look_ahead


@pytest.mark.parametrize("chunk", [1, 5, 200])
def test_what_is_kept_does_not_grow(chunk):
    stream, most = Streaming(made()), 0
    for piece in vectors(0, 2, 1000).split(chunk, 1):
        stream.push(piece)
        most = max(most, *(waiting + kept for waiting, kept in stream.held))
        sizes = [t.untyped_storage().nbytes() for layer in stream._layers for t in (layer.cache.key, layer.waiting)]
        assert max(sizes) <= 2 * DIM * 8 * (MIN_PIECE + 2 * (WINDOW.left + WINDOW.right))
    assert most <= WINDOW.left + 2 * WINDOW.right


def test_without_a_limit_to_the_left_all_keys_are_kept():
    stream = Streaming(made("causal"))
    stream.push(vectors(0, 1, 50))
    assert stream.held == [(0, 50), (0, 50)]


def test_a_stream_begins_anew_after_its_end():
    encoder, stream = made(), Streaming(made(), positions=Sinusoidal(DIM))
    for seed, count, batch in ((1, 9, 2), (2, 1, 1), (3, 30, 1), (4, 0, 3)):
        x = vectors(seed, batch, count)
        with torch.no_grad():
            expected = encoder(Sinusoidal(DIM)(VectorSet(x, layout="sequence"))).x
        torch.testing.assert_close(streamed(stream, x, 4)[0], expected, atol=1e-10, rtol=0)


def test_what_cannot_stream_says_what_to_do():
    for encoder, words in (
        (RecurrentEncoder(DIM, 1).eval(), "needs encoder=transformer; RecurrentEncoder is no"),
        (made(structure=Full()), r"layer 1 attends by Full\(\).*train with structure=window"),
        (made(structure=Window(3, None)), "sets no limit ahead"),
        (made(structure=WINDOW & Dense(torch.ones(1, 4, 4).bool())), "sets no limit ahead by positions"),
        (TransformerEncoder(DIM, 1, 3, num_prefix=1).eval(), "num_prefix=0"),
        (made().train(), r"call .eval\(\) first"),
    ):
        with pytest.raises(ConfigError, match=words):
            Streaming(encoder)
    stream = Streaming(made(), positions=Learned(DIM, max_length=10).double())
    stream.push(vectors(0, 2, 9))
    with pytest.raises(ShapeError, match=r"positions 9 .. 11 do not lie within the 10 learned.*sinusoidal"):
        stream.push(vectors(0, 2, 3))
    with pytest.raises(ShapeError, match=r"takes vectors \(2, n, 12\), not \(1, 3, 12\)"):
        stream.push(vectors(0, 1, 3))
    with pytest.raises(ShapeError, match="nothing was pushed"):
        Streaming(made()).finish()
    stream.encoder.train()
    with pytest.raises(ConfigError, match="evaluation mode"):
        stream.push(vectors(0, 2, 1))


def sound(seconds, seed=0):
    return 0.1 * torch.randn(int(8000 * seconds), generator=torch.Generator().manual_seed(seed))


def model_of(tokenizer, head=CtcHead, structure=Window(6, 3), positions=True):
    torch.manual_seed(0)
    attention = partial(MultiHeadAttention, structure=structure)
    encoder = TransformerEncoder(DIM, 2, 3, attention=attention)
    return Model(
        tokenizer.embedder(DIM), encoder, head(DIM, 4), positions=Sinusoidal(DIM) if positions else None
    ).eval()


@pytest.mark.parametrize("chunk", [7, 81, 20_000])
@pytest.mark.parametrize(
    "options",
    [
        {"normalise": "global"},
        {"normalise": "none", "strides": (2, 3)},
        {"normalise": "global", "strides": (), "features": "mfcc", "num_features": 13},
        {"normalise": "global", "hop": 0.025},
        {"normalise": "none", "strides": (1,), "features": "raw"},
    ],
)
def test_sound_in_chunks_equals_the_whole_recording(options, chunk):
    tokenizer = AudioFrames(sample_rate=8000, **options).fit([sound(1), sound(0.5, 1)])
    model, samples = model_of(tokenizer), sound(0.4 if chunk < 80 else 1.717, 2)
    expected = Predictor(model, tokenizer, "abcd").logits([samples])[0]
    stream = StreamingAudio(model, tokenizer)
    for _ in range(2):
        output = torch.cat([stream.push(piece) for piece in samples.split(chunk)] + [stream.finish()])
        torch.testing.assert_close(output, expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize("count", [1, 100, 200, 201, 279, 280, 281, 440])
def test_short_recordings_are_padded_as_whole_ones_are(count):
    tokenizer = AudioFrames(sample_rate=8000, normalise="none").fit([sound(1)])
    model, samples = model_of(tokenizer), sound(1)[:count]
    stream = StreamingAudio(model, tokenizer)
    output = torch.cat([stream.push(piece) for piece in samples.split(90)] + [stream.finish()])
    expected = Predictor(model, tokenizer, "abcd").logits([samples])[0]
    torch.testing.assert_close(output, expected, atol=2e-5, rtol=0)


def test_labels_are_those_of_the_whole_recording():
    tokenizer = AudioFrames(sample_rate=8000, normalise="global").fit([sound(1)])
    model, samples, decoder = model_of(tokenizer), sound(3), Greedy()
    stream, spans = StreamingAudio(model, tokenizer), []
    for piece in samples.split(331):
        spans += decoder.push(stream.push(piece))
    spans += decoder.push(stream.finish()) + decoder.finish()
    expected = greedy(Predictor(model, tokenizer, "abcd").logits([samples])[0])
    assert [span[:3] for span in spans] == [span[:3] for span in expected] and len(spans) > 3


@pytest.mark.parametrize("strides", [(), (1,), (2, 1), (2, 3)])
def test_the_stated_look_ahead_is_that_of_the_samples(strides):
    """The answer for a vector comes with the very sample that the look-ahead says, and changes with it."""
    tokenizer = AudioFrames(sample_rate=8000, normalise="none", strides=strides).fit([sound(1)])
    model = model_of(tokenizer, VectorHead)
    stream, samples = StreamingAudio(model, tokenizer), sound(3)
    vector = 20
    centre = float(tokenizer.vector_times(vector + 1)[-1])
    needed = round((centre + stream.look_ahead) * 8000)
    returned = len(stream.push(samples[: needed - 1]))
    assert returned == vector
    assert len(stream.push(samples[needed - 1 : needed])) == 1


def test_integer_samples_have_the_scale_of_whole_recordings():
    tokenizer = AudioFrames(sample_rate=8000, normalise="none").fit([sound(1)])
    model, samples = model_of(tokenizer), (sound(1) * 32768).round().clamp(-32768, 32767).to(torch.int16)
    stream = StreamingAudio(model, tokenizer)
    output = torch.cat([stream.push(samples[:3000].numpy()), stream.push(samples[3000:]), stream.finish()])
    expected = Predictor(model, tokenizer, "abcd").logits([samples])[0]
    torch.testing.assert_close(output, expected, atol=2e-5, rtol=0)


def test_sound_that_cannot_stream_says_what_to_do():
    whole, steady = (AudioFrames(sample_rate=8000, normalise=n).fit([sound(1)]) for n in ("utterance", "none"))
    peak = AudioFrames(sample_rate=8000, normalise="peak").fit([sound(1)])
    for model, tokenizer, words in (
        (model_of(whole), whole, "tokenizer.normalise=global"),
        (model_of(peak), peak, "tokenizer.normalise=global"),
        (model_of(steady, MeanHead), steady, "use head=vector or head=ctc"),
        (model_of(steady, structure=Full()), steady, "structure=window"),
        (model_of(steady).train(), steady, "eval"),
        (model_of(steady), Pixels(), "AudioFrames, not by Pixels"),
    ):
        with pytest.raises(ConfigError, match=words):
            StreamingAudio(model, tokenizer)
    cut = AudioFrames(sample_rate=8000, normalise="none", trim=30.0).fit([sound(1)])
    with pytest.raises(ConfigError, match="trim=null"):
        StreamingAudio(model_of(cut), cut)
    sparse = AudioFrames(sample_rate=8000, normalise="none", window=0.01, hop=0.02).fit([sound(1)])
    with pytest.raises(ConfigError, match="hop is at most"):
        StreamingAudio(model_of(sparse), sparse)
    stream = StreamingAudio(model_of(steady), steady)
    with pytest.raises(DataError, match=r"one channel, not \(8000, 2\)"):
        stream.push(torch.zeros(8000, 2))
    with pytest.raises(DataError, match="int64; give int16, int32 or floating point"):
        stream.push([1000, -1000])
    with pytest.raises(DataError, match="NaN"):
        stream.push(torch.full((10,), float("nan")))
    with pytest.raises(DataError, match="at least one sample"):
        stream.finish()


def test_a_foreign_block_is_refused():
    encoder = made()
    encoder.blocks[1] = nn.Identity().eval()
    with pytest.raises(ConfigError, match="layer 2 is no TransformerBlock"):
        Streaming(encoder)
