"""Synthetic spoken vowels, after published formants: nothing to download."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vsattn.errors import ConfigError

from .audio import Segment, length_of
from .base import Augment, Data
from .formants import STEP, Sound, Utterance, synthesise

#: Peterson and Barney (1952), table II: mean F0, F1, F2 and F3 in Hz of men, women and children, for the ten vowels of
#: these words; and the level of the first formant in decibels.
VOWELS: dict[str, tuple[tuple[float, float, float, float], ...]] = {
    "heed": ((136, 270, 2290, 3010), (235, 310, 2790, 3310), (272, 370, 3200, 3730)),
    "hid": ((135, 390, 1990, 2550), (232, 430, 2480, 3070), (269, 530, 2730, 3600)),
    "head": ((130, 530, 1840, 2480), (223, 610, 2330, 2990), (260, 690, 2610, 3570)),
    "had": ((127, 660, 1720, 2410), (210, 860, 2050, 2850), (251, 1010, 2320, 3320)),
    "hod": ((124, 730, 1090, 2440), (212, 850, 1220, 2810), (256, 1030, 1370, 3170)),
    "hawed": ((129, 570, 840, 2410), (216, 590, 920, 2710), (263, 680, 1060, 3180)),
    "hood": ((137, 440, 1020, 2240), (232, 470, 1160, 2680), (276, 560, 1410, 3310)),
    "who'd": ((141, 300, 870, 2240), (231, 370, 950, 2670), (274, 430, 1170, 3260)),
    "hud": ((130, 640, 1190, 2390), (221, 760, 1400, 2780), (261, 850, 1590, 3360)),
    "heard": ((133, 490, 1350, 1690), (218, 500, 1640, 1960), (261, 560, 1820, 2160)),
}
LEVELS = {"heed": -4, "hid": -3, "head": -2, "had": -1, "hod": -1, "hawed": 0, "hood": -1, "who'd": -3, "hud": -1,
          "heard": -5}  # fmt: skip

#: How many of their 76 speakers were men, women and children.
SPEAKERS = (33, 28, 15)

#: What a frame of no vowel is called.
PAUSE = "pause"


@dataclass(frozen=True)
class Speaker:
    """One voice: the group (0 men, 1 women, 2 children), factors on its mean formants and pitch, and its breath."""

    group: int
    tract: float
    pitch: float
    breath: float
    open_quotient: float

    @classmethod
    def draw(cls, random: np.random.Generator) -> Speaker:
        """Draw a voice."""
        group = int(random.choice(3, p=np.array(SPEAKERS) / sum(SPEAKERS)))
        tract, pitch = np.exp(random.normal(0, (0.04, 0.12)))
        return cls(
            group, float(tract), float(pitch), float(random.uniform(0.01, 0.08)), float(random.uniform(0.5, 0.7))
        )

    def vowel(self, word: str, seconds: float, jitter: float, random: np.random.Generator) -> Sound:
        """Return the vowel of one of the words, its formants off the means by a share of about ``jitter``."""
        mean = np.array(VOWELS[word][self.group][1:])
        formants = mean * self.tract * np.exp(random.normal(0, jitter, 3))
        level = 10 ** (LEVELS[word] / 20)
        return Sound(seconds, tuple(formants), level, level * self.breath)  # type: ignore[arg-type]

    def pitch_of(self, word: str) -> float:
        """Return this voice's mean pitch in that word, in Hz."""
        return VOWELS[word][self.group][0] * self.pitch


def _seconds(low: float, high: float, random: np.random.Generator) -> float:
    """Draw a duration that the synthesiser can keep exactly."""
    return float(random.integers(round(low / STEP), round(high / STEP) + 1)) * STEP


def _hiss(random: np.random.Generator) -> Sound:
    """Return a consonant: breath through resonances that have nothing to do with the vowel's."""
    formants = np.exp(np.sort(random.uniform(np.log(300), np.log(3600), 3)))
    return Sound(random.uniform(0.04, 0.2), tuple(formants), breath=random.uniform(0.02, 0.12))


class Clips:
    """Clips in memory, as ``((samples (S,), rate in Hz), target)``."""

    def __init__(self, samples: Sequence[Tensor], rate: int, targets: Sequence[Any]) -> None:
        self.samples, self.rate, self.targets = samples, rate, targets

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[tuple[Tensor, int], Any]:
        return (self.samples[index], self.rate), self.targets[index]


