"""Sound to vectors: reading, resampling and frames against soundfile and torchaudio; padding that changes nothing."""

from __future__ import annotations

import json
import math
import pickle

import numpy as np
import pytest
import soundfile
import torch
import torchaudio
from torch import nn

from vsattn.errors import ConfigError, DataError
from vsattn.tokenizers import AudioFrames, SpecAugment
from vsattn.tokenizers.mel import cosines, mel_filters
from vsattn.tokenizers.waveforms import read_audio, resample, to_waveform, trimmed


def tone(seconds=0.5, rate=8000, frequency=440.0):
    return (0.5 * np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def clips(*lengths, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [0.1 * torch.randn(n, generator=generator) for n in lengths]


def mel_arguments(rate, window, hop, size, bands):
    return {"n_fft": size, "win_length": window, "hop_length": hop, "n_mels": bands, "center": False}


@pytest.mark.parametrize("rate, window, hop, size, bands", [(8000, 200, 80, 256, 40), (16000, 400, 160, 512, 80)])
def test_log_mel_equals_torchaudio(rate, window, hop, size, bands):
    (samples,) = clips(7013)
    tokenizer = AudioFrames(sample_rate=rate, num_features=bands, normalise="none")
    reference = torchaudio.transforms.MelSpectrogram(rate, **mel_arguments(rate, window, hop, size, bands))
    margin = (size - window) // 2  # torchaudio puts the window in the middle of its Fourier transform
    expected = (reference(nn.functional.pad(samples, (margin, margin))) + 1e-6).log().T
    found = tokenizer.frames(samples)
    assert len(found) == tokenizer.num_frames(7013) == 1 + (7013 - window) // hop
    torch.testing.assert_close(found, expected[: len(found)], atol=1e-4, rtol=0)


def test_mfcc_equals_torchaudio():
    (samples,) = clips(5000)
    tokenizer = AudioFrames(sample_rate=8000, features="mfcc", num_features=13, normalise="none")
    arguments = mel_arguments(8000, 200, 80, 256, 40)
    reference = torchaudio.transforms.MFCC(8000, n_mfcc=13, log_mels=True, melkwargs=arguments)
    expected = reference(nn.functional.pad(samples, (28, 28))).T
    torch.testing.assert_close(tokenizer.frames(samples), expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(cosines(40, 40).T @ cosines(40, 40), torch.eye(40), atol=1e-5, rtol=0)


def test_raw_frames_and_a_linear_map_are_a_strided_convolution_over_samples():
    (samples,) = clips(1003)
    tokenizer = AudioFrames(sample_rate=8000, features="raw", normalise="none", strides=()).fit([samples])
    embedder = tokenizer.embedder(6)
    weight = embedder.project.weight[:, None]  # (dim, 1, window)
    expected = nn.functional.conv1d(samples[None, None], weight, embedder.project.bias, stride=80)[0].T
    torch.testing.assert_close(embedder(tokenizer.collate([samples])).x[0], expected, atol=1e-5, rtol=0)


def test_the_peak_normalises_whatever_level_and_silence():
    (samples,) = clips(4000)
    tokenizer = AudioFrames(sample_rate=8000, normalise="peak", dynamic_range=30.0)
    frames = tokenizer.frames(samples)
    plain = AudioFrames(sample_rate=8000, normalise="none", dynamic_range=30.0)
    power = samples.unfold(0, 200, 80).square().mean(1).max()
    floor = 0.5e-3
    expected = (plain.frames(samples * 0.1 / power.sqrt()).double() - math.log(floor)) / math.log(1 + 2 / floor)
    torch.testing.assert_close(frames.double(), 2.5 * expected - 1, atol=1e-5, rtol=0)
    torch.testing.assert_close(tokenizer.frames(0.01 * samples), frames, atol=1e-4, rtol=0)
    longer = tokenizer.frames(nn.functional.pad(samples, (1600, 4000)))
    torch.testing.assert_close(longer[20 : 20 + len(frames)], frames)
    torch.testing.assert_close(longer[-40:], torch.full((40, 40), -1.0))
    for silence in (torch.zeros(4000), torch.zeros(70)):
        torch.testing.assert_close(tokenizer.frames(silence), torch.full_like(tokenizer.frames(silence), -1.0))
    for clip in (samples[:70], nn.functional.pad(samples[:199], (200, 0))):  # short, and all in the last frame
        assert bool((tokenizer.frames(clip) < 4).all())


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"normalise": "peak", "features": "mfcc"}, "use log_mel"),
        ({"normalise": "peak", "dynamic_range": 0.0}, "positive with normalise=peak"),
        ({"emphasis": math.nan}, "emphasis is -60 to 60"),
        ({"emphasis": 61.0}, "emphasis is -60 to 60"),
        ({"features": "raw", "emphasis": 6.0}, "emphasis=0"),
    ],
)
def test_levels_out_of_range(wrong, message):
    with pytest.raises(ConfigError, match=message):
        AudioFrames(**wrong)


