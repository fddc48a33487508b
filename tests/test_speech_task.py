"""What is particular to sound as a task: floors, drawings, predictions of files, small trainings from end to end."""

from __future__ import annotations

import json
from itertools import groupby, pairwise

import numpy as np
import pytest
import soundfile
import tiny
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import vsattn
from vsattn.errors import ConfigError, DataError
from vsattn.predict import main as predict
from vsattn.predictor import Prediction
from vsattn.tasks.data.vowels import Vowels, VowelSequences
from vsattn.tasks.experiment import run
from vsattn.tasks.speech import SpeechCollate, SpeechTask, _stretches
from vsattn.tasks.speech_plots import spectrogram
from vsattn.tokenizers import AudioFrames

SMALL = {"speakers": [6, 2, 3], "takes": 1}
RATE = 8000


def config(kind="Vowels", **changes):
    per_vector = kind == "VowelSequences"
    frames = {"_target_": "vsattn.tokenizers.AudioFrames", "sample_rate": RATE, "strides": [2, 1]}
    return tiny.config(
        task={"_target_": "vsattn.tasks.speech.SpeechTask", "label_smoothing": 0.1},
        data={"_target_": f"vsattn.tasks.data.vowels.{kind}", **SMALL},
        tokenizer=frames,
        head={"_target_": f"vsattn.heads.{'VectorHead' if per_vector else 'MeanHead'}"},
        **changes,
    )


def tone(frequency, seconds, rate, seed=0):
    random = np.random.default_rng(seed)
    time = np.arange(round(seconds * rate)) / rate
    return 0.3 * np.sin(2 * np.pi * frequency * time) + 0.01 * random.standard_normal(len(time))


@pytest.fixture
def tones(tmp_path):
    """Low and high tones, of several formats, rates and lengths."""
    kinds = [("wav", 8000), ("flac", 16000), ("ogg", 22050), ("mp3", 44100)]
    for split, count in (("train", 12), ("val", 4), ("test", 8)):
        for name, frequency in (("low", 300), ("high", 1500)):
            folder = tmp_path / "tones" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                suffix, rate = kinds[i % 4]
                sound = tone(frequency * (1 + 0.02 * i), 0.1 + 0.02 * i, rate, i)
                soundfile.write(folder / f"{i}.{suffix}", np.stack([sound] * (1 + i % 2), 1), rate)
    return tmp_path / "tones"


def test_own_clips_from_files_to_predictions(tones, tmp_path):
    data = {"_target_": "vsattn.tasks.data.audio.AudioFolder", "root": str(tones)}
    trainer = {"max_epochs": 15, "accelerator": "cpu", "devices": 1}
    result = run({**config(batch_size=8, trainer=trainer), "data": data}, tmp_path / "run")
    assert result.metrics["test/accuracy"] == 1.0
    assert {p.name for p in (tmp_path / "run" / "plots").iterdir()} == {"curves.png", "confusion.png", "examples.png"}
    single = tones / "test" / "low" / "0.wav"
    words = [f"ckpt={tmp_path / 'run'}", f"input={tones / 'test'},{single}", f"output={tmp_path / 'a.tsv'}"]
    assert predict(words) == 0
    header, *rows = [line.split("\t") for line in (tmp_path / "a.tsv").read_text().splitlines()]
    assert header == ["path", "label", "probability"]
    assert len(rows) == 17 and rows[-1][0] == str(single)
    assert all(label == path.split("/")[-2] and 0.5 < float(share) <= 1 for path, label, share in rows)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_corrupt_clip_is_named_or_left_out(tones, tmp_path, num_workers, capsys):
    (tones / "test" / "low" / "3.mp3").write_bytes(b"no sound at all")
    data = {"_target_": "vsattn.tasks.data.audio.AudioFolder", "root": str(tones)}
    trainer = {"max_epochs": 1, "accelerator": "cpu", "devices": 1}
    whole = config(num_workers=num_workers, trainer=trainer)
    with pytest.raises(DataError, match=r"low/3\.mp3 cannot be read as sound") as caught:
        run({**whole, "data": data}, tmp_path / "stopped")
    assert "Traceback" not in str(caught.value)
    run({**whole, "data": {**data, "bad_files": "skip"}}, tmp_path / "skipped")
    assert "1 files left out" in capsys.readouterr().out


