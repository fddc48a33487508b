"""Words by speech synthesisers: voices from elsewhere, to train on beside recordings."""

from __future__ import annotations

import os
import random
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import soundfile

from vsattn.errors import ConfigError, DataError
from vsattn.tokenizers.waveforms import read_audio, resample, trimmed

#: Accents of English that espeak-ng's formant synthesiser speaks with.
ACCENTS = ("en-gb", "en-us", "en-029", "en-gb-scotland", "en-gb-x-rp", "en-gb-x-gbclan", "en-gb-x-gbcwmd")

#: Variants of its voice that whisper, or do not sound like a person.
NOT_VOICED = re.compile("whisper|robo|demonic|announcer|unirobot|fast", re.IGNORECASE)

#: Voices within flite, with about the fundamental frequency of each, in Hz.
FLITE = {"awb": 130, "kal": 105, "kal16": 105, "rms": 100, "slt": 170}

#: What is so many decibels quieter at both ends than the loudest window of 25 ms is cut off.
TRIM = 45.0

#: A program that needs longer for a word, in seconds, hangs.
PATIENCE = 60.0

#: How to get each program.
PACKAGES = {
    "espeak-ng": "apt install espeak-ng, or brew install espeak-ng",
    "mbrola": "apt install mbrola mbrola-us1 ..., from contrib and non-free",
    "flite": "apt install flite",
}


#: Stands in a command for the file that it writes.
OUTPUT = "OUTPUT"

#: How an utterance may end, which changes its melody, and how that is written in names of files.
ENDS = {"": "", ".": "_full", "!": "_call", "?": "_ask"}


class Take(NamedTuple):
    """One clip to be spoken: the command, in which `OUTPUT` stands for a file, and where the clip is kept."""

    command: tuple[str, ...]
    path: Path


