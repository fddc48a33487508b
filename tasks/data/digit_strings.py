"""Strings of words: recorded or synthetic clips of one speaker, one after the other, with pauses between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vsattn.errors import ConfigError, DataError

from .audio import FSDD, AudioFiles, Segment, length_of
from .base import Augment, Data
from .vowels import VOWELS, Clips, Vowels

#: A voice: its clips, as samples ``(S,)`` with their label.
Voice = list[tuple[Tensor, int]]


@dataclass(frozen=True)
class Plan:
    """How one string is made: whose clips, which, their gains, the samples of silence around them, and the noise.

    Args:
        voice: index of the speaker.
        clips: indices among that speaker's clips, n of them.
        gains: factor on each.
        pauses: silence before each, and behind the last, in samples; n + 1 of them.
        noise: standard deviation of the noise, as a share of that of the words.
        seed: of the noise.
    """

    voice: int
    clips: tuple[int, ...]
    gains: tuple[float, ...]
    pauses: tuple[int, ...]
    noise: float
    seed: int


class Strings:
    """A split: ``((samples (S,), rate in Hz), [Segment, ...])``, each joined when it is asked for, always the same."""

    def __init__(self, voices: Sequence[Voice], rate: int, plans: Sequence[Plan]) -> None:
        self.voices, self.rate, self.plans = voices, rate, plans

    def __len__(self) -> int:
        return len(self.plans)

    def __getitem__(self, index: int) -> tuple[tuple[Tensor, int], list[Segment]]:
        plan = self.plans[index]
        pieces, segments, place = [torch.zeros(plan.pauses[0])], [], plan.pauses[0]
        for clip, gain, pause in zip(plan.clips, plan.gains, plan.pauses[1:], strict=True):
            samples, label = self.voices[plan.voice][clip]
            segments.append(Segment(place / self.rate, (place + len(samples)) / self.rate, label))
            pieces += [gain * samples, torch.zeros(pause)]
            place += len(samples) + pause
        joined, spoken = torch.cat(pieces), torch.cat(pieces[1::2])
        level = plan.noise * float(spoken.square().mean().sqrt())
        noise = torch.randn(len(joined), generator=torch.Generator().manual_seed(plan.seed))
        return (joined + level * noise, self.rate), segments

    def num_samples(self, index: int) -> int:
        """Return S of one string, without joining it."""
        plan = self.plans[index]
        return sum(plan.pauses) + sum(len(self.voices[plan.voice][clip][0]) for clip in plan.clips)


class _JoinedWords(Data):
    """Strings of one speaker's clips, joined at random but always the same: a seed changes the training alone.

    Args:
        strings: how many of them train, validate and test.
        words: fewest and most words of a string; each number is as frequent.
        pause: shortest and longest silence around the words, in seconds.
        gain: the level changes from word to word by up to so many decibels either way.
        noise: lowest and highest ratio of the words to the white noise behind a whole string, in decibels.
        augment: see :class:`Data`.

    Raises:
        ConfigError: for values out of range.
    """

    def __init__(
        self,
        *,
        strings: Sequence[int],
        words: Sequence[int],
        pause: Sequence[float],
        gain: float,
        noise: Sequence[float],
        augment: Augment | None,
    ) -> None:
        super().__init__(augment=augment)
        kind = type(self).__name__
        if len(strings) != 3 or min(strings) < 1:
            raise ConfigError(f"{kind}.strings are three numbers of at least 1 (train, val, test), not {strings}")
        for key, values, least in (("words", words, 1), ("pause", pause, 0), ("noise", noise, -np.inf)):
            if len(values) != 2 or not least <= values[0] <= values[1]:
                bound = f" with lowest >= {least}" if np.isfinite(least) else ""
                raise ConfigError(f"{kind}.{key} is [lowest, highest]{bound}, not {list(values)}")
        if gain < 0:
            raise ConfigError(f"{kind}.gain is at least 0 decibels, not {gain}")
        self.strings, self.words, self.pause = tuple(strings), tuple(words), tuple(pause)
        self.gain, self.noise = gain, tuple(noise)

    def voices(self, seed: int) -> tuple[list[str], int, list[list[Voice]]]:
        """Return the classes, the rate in Hz, and the speakers of train, val and test."""
        raise NotImplementedError(f"{type(self).__name__} must define voices(seed)")

    def setup(self, seed: int) -> None:
        self.classes, rate, splits = self.voices(seed)
        self.train, self.val, self.test = (
            Strings(voices, rate, self._plans(voices, rate, count, index))
            for index, (voices, count) in enumerate(zip(splits, self.strings, strict=True))
        )

    def describe(self) -> str:
        counts = [sum(len(plan.clips) for plan in getattr(self, split).plans) for split in ("train", "val", "test")]
        speakers = [len(getattr(self, split).voices) for split in ("train", "val", "test")]
        numbers = " / ".join(f"{w} words by {s}" for w, s in zip(counts, speakers, strict=True))
        return f"{super().describe()}; {numbers} speaker{'s' if max(speakers) > 1 else ''}, none of them in two splits"

    def lengths(self, split: str) -> Sequence[int]:
        """Return the duration of each string in hundredths of a second, which is a vector for each usual hop."""
        strings: Strings = getattr(self, split)
        return [length_of(strings.num_samples(i), strings.rate) for i in range(len(strings))]

    def _plans(self, voices: Sequence[Voice], rate: int, count: int, split: int) -> list[Plan]:
        random = np.random.default_rng([2006, split])
        plans = []
        for _ in range(count):
            voice, length = int(random.integers(len(voices))), int(random.integers(self.words[0], self.words[1] + 1))
            clips = random.integers(len(voices[voice]), size=length)
            gains = 10 ** (random.uniform(-self.gain, self.gain, length) / 20)
            pauses = (rate * random.uniform(self.pause[0], self.pause[1], length + 1)).astype(int)
            noise = 10 ** (-random.uniform(self.noise[0], self.noise[1]) / 20)
            parts = tuple(clips.tolist()), tuple(gains.tolist()), tuple(pauses.tolist())
            plans.append(Plan(voice, *parts, float(noise), int(random.integers(2**31))))
        return plans


class DigitStrings(_JoinedWords):
    """Strings of digits from the Free Spoken Digit Dataset; each split has speakers of its own.

    Args:
        root: where :class:`~vsattn.tasks.data.audio.FSDD` lies or is put.
        val_speaker, test_speaker: who validates and who tests; the other four train.
        strings, words, pause, gain, noise, augment: see :class:`_JoinedWords`.

    Raises:
        ConfigError: also for a speaker that does not exist.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        val_speaker: str = "lucas",
        test_speaker: str = "theo",
        strings: Sequence[int] = (4000, 400, 600),
        words: Sequence[int] = (1, 7),
        pause: Sequence[float] = (0.0, 0.3),
        gain: float = 6.0,
        noise: Sequence[float] = (20.0, 40.0),
        augment: Augment | None = None,
    ) -> None:
        super().__init__(strings=strings, words=words, pause=pause, gain=gain, noise=noise, augment=augment)
        self.clips, self.test_speaker = FSDD(root, held_out=test_speaker, val_speaker=val_speaker), test_speaker

    @property
    def name(self) -> str:
        return "FSDD strings"

    def describe(self) -> str:
        return f"{super().describe()}; tested on {self.test_speaker}"

    def voices(self, seed: int) -> tuple[list[str], int, list[list[Voice]]]:
        self.clips.setup(seed)
        splits: list[list[Voice]] = []
        rates: dict[int, Path] = {}
        for files in (self.clips.train, self.clips.val, self.clips.test):
            assert isinstance(files, AudioFiles)
            speakers: dict[str, Voice] = {}
            for index, path in enumerate(files.paths):
                (samples, rate), digit = files[index]
                rates.setdefault(rate, path)
                speakers.setdefault(path.stem.split("_")[1], []).append((samples, digit))
            splits.append(list(speakers.values()))
        if len(rates) > 1:
            raise DataError(f"the recordings of {self.name} share one sample rate; these differ: {_named(rates)}")
        return self.clips.classes, next(iter(rates)), splits