def test_an_emphasis_lifts_high_bands():
    (samples,) = clips(4000)
    plain, lifted = (AudioFrames(sample_rate=8000, normalise="none", emphasis=e).frames(samples) for e in (0.0, 12.0))
    gain = 10 / math.log(10) * (lifted - plain)
    centres = 700 * (10 ** (np.linspace(0, 2595 * np.log10(1 + 4000 / 700), 42)[1:-1] / 2595) - 1)
    torch.testing.assert_close(gain[:, centres < 960], torch.zeros(len(gain), int((centres < 960).sum())))
    assert gain[:, centres > 2400].numpy() == pytest.approx(12, abs=0.01)
    between = gain[:, (centres > 960) & (centres < 2400)]
    assert bool((between.diff(dim=1) > 0).all()) and 0 < float(between.min()) < float(between.max()) < 12


def test_warped_filters_are_those_of_another_length_of_the_vocal_tract():
    plain = mel_filters(40, 512, 16000, (0.0, 8000.0))
    reference = torchaudio.functional.melscale_fbanks(257, 0.0, 8000.0, 40, 16000)
    torch.testing.assert_close(plain, reference, atol=1e-5, rtol=0)
    for warp in (0.8, 1.25):
        warped = mel_filters(40, 512, 16000, (0.0, 8000.0), warp)
        peaks, moved = plain[:, 10:30].argmax(0) * 31.25, warped[:, 10:30].argmax(0) * 31.25
        torch.testing.assert_close(moved, warp * peaks, atol=32.0, rtol=0.02)
        assert bool((warped >= 0).all()) and bool((warped.sum(0) > 0).all())


def test_normalisation_of_a_clip_or_by_the_training_clips():
    items = clips(4000, 9000)
    plain = AudioFrames(sample_rate=8000, normalise="none")
    own = AudioFrames(sample_rate=8000, normalise="utterance")
    frames = own.frames(items[0])
    assert abs(float(frames.mean())) < 1e-5 and float(frames.std(correction=0)) == pytest.approx(1, abs=1e-4)
    torch.testing.assert_close(own.frames(0.01 * items[0]), frames, atol=1e-4, rtol=0)  # a level does not show
    whole = torch.cat([plain.frames(item) for item in items])
    expected = (plain.frames(items[0]) - whole.mean(0)) / whole.std(0, correction=0)
    learned = AudioFrames(sample_rate=8000, normalise="global").fit(items)
    torch.testing.assert_close(learned.frames(items[0]), expected, atol=1e-4, rtol=0)
    state = json.loads(json.dumps(learned.state))
    again = AudioFrames(sample_rate=8000, normalise="global").load_state(state)
    assert torch.equal(again.frames(items[0]), learned.frames(items[0]))
    with pytest.raises(DataError, match="no state of AudioFrames"):
        AudioFrames(sample_rate=8000, features="mfcc", num_features=13).load_state(state)


@pytest.mark.parametrize("features", ["log_mel", "raw"])
def test_silence_is_the_mean_and_nothing_else(features):
    tokenizer = AudioFrames(sample_rate=8000, features=features)
    for seconds in (1, 3, 10):
        assert not tokenizer.frames(torch.zeros(8000 * seconds)).any()