class Vowels(Data):
    """Synthetic syllables, a hiss, one of ten vowels and another hiss, by voices that differ from split to split.

    A voice has its own group, length of vocal tract, pitch and breath; each syllable its own hisses, durations,
    formants, melody, level and noise. It is always the same set: a seed changes the training alone.

    Args:
        speakers: voices of train, val and test, none of them in two.
        takes: how often each voice says each vowel (in `VowelSequences`: how many sequences).
        jitter: standard deviation of each formant's logarithm, from vowel to vowel of one voice.
        noise: lowest and highest signal-to-noise ratio in decibels; the noise is between white and pink.
        sample_rate: Hz, at least 8000, since the third formant of children lies below 4000.
        augment: see :class:`Data`.

    Raises:
        ConfigError: for values out of range.
    """

    def __init__(
        self,
        *,
        speakers: Sequence[int] = (120, 30, 60),
        takes: int = 2,
        jitter: float = 0.03,
        noise: Sequence[float] = (10.0, 40.0),
        sample_rate: int = 8000,
        augment: Augment | None = None,
    ) -> None:
        super().__init__(augment=augment)
        kind = type(self).__name__
        if len(speakers) != 3 or min(speakers) < 1 or takes < 1:
            raise ConfigError(f"{kind}: speakers are three numbers and takes one, all from 1; not {speakers}, {takes}")
        if jitter < 0 or len(noise) != 2 or noise[0] > noise[1]:
            raise ConfigError(f"{kind}: jitter is at least 0 and noise [lowest, highest] dB; not {jitter}, {noise}")
        if sample_rate < 8000:
            raise ConfigError(f"{kind}.sample_rate is at least 8000 Hz, not {sample_rate}")
        self.speakers, self.takes, self.jitter = tuple(speakers), takes, jitter
        self.noise, self.sample_rate = (float(noise[0]), float(noise[1])), sample_rate

    @property
    def name(self) -> str:
        return "synthetic vowels"

    def setup(self, seed: int) -> None:
        self.classes = list(VOWELS)
        self.train, self.val, self.test = (self._split(i, count) for i, count in enumerate(self.speakers))

    def lengths(self, split: str) -> Sequence[int]:
        """Return the duration of each clip in hundredths of a second, which is a vector for each usual hop."""
        return [length_of(len(samples), self.sample_rate) for samples in getattr(self, split).samples]

    def script(self, speaker: Speaker, random: np.random.Generator) -> list[tuple[Utterance, Any]]:
        """Return what one voice says, with the targets."""
        return [
            (self._syllable(speaker, word, random), index)
            for _ in range(self.takes)
            for index, word in enumerate(VOWELS)
        ]

    def _syllable(self, speaker: Speaker, word: str, random: np.random.Generator) -> Utterance:
        vowel = speaker.vowel(word, random.uniform(0.08, 0.25), self.jitter, random)
        before, after = _hiss(random), _hiss(random)
        silence = random.uniform(0.02, 0.15, 2)
        sounds = [Sound(silence[0], before.formants), before, vowel, after, Sound(silence[1], after.formants)]
        return self._utterance(speaker, word, sounds, random)

    def _utterance(self, speaker: Speaker, word: str, sounds: list[Sound], random: np.random.Generator) -> Utterance:
        pitch = speaker.pitch_of(word) * float(np.exp(random.normal(0, 0.05)))
        return Utterance(sounds, pitch, float(random.uniform(-0.1, 0.25)), speaker.open_quotient)

    def _split(self, index: int, count: int) -> Clips:
        random = np.random.default_rng([1952, index])
        said = [pair for _ in range(count) for pair in self.script(Speaker.draw(random), random)]
        sounds = synthesise([utterance for utterance, _ in said], self.sample_rate, random)
        samples = [torch.from_numpy(self._recorded(sound, random)).float() for sound in sounds]
        return Clips(samples, self.sample_rate, [target for _, target in said])

    def _recorded(self, sound: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """Add noise and set the level, as a room and a microphone do."""
        white = np.fft.rfft(random.standard_normal(len(sound)))
        noise = np.fft.irfft(white * np.arange(1, len(white) + 1) ** -random.uniform(0, 0.5), len(sound))
        noise *= np.sqrt(np.mean(sound**2) / np.mean(noise**2) * 10 ** (-random.uniform(*self.noise) / 10))
        mixed = sound + noise
        return mixed / np.abs(mixed).max() * random.uniform(0.05, 0.9)


class VowelSequences(Vowels):
    """Synthetic sequences of 3 to 6 vowels and pauses; the target says from when to when each lasts.

    Args:
        speakers, takes, jitter, noise, sample_rate, augment: see :class:`Vowels`.
    """

    def __init__(
        self,
        *,
        speakers: Sequence[int] = (120, 30, 60),
        takes: int = 8,
        jitter: float = 0.03,
        noise: Sequence[float] = (10.0, 40.0),
        sample_rate: int = 8000,
        augment: Augment | None = None,
    ) -> None:
        super().__init__(
            speakers=speakers, takes=takes, jitter=jitter, noise=noise, sample_rate=sample_rate, augment=augment
        )

    @property
    def name(self) -> str:
        return "synthetic vowel sequences"

    def setup(self, seed: int) -> None:
        super().setup(seed)
        self.classes = [*VOWELS, PAUSE]

    def script(self, speaker: Speaker, random: np.random.Generator) -> list[tuple[Utterance, Any]]:
        return [self._sequence(speaker, random) for _ in range(self.takes)]

    def _sequence(self, speaker: Speaker, random: np.random.Generator) -> tuple[Utterance, list[Segment]]:
        words = [list(VOWELS)[i] for i in random.integers(0, len(VOWELS), random.integers(3, 7))]
        vowels = [(word, speaker.vowel(word, _seconds(0.08, 0.2, random), self.jitter, random)) for word in words]
        parts: list[tuple[str, Sound]] = [(PAUSE, Sound(_seconds(0.03, 0.15, random), vowels[0][1].formants))]
        for word, vowel in vowels:
            parts.append((word, vowel))
            if random.random() < 0.4:
                parts.append((PAUSE, Sound(_seconds(0.05, 0.2, random), vowel.formants)))
        ends = np.cumsum([sound.seconds for _, sound in parts])
        names = [*VOWELS, PAUSE]
        target = [
            Segment(float(end) - sound.seconds, float(end), names.index(name))
            for end, (name, sound) in zip(ends, parts, strict=True)
        ]
        return self._utterance(speaker, words[0], [sound for _, sound in parts], random), target