class VowelStrings(_JoinedWords):
    """Strings of synthetic words with ten vowels, by voices that differ from split to split; nothing to download.

    Args:
        speakers, takes, jitter, sample_rate: see :class:`~vsattn.tasks.data.vowels.Vowels`.
        strings, words, pause, gain, noise, augment: see :class:`_JoinedWords`.
    """

    def __init__(
        self,
        *,
        speakers: Sequence[int] = (80, 20, 40),
        takes: int = 2,
        jitter: float = 0.03,
        sample_rate: int = 8000,
        strings: Sequence[int] = (1600, 200, 400),
        words: Sequence[int] = (1, 5),
        pause: Sequence[float] = (0.0, 0.2),
        gain: float = 6.0,
        noise: Sequence[float] = (10.0, 30.0),
        augment: Augment | None = None,
    ) -> None:
        super().__init__(strings=strings, words=words, pause=pause, gain=gain, noise=noise, augment=augment)
        clean = (60.0, 60.0)  # the noise comes with the whole string
        self.clips = Vowels(speakers=speakers, takes=takes, jitter=jitter, noise=clean, sample_rate=sample_rate)

    @property
    def name(self) -> str:
        return "strings of synthetic vowels"

    def voices(self, seed: int) -> tuple[list[str], int, list[list[Voice]]]:
        self.clips.setup(seed)
        each = self.clips.takes * len(VOWELS)  # the clips come voice by voice
        splits: list[list[Voice]] = []
        for clips in (self.clips.train, self.clips.val, self.clips.test):
            assert isinstance(clips, Clips)
            said = list(zip(clips.samples, clips.targets, strict=True))
            splits.append([said[start : start + each] for start in range(0, len(said), each)])
        return self.clips.classes, self.clips.sample_rate, splits


def _named(rates: dict[int, Any]) -> str:
    return ", ".join(f"{rate} Hz ({path})" for rate, path in rates.items())
