"""Sound data sets: official splits, held-out speakers, downloads that work and fail, own folders, augmentation."""

from __future__ import annotations

import hashlib
import http.server
import io
import math
import pickle
import tarfile
import threading
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from scipy.signal import fftconvolve

from vsattn.errors import ConfigError, DataError
from vsattn.tasks.data.audio import FSDD, AudioFolder, SpeechCommands
from vsattn.tasks.data.audio_augment import AudioAugment, _echoing
from vsattn.tasks.data.base import Augmented

SHARED = Path(__file__).resolve().parents[1] / "../shared/data"


def noise(seconds=0.1, seed=0, rate=8000):
    return 0.1 * np.random.default_rng(seed).standard_normal(round(seconds * rate))


def names(files):
    return {path.name for path in files.paths}


@pytest.mark.skipif(not (SHARED / "fsdd").is_dir(), reason="no FSDD in ../shared/data")
def test_fsdd_has_its_official_split():
    data = FSDD(SHARED)
    data.setup(0)
    assert (len(data.train), len(data.val), len(data.test)) == (2430, 270, 300)
    assert {path.stem.rsplit("_", 1)[1] for path in data.test.paths} == set("01234")
    assert not names(data.train) & names(data.val) and not names(data.train) & names(data.test)
    assert all(
        path.name.startswith(f"{target}_") for path, target in zip(data.val.paths, data.val.targets, strict=True)
    )
    (samples, rate), target = data.train[5]
    expected, _ = soundfile.read(data.train.paths[5], dtype="float32")
    assert rate == 8000 and target == data.train.targets[5] and np.array_equal(samples.numpy(), expected)
    assert data.lengths("train")[5] == round(len(expected) / 80)
    assert data.describe() == "FSDD: 2430 train, 270 val, 300 test, 10 classes"


@pytest.mark.skipif(not (SHARED / "fsdd").is_dir(), reason="no FSDD in ../shared/data")
def test_a_held_out_speaker_is_heard_in_the_test_alone():
    data = FSDD(SHARED / "fsdd", held_out="theo")
    data.setup(0)
    assert (len(data.train), len(data.val), len(data.test)) == (2250, 250, 500)
    speakers = [{path.name.split("_")[1] for path in part.paths} for part in (data.train, data.val, data.test)]
    assert speakers[0] == speakers[1] == set(FSDD.SPEAKERS) - {"theo"} and speakers[2] == {"theo"}
    data = FSDD(SHARED, held_out="theo", val_speaker="lucas")
    data.setup(0)
    assert {path.name.split("_")[1] for path in data.val.paths} == {"lucas"} and len(data.val) == 500
    assert len(data.train) == 2000 and data.name == "FSDD, tested on theo"