@pytest.mark.parametrize("strides", [(), (1,), (2, 1), (3, 2, 2)])
@pytest.mark.parametrize("features", ["log_mel", "raw"])
def test_a_clip_alone_equals_itself_in_a_batch(features, strides):
    items = clips(150, 1803, 3200, 5040)
    tokenizer = AudioFrames(sample_rate=8000, features=features, strides=strides).fit(items)
    embedder = tokenizer.embedder(16).eval()
    batch = tokenizer.collate(items)
    batch["frames"][0, batch["length"][0] :] = torch.nan  # what stands in the padding is nobody's business
    together = embedder(batch)
    assert together.layout == "sequence" and together.mask.sum(1).tolist() == tokenizer.counts(batch).tolist()
    for row, item in enumerate(items):
        alone = embedder(tokenizer.collate([item]))
        count = tokenizer.num_vectors(len(item))
        assert alone.x.shape[1] == count == int(together.mask[row].sum())
        torch.testing.assert_close(together.x[row, :count], alone.x[0], atol=1e-5, rtol=1e-5)
    torch.manual_seed(0)
    assert torch.autograd.gradcheck(
        lambda x: embedder.double()({"frames": x, "length": batch["length"][:2]}).x,
        batch["frames"][:2, :6].double().requires_grad_(), fast_mode=True
    )  # fmt: skip


def test_times_and_counts_of_vectors():
    tokenizer = AudioFrames(sample_rate=16000, strides=(2, 1)).fit(clips(16000))
    assert tokenizer.seconds_per_vector == pytest.approx(0.02)
    assert tokenizer.vector_times(3).tolist() == pytest.approx([0.0125, 0.0325, 0.0525])
    assert [tokenizer.num_frames(n) for n in (1, 400, 559, 560, 16000)] == [1, 1, 1, 2, 98]
    assert tokenizer.num_vectors(16000) == 49 and tokenizer.sizes == {"dimensions": 1, "max_length": 74}
    batch = tokenizer.collate(clips(16000, 560))
    assert [a.shape for a in tokenizer.decode(batch)] == [(98, 40), (2, 40)]
    assert torch.equal(torch.from_numpy(tokenizer.decode(batch)[1]), batch["frames"][1, :2])


@pytest.mark.parametrize("strides", [(), (2, 1), (2, 2), (3, 2)])
def test_borders_lie_halfway_between_centres_and_within_the_clip(strides):
    tokenizer = AudioFrames(sample_rate=8000, strides=strides)
    for samples in range(200, 2000, 37):
        count = tokenizer.num_vectors(samples)
        borders, centres = tokenizer.borders(count).double(), tokenizer.vector_times(count).double()
        torch.testing.assert_close(borders[1:-1], (centres[1:] + centres[:-1]) / 2)
        assert borders[0] == 0 and centres[-1] < borders[-1] <= samples / 8000 + 1e-6
    assert tokenizer.borders(0).tolist() == [0.0]


def test_a_click_is_in_the_vectors_that_its_time_says():
    samples = torch.zeros(8000)
    samples[4000] = 1.0
    tokenizer = AudioFrames(sample_rate=8000, strides=(2, 1), normalise="none").fit([samples])
    batch = tokenizer.collate([samples])
    loud = batch["frames"][0, ::2].mean(1).argmax()
    assert float(tokenizer.vector_times(100)[loud]) == pytest.approx(0.5, abs=0.01)


FORMATS = [("wav", "PCM_16"), ("wav", "FLOAT"), ("flac", "PCM_24"), ("ogg", "VORBIS"), ("mp3", "MPEG_LAYER_III")]


@pytest.mark.parametrize("suffix, subtype", FORMATS)
@pytest.mark.parametrize("rate", [8000, 22050, 48000])
def test_files_of_any_format_rate_and_number_of_channels(suffix, subtype, rate, tmp_path):
    stereo = np.stack([tone(1.0, rate), 0.2 * tone(1.0, rate)], 1)
    path = tmp_path / f"tone.{suffix}"
    soundfile.write(path, stereo, rate, subtype=subtype)
    samples, found = read_audio(path)
    assert found == rate and samples.dtype == torch.float32
    heard = to_waveform(path, 16000, "x")
    assert len(heard) == pytest.approx(16000, rel=0.1)  # MP3 pads its ends
    middle = heard[4000:12000]
    spectrum = torch.fft.rfft(middle * torch.hann_window(8000)).abs()
    assert int(spectrum.argmax()) * 2 == 440
    assert float(middle.abs().max()) == pytest.approx(0.3, rel=0.1)  # 0.5 and 0.1 averaged


@pytest.mark.parametrize("rate, new", [(44100, 8000), (8000, 44100), (48000, 16000), (16000, 16000)])
def test_resampling_equals_torchaudio(rate, new):
    (samples,) = clips(4410)
    torch.testing.assert_close(resample(samples, rate, new), torchaudio.functional.resample(samples, rate, new))


