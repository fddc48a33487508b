"""Recognition by CTC: its loss, its error rates against jiwer, its times, and a model that learns."""

from __future__ import annotations

import json
import pickle

import jiwer
import numpy as np
import pytest
import soundfile
import tiny
import torch
import torch.nn.functional as F
from torch import nn

import vsattn
from vsattn.ctc import Greedy, Span, greedy
from vsattn.errors import ConfigError, DataError, ShapeError
from vsattn.heads import CtcHead
from vsattn.model import Model
from vsattn.predict import main as predict
from vsattn.predictor import Predictor
from vsattn.streaming_audio import StreamingAudio
from vsattn.tasks.callbacks import Checkpoints
from vsattn.tasks.data.audio import Segment
from vsattn.tasks.data.digit_strings import _JoinedWords
from vsattn.tasks.experiment import make_task, prepare
from vsattn.tasks.recognition import Judged, RecognitionTask, aligned, rate_interval
from vsattn.tasks.training import train
from vsattn.tokenizers import AudioFrames, Pixels

CLASSES = ["yes", "no", "may be"]


class Guess(nn.Module):
    """Logits from nothing but random numbers."""

    def __init__(self, width: int = len(CLASSES) + 1) -> None:
        super().__init__()
        self.width = width

    def forward(self, batch):
        counts = tokenizer().counts(batch)
        generator = torch.Generator().manual_seed(int(counts.sum()))
        return 3 * torch.randn(len(counts), int(counts.max()), self.width, generator=generator)


def tokenizer() -> AudioFrames:
    return AudioFrames(sample_rate=8000).fit([torch.zeros(8000)])


def task_of(model: nn.Module | None = None, **options) -> RecognitionTask:
    return RecognitionTask(model or Guess(), tokenizer(), CLASSES, **options)


def clip(seconds: float, seed: int = 0) -> torch.Tensor:
    return 0.1 * torch.randn(int(8000 * seconds), generator=torch.Generator().manual_seed(seed))


PAIRS = [
    (clip(0.9), [0, 1, 1]),
    (clip(0.3, 1), []),
    (clip(0.5, 2), [Segment(0.1, 0.2, 2), Segment(0.3, 0.4, 0)]),
    (clip(1.2, 3), [2, 2, 2, 0, 1]),
]


class Listed:
    """Data whose test split is a list."""

    def __init__(self, test) -> None:
        self.test, self.name = test, "a list"


def test_the_loss_is_that_of_each_recording_alone_per_label():
    task = task_of()
    batch = task.collate(PAIRS)
    output, total = task(batch).double(), 0.0
    for logits, (sound, target) in zip(output, PAIRS, strict=True):
        labels = [part.label if isinstance(part, Segment) else part for part in target]
        length = task.tokenizer.num_vectors(len(sound))
        one = logits[:length].log_softmax(-1)[:, None]
        sizes = torch.tensor([length]), torch.tensor([len(labels)])
        total += float(F.ctc_loss(one, torch.tensor([labels]), *sizes, blank=3, reduction="sum"))
    assert float(task.loss(output, batch)) == pytest.approx(total / 10, rel=1e-5)
    assert task.count(batch) == 10


def test_recordings_without_any_label_have_a_loss():
    task = task_of()
    batch = task.collate([(clip(0.3), []), (clip(0.5), [])])
    output = task(batch)
    lengths = task.tokenizer.counts(batch)
    silence = sum(-logits[:n].log_softmax(-1)[:, 3].sum() for logits, n in zip(output, lengths, strict=True))
    torch.testing.assert_close(task.loss(output, batch), silence)


def test_padding_changes_no_gradient():
    task = task_of()
    batch = task.collate(PAIRS)
    output = task(batch).requires_grad_()
    (gradient,) = torch.autograd.grad(task.loss(output, batch), output)
    for row, (sound, _) in zip(gradient, PAIRS, strict=True):
        length = task.tokenizer.num_vectors(len(sound))
        assert row[:length].abs().sum() > 0 and not row[length:].any()