def test_speakers_that_are_not_there():
    with pytest.raises(ConfigError, match="did you mean 'theo'"):
        FSDD("x", held_out="teo")
    with pytest.raises(ConfigError, match="both 'theo'"):
        FSDD("x", held_out="theo", val_speaker="theo")
    for wrong in ({"val_fraction": 0.0}, {"bad_files": "ignore"}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            FSDD("x", **wrong)


@pytest.fixture
def small(monkeypatch):
    """Two speakers, four takes of each digit, the first of which tests."""
    monkeypatch.setattr(FSDD, "SPEAKERS", ("anna", "ben"))
    monkeypatch.setattr(FSDD, "TAKES", 4)
    monkeypatch.setattr(FSDD, "TEST_TAKES", 1)


def archive(files):
    """Return a .tar.gz of these files, and of a link that leads out of it."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as packed:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            packed.addfile(info, io.BytesIO(content))
        link = tarfile.TarInfo("top/recordings/link.wav")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        packed.addfile(link)
    return buffer.getvalue()


def wav(seed=0, rate=8000):
    buffer = io.BytesIO()
    soundfile.write(buffer, noise(seed=seed, rate=rate), rate, format="WAV")
    return buffer.getvalue()


def recordings():
    digits = [f"{d}_{s}_{i}.wav" for d in range(10) for s in ("anna", "ben") for i in range(4)]
    return {f"top/recordings/{name}": wav(i) for i, name in enumerate(digits)}


@pytest.fixture
def server(tmp_path):
    """Serve the folder ``mirror`` on the loopback interface."""
    folder = tmp_path / "mirror"
    folder.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            return None

    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield folder, f"http://127.0.0.1:{running.server_port}/"
    running.shutdown()
    running.server_close()


def test_fsdd_is_downloaded_once(small, server, tmp_path, monkeypatch):
    folder, address = server
    (folder / "v9.tar.gz").write_bytes(archive({"top/README.md": b"hello", **recordings()}))
    monkeypatch.setattr(FSDD, "URL", address + "v9.tar.gz")
    data = FSDD(tmp_path / "data", val_fraction=0.2)
    data.setup(0)
    assert (len(data.train), len(data.val), len(data.test)) == (50, 10, 20)
    assert {path.name for path in (tmp_path / "data").iterdir()} == {"fsdd"}
    assert len(list((tmp_path / "data" / "fsdd").rglob("*"))) == 81  # no README, no link
    (folder / "v9.tar.gz").unlink()
    FSDD(tmp_path / "data", val_fraction=0.2).setup(0)


def test_an_archive_fetched_by_hand_is_enough(small, tmp_path, monkeypatch):
    monkeypatch.setattr(FSDD, "URL", "http://127.0.0.1:9/v9.tar.gz")
    (tmp_path / "v9.tar.gz").write_bytes(archive(recordings()))
    data = FSDD(tmp_path)
    data.setup(0)
    assert len(data.test) == 20


@pytest.mark.parametrize("fault", ["absent", "truncated", "incomplete", "rubbish", "escaping"])
def test_a_failed_download_leaves_nothing_and_says_what_to_do(fault, small, server, tmp_path, monkeypatch):
    folder, address = server
    files = recordings()
    content = {
        "truncated": lambda: archive(files)[:-2000],
        "incomplete": lambda: archive(dict(list(files.items())[:-1])),
        "rubbish": lambda: b"no archive",
        "escaping": lambda: archive({"a/../recordings/../../x.wav": b"", "recordings/..": b"", **files}),
    }
    if fault != "absent":
        (folder / "v9.tar.gz").write_bytes(content[fault]())
    monkeypatch.setattr(FSDD, "URL", address + "v9.tar.gz")
    with pytest.raises(DataError, match="could not be made from") as caught:
        FSDD(tmp_path / "data").setup(0)
    assert "VSATTN_DATA" in str(caught.value) and str(tmp_path / "data" / "v9.tar.gz") in str(caught.value)
    assert list((tmp_path / "data").iterdir()) == []


def test_missing_recordings_are_named(small, tmp_path):
    (tmp_path / "recordings").mkdir()
    for name, content in recordings().items():
        (tmp_path / "recordings" / name.rsplit("/", 1)[1]).write_bytes(content)
    (tmp_path / "recordings" / "3_ben_2.wav").unlink()
    with pytest.raises(DataError, match=r"lacks 1 of 80 recordings, such as 3_ben_2\.wav"):
        FSDD(tmp_path).setup(0)


def commands():
    words = {"no": "abc", "yes": "abd", "_background_noise_": ""}
    files = {f"./{w}/{s}_nohash_{i}.wav": wav(rate=16000) for w, ss in words.items() for s in ss for i in range(2)}
    files["./_background_noise_/pink.wav"] = wav(rate=16000)
    files["./validation_list.txt"] = b"no/b_nohash_0.wav\nyes/b_nohash_1.wav\n"
    files["./testing_list.txt"] = b"no/c_nohash_0.wav\nno/c_nohash_1.wav\nyes/d_nohash_0.wav\n"
    return files


def test_speech_commands_split_by_their_own_lists(server, tmp_path, monkeypatch):
    folder, address = server
    packed = archive(commands())
    (folder / "speech.tar.gz").write_bytes(packed)
    monkeypatch.setattr(SpeechCommands, "URL", address + "speech.tar.gz")
    with pytest.raises(DataError, match="SHA-256 of archive is"):
        SpeechCommands(tmp_path / "data").setup(0)
    monkeypatch.setattr(SpeechCommands, "SHA256", hashlib.sha256(packed).hexdigest())
    data = SpeechCommands(tmp_path / "data")
    data.setup(0)
    assert data.classes == ["no", "yes"] and (len(data.train), len(data.val), len(data.test)) == (7, 2, 3)
    assert data.test.targets == [0, 0, 1] and data.train[0][0][1] == 16000
    import torchaudio

    where = tmp_path / "data" / "SpeechCommands"
    monkeypatch.setattr(torchaudio.datasets.speechcommands, "_load_waveform", lambda *a: None)
    for part, subset in ((data.train, "training"), (data.val, "validation"), (data.test, "testing")):
        reference = torchaudio.datasets.SPEECHCOMMANDS(str(where.parent), subset=subset)
        assert sorted(map(str, part.paths)) == sorted(reference._walker)
    (where / "speech_commands_v0.02" / "no" / "c_nohash_1.wav").unlink()
    with pytest.raises(DataError, match=r"lacks 1 recordings that its lists name, such as no/c_nohash_1\.wav"):
        SpeechCommands(tmp_path / "data").setup(0)
    (where / "speech_commands_v0.02" / "testing_list.txt").unlink()
    with pytest.raises(DataError, match=r"no testing_list\.txt"):
        SpeechCommands(tmp_path / "data").setup(0)


@pytest.fixture
def own(tmp_path):
    """Clips of two classes, of four formats, several rates, mono and stereo."""
    kinds = [("wav", 8000), ("flac", 16000), ("ogg", 22050), ("mp3", 16000)]
    for split, count in (("train", 8), ("test", 4)):
        for name in ("cat", "dog"):
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(count):
                suffix, rate = kinds[i % 4]
                sound = noise(0.2, i, rate)
                sound = np.stack([sound, sound], 1) if i % 2 else sound
                soundfile.write(tmp_path / split / name / f"{i}.{suffix}", sound, rate)
    (tmp_path / "train" / "cat" / ".hidden.wav").write_text("ignored")
    return tmp_path


def test_own_folders_of_any_format_with_and_without_val(own):
    data = AudioFolder(own, val_fraction=0.25)
    data.setup(0)
    assert data.classes == ["cat", "dog"] and (len(data.train), len(data.val), len(data.test)) == (12, 4, 8)
    assert not set(data.train.paths) & set(data.val.paths)
    rates = set()
    for part in (data.train, data.val, data.test):
        for i in range(len(part)):
            (samples, rate), target = part[i]
            rates.add(rate)
            assert samples.ndim == 1 and part.paths[i].parent.name == data.classes[target]
    assert rates == {8000, 16000, 22050}
    assert data.lengths("test")[:3] == [20, 20, 20]
    for name in ("cat", "dog"):
        (own / "val" / name).mkdir(parents=True)
        soundfile.write(own / "val" / name / "a.wav", noise(), 8000)
    data.setup(0)
    assert (len(data.train), len(data.val), len(data.test)) == (16, 2, 8)


def test_bad_files_stop_or_are_left_out_and_counted(own):
    (own / "train" / "cat" / "0.wav").write_bytes(b"no sound")
    soundfile.write(own / "test" / "dog" / "0.wav", np.array([0.1, np.nan]), 8000, subtype="FLOAT")
    soundfile.write(own / "train" / "dog" / "4.wav", np.zeros(0), 8000)
    data = AudioFolder(own)
    data.setup(0)
    with pytest.raises(DataError, match=r"cat/0\.wav cannot be read as sound"):
        [part[i] for part in (data.train, data.val) for i in range(len(part)) if part.paths[i].name == "0.wav"]
    data = AudioFolder(own, bad_files="skip")
    data.setup(0)
    assert len(data.train) + len(data.val) == 14 and len(data.test) == 7
    told = data.describe()
    assert "3 files left out" in told
    for name, why in (("cat/0.wav", "cannot be read"), ("dog/0.wav", "NaN"), ("dog/4.wav", "no samples")):
        assert f"{name} " in told and why in told
    data.setup(0)
    assert len(data.skipped) == 3


def test_a_bad_file_is_named_when_durations_are_read(own):
    data = AudioFolder(own)
    data.setup(0)
    data.test.paths[3].write_bytes(b"no sound")
    with pytest.raises(DataError, match=rf"{data.test.paths[3].name} cannot be read as sound"):
        data.lengths("test")


def test_a_folder_that_cannot_be_made_says_what_to_do(small, tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(DataError, match=r"could not be made from .*VSATTN_DATA"):
        FSDD(tmp_path / "file").setup(0)


def test_what_is_wrong_with_a_folder_is_named(own):
    def fails(message, root=own):
        with pytest.raises(DataError, match=message):
            AudioFolder(root).setup(0)

    fails("there is no folder .*nowhere", own / "nowhere")
    soundfile.write(own / "test" / "1.wav", noise(), 8000)
    fails(r"1\.wav lies in no class folder: sounds lie like .*test/cat/1\.wav")
    (own / "test" / "1.wav").unlink()
    (own / "train" / "dog" / "notes.txt").write_text("hello")
    fails(r"notes\.txt is no sound file")
    (own / "train" / "dog" / "notes.txt").unlink()
    (own / "test" / "horse").mkdir()
    fails("classes that train does not know: horse")
    (own / "test" / "horse").rmdir()
    (own / "train" / "bird").mkdir()
    fails("class folder .*bird holds no sound")
    (own / "train" / "bird").rmdir()
    for path in (own / "test").rglob("*.*"):
        path.unlink()
    fails("test holds no sound")
    (own / "test").rename(own / "tset")
    fails(r"there is no folder .*test; .* needs train/, test/")


def power(samples):
    return float(samples.square().mean())


def test_each_distortion_is_what_it_says():
    time = torch.arange(8000) / 8000
    tone = torch.sin(2 * torch.pi * 500 * time)
    torch.manual_seed(0)
    for _ in range(20):
        fast, rate = AudioAugment(speed=0.2)((tone, 8000))
        assert rate == 8000 and 8000 / 1.2 - 65 <= len(fast) <= 8000 / 0.8 + 65
        heard = float(torch.fft.rfft(fast).abs().argmax()) * 8000 / len(fast)
        assert heard == pytest.approx(500 * 8000 / len(fast), abs=2)
        assert power(fast[100:-100]) == pytest.approx(0.5, rel=0.01)
        moved, _ = AudioAugment(shift=0.1)((tone, 8000))
        assert 7200 <= len(moved) <= 8800
        cut = max(0, 8000 - len(moved))
        assert torch.equal(moved[max(0, len(moved) - 8000) :], tone[cut:])
        margins, _ = AudioAugment(silence=0.1)((tone, 8000))
        first = int(margins.ne(0).nonzero()[0]) - 1  # the tone itself begins with a 0
        assert 8000 <= len(margins) <= 9600 and torch.equal(margins[max(0, first) :][:8000], tone)
        noisy, _ = AudioAugment(noise=(10, 10))((tone, 8000))
        assert power(tone) / power(noisy - tone) == pytest.approx(10, rel=1e-3)
        louder, _ = AudioAugment(gain=6)((tone, 8000))
        assert 10 ** (-0.6) <= power(louder) / 0.5 <= 10**0.6
        white = torch.randn(8000)
        coloured, _ = AudioAugment(equaliser=6)((white, 8000))
        gain = (torch.fft.rfft(coloured).abs() / torch.fft.rfft(white).abs())[1:-1]
        assert float(gain.min()) >= 10**-0.31 and float(gain.max()) <= 10**0.31
    assert torch.equal(AudioAugment()((tone, 8000))[0], tone)
    lengths = {len(AudioAugment(reverberation=0.4)((tone, 8000))[0]) for _ in range(40)}
    assert min(lengths) == 8000 and 8800 <= max(lengths) <= 11200 and len(lengths) > 10
    silence, _ = AudioAugment(speed=0.1, equaliser=3, reverberation=1, shift=0.1, gain=3, noise=(0, 10))(
        (torch.zeros(5), 8000)
    )
    assert bool(silence.isfinite().all()) and len(silence)


def test_echoes_are_a_convolution_and_fall_by_60_decibels_in_their_time():
    torch.manual_seed(0)
    click = torch.zeros(1600)
    click[0] = 1
    response = _echoing(click, 8000, 0.5, 6.0)[:4001]
    assert float(response[0]) == pytest.approx(1, abs=1e-5)
    assert float(response[1:].double().square().sum()) == pytest.approx(10**-0.6, rel=1e-4)
    left = response[1:].double().square().flip(0).cumsum(0).flip(0)  # what is still to come (Schroeder 1965)
    decay = 10 * (left / left[0]).log10()
    slope = np.polyfit(np.arange(2000) / 8000, decay[:2000].numpy(), 1)[0]
    assert -60 / slope == pytest.approx(0.5, rel=0.1)
    shares = []
    for _ in range(60):
        heard, _ = AudioAugment(reverberation=0.5)((click, 8000))
        shares += [float(heard[1:].double().square().sum())] if len(heard) > len(click) else []
    assert 10 < len(shares) < 50 and 10**-1.5 <= min(shares) < 0.3 and 1 < max(shares) <= 10**0.3
    assert (
        AudioAugment(reverberation=0.5).moves_time and not AudioAugment(equaliser=3, gain=3, noise=(0, 10)).moves_time
    )
    speech = torch.randn(3000)
    torch.manual_seed(0)
    wet = _echoing(speech, 8000, 0.5, 6.0)
    torch.testing.assert_close(wet, torch.from_numpy(fftconvolve(speech, response)), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"speed": 1.0}, {"shift": -1}, {"silence": -1}, {"gain": -1}, {"noise": (5, 1)}, {"equaliser": -2},
        {"reverberation": 0.05}, {"reverberation": math.nan}, {"reverberation": math.inf},
    ],
)  # fmt: skip
def test_augmentation_out_of_range(wrong):
    with pytest.raises(ConfigError, match=f"AudioAugment.{next(iter(wrong))}"):
        AudioAugment(**wrong)


def test_augmentation_touches_the_training_split_alone_and_repeats_under_a_seed(own):
    data = AudioFolder(own, augment=AudioAugment(speed=0.1, equaliser=3, shift=0.05, gain=3, noise=(0, 10)))
    data.setup(0)
    augmented = Augmented(data.train, pickle.loads(pickle.dumps(data.augment)))
    torch.manual_seed(0)
    (first, rate), target = augmented[0]
    (plain, plain_rate), plain_target = data.train[0]
    assert (rate, target) == (plain_rate, plain_target)
    assert first.shape != plain.shape or not torch.equal(first, plain)
    torch.manual_seed(0)
    assert torch.equal(augmented[0][0][0], first)
    assert torch.equal(data.val[0][0][0], data.val[0][0][0])
