"""Synthetic voices to train on: what is spoken, kept and spoken once, and what happens where a program is missing."""

from __future__ import annotations

import shutil
import sys
from collections import Counter

import numpy as np
import pytest
import soundfile

from vsattn.errors import ConfigError, DataError
from vsattn.tasks.data.audio import FSDD, AudioFolder
from vsattn.tasks.data.voices import Voices

#: Writes a tone, or nothing, or silence, or fails, by the word; notes each call.
PROGRAM = """#!{python}
import pathlib, sys, wave
arguments = sys.argv[1:]
if "--voices=variant" in arguments:
    print("Pty Language       Age/Gender VoiceName          File                 Other Languages")
    print(" 5  variant         --/M      male2              !v/m2                ")
    print(" 5  variant         --/M      Mr_Serious         !v/Mr serious        ")
    print(" 5  variant         --/M      Storm              !v/Storm             (en-us 5)")
    print(" 5  variant         --/F      female_whisper     !v/whisperf          ")
    sys.exit()
with open(pathlib.Path(__file__).parent / "calls", "a") as calls:
    print(pathlib.Path(__file__).name, *arguments, file=calls)
word = arguments[-1].strip(".!?")
if word == "mute":
    sys.exit("the voice is not installed")
if word == "nothing":
    print("no such sound")
    sys.exit()
marks = [0, 9000] * 2000 if word != "silence" else [0] * 4000
with wave.open(arguments[arguments.index("-w" if "-w" in arguments else "-o") + 1], "wb") as file:
    file.setnchannels(1)
    file.setsampwidth(2)
    file.setframerate(16000)
    file.writeframes(b"".join(value.to_bytes(2, "little", signed=True) for value in [0] * 4000 + marks + [0] * 8000))
"""


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """Return a function that puts programs of these names, and no others, where they are looked for."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))

    def install(*names):
        for name in names:
            (folder / name).write_text(PROGRAM.format(python=sys.executable))
            (folder / name).chmod(0o755)
        return folder / "calls"

    return install


def test_clips_are_spoken_once_trimmed_and_kept(programs, tmp_path):
    calls = programs("espeak-ng", "mbrola", "flite")
    voices = Voices(tmp_path / "kept", sample_rate=8000, formant=5, mbrola=["us1", "de2-en"], flite=["slt"], takes=3)
    paths, targets = voices.clips(["yes", "-no"])
    assert [path.parent.name for path in paths] == [["yes", "-no"][target] for target in targets]
    assert Counter(targets) == {0: 14, 1: 14} and len(set(paths)) == 28
    spoken = calls.read_text().splitlines()
    assert len(spoken) == 28 and Counter(line.split()[0] for line in spoken) == {"espeak-ng": 22, "flite": 6}
    assert {line.split()[2] for line in spoken} >= {"mb-us1", "mb-de2-en", "slt"}
    formants = {line.split()[2].split("+")[1] for line in spoken if "+" in line}
    assert formants == {"m2", "Storm"}  # neither the one with a blank in its name nor the whisper
    assert all(line.split()[-2] == "--" for line in spoken if line.startswith("espeak-ng") and "-no" in line)
    for path in paths:
        samples, rate = soundfile.read(path)
        assert (
            rate == 8000 and 0.2 < len(samples) / rate < 0.3 and np.abs(samples).max() == pytest.approx(0.7, abs=1e-3)
        )
    calls.unlink()
    again = Voices(tmp_path / "kept", sample_rate=8000, formant=5, mbrola=["us1", "de2-en"], flite=["slt"], takes=3)
    assert again.clips(["yes", "-no"]) == (paths, targets) and not calls.exists()
    paths[3].unlink()
    assert again.clips(["yes", "-no"])[0] == paths and len(calls.read_text().splitlines()) == 1
    other = Voices(tmp_path / "kept", sample_rate=8000, formant=5, mbrola=["us1"], seed=1)
    assert set(other.clips(["yes"])[0]) != set(paths[:14])


@pytest.mark.parametrize(
    "installed, settings, word, message",
    [
        ((), {}, "yes", r"needs the program espeak-ng: apt install espeak-ng.*data\.voices=null"),
        (("espeak-ng",), {"mbrola": ["us1"]}, "yes", "needs the program mbrola"),
        (("espeak-ng",), {"flite": ["slt"]}, "yes", "needs the program flite"),
        (("espeak-ng",), {}, "mute", "espeak-ng .* failed: the voice is not installed"),
        (("espeak-ng",), {}, "nothing", "wrote no sound: no such sound"),
        (("espeak-ng",), {}, "silence", "wrote silence"),
    ],
)
def test_what_cannot_be_spoken_is_named_and_leaves_nothing(programs, tmp_path, installed, settings, word, message):
    programs(*installed)
    with pytest.raises(DataError, match=message):
        Voices(tmp_path / "kept", formant=2, takes=1, **settings).clips([word])
    assert not list((tmp_path / "kept").rglob("*.wav"))


def test_settings_out_of_range(tmp_path):
    for wrong, message in (
        ({"formant": -1}, "formant not negative"),
        ({"takes": 0}, "positive"),
        ({"sample_rate": 0}, "positive"),
        ({"formant": 0}, "data.voices=null"),
        ({"flite": ["nobody"]}, "flite has no nobody; there are: awb"),
        ({"mbrola": ["../x"]}, "names such as us1"),
    ):
        with pytest.raises(ConfigError, match=message):
            Voices(tmp_path, **wrong)


def test_they_are_in_the_training_split_alone(programs, tmp_path):
    programs("espeak-ng")
    rng = np.random.default_rng(0)
    for split, count in (("train", 4), ("test", 2)):
        for name in ("stop", "go_on"):
            (tmp_path / "own" / split / name).mkdir(parents=True)
            for index in range(count):
                soundfile.write(tmp_path / "own" / split / name / f"{index}.wav", 0.1 * rng.standard_normal(4000), 8000)
    voices = Voices(tmp_path / "kept", sample_rate=8000, formant=3)
    data = AudioFolder(tmp_path / "own", val_fraction=0.25, voices=voices)
    data.setup(0)
    assert [len(split) for split in (data.train, data.val, data.test)] == [6 + 6, 2, 4]
    added = [(path, target) for path, target in zip(data.train.paths, data.train.targets) if "kept" in path.parts]
    assert len(added) == 6 and all(
        path.parent.name == ["go on", "stop"][target].replace(" ", "_") for path, target in added
    )
    assert "to train on too: synthetic voices (formants)" in data.describe()
    assert not any("kept" in path.parts for split in (data.val, data.test) for path in split.paths)
    assert data.name == "AudioFolder with synthetic voices"
    assert FSDD(tmp_path, voices=voices, held_out="theo").name == "FSDD with synthetic voices, tested on theo"
    assert FSDD(tmp_path, voices=voices).words[:3] == ["zero", "one", "two"]


@pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="espeak-ng is not installed")
def test_espeak_ng_itself_speaks(tmp_path):
    paths, targets = Voices(tmp_path, sample_rate=8000, formant=4).clips(["six", "nine"])
    assert len(paths) >= 7 and set(targets) == {0, 1}
    for path in paths:
        samples, rate = soundfile.read(path)
        assert rate == 8000 and 0.15 < len(samples) / rate < 2.5 and float(np.square(samples).mean()) > 1e-3