def test_odd_rates_are_near_enough_and_cheap():
    heard = resample(torch.from_numpy(tone(1.0, 44099)), 44099, 8000)
    assert len(heard) == pytest.approx(8000, abs=1)
    torch.testing.assert_close(heard[500:-500], torch.from_numpy(tone(1.0))[500 : len(heard) - 500], atol=5e-3, rtol=0)


def test_arrays_of_any_kind_mean_the_same():
    samples = np.round(tone(0.1) * 32768) / 32768
    expected = torch.from_numpy(samples).float()
    stereo = np.stack([samples, samples], 1)
    for item in (
        samples.astype(np.float64), samples.astype(">f4"), (samples * 32768).astype(np.int16), stereo, stereo.T,
        torch.from_numpy(stereo), (samples, 8000), [expected, np.int64(8000)], samples[::-1][::-1],
    ):  # fmt: skip
        torch.testing.assert_close(to_waveform(item, 8000, "x"), expected, atol=1e-6, rtol=0)
    assert len(to_waveform((samples, 8000), 16000, "x")) == 1600


@pytest.mark.parametrize(
    "item, message",
    [
        (np.zeros(0, np.float32), "here holds no samples"),
        (np.zeros((2, 0), np.float32), "here holds no samples"),
        (np.array([0.0, np.nan]), "here holds NaN"),
        (np.zeros((40, 50)), r"here has shape \(40, 50\)"),
        (np.zeros((2, 3, 4)), r"here has shape \(2, 3, 4\)"),
        (np.zeros(4, np.uint8), "here is uint8"),
        (np.ones(4, np.int64), "here is torch.int64; give int16, int32 or floating point"),
        (["a", "b"], "here is list"),
        ((np.zeros(8), 0), "sample rate of 0 Hz"),
        (torch.zeros(4, dtype=torch.complex64), "here is torch.complex64"),
    ],
)
def test_arrays_that_cannot_be_meant_are_named(item, message):
    with pytest.raises(DataError, match=message):
        to_waveform(item, 8000, "here")


@pytest.mark.parametrize("suffix, subtype", FORMATS)
def test_damaged_bytes_give_sound_or_an_error_that_names_the_file(suffix, subtype, tmp_path):
    path, random = tmp_path / f"damaged.{suffix}", np.random.default_rng(0)
    soundfile.write(path, tone(0.2), 8000, subtype=subtype)
    whole, refused = path.read_bytes(), 0
    for trial in range(40):
        changed = bytearray(whole)
        for place in random.integers(0, min(len(whole), 100), 6):
            changed[place] = random.integers(0, 256)
        path.write_bytes(bytes(changed)[: len(whole) if trial % 2 else int(random.integers(0, len(whole)))])
        try:
            samples, rate = read_audio(path)
            assert len(samples) and rate > 0 and bool(samples.isfinite().all())
        except DataError as error:
            assert str(path) in str(error)
            refused += 1
    assert refused > 3


def test_files_that_are_no_sound(tmp_path):
    def refuses(name, message, content=None):
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(DataError, match=f"{name}.*{message}|{message}.*{name}"):
            AudioFrames(sample_rate=8000).collate([path])

    refuses("nowhere.wav", "there is no sound file")
    refuses("empty.wav", "cannot be read as sound", b"")
    refuses("text.mp3", "cannot be read as sound", b"this is no sound at all" * 9)
    soundfile.write(tmp_path / "none.wav", np.zeros(0), 8000)
    refuses("none.wav", "holds no samples")
    soundfile.write(tmp_path / "nan.wav", np.array([0.1, np.nan]), 8000, subtype="FLOAT")
    refuses("nan.wav", "holds NaN")
    with pytest.raises(DataError, match="there is no sound file"):
        read_audio(tmp_path)


def test_what_is_too_long_or_nothing_is_refused():
    tokenizer = AudioFrames(sample_rate=8000, max_vectors=10)
    with pytest.raises(DataError, match=r"item 1 of the batch is 1\.0 s long .* 49 vectors, more than max_vectors=10"):
        tokenizer.collate(clips(800, 8000))
    with pytest.raises(DataError, match="at least one clip"):
        tokenizer.collate([])
    with pytest.raises(DataError, match="got no clips"):
        tokenizer.fit([])
    with pytest.raises(DataError, match="has not seen data"):
        tokenizer.sizes  # noqa: B018