class Voices:
    """Clips of words by the speech synthesisers that a machine has, each with its own speed, pitch and punctuation.

    They are spoken when they are first asked for, and kept. The same settings give the same clips, as far as the
    programs' versions do. Synthetic speech beside a few recorded speakers: Lin et al. 2020, "Training keyword spotters
    with limited and synthesized speech data".

    Args:
        root: the folder that keeps them, as ``root/RATE/WORD/VOICE_....wav``.
        sample_rate: Hz.
        formant: so many clips of each word by espeak-ng's formant synthesiser, each in an accent and a variant of its
            voice that are drawn at random.
        mbrola: voices of MBROLA, diphones of recorded people, through espeak-ng: ``us1``, ``de2-en`` (a German who
            speaks English), see ``espeak-ng --voices=mb``.
        flite: voices of flite, from recorded people too: ``awb``, ``kal``, ``kal16``, ``rms``, ``slt``.
        takes: clips of each word by each voice of ``mbrola`` and ``flite``.
        seed: of the draws.

    Raises:
        ConfigError: for values out of range, and when nothing is to be spoken.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        sample_rate: int = 16000,
        formant: int = 100,
        mbrola: Sequence[str] = (),
        flite: Sequence[str] = (),
        takes: int = 8,
        seed: int = 0,
    ) -> None:
        if sample_rate < 1 or formant < 0 or takes < 1:
            raise ConfigError(
                f"Voices.sample_rate and takes are positive, and formant not negative; not {sample_rate} Hz, {takes} "
                f"and {formant}"
            )
        unknown = [voice for voice in flite if voice not in FLITE]
        if unknown:
            raise ConfigError(f"Voices.flite has no {', '.join(unknown)}; there are: {', '.join(FLITE)}")
        odd = [voice for voice in mbrola if not re.fullmatch(r"[a-z]{2}\d(-[a-z]{2})?", voice)]
        if odd:
            raise ConfigError(f"Voices.mbrola has names such as us1 and de2-en, not {', '.join(odd)}")
        if not (formant or mbrola or flite):
            raise ConfigError("Voices has formant=0 and no voice of mbrola or flite: data.voices=null means none")
        self.root, self.sample_rate, self.formant = Path(root).expanduser(), sample_rate, formant
        self.mbrola, self.flite, self.takes, self.seed = tuple(mbrola), tuple(flite), takes, seed

    def __str__(self) -> str:
        kinds = {"formants": self.formant, "MBROLA": len(self.mbrola), "flite": len(self.flite)}
        made = [name if name == "formants" else f"{count} of {name}" for name, count in kinds.items() if count]
        return f"synthetic voices ({', '.join(made)})"

    def clips(self, words: Sequence[str]) -> tuple[list[Path], list[int]]:
        """Return the files of all words, and of each the index of its word, after speaking what is not there yet.

        Raises:
            DataError: naming a program that is missing, or what one could not say.
        """
        takes = [(take, target) for target, word in enumerate(words) for take in self._takes(word)]
        missing = [take for take, _ in takes if not take.path.is_file()]
        if missing:
            self._require_programs()
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                list(pool.map(self._speak, missing))
        return [take.path for take, _ in takes], [target for _, target in takes]

    def _takes(self, word: str) -> list[Take]:
        """Return one take for each name, in order: two draws alike are one clip."""
        folder = self.root / str(self.sample_rate) / re.sub(r"[^\w-]", "_", word)
        takes = [*self._by_formants(word), *self._by_mbrola(word), *self._by_flite(word)]
        return list({name: Take(command, folder / f"{name}.wav") for name, command in takes}.values())

    def _draws(self, word: str, voice: str, count: int) -> Iterable[random.Random]:
        return (random.Random(f"{self.seed} {word} {voice} {take}") for take in range(count))

    def _by_formants(self, word: str) -> Iterable[tuple[str, tuple[str, ...]]]:
        variants = _variants() if self.formant else []
        for draw in self._draws(word, "formant", self.formant):
            yield _espeak(f"{draw.choice(ACCENTS)}+{draw.choice(variants)}", word, draw)

    def _by_mbrola(self, word: str) -> Iterable[tuple[str, tuple[str, ...]]]:
        for voice in self.mbrola:
            for draw in self._draws(word, voice, self.takes):
                yield _espeak(f"mb-{voice}", word, draw)

    def _by_flite(self, word: str) -> Iterable[tuple[str, tuple[str, ...]]]:
        for voice in self.flite:
            for draw in self._draws(word, voice, self.takes):
                stretch, pitch = f"{draw.uniform(0.7, 1.5):.2f}", round(FLITE[voice] * draw.uniform(0.8, 1.25))
                end = draw.choice(list(ENDS))
                settings = ("--setf", f"duration_stretch={stretch}", "--setf", f"int_f0_target_mean={pitch}")
                name = f"flite-{voice}_{stretch}_{pitch}{ENDS[end]}"
                yield name, ("flite", "-voice", voice, *settings, "-o", OUTPUT, "-t", word + end)

    def _require_programs(self) -> None:
        needed = {"espeak-ng": self.formant or self.mbrola, "mbrola": self.mbrola, "flite": self.flite}
        for program, wanted in needed.items():
            if wanted and shutil.which(program) is None:
                raise DataError(_lacking(program))

    def _speak(self, take: Take) -> None:
        take.path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=take.path.parent, prefix=".voices-") as folder:
            spoken, ready = Path(folder, "spoken.wav"), Path(folder, "ready.wav")
            said = _run([str(spoken) if part == OUTPUT else part for part in take.command])
            try:
                samples, rate = read_audio(spoken)
            except DataError as error:
                raise DataError(f"{' '.join(take.command)} wrote no sound: {said or error}") from None
            if not samples.abs().max() > 0:
                raise DataError(f"{' '.join(take.command)} wrote silence: {said or 'it gave no reason'}")
            samples = resample(trimmed(samples, TRIM, rate // 40), rate, self.sample_rate)
            samples = samples * (0.7 / samples.abs().max())
            soundfile.write(ready, samples.numpy(), self.sample_rate)
            ready.replace(take.path)


def _espeak(voice: str, word: str, draw: random.Random) -> tuple[str, tuple[str, ...]]:
    """Return a name of the clip, and the command."""
    speed, pitch, end = draw.randint(100, 190), draw.randint(20, 80), draw.choice(list(ENDS))
    name = f"{voice}_{speed}_{pitch}{ENDS[end]}"
    return name, ("espeak-ng", "-v", voice, "-s", str(speed), "-p", str(pitch), "-w", OUTPUT, "--", word + end)


def _variants() -> list[str]:
    """Return the names of espeak-ng's variants of a voice that are voiced, in order."""
    if shutil.which("espeak-ng") is None:
        raise DataError(_lacking("espeak-ng"))
    found = re.findall(r"!v/(\S+) *(?:\(.*)?$", _run(("espeak-ng", "--voices=variant")), re.MULTILINE)
    return sorted(name for name in set(found) if not NOT_VOICED.search(name))


def _lacking(program: str) -> str:
    return f"data.voices needs the program {program}: {PACKAGES[program]}; or train without it, by data.voices=null"


def _run(command: Sequence[str]) -> str:
    """Return what a program says."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DataError(f"{command[0]} did not work: {error}") from None
    if done.returncode:
        raise DataError(f"{' '.join(command)} failed: {(done.stderr or done.stdout).strip() or done.returncode}")
    return done.stdout + done.stderr