def test_one_label_per_frame_from_training_to_segments(tmp_path):
    trainer = {"max_epochs": 2, "accelerator": "cpu", "devices": 1}
    result = run(config("VowelSequences", trainer=trainer), tmp_path / "run")
    collate, test = SpeechCollate(result.task.tokenizer), result.data.test
    vectors = sum(int((collate([test[i]])["target"] >= 0).sum()) for i in range(len(test)))
    assert sum(result.metrics[f"test/support/{name}"] for name in result.data.classes) == vectors
    assert (tmp_path / "run" / "plots" / "examples.png").stat().st_size > 20_000
    (samples, rate), _ = result.data.test[0]
    soundfile.write(tmp_path / "a.wav", samples.numpy(), rate)
    words = [f"ckpt={tmp_path / 'run'}", f"input={tmp_path / 'a.wav'}", f"output={tmp_path / 'a.jsonl'}", "classes=all"]
    assert predict(words) == 0
    rows = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert rows[0]["start"] == 0 and rows[-1]["end"] == pytest.approx(len(samples) / rate, abs=0.04)
    assert all(a["end"] == b["start"] and a["label"] != b["label"] for a, b in pairwise(rows))
    (answers,) = vsattn.load(tmp_path / "run").predict([tmp_path / "a.wav"])
    groups = [(label, list(group)) for label, group in groupby(answers, key=lambda answer: answer.label)]
    assert [row["label"] for row in rows] == [label for label, _ in groups]
    for row, (label, group) in zip(rows, groups, strict=True):
        assert row["probability"] == pytest.approx(np.mean([one.probability for one in group]), abs=1e-5)
        assert row["probabilities"][label] == row["probability"]
        assert sum(row["probabilities"].values()) == pytest.approx(1, abs=1e-4)


def test_stretches_of_time_meet_halfway_between_vectors():
    tokenizer = AudioFrames(sample_rate=1000, window=0.02, hop=0.01, strides=(2,))  # centres at 0.01, 0.03, 0.05, ...
    shares = {"a": {"a": 0.8, "b": 0.2}, "b": {"a": 0.4, "b": 0.6}}
    vectors = [Prediction(label, shares[label][label], shares[label]) for label in "aaba"]
    found = [(one["label"], one["start"], one["end"], one["probability"]) for one in _stretches(vectors, tokenizer)]
    expected = [("a", 0.0, 0.04, 0.8), ("b", 0.04, 0.06, 0.6), ("a", 0.06, 0.08, 0.8)]
    assert [row[0] for row in found] == ["a", "b", "a"]
    assert [row[1:] for row in found] == [pytest.approx(row[1:]) for row in expected]


@pytest.mark.parametrize("data", ["vowels.VowelSequences", "digit_strings.VowelStrings"])
def test_labels_in_time_refuse_clips_that_are_moved(data, tmp_path):
    trainer = {"max_epochs": 1, "accelerator": "cpu", "devices": 1}
    strings = {"strings": [4, 2, 2]} if "Strings" in data else {}
    for options, moves in (
        ({"speed": 0.2}, True),
        ({"shift": 0.1}, True),
        ({"reverberation": 0.2}, True),
        ({"gain": 3.0}, False),
    ):
        augment = {"_target_": "vsattn.tasks.data.audio_augment.AudioAugment", **options}
        whole = {**config("VowelSequences", trainer=trainer), "data": {
            "_target_": f"vsattn.tasks.data.{data}", "speakers": [2, 1, 1], "takes": 1, **strings, "augment": augment
        }}  # fmt: skip
        if moves:
            with pytest.raises(ConfigError, match=r"set speed, shift, silence and reverberation of data\.augment to 0"):
                run(whole, tmp_path / next(iter(options)))
        else:
            assert run(whole, tmp_path / next(iter(options))).metrics["epochs"] == 1
    moved = {"_target_": "vsattn.tasks.data.audio_augment.AudioAugment", "speed": 0.2}
    per_clip = config("Vowels", trainer=trainer)
    run({**per_clip, "data": {**per_clip["data"], "augment": moved}}, tmp_path / "clips")


@pytest.mark.parametrize("per_vector", [False, True])
def test_the_floor_is_logistic_regression_on_log_mel(per_vector):
    data = (VowelSequences if per_vector else Vowels)(**SMALL)
    data.setup(0)
    tokenizer = AudioFrames(sample_rate=RATE, strides=(2, 1)).fit(data.fit_items(100))
    task = SpeechTask(torch.nn.Linear(1, 1), tokenizer, data.classes)
    plain = AudioFrames(sample_rate=RATE, normalise="none")

    def features(split):
        rows, targets = [], []
        for pair in split:
            frames, target = plain.frames(pair[0]).numpy(), SpeechCollate(tokenizer)([pair])["target"][0]
            rows += list(frames[::2][target >= 0]) if per_vector else [frames.mean(0)]
            targets += target[target >= 0].reshape(-1).tolist()
        return np.array(rows), np.array(targets)

    train, train_targets = features([data.train[i] for i in range(len(data.train))])
    test, test_targets = features([data.test[i] for i in range(len(data.test))])
    machine = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(train, train_targets)
    expected = machine.predict(test) == test_targets
    assert (task.floor(data) == expected).mean() > 0.99 and 0 < expected.mean() < 1


def test_spectrograms_have_their_axes_in_seconds_and_hertz():
    decibels, (start, end, low, high) = spectrogram(tone(1000, 0.5, RATE), RATE)
    assert (low, high) == (0, 4000) and start == pytest.approx(0, abs=0.02) and end == pytest.approx(0.5, abs=0.02)
    row = int(decibels.mean(1).argmax())
    assert (row + 0.5) / len(decibels) * 4000 == pytest.approx(1000, abs=20)
    assert decibels.max() == pytest.approx(0, abs=1e-6)
    assert np.isfinite(spectrogram(np.zeros(3), RATE)[0]).all()
