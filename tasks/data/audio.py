"""Sound: spoken digits, spoken commands, and your own folders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple

from torch import Tensor

from vsattn.errors import ConfigError, DataError, nearest
from vsattn.tokenizers.waveforms import opened, read_audio

from .archives import fetch_archive
from .base import Augment, Data, split_off
from .folders import ClassFolders

#: Endings that `AudioFolder` reads.
EXTENSIONS = (".wav", ".flac", ".ogg", ".mp3", ".oga", ".opus", ".aiff", ".aif", ".au")

#: `Data.lengths` counts so many seconds as one vector.
LENGTH_UNIT = 0.01


class Segment(NamedTuple):
    """One label from ``start`` to ``end``, in seconds; a clip's target can be a list of them, in order."""

    start: float
    end: float
    label: int


class AudioFiles:
    """Sound files that are read when they are asked for, as ``((samples (S,), rate in Hz), target)``."""

    def __init__(self, paths: Sequence[Path], targets: Sequence[int]) -> None:
        self.paths, self.targets = list(paths), list(targets)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[tuple[Tensor, int], int]:
        return read_audio(self.paths[index]), self.targets[index]

    def select(self, indices: Sequence[int]) -> AudioFiles:
        """Return the part of these files at ``indices``."""
        return AudioFiles([self.paths[i] for i in indices], [self.targets[i] for i in indices])

    def readable(self) -> tuple[AudioFiles, list[str]]:
        """Read every file; return those that can be read, and what is wrong with each of the others."""
        good, faults = [], []
        for index in range(len(self)):
            try:
                self[index]
                good.append(index)
            except DataError as error:
                faults.append(str(error))
        return self.select(good), faults