@pytest.mark.parametrize("labels, seconds, fits", [([0, 1], 0.045, True), ([0, 0], 0.045, False), ([0, 0], 0.07, True)])
def test_clips_too_short_for_their_labels_are_refused(labels, seconds, fits):
    """Two vectors can say two labels, but not the same one twice."""
    task, pairs = task_of(), [PAIRS[0], (clip(seconds), labels)]
    if fits:
        batch = task.collate(pairs)
        assert torch.isfinite(task.loss(task(batch), batch))
        return
    with pytest.raises(DataError, match="item 1 of a batch becomes 2 vectors, and its 2 labels need 3: use smaller"):
        task.collate(pairs)


def test_error_rates_are_those_of_jiwer():
    random = np.random.default_rng(0)
    pairs = [
        (random.integers(0, 3, random.integers(0, 6)), random.integers(0, 3, random.integers(0, 6))) for _ in range(300)
    ]
    pairs = [(true.tolist(), said.tolist()) for true, said in pairs]
    judged = [Judged(true, [Span(label, 0, 1, 1.0) for label in said]) for true, said in pairs]
    output = jiwer.process_words(*([" ".join("abc"[i] for i in side) for side in column] for column in zip(*pairs)))
    totals = np.array([item.errors for item in judged]).sum(0).tolist()
    assert totals == [output.substitutions, output.deletions, output.insertions]
    for item, (true, said) in zip(judged, pairs, strict=True):
        rebuilt = [(i, j) for i, j in item.pairs]
        assert [i for i, _ in rebuilt if i is not None] == list(range(len(true)))
        assert [j for _, j in rebuilt if j is not None] == list(range(len(said)))


def test_alignment_of_words_left_out_and_added():
    assert aligned([1, 2, 3], [1, 3]) == [(0, 0), (1, None), (2, 1)]
    assert aligned([], [5]) == [(None, 0)] and aligned([5], []) == [(0, None)] and aligned([], []) == []
    assert Judged([1, 2], [Span(1, 0, 1, 1.0), Span(0, 1, 2, 1.0)]).labels(9) == [(1, 1), (2, 0)]


def test_the_interval_covers_the_rate_as_often_as_it_says():
    """Drawn again and again from recordings with a known rate; and wider where a recording shares its errors."""
    random, hits = np.random.default_rng(0), 0
    for seed in range(100):
        words = random.integers(1, 8, 80)
        errors = random.binomial(words, 0.1)
        low, high = rate_interval(errors, words, seed=seed, resamples=300)
        hits += low <= 0.1 <= high
    assert 88 <= hits <= 100
    words, together = np.full(100, 5), np.repeat([5, 0], [10, 90])
    apart = random.binomial(5, 0.1, 100)
    widths = [np.subtract(*rate_interval(errors, words, seed=0)[::-1]) for errors in (together, apart)]
    assert widths[0] > 1.5 * widths[1]


def say(spans, length, classes=3):
    """Return logits that say labels at ``(label, start, stop)``."""
    logits = torch.full((length, classes + 1), -9.0)
    logits[:, classes] = 9.0
    for label, start, stop in spans:
        logits[start:stop, classes], logits[start:stop, label] = -9.0, 9.0
    return logits


def test_the_judgement_of_known_answers():
    task = task_of()
    rows = [
        (say([(0, 2, 3), (1, 10, 12)], 40), [0, 1]),  # both right, the second said too late
        (say([(2, 2, 4), (2, 6, 7)], 30), [2, 0]),  # one wrong
        (say([(0, 1, 2)], 20), []),  # one added
        (say([], 20), [1]),  # one left out
    ]
    target = [[Segment(0.0, 0.1, 0), Segment(0.1, 0.19, 1)], [Segment(0.0, 0.1, 2), Segment(0.1, 0.2, 0)], [], [1]]
    data = Listed([(clip(0.9), segments) for segments in target])
    scores = task.evaluate([rows[:3], rows[3:]], data, seed=0)
    assert scores["test/wer"] == scores["test/wer_greedy"] == pytest.approx(3 / 5)
    assert [scores[f"test/{n}"] for n in ("substitutions", "deletions", "insertions", "words")] == [1, 1, 1, 5]
    assert scores["test/utterance_accuracy"] == 0.25 and scores["test/in_time"] == pytest.approx(2 / 3)
    assert scores["test/wer_low"] < 0.6 < scores["test/wer_high"]


