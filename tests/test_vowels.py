"""Synthetic vowels: the resonators against scipy, formants and pitch found again in the sound, splits and labels."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import signal

from vsattn.errors import ConfigError
from vsattn.tasks.classification import IGNORED
from vsattn.tasks.data.audio import Segment
from vsattn.tasks.data.formants import BANDWIDTHS, Sound, Utterance, pulses, resonate, synthesise
from vsattn.tasks.data.vowels import LEVELS, PAUSE, SPEAKERS, VOWELS, Speaker, Vowels, VowelSequences
from vsattn.tasks.speech import SpeechCollate, labels_at
from vsattn.tokenizers import AudioFrames, SpecAugment

RATE = 8000
SMALL = {"speakers": (4, 2, 3), "takes": 2}


def resonances(sound, order=10):
    """Return the resonances of a sound in Hz by linear prediction, autocorrelation method (scipy solves it)."""
    from scipy.linalg import solve_toeplitz

    sound = sound * np.hanning(len(sound))
    correlation = np.correlate(sound, sound, "full")[len(sound) - 1 :][: order + 1]
    predictor = solve_toeplitz(correlation[:-1], correlation[1:])
    roots = np.roots([1, *-predictor])
    roots = roots[(roots.imag > 0) & (np.abs(roots) > 0.8)]
    return np.sort(np.angle(roots) * RATE / (2 * np.pi))


def steady(formants, seconds=1.0, pitch=120.0, voice=0.0, breath=0.0, seed=0):
    said = Utterance([Sound(seconds, tuple(formants), voice, breath)], pitch, fall=0.0)
    return synthesise([said], RATE, np.random.default_rng(seed))[0]


def test_a_resonator_equals_scipys_filter():
    random = np.random.default_rng(0)
    sound = random.standard_normal((800, 3))
    frequencies = np.array([300.0, 1200.0, 3000.0])
    found = resonate(sound, np.tile(frequencies, (20, 1)), 90.0, RATE, 40)
    for clip, frequency in enumerate(frequencies):
        b, c = 2 * np.exp(-np.pi * 90 / RATE) * np.cos(2 * np.pi * frequency / RATE), -np.exp(-2 * np.pi * 90 / RATE)
        expected = signal.lfilter([1 - b - c], [1, -b, -c], sound[:, clip])
        np.testing.assert_allclose(found[:, clip], expected, atol=1e-10)
        axis, response = signal.freqz([1 - b - c], [1, -b, -c], worN=8000, fs=RATE)
        assert axis[np.abs(response).argmax()] == pytest.approx(frequency, abs=20)
        assert abs(response[0]) == pytest.approx(1.0)


@pytest.mark.parametrize("word", VOWELS)
@pytest.mark.parametrize("group", [0, 1, 2])
def test_formants_are_found_again_by_linear_prediction(word, group):
    formants = VOWELS[word][group][1:]
    found = resonances(steady(formants, breath=1.0))
    for formant in formants:
        assert np.abs(found - formant).min() < max(40.0, 0.04 * formant), (word, found)


def test_first_formants_are_those_of_the_table_in_the_spectrum_of_a_voice():
    for word, groups in VOWELS.items():
        pitch, *formants = groups[0]
        frequencies, power = signal.welch(steady(formants, 2.0, pitch, voice=1.0), RATE, nperseg=2048)
        near = (frequencies > formants[0] - pitch) & (frequencies < formants[0] + pitch)
        peak = frequencies[near][power[near].argmax()]
        assert abs(peak - formants[0]) < 0.6 * pitch, word  # the harmonic next to it


@pytest.mark.parametrize("pitch", [110.0, 220.0, 275.0])
def test_pulses_come_as_often_as_the_pitch_says_and_close_abruptly(pitch):
    flow = pulses(np.full((RATE, 1), pitch), RATE)[:, 0]
    spectrum = np.abs(np.fft.rfft(flow * np.hanning(RATE)))
    assert spectrum[20:].argmax() + 20 == pytest.approx(pitch, abs=1.5)
    assert np.abs(flow).max() == -flow.min() and flow.min() == pytest.approx(-1, abs=0.15)
    assert abs(flow.mean()) < 0.02  # the flow comes back to where it was
    assert (flow == 0).mean() == pytest.approx(0.4, abs=0.03)  # closed


def test_sounds_glide_into_each_other_and_silence_is_silent():
    said = [
        Sound(0.1, (500, 1500, 2500)),
        Sound(0.2, (300, 2300, 3000), voice=1),
        Sound(0.2, (700, 1100, 2400), voice=1),
    ]
    sound = synthesise([Utterance(said, 120), Utterance(said[1:], 120)], RATE, np.random.default_rng(0))
    assert [len(s) for s in sound] == [4000, 3200]
    assert np.abs(sound[0][:600]).max() == 0 and np.abs(sound[0][1000:]).max() > 0.1
    early, late = resonances(sound[0][1200:2000]), resonances(sound[0][3000:4000])
    assert np.abs(early - 2300).min() < 120 and np.abs(late - 1100).min() < 120


def test_the_table_is_the_published_one():
    assert len(VOWELS) == 10 and set(LEVELS) == set(VOWELS) and sum(SPEAKERS) == 76
    means = np.array([[groups[i] for groups in VOWELS.values()] for i in range(3)]).mean(1)
    np.testing.assert_allclose(means[:, 0], [132.2, 223.0, 264.3], atol=0.1)
    assert (np.diff(means, axis=0) > 0).all()  # men, women, children: every mean rises
    assert VOWELS["heed"][0] == (136, 270, 2290, 3010) and VOWELS["heard"][2] == (261, 560, 1820, 2160)
    assert len(BANDWIDTHS) == 3


def test_splits_have_their_own_voices_and_are_the_same_for_every_seed():
    data, again = Vowels(**SMALL), Vowels(**SMALL)
    data.setup(0)
    again.setup(7)
    assert (len(data.train), len(data.val), len(data.test)) == (80, 40, 60)
    assert data.classes == list(VOWELS) and data.train.targets[:20] == list(range(10)) * 2
    for part in ("train", "val", "test"):
        mine, theirs = getattr(data, part), getattr(again, part)
        assert all(torch.equal(a, b) for a, b in zip(mine.samples, theirs.samples, strict=True))
    (samples, rate), target = data.test[3]
    assert rate == RATE and target == 3 and samples.dtype == torch.float32 and 0.04 < float(samples.abs().max()) < 0.91
    assert data.lengths("test")[3] == round(len(samples) / 80)
    assert "synthetic" in data.describe()
    durations = {tuple(len(samples) for samples in part.samples[:20]) for part in (data.train, data.val, data.test)}
    assert len(durations) == 3  # of the first voice of each split; one stream of random numbers would repeat them


def test_voices_are_men_women_and_children_as_in_the_study():
    random = np.random.default_rng(0)
    groups = [Speaker.draw(random).group for _ in range(3000)]
    np.testing.assert_allclose(np.bincount(groups) / 3000, np.array(SPEAKERS) / 76, atol=0.03)


def test_noise_is_as_loud_as_it_should_be():
    loud, quiet = Vowels(**SMALL, noise=(0, 0)), Vowels(**SMALL, noise=(60, 60))
    loud.setup(0), quiet.setup(0)
    for (a, _), _ in (quiet.train[i] for i in range(10)):
        assert float(a[:80].abs().max()) < 0.02 * float(a.abs().max())  # clips begin with silence
    start = [float(c[0][0][:80].square().mean() / c[0][0].square().mean()) for c in (loud.train[i] for i in range(10))]
    assert min(start) > 0.2


def test_segments_of_sequences_are_where_the_sound_is():
    data = VowelSequences(**SMALL, noise=(60, 60))
    data.setup(0)
    assert data.classes == [*VOWELS, PAUSE] and len(data.train) == 8
    pause = data.classes.index(PAUSE)
    for (samples, rate), target in (data.train[i] for i in range(8)):
        assert target[0].start == pytest.approx(0) and target[-1].end == pytest.approx(len(samples) / rate)
        assert all(a.end == pytest.approx(b.start) for a, b in pairwise(target))
        assert 3 <= sum(segment.label != pause for segment in target) <= 6
        loud, still = [], []
        for start, end, label in target:
            middle = samples[round((start + 0.012) * rate) : round((end - 0.012) * rate)]
            (still if label == pause else loud).append(float(middle.square().mean()))
        assert max(still) < 0.05 * min(loud)


def test_every_vector_has_the_label_of_its_time():
    segments = [Segment(0.0, 0.1, 2), Segment(0.1, 0.25, 0)]
    times = torch.tensor([0.0, 0.0999, 0.1, 0.2, 0.25, 1.0])
    assert labels_at(times, segments).tolist() == [2, 2, 0, 0, IGNORED, IGNORED]
    tokenizer = AudioFrames(sample_rate=RATE, strides=(2,))
    clips = [torch.randn(2000), torch.randn(1000)]
    batch = SpeechCollate(tokenizer.fit(clips))([((clip, RATE), segments) for clip in clips])
    assert batch["target"].shape == (2, tokenizer.num_vectors(2000))
    times = tokenizer.vector_times(tokenizer.num_vectors(2000))
    assert batch["target"][0].tolist() == [2 if t < 0.1 else 0 for t in times.tolist()]
    assert batch["target"][1].tolist()[tokenizer.num_vectors(1000) :] == [IGNORED] * (
        len(times) - tokenizer.num_vectors(1000)
    )


def test_labels_in_time_refuse_stretched_frames():
    tokenizer = AudioFrames(sample_rate=RATE, spec_augment=SpecAugment(stretch=0.1)).fit([torch.randn(2000)])
    pairs = [((torch.randn(2000), RATE), [Segment(0, 1, 0)])]
    assert SpeechCollate(tokenizer)(pairs)["target"].shape[0] == 1
    with pytest.raises(ConfigError, match=r"spec_augment\.stretch=0"):
        SpeechCollate(tokenizer, train=True)(pairs)


@pytest.mark.parametrize(
    "wrong", [{"speakers": (1, 2)}, {"speakers": (1, 0, 1)}, {"takes": 0}, {"jitter": -1}, {"noise": (9, 1)},
              {"sample_rate": 4000}]
)  # fmt: skip
def test_values_out_of_range(wrong):
    for kind in (Vowels, VowelSequences):
        with pytest.raises(ConfigError, match=f"{kind.__name__}.*{next(iter(wrong))}"):
            kind(**wrong)
