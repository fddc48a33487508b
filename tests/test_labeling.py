"""Labelling words: losses, judgements, the floor, files in and out, and whole runs."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path

import conllu
import numpy as np
import pytest
import tiny
import torch
import torch.nn.functional as F
from seqeval.metrics import f1_score
from sklearn.metrics import accuracy_score

import vsattn
from vsattn.compose import plain_config
from vsattn.errors import ShapeError
from vsattn.model import Model
from vsattn.predict import main as predict
from vsattn.tasks.checks import faults
from vsattn.tasks.data.tagged import TaggedWords
from vsattn.tasks.experiment import run
from vsattn.tasks.labeling import LabelingTask, label_counts
from vsattn.tasks.words_plots import choose, draw_sentences, two_ways
from vsattn.tokenizers import Words

GENERATOR = torch.Generator().manual_seed(0)
TRAIN = [
    (["the", "can", "is", "red"], ["D", "N", "V", "A"]),
    (["you", "can", "run"], ["P", "X", "V"]),
    (["the", "run", "is", "the", "can"], ["D", "N", "V", "D", "N"]),
]
TEST = [(["you", "can", "can"], ["P", "X", "V"]), (["the", "sea", "is", "red", "now"], ["D", "N", "V", "A", "Z"])]


class Fixed(TaggedWords):
    def setup(self, seed: int) -> None:
        self.take({"train": TRAIN, "val": TEST, "test": TEST})


@pytest.fixture
def data() -> Fixed:
    fixed = Fixed()
    fixed.setup(0)
    return fixed


def task_of(data, head: str = "vsattn.heads.VectorHead", **options) -> LabelingTask:
    from vsattn.model import build_model

    tokenizer = Words(min_count=1).fit(data.fit_items(1))
    config = tiny.config(head={"_target_": head})
    model: Model = build_model(config, tokenizer, num_classes=len(data.classes))
    return LabelingTask(model, tokenizer, data.classes, **options)


def test_the_loss_is_the_mean_over_words_whatever_their_sentences(data) -> None:
    task = task_of(data, label_smoothing=0.2)
    batch = task.collate(data.train)
    logits = torch.randn(3, 5, len(data.classes), generator=GENERATOR)
    words = torch.cat([logits[i, : len(target)] for i, (_, target) in enumerate(data.train)])
    targets = torch.tensor([t for _, target in data.train for t in target])
    torch.testing.assert_close(task.loss(logits, batch), F.cross_entropy(words, targets))
    torch.testing.assert_close(task.training_loss(logits, batch), F.cross_entropy(words, targets, label_smoothing=0.2))
    assert task.count(batch) == 12


def test_the_loss_of_a_random_field_is_that_of_all_sequences(data) -> None:
    task = task_of(data, "vsattn.crf.CrfHead", label_smoothing=0.2)
    for parameter in task.model.head.crf.parameters():
        torch.nn.init.normal_(parameter, generator=GENERATOR)
    batch = task.collate(data.train)
    logits = torch.randn(3, 5, len(data.classes), generator=GENERATOR)
    crf, total, smooth = task.model.head.crf, 0.0, 0.0
    for row, (_, target) in zip(logits, data.train, strict=True):
        n = len(target)
        alpha = crf.start_transitions + row[0]  # the forward recursion, and the path's own score beside it
        score = crf.start_transitions[target[0]] + row[0, target[0]] + crf.end_transitions[target[-1]]
        for i in range(1, n):
            alpha = (alpha[:, None] + crf.transitions + row[i]).logsumexp(0)
            score = score + crf.transitions[target[i - 1], target[i]] + row[i, target[i]]
        total = total + (alpha + crf.end_transitions).logsumexp(0) - score
        smooth = smooth - row[:n].log_softmax(-1).mean(-1).sum()
    torch.testing.assert_close(task.loss(logits, batch), total / 12)
    torch.testing.assert_close(task.training_loss(logits, batch), (0.8 * total + 0.2 * smooth) / 12)


@pytest.mark.parametrize("head", ["vsattn.heads.VectorHead", "vsattn.crf.CrfHead"])
def test_accuracy_is_over_words_and_does_not_depend_on_batches(data, head) -> None:
    task = task_of(data, head).eval()
    metrics, one_by_one, together = task.metrics(), [], []
    with torch.no_grad():
        for pair in data.train:
            batch = task.collate([pair])
            one_by_one.append(task.remember(task(batch), batch))
        batch = task.collate(data.train)
        together.append(task.remember(task(batch), batch))
        task.measure(metrics, task(batch), batch)
    guess, truth, loss = (
        np.concatenate([r[0] for r in one_by_one]),
        np.concatenate([r[1] for r in one_by_one]),
        sum(r[2] for r in one_by_one),
    )
    assert guess.tolist() == together[0][0].tolist() and truth.tolist() == together[0][1].tolist()
    assert loss == pytest.approx(together[0][2], rel=1e-5)
    assert float(metrics["accuracy"].compute()) == pytest.approx(accuracy_score(truth, guess))


def judged(task, data, guesses: list[str]) -> dict:
    """Judge given labels of the first test sentences, one sentence a batch."""
    remembered, place = [], 0
    for words, target in data.test:
        if place >= len(guesses):
            break
        part = np.array([data.classes.index(g) for g in guesses[place : place + len(words)]])
        remembered.append((part, np.array(target), 2.0 * len(words)))
        place += len(words)
    task.remembered = remembered
    return task.evaluate(remembered, data, seed=0)


def test_words_are_judged_by_what_training_knows_of_them(data) -> None:
    scores = judged(task_of(data), data, ["P", "N", "V", "D", "N", "V", "A", "A"])
    assert scores["test/accuracy"] == 6 / 8 and scores["test/loss"] == 2.0
    assert (scores["test/words_known"], scores["test/words_unknown"], scores["test/words_ambiguous"]) == (6, 2, 2)
    assert scores["test/accuracy_known"] == 5 / 6  # all but sea and now
    assert scores["test/accuracy_unknown"] == 1 / 2
    assert scores["test/accuracy_ambiguous"] == 1 / 2  # can, twice; run is not tested
    assert scores["test/accuracy_known_low"] < 5 / 6 < scores["test/accuracy_known_high"]
    assert scores["test/recall/Z"] == 0.0 and scores["test/support/Z"] == 1  # training never shows it: wrong


def test_a_test_that_was_cut_short_is_judged_on_what_was_seen(data) -> None:
    task = task_of(data)
    scores = judged(task, data, ["P", "X", "V"])
    assert (
        scores["test/accuracy"] == 1.0 and "test/accuracy_unknown" not in scores and scores["test/words_unknown"] == 0
    )
    assert task.floor(data).tolist() == [True, False, False]


def test_the_floor_is_the_most_frequent_label(data) -> None:
    task = task_of(data)
    judged(task, data, ["P"] * 8)
    counts: dict[str, Counter] = {}
    for words, labels in TRAIN:
        for word, label in zip(words, labels, strict=True):
            counts.setdefault(word, Counter())[label] += 1
    every = Counter(label for _, labels in TRAIN for label in labels).most_common(1)[0][0]
    best = {word: c.most_common(1)[0][0] for word, c in counts.items()}
    expected = [best.get(w, every) == t for words, labels in TEST for w, t in zip(words, labels, strict=True)]
    assert task.floor(data).tolist() == expected and expected.count(True) == 4
    named = {w: {data.classes[c]: n for c, n in found.items()} for w, found in label_counts(data).items()}
    assert named == counts


def test_a_head_per_set_is_refused_with_the_head_to_choose(data) -> None:
    task = task_of(data, "vsattn.heads.MeanHead")
    batch = task.collate(data.train)
    with pytest.raises(ShapeError, match="head=vector"):
        task.loss(task(batch), batch)


def language(count: int, seed: int) -> list[tuple[list[str], list[str]]]:
    """Make sentences in which `can` is a noun after `the`, and a verb elsewhere."""
    draw, sentences = random.Random(seed), []
    for _ in range(count):
        words, labels = [], []
        for _ in range(draw.randint(1, 4)):
            for word, label in draw.choice(([("the", "DET"), ("can", "NOUN")], [("we", "PRON"), ("can", "VERB")])):
                words.append(word)
                labels.append(label)
        sentences.append((words, labels))
    return sentences


def write_conllu(path: Path, sentences) -> None:
    blocks = (
        "\n".join(
            f"{i}\t{word}\t_\t{label}" + "\t_" * 6 for i, (word, label) in enumerate(zip(*s, strict=True), start=1)
        )
        for s in sentences
    )
    path.write_text("".join(f"# a sentence\n{block}\n\n" for block in blocks))


def config_of(folder: Path, target: str = "conllu.Conllu", **changes) -> dict:
    files = {split: str(folder / f"{split}.txt") for split in ("train", "val", "test")}
    return tiny.config(
        task={"_target_": "vsattn.tasks.labeling.LabelingTask"},
        data={"_target_": f"vsattn.tasks.data.{target}", **files},
        tokenizer={"_target_": "vsattn.tokenizers.Words"},
        head={"_target_": "vsattn.heads.VectorHead"},
        trainer={"max_epochs": 40, "accelerator": "cpu", "devices": 1},
        **changes,
    )


@pytest.fixture
def files(tmp_path) -> Path:
    for seed, (split, count) in enumerate({"train": 150, "val": 30, "test": 30}.items()):
        write_conllu(tmp_path / f"{split}.txt", language(count, seed))
    return tmp_path


@pytest.mark.parametrize("head", ["vsattn.heads.VectorHead", "vsattn.crf.CrfHead"])
def test_context_is_learned_and_files_are_labelled(files, head, capsys) -> None:
    config = config_of(files) | {"head": {"_target_": head}, "batch_vectors": 100}
    result = run(config, files / "run")
    assert result.metrics["test/accuracy"] == result.metrics["test/accuracy_ambiguous"] == 1.0
    assert result.metrics["floor/accuracy"] < 0.9
    assert {"confusion.png", "sentences.png"} <= {p.name for p in (files / "run" / "plots").iterdir()}
    assert "'can' is NOUN in '" in capsys.readouterr().out
    predictor = vsattn.load(files / "run")
    (answer, nothing) = predictor.predict([["we", "can", "the", "can"], []])
    assert [word.label for word in answer] == ["PRON", "VERB", "DET", "NOUN"] and nothing == []
    source = files / "mine.conllu"
    text = (
        "# text = we can\n1-2\twecan" + "\t_" * 8 + "\n1\twe\tl\tX\tx\tA=b\t0\troot\t_\tm\n"
        "2\tcan" + "\t_" * 8 + "\n2.1\tcan" + "\t_" * 8 + "\n\n# empty\n\n"
    )
    source.write_text(text)
    words = [f"ckpt={files / 'run'}", "format=conllu"]

    def answered(*paths: Path) -> str:
        output = files / "out.txt"
        assert predict([*words, f"input={','.join(map(str, paths))}", f"output={output}"]) == 0
        return output.read_text(encoding="utf-8")

    expected = text.replace("\twe\tl\tX\t", "\twe\tl\tPRON\t").replace("2\tcan\t_\t_", "2\tcan\t_\tVERB")
    assert answered(source) == expected
    plain = files / "mine.txt"
    plain.write_text("the can we can\n\nwe can\n")
    parsed = conllu.parse(answered(plain, plain))
    assert [[(t["form"], t["upos"]) for t in s] for s in parsed[:2]] == [
        [("the", "DET"), ("can", "NOUN"), ("we", "PRON"), ("can", "VERB")], [("we", "PRON"), ("can", "VERB")]
    ]  # fmt: skip
    assert len(parsed) == 4
    for ending in ("", "\n", "\n\n"):
        (files / "cut.conllu").write_text("1\twe" + "\t_" * 8 + ending)
        one = f"1\twe\t_\t{predictor.predict([['we']])[0][0].label}" + "\t_" * 6
        assert answered(files / "cut.conllu", files / "cut.conllu") == f"{one}\n\n{one}{ending}"
    program = files / "mine.py"
    program.write_text('can = """we\ncan"""\n')
    assert [t["form"] for t in conllu.parse(answered(program))[0]] == ["can", "=", '"""we\\ncan"""']


def test_entities_are_judged_as_a_whole_and_written_into_misc(tmp_path) -> None:
    for seed, split in enumerate(("train", "val", "test")):
        draw, lines = random.Random(seed), []
        for _ in range(60):
            for word, label in draw.choice(
                ([("in", "O"), ("New", "B-LOC"), ("York", "I-LOC")], [("New", "O"), ("rules", "O")])
            ):
                lines.append(f"{word} X {label}")
            lines.append("")
        (tmp_path / f"{split}.txt").write_text("\n".join(lines))
    result = run(config_of(tmp_path, "columns.Columns"), tmp_path / "run")
    guess, truth, *_ = result.task.remembered[0]
    ends = np.cumsum(result.data.lengths("test"))[:-1]
    named = [[[result.data.classes[i] for i in part] for part in np.split(flat, ends)] for flat in (truth, guess)]
    assert len(result.task.remembered) == 1
    assert result.metrics["test/entity_f1"] == pytest.approx(f1_score(*named)) == 1.0
    (tmp_path / "mine.txt").write_text("in New York\n")
    words = [f"ckpt={tmp_path / 'run'}", f"input={tmp_path / 'mine.txt'}", f"output={tmp_path / 'out.conllu'}"]
    assert predict(words) == 0
    assert [t["misc"] for t in conllu.parse((tmp_path / "out.conllu").read_text())[0]] == [
        {"Label": label} for label in ("O", "B-LOC", "I-LOC")
    ]


def shipped(*words: str) -> dict:
    config, found = plain_config(["task=labeling", *words])
    assert found == [] and faults(config) == []
    return config


FILES = ["data.train=a", "data.val=b", "data.test=c"]


@pytest.mark.parametrize("encoder", ["transformer", "window_mlp", "rnn", "birnn", "cnn", "mlp"])
@pytest.mark.parametrize(
    "data", [["python_source"], ["ud_ewt", "data.column=xpos"], ["conllu", *FILES], ["columns", *FILES]]
)
def test_every_encoder_and_data_set_compose(encoder, data) -> None:
    config = shipped(f"data={data[0]}", *data[1:], f"encoder={encoder}")
    assert config["tokenizer"]["_target_"].endswith("WordFeatures") and config["head"]["_target_"].endswith(
        "VectorHead"
    )
    shipped(f"data={data[0]}", *data[1:], f"encoder={encoder}", "head=crf", "tokenizer=words_only", "positions=none")


@pytest.fixture
def library(tmp_path, monkeypatch) -> Path:
    """A few modules of the library that runs this."""
    import sysconfig

    from vsattn.tasks.data import python_source

    folder = Path(sysconfig.get_path("stdlib"))
    for name in (
        "abc",
        "bisect",
        "cmd",
        "code",
        "dis",
        "glob",
        "heapq",
        "queue",
        "sched",
        "shelve",
        "stat",
        "textwrap",
        "timeit",
    ):
        (tmp_path / f"{name}.py").write_bytes((folder / f"{name}.py").read_bytes())
    monkeypatch.setattr(python_source.sysconfig, "get_path", lambda name: str(tmp_path))
    return tmp_path


def test_the_default_run_beats_its_floor_within_a_few_steps(library) -> None:
    config = shipped("trainer.max_epochs=4", "optimizer.lr=0.004", "logger=none", "batch_vectors=1000", "seed=1")
    run(config, library / "run")
    metrics = json.loads((library / "run" / "metrics.json").read_text())
    assert metrics["floor/name"] == "most frequent label of each word"
    assert metrics["test/accuracy_low"] > metrics["floor/accuracy_high"] > metrics["floor/accuracy"] > 0.5


def row(text: str):
    """Return words, predicted and true labels of ``word/predicted/true``, or ``word/label`` where both agree."""
    parts = [word.split("/") for word in text.split()]
    return [p[0] for p in parts], [p[1] for p in parts], [p[-1] for p in parts]


def test_a_word_with_two_labels_is_found_in_one_sentence_first() -> None:
    apart = [row("I/P can/X go/V now/A"), row("the/D can/N is/V red/A"), row("that/D can/N is/V red/A")]
    found = two_ways(apart)
    assert found.describe() == "'can' is X in 'I [can] go now' and N in 'the [can] is red'"
    together = [*apart, row("I/P saw/V the/D saw/N ./.")]
    assert two_ways(together).describe() == "'saw' is V in 'I [saw] the saw .' and N in 'I saw the [saw] .'"
    wrong = [row("I/P can/N/X go/V now/A"), apart[1]]  # one of the two is mistaken
    assert two_ways(wrong) is None and two_ways([]) is None
    assert choose(together, two_ways(together))[0] == together[3]


def test_sentences_are_drawn_whatever_they_hold(tmp_path, recwarn) -> None:
    rows = [row("日本/N/V ok/N"), (["x" * 473, "a\nb", "", "\N{SNOWMAN}"], ["A"] * 4, ["B"] * 4), ([], [], [])]
    path = draw_sentences([*rows, *choose(rows, None)], "title", tmp_path, marked="ok")
    from PIL import Image

    with Image.open(path) as image:
        colours = {pixel for _, pixel in image.convert("RGB").getcolors(1 << 24)}
    assert (198, 40, 40) in colours  # a mistake is marked
    assert not [w for w in recwarn if "Glyph" in str(w.message)]