def test_beam_and_bonus_reach_the_search():
    """Here the sum over alignments says a label, and the likeliest one says none."""
    logits = torch.tensor([[0.4, 1e-9, 1e-9, 0.6]] * 2).log()
    data = Listed([(clip(0.5), [0])])
    scores = task_of().evaluate([[(logits, [0])]], data, seed=0)
    assert scores["test/wer"] == 0 and scores["test/wer_greedy"] == 1
    assert task_of(length_bonus=-5.0).evaluate([[(logits, [0])]], data, seed=0)["test/wer"] == 1


def test_the_rate_while_training_is_that_of_greedy_decoding():
    task, truth, said = task_of(), [], []
    metrics = task.metrics()
    for pairs in (PAIRS[:3], PAIRS[3:]):
        batch = task.collate(pairs)
        output = task(batch)
        task.measure(metrics, output, batch)
        for logits, (sound, target) in zip(output, pairs, strict=True):
            best = logits[: task.tokenizer.num_vectors(len(sound))].argmax(-1).unique_consecutive().tolist()
            said.append(" ".join(str(label) for label in best if label != 3))
            truth.append(" ".join(str(p.label if isinstance(p, Segment) else p) for p in target))
    assert float(metrics["wer"].compute()) == pytest.approx(jiwer.process_words(truth, said).wer)


def test_what_does_not_fit_is_refused():
    task = task_of(Guess(3))
    batch = task.collate(PAIRS)
    with pytest.raises(ShapeError, match=r"CTC needs 3 \+ 1 numbers.*choose head=ctc"):
        task.loss(task(batch), batch)
    with pytest.raises(ShapeError, match="choose head=ctc"):
        task.loss(task(batch)[:, 0], batch)
    with pytest.raises(DataError, match="this data has one label per clip: use task=speech"):
        task.collate([(clip(0.3), 1)])
    with pytest.raises(ConfigError, match="beam_width"):
        task_of(beam_width=0)
    with pytest.raises(ConfigError, match=r"hears sound.*not Pixels"):
        RecognitionTask(Guess(), Pixels(), CLASSES)
    with pytest.raises(ConfigError, match="trim=null"):
        RecognitionTask(Guess(), AudioFrames(sample_rate=8000, trim=30.0).fit([clip(0.3)]), CLASSES)
    assert len(pickle.dumps(task.collator(True))) < 5000


