"""Strings of words: what is joined, from whom, and that it is always the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from vsattn.errors import ConfigError, DataError
from vsattn.tasks.data.audio import FSDD
from vsattn.tasks.data.digit_strings import DigitStrings, Plan, Strings, VowelStrings
from vsattn.tasks.data.vowels import VOWELS

RATE = 8000


@pytest.fixture(scope="module")
def fsdd(tmp_path_factory) -> Path:
    """A copy of FSDD of very short clips: the level says who speaks, the length which digit and take."""
    folder = tmp_path_factory.mktemp("data") / "fsdd" / "recordings"
    folder.mkdir(parents=True)
    for person, speaker in enumerate(FSDD.SPEAKERS, 1):
        for digit in range(10):
            for take in range(FSDD.TAKES):
                samples = np.full(100 + 10 * take + digit, person / 10, dtype=np.float32)
                soundfile.write(folder / f"{digit}_{speaker}_{take}.wav", samples, RATE, subtype="FLOAT")
    return folder.parent.parent


def made(root: Path, **options) -> DigitStrings:
    plain = {"strings": (60, 30, 30), "gain": 0.0, "noise": (200.0, 200.0)}
    data = DigitStrings(root, **{**plain, **options})
    data.setup(0)
    return data


def test_a_string_is_its_clips_with_silence_between() -> None:
    clips = [(torch.full((n,), float(n)), n) for n in (2, 3, 4)]
    plan = Plan(0, (2, 0), (0.5, 1.0), (1, 2, 3), 0.0, 0)
    (samples, rate), segments = Strings([clips], 10, [plan])[0]
    assert samples.tolist() == [0, 2, 2, 2, 2, 0, 0, 2, 2, 0, 0, 0] and rate == 10
    assert [tuple(s) for s in segments] == [(0.1, 0.5, 4), (0.7, 0.9, 2)]


def test_noise_has_the_stated_level_and_is_the_same_each_time() -> None:
    clips = [(torch.sin(torch.arange(4000.0)), 0)]
    strings = Strings([clips], RATE, [Plan(0, (0,), (1.0,), (20_000, 0), 0.1, 3)])
    samples = strings[0][0][0]
    assert torch.equal(samples, strings[0][0][0])
    assert float(samples[:20_000].std()) == pytest.approx(0.1 * 0.5**0.5, rel=0.03)


def test_segments_say_what_sounds_and_one_speaker_speaks(fsdd) -> None:
    data = made(fsdd, pause=(0.01, 0.05))
    levels = {"train": {0.1, 0.2, 0.4, 0.6}, "val": {0.3}, "test": {0.5}}  # lucas validates, theo tests
    for split, known in levels.items():
        heard = set()
        for index, ((samples, rate), segments) in enumerate(getattr(data, split)):
            assert rate == RATE and 1 <= len(segments) <= 7
            silent, (level,) = torch.ones(len(samples), dtype=torch.bool), {round(float(samples.max()), 3)}
            for start, end, label in segments:
                place = slice(round(start * RATE), round(end * RATE))
                silent[place] = False
                assert torch.allclose(samples[place], torch.tensor(level), atol=1e-4)
                assert (place.stop - place.start) % 10 == label
            assert float(samples[silent].abs().max()) < 1e-4
            assert data.lengths(split)[index] == max(1, round(len(samples) / 80))
            heard.add(level)
            if index + 1 == len(getattr(data, split)):
                break
        assert heard == known


def test_numbers_of_words_and_digits_are_spread(fsdd) -> None:
    data = made(fsdd, strings=(3000, 1, 1), words=(2, 4))
    counts = np.bincount([len(plan.clips) for plan in data.train.plans])
    assert counts[:2].tolist() == [0, 0] and counts[2:].min() > 900
    digits = np.bincount([segment.label for i in range(1000) for segment in data.train[i][1]], minlength=10)
    assert digits.min() > 220


def test_it_is_always_the_same_set(fsdd) -> None:
    one = made(fsdd)
    plans = {split: getattr(one, split).plans for split in ("train", "val", "test")}
    one.setup(5)
    for split, planned in plans.items():
        assert getattr(one, split).plans == planned
    assert made(fsdd, strings=(10, 30, 30)).train.plans == one.train.plans[:10]
    assert "60 train, 30 val, 30 test, 10 classes" in one.describe() and "tested on theo" in one.describe()


def test_levels_differ_by_the_gain(fsdd) -> None:
    data = made(fsdd, gain=6.0, strings=(200, 1, 1))
    gains = 20 * np.log10([gain for plan in data.train.plans for gain in plan.gains])
    assert -6 <= gains.min() < -5.5 and 5.5 < gains.max() <= 6


def test_vowels_are_joined_voice_by_voice() -> None:
    data = VowelStrings(speakers=(3, 1, 2), takes=1, strings=(5, 3, 4))
    data.setup(0)
    assert data.classes == list(VOWELS) and [len(s.voices) for s in (data.train, data.val, data.test)] == [3, 1, 2]
    for split in (data.train, data.val, data.test):
        assert all([label for _, label in voice] == list(range(10)) for voice in split.voices)
    (samples, rate), segments = data.train[0]
    assert rate == 8000 and segments[-1].end <= len(samples) / rate


def test_faults_say_what_is_allowed(fsdd, tmp_path) -> None:
    for options, words in (
        ({"strings": (1, 1)}, r"DigitStrings\.strings are three numbers"),
        ({"words": (0, 3)}, r"DigitStrings\.words is \[lowest, highest\] with lowest >= 1, not \[0, 3\]"),
        ({"pause": (0.3, 0.1)}, "pause is"),
        ({"noise": (3.0,)}, "noise is"),
        ({"gain": -1.0}, r"DigitStrings\.gain is at least 0"),
        ({"test_speaker": "teo"}, "there is no speaker 'teo'.*theo"),
        ({"val_speaker": "theo"}, "validate on another speaker"),
    ):
        with pytest.raises(ConfigError, match=words):
            DigitStrings(fsdd, **options)
    folder = tmp_path / "fsdd" / "recordings"
    folder.mkdir(parents=True)
    with pytest.raises(DataError, match="lacks 3000 of 3000 recordings"):
        DigitStrings(tmp_path).setup(0)


def test_mixed_rates_are_refused(fsdd, tmp_path) -> None:
    copy = tmp_path / "fsdd" / "recordings"
    copy.mkdir(parents=True)
    for path in (fsdd / "fsdd" / "recordings").iterdir():
        (copy / path.name).symlink_to(path)
    odd = copy / "3_theo_7.wav"
    odd.unlink()
    soundfile.write(odd, np.zeros(100, dtype=np.float32), 16000)
    with pytest.raises(DataError, match=r"share one sample rate.*16000 Hz .*3_theo_7.wav"):
        DigitStrings(tmp_path).setup(0)


def test_the_real_recordings_are_joined(root) -> None:
    real = root.parent / "shared" / "data"
    if not (real / "fsdd").is_dir():
        pytest.skip("FSDD is not here")
    data = DigitStrings(real, strings=(5, 5, 5))
    data.setup(0)
    assert [len(s.voices) for s in (data.train, data.val, data.test)] == [4, 1, 1]
    assert all(len(voice) == 500 for voice in data.train.voices)