class _AudioOnDisk(Data):
    """Sound files under a folder ``root``.

    Args:
        root: the folder.
        val_fraction: the seeded part of each class of the training split that validates, where nothing else does.
        bad_files: ``"stop"`` raises an error that names the file when a file that cannot be read is met; ``"skip"``
            reads every file before training, leaves those out, and says which.
        augment: see :class:`Data`.

    Raises:
        ConfigError: for values out of range.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        val_fraction: float = 0.1,
        bad_files: Literal["stop", "skip"] = "stop",
        augment: Augment | None = None,
    ) -> None:
        super().__init__(augment=augment)
        if not 0 < val_fraction < 1:
            raise ConfigError(f"{type(self).__name__}.val_fraction is between 0 and 1, not {val_fraction}")
        if bad_files not in ("stop", "skip"):
            raise ConfigError(f"{type(self).__name__}.bad_files is 'stop' or 'skip', not {bad_files!r}")
        self.root, self.val_fraction, self.bad_files = Path(root).expanduser(), val_fraction, bad_files
        self.skipped: list[str] = []

    def find(self, seed: int) -> tuple[AudioFiles, AudioFiles | None, AudioFiles]:
        """Set ``classes`` and return train, val (None: to be taken from train) and test."""
        raise NotImplementedError(f"{type(self).__name__} must define find(seed)")

    def setup(self, seed: int) -> None:
        train, val, test = self.find(seed)
        if val is None:
            rest, part = split_off(train.targets, self.val_fraction, seed)
            if not part:
                raise DataError(f"{self.name} under {self.root} has too few clips to set some aside for validation")
            train, val = train.select(rest), train.select(part)
        self.skipped = []
        self.train, self.val, self.test = (self._usable(files) for files in (train, val, test))

    def describe(self) -> str:
        text = super().describe()
        return text if not self.skipped else f"{text}; {len(self.skipped)} files left out: {'; '.join(self.skipped)}"

    def lengths(self, split: str) -> Sequence[int]:
        """Return the duration of each clip in hundredths of a second, which is a vector for each usual hop.

        Raises:
            DataError: naming a file that cannot be read.
        """
        return [length_of(*_duration(path)) for path in getattr(self, split).paths]

    def _usable(self, files: AudioFiles) -> AudioFiles:
        if self.bad_files == "stop":
            return files
        files, faults = files.readable()
        self.skipped += faults
        return files


def length_of(num_samples: int, rate: int) -> int:
    """Return a duration in hundredths of a second, at least 1."""
    return max(1, round(num_samples / (LENGTH_UNIT * rate)))


def _duration(path: Path) -> tuple[int, int]:
    """Return how many samples the header of a file states, and their rate in Hz."""
    with opened(path) as file:
        return file.frames, file.samplerate


class FSDD(_AudioOnDisk):
    """The Free Spoken Digit Dataset: 3,000 recordings of ten digits by six speakers, 8 kHz (Jackson et al. 2018).

    The official split tests on the recordings numbered 0 to 4 of each digit and speaker, and trains on 5 to 49.

    Args:
        root: holds ``fsdd/recordings`` or ``recordings``, else the set is downloaded to ``root/fsdd``.
        held_out: a speaker on all of whose recordings to test, after training on those of the others alone.
        val_speaker: another one on whose recordings to validate, instead of on ``val_fraction`` of each class.
        val_fraction, bad_files, augment: see :class:`_AudioOnDisk`.
    """

    SPEAKERS = ("george", "jackson", "lucas", "nicolas", "theo", "yweweler")
    URL = "https://github.com/Jakobovski/free-spoken-digit-dataset/archive/refs/tags/v1.0.10.tar.gz"
    TAKES, TEST_TAKES = 50, 5

    def __init__(
        self,
        root: str | Path,
        *,
        held_out: str | None = None,
        val_speaker: str | None = None,
        val_fraction: float = 0.1,
        bad_files: Literal["stop", "skip"] = "stop",
        augment: Augment | None = None,
    ) -> None:
        super().__init__(root, val_fraction=val_fraction, bad_files=bad_files, augment=augment)
        for key, speaker in (("held_out", held_out), ("val_speaker", val_speaker)):
            if speaker is not None and speaker not in self.SPEAKERS:
                raise ConfigError(f"there is no speaker {speaker!r} for FSDD.{key}; {nearest(speaker, self.SPEAKERS)}")
        if val_speaker is not None and val_speaker == held_out:
            raise ConfigError(f"FSDD.held_out and val_speaker are both {held_out!r}; validate on another speaker")
        self.held_out, self.val_speaker = held_out, val_speaker

    @property
    def name(self) -> str:
        return "FSDD" if self.held_out is None else f"FSDD, tested on {self.held_out}"

    def find(self, seed: int) -> tuple[AudioFiles, AudioFiles | None, AudioFiles]:
        folders = [
            folder for folder in (self.root / "fsdd" / "recordings", self.root / "recordings") if folder.is_dir()
        ]
        folder = folders[0] if folders else self.root / "fsdd" / "recordings"
        if not folders:
            fetch_archive(self.URL, folder.parent, place=_below_recordings, check=_check_fsdd)
        else:
            _check_fsdd(folder.parent)
        self.classes = [str(digit) for digit in range(10)]
        kinds: dict[str, list[tuple[str, int]]] = {"train": [], "val": [], "test": []}
        for name, digit, speaker, take in _fsdd_names():
            tested = take < self.TEST_TAKES if self.held_out is None else speaker == self.held_out
            kinds["test" if tested else "val" if speaker == self.val_speaker else "train"].append((name, digit))
        train, val, test = (
            AudioFiles([folder / name for name, _ in kind], [digit for _, digit in kind]) for kind in kinds.values()
        )
        return train, val if len(val) else None, test


def _fsdd_names() -> list[tuple[str, int, str, int]]:
    return [
        (f"{digit}_{speaker}_{take}.wav", digit, speaker, take)
        for digit in range(10)
        for speaker in FSDD.SPEAKERS
        for take in range(FSDD.TAKES)
    ]


def _below_recordings(path: PurePosixPath) -> str | None:
    return str(PurePosixPath(*path.parts[-2:])) if path.parts[-2:-1] == ("recordings",) else None


def _check_fsdd(folder: Path) -> None:
    missing = [name for name, *_ in _fsdd_names() if not (folder / "recordings" / name).is_file()]
    if missing:
        raise DataError(
            f"{folder / 'recordings'} lacks {len(missing)} of {len(_fsdd_names())} recordings, such as {missing[0]}; "
            f"complete it, or delete it and the next run downloads it from {FSDD.URL}"
        )


class SpeechCommands(_AudioOnDisk):
    """Speech Commands, version 2: 105,829 recordings of 35 words, up to 1 s, 16 kHz (Warden 2018).

    Validated and tested on the files that its own ``validation_list.txt`` and ``testing_list.txt`` name.

    Args:
        root: holds ``SpeechCommands/speech_commands_v0.02``, as torchaudio has it, else they are downloaded (2.4 GB).
        bad_files, augment: see :class:`_AudioOnDisk`.
    """

    FOLDER = "SpeechCommands/speech_commands_v0.02"
    URL = "https://storage.googleapis.com/download.tensorflow.org/data/speech_commands_v0.02.tar.gz"
    SHA256 = "af14739ee7dc311471de98f5f9d2c9191b18aedfe957f4a6ff791c709868ff58"

    def __init__(
        self, root: str | Path, *, bad_files: Literal["stop", "skip"] = "stop", augment: Augment | None = None
    ) -> None:
        super().__init__(root, bad_files=bad_files, augment=augment)

    def find(self, seed: int) -> tuple[AudioFiles, AudioFiles | None, AudioFiles]:
        folder = self.root / self.FOLDER
        if not folder.is_dir():
            fetch_archive(self.URL, folder, place=str, check=_check_commands, sha256=self.SHA256)
        else:
            _check_commands(folder)
        names = sorted(f"{path.parent.name}/{path.name}" for path in folder.glob("*/*.wav"))
        names = [name for name in names if not name.startswith("_")]  # _background_noise_ is no word
        self.classes = sorted({name.split("/")[0] for name in names})
        listed = [set((folder / name).read_text(encoding="utf-8").split()) for name in _LISTS]
        absent = sorted(set().union(*listed) - set(names))
        if absent:
            raise DataError(f"{folder} lacks {len(absent)} recordings that its lists name, such as {absent[0]}")
        kinds: list[list[str]] = [[], [], []]
        for name in names:
            kinds[1 if name in listed[0] else 2 if name in listed[1] else 0].append(name)
        train, val, test = (
            AudioFiles([folder / name for name in kind], [self.classes.index(name.split("/")[0]) for name in kind])
            for kind in kinds
        )
        return train, val, test


_LISTS = ("validation_list.txt", "testing_list.txt")


def _check_commands(folder: Path) -> None:
    missing = [name for name in _LISTS if not (folder / name).is_file()]
    if missing or not any(folder.glob("*/*.wav")):
        raise DataError(f"{folder} holds no {' and no '.join(missing) or 'WORD/*.wav'}; it is not Speech Commands")


class AudioFolder(_AudioOnDisk):
    """Your own clips: ``root/{train,val,test}/CLASS/*.wav``, of any rate, length and number of channels.

    WAV, FLAC, OGG, MP3 and others may be mixed. Without ``val``, ``val_fraction`` of each class of ``train`` validates.

    Args:
        root: holds ``train`` and ``test``, and ``val`` or not.
        val_fraction, bad_files, augment: see :class:`_AudioOnDisk`.
    """

    def find(self, seed: int) -> tuple[AudioFiles, AudioFiles | None, AudioFiles]:
        folders = ClassFolders(self.root, EXTENSIONS, "sound")
        self.classes = folders.classes
        val = AudioFiles(*folders.files("val")) if folders.has("val") else None
        return AudioFiles(*folders.files("train")), val, AudioFiles(*folders.files("test"))