class Tones(_JoinedWords):
    """Three pure tones, one after the other."""

    name = "tones"

    def __init__(self) -> None:
        super().__init__(strings=(160, 20, 20), words=(1, 4), pause=(0.05, 0.1), gain=0.0, noise=(20, 30), augment=None)

    def voices(self, seed):
        times = torch.arange(1200) / 8000
        voice = [(torch.sin(2 * torch.pi * hertz * times), label) for label, hertz in enumerate((400, 1000, 2500))]
        return ["low", "middle", "high"], 8000, [[voice]] * 3


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A windowed Transformer that has learned the tones, which takes seconds."""
    window = {"_target_": "vsattn.structure.Window", "left": 8, "right": 4}
    attention = {"_target_": "vsattn.attention.MultiHeadAttention", "_partial_": True, "structure": window}
    frames = {"sample_rate": 8000, "normalise": "global", "strides": [2, 2]}
    encoder = {"_target_": "vsattn.encoders.TransformerEncoder", "num_layers": 1, "num_heads": 2}
    config = tiny.config(
        task={"_target_": "vsattn.tasks.recognition.RecognitionTask"},
        tokenizer={"_target_": "vsattn.tokenizers.AudioFrames", **frames},
        encoder={**encoder, "attention": attention},
        head={"_target_": "vsattn.heads.CtcHead"},
    )
    folder, data = tmp_path_factory.mktemp("recognition"), Tones()
    prepare(config)
    data.setup(0)
    task = make_task(config, data, AudioFrames(**frames).fit(data.fit_items(50)))
    saver = Checkpoints(folder / "checkpoints", monitor="val/wer")
    result = train(task, data, folder=folder, batch_size=8, trainer={"max_epochs": 8}, callbacks=[saver])
    task.draw(folder / "plots", data)
    return result


def test_tones_are_learned_with_their_times_and_drawn(trained):
    assert trained.metrics["test/wer"] == trained.metrics["test/wer_greedy"] == 0
    assert trained.metrics["test/utterance_accuracy"] == trained.metrics["test/in_time"] == 1
    assert trained.rows[-1]["val/wer"] == 0 and trained.rows[-1]["val/loss"] < 0.1
    for name in ("confusion.png", "examples.png"):
        assert (trained.folder / "plots" / name).stat().st_size > 5000


def test_files_become_lines_with_words_and_times(trained, tmp_path):
    predictor = vsattn.load(trained.folder)
    paths, texts = [tmp_path / f"{i}.wav" for i in range(3)], []
    for i, path in enumerate(paths):
        (samples, rate), segments = trained.data.test[i]
        soundfile.write(path, samples.numpy() / 2, rate, subtype="FLOAT")
        texts.append(" ".join(trained.data.classes[segment.label] for segment in segments))
    assert predict([f"ckpt={trained.folder}", f"input={tmp_path}", f"output={tmp_path / 'out.jsonl'}"]) == 0
    expected = predictor.predict(paths)
    assert [answer.text for answer in expected] == texts
    lines = (tmp_path / "out.jsonl").read_text().splitlines()
    for said, path, answer in zip(map(json.loads, lines), paths, expected, strict=True):
        assert said["path"] == str(path) and said["text"] == answer.text
        assert [word.pop("word") for word in said["words"]] == answer.text.split()
        for times, word in zip(said["words"], answer.words, strict=True):
            assert list(times) == ["start", "end", "probability"]
            assert list(times.values()) == pytest.approx(word[1:], abs=1e-5)


def test_words_end_within_the_recording(trained):
    predictor = vsattn.load(trained.folder)
    predictor.model.head.classify.bias.data[3] = -1e4  # no blank: the last word lasts to the end
    for seconds in np.arange(0.3, 0.38, 0.01):
        (answer,) = predictor.predict([clip(seconds)])
        assert answer.words[0].start == 0 and seconds - 0.05 < answer.words[-1].end <= seconds


def test_the_predictor_searches_as_its_task_did():
    logits = torch.tensor([[0.4, 1e-9, 1e-9, 0.6]] * 2).log()
    for settings, text in (({}, "yes"), ({"beam_width": 8, "length_bonus": -5.0}, ""), ({"beam_width": 1}, "")):
        model = Model(nn.Identity(), nn.Identity(), CtcHead(4, 3))
        predictor = Predictor(model, tokenizer(), CLASSES, config={"task": settings})
        assert predictor._answer(logits).text == text


def test_a_stream_says_what_the_predictor_says(trained):
    predictor = vsattn.load(trained.folder)
    samples = torch.cat([trained.data.test[i][0][0] for i in range(8)])
    stream, decoder, spans = StreamingAudio(predictor.model, predictor.tokenizer), Greedy(), []
    for chunk in samples.split(800):
        spans += decoder.push(stream.push(chunk))
    spans += decoder.push(stream.finish()) + decoder.finish()
    expected = greedy(predictor.logits([samples])[0])
    assert [span[:3] for span in spans] == [span[:3] for span in expected]