def test_quiet_ends_are_cut_off():
    sound = torch.from_numpy(tone())
    quiet = 0.01 * torch.randn(4000, generator=torch.Generator().manual_seed(0))  # 31 dB below the tone
    noisy = torch.cat([quiet, sound, 0.01 * sound, sound, quiet])
    whole, cut, kept = (AudioFrames(sample_rate=8000, trim=trim) for trim in (None, 20.0, 60.0))
    window = whole.window
    inside = trimmed(noisy, 20.0, window)
    assert 3 * 4000 <= len(inside) <= 3 * 4000 + 2 * window  # what is quiet between loud parts stays
    torch.testing.assert_close(cut.frames(noisy), whole.frames(inside))
    torch.testing.assert_close(kept.frames(noisy), whole.frames(noisy))
    for nothing in (torch.zeros(4000), sound[: 2 * window - 1]):
        assert torch.equal(trimmed(nothing, 20.0, window), nothing)
    with pytest.raises(ConfigError, match="trim=null"):
        cut.vector_times(3)


@pytest.mark.parametrize(
    "wrong",
    [{"features": "mel"}, {"normalise": "clip"}, {"num_features": 0}, {"features": "mfcc", "num_features": 41},
     {"hop": 0.0}, {"window": 1e-6}, {"strides": (0,)}, {"frequencies": (300, 9000)}, {"sample_rate": 0},
     {"trim": 0.0}],
)  # fmt: skip
def test_values_that_make_no_frames(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        AudioFrames(**wrong)


def test_distortions_are_for_training_alone_and_repeat_under_a_seed():
    (samples,) = clips(8000)
    tokenizer = AudioFrames(sample_rate=8000, spec_augment=SpecAugment(stretch=0.2, warp=0.1)).fit([samples])
    plain = AudioFrames(sample_rate=8000).fit([samples]).collate([samples])["frames"]
    assert torch.equal(tokenizer.collate([samples])["frames"], plain)
    torch.manual_seed(0)
    first = tokenizer.collate([samples], train=True)["frames"]
    torch.manual_seed(0)
    assert torch.equal(tokenizer.collate([samples], train=True)["frames"], first)
    assert first.shape != plain.shape or not torch.equal(first, plain)
    sent = pickle.loads(pickle.dumps(tokenizer))
    torch.manual_seed(0)
    assert torch.equal(sent.collate([samples], train=True)["frames"], first)


def test_raw_samples_have_no_frequencies_to_distort():
    still = SpecAugment(frequency_masks=0, stretch=0.1)
    AudioFrames(features="raw", spec_augment=still)
    for wrong in (SpecAugment(), SpecAugment(frequency_masks=0, warp=0.1)):
        with pytest.raises(ConfigError, match=r"spec_augment\.warp=0"):
            AudioFrames(features="raw", spec_augment=wrong)
        AudioFrames(features="mfcc", spec_augment=wrong)


def test_masks_are_as_wide_as_they_may_be():
    torch.manual_seed(0)
    augment = SpecAugment(frequency_masks=1, frequency_width=7, time_masks=1, time_share=0.2)
    bands, times = [], []
    for _ in range(300):
        masked = augment.masked(torch.ones(50, 40)) == 0
        bands.append(int(masked.all(0).sum()))
        times.append(int(masked.all(1).sum()))
    assert (min(bands), max(bands)) == (0, 7) and (min(times), max(times)) == (0, 10)
    assert torch.equal(SpecAugment(frequency_masks=0, time_masks=0).masked(torch.ones(3, 4)), torch.ones(3, 4))
    with pytest.raises(ConfigError, match="time_share"):
        SpecAugment(time_share=1.0)


def test_stretching_changes_the_tempo_and_keeps_the_frequencies():
    samples = torch.from_numpy(tone(1.0, frequency=1000.0))
    samples[4000:] *= 0.01
    tokenizer = AudioFrames(sample_rate=8000, normalise="none")
    plain, long = tokenizer._describe(samples), tokenizer._describe(samples, stretch=1.25)
    assert len(long) == pytest.approx(1.25 * len(plain), abs=1)
    assert int(long[:40].mean(0).argmax()) == int(plain[:40].mean(0).argmax())
    drop, later = ((frames.mean(1) > frames.mean(1).mean()).sum() for frames in (plain, long))
    assert int(later) == pytest.approx(1.25 * int(drop), abs=1)
