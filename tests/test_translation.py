"""Translation as a task: toys are learned to the last letter, and what is judged is what was written."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import sacrebleu
import torch
import torch.nn.functional as F

from vsattn.build import build
from vsattn.compose import plain_config
from vsattn.errors import ConfigError, DataError
from vsattn.model import build_model
from vsattn.tasks.checks import faults
from vsattn.tasks.data.numbers import NumberPhrases
from vsattn.tasks.experiment import run
from vsattn.tasks.training import Result
from vsattn.tasks.translation import TranslationCollate, TranslationTask
from vsattn.tokenizers.base import Tokenizer
from vsattn.tokenizers.text import BOS, EOS, PADDING

#: Small enough for seconds.
TOY = ("task=translation", "data=toy", "dim=64", "logger=none", "num_threads=1")
GRU = (
    "encoder=bigru",
    "encoder.hidden_dim=48",
    "decoder=gru",
    "decoder.hidden_dim=32",
    "positions=none",
    "head=vector",
)


def experiment(folder: Path, *words: str) -> Result:
    config, found = plain_config([*TOY, *words])
    assert found + faults(config) == []
    return run(config, folder / "run")


@pytest.mark.parametrize("kind", ["copy", "reverse", "sort"])
def test_a_toy_is_solved(kind: str, tmp_path: Path) -> None:
    words = [
        "schedule=one_cycle",
        "optimizer.lr=0.003",
        "batch_vectors=600",
        "trainer.max_epochs=15",
        "data.strings=[5000,100,100]",
    ]
    words += ["callbacks.checkpoint.monitor=val/loss", "callbacks.checkpoint.mode=min"]
    result = experiment(tmp_path, f"data.kind={kind}", *words)
    assert result.metrics["test/exact"] == 1.0 and result.metrics["test/bleu_lc_tok"] == pytest.approx(100.0)


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Result:
    """A GRU that was trained a little: it writes, and is sometimes wrong."""
    words = ["data.kind=copy", "data.strings=[600,50,70]", "data.length=[2,4]", "schedule=constant"]
    return experiment(tmp_path_factory.mktemp("gru"), *words, *GRU, "trainer.max_epochs=6", "optimizer.lr=0.01")


def test_scores_are_those_of_what_was_written(quick: Result) -> None:
    read = [(quick.folder / f"test.{name}.txt").read_text(encoding="utf-8").splitlines() for name in
            ("source", "reference", "hypothesis")]  # fmt: skip
    assert list(zip(read[0], read[1], strict=True)) == [quick.data.test[i] for i in range(70)]
    expected = sacrebleu.corpus_bleu(read[2], [read[1]], tokenize="none", lowercase=True, force=True).score
    assert quick.metrics["test/bleu_lc_tok"] == pytest.approx(expected)
    assert quick.metrics["test/exact"] == np.mean([a == b for a, b in zip(read[1], read[2], strict=True)])
    assert 0 < quick.metrics["test/exact"] < 1
    signature = (quick.folder / "test.signature.txt").read_text(encoding="utf-8")
    assert "bleu_lc_tok nrefs:1" in signature and "version:" in signature


def test_perplexity_is_that_of_true_tokens(quick: Result) -> None:
    task, pairs = quick.task.eval(), [quick.data.test[i] for i in range(70)]
    assert isinstance(task, TranslationTask)
    total = count = right = 0.0
    for pair in pairs:  # one by one, without padding
        batch = task.collate([pair])
        with torch.no_grad():
            logits = task(batch)[0]
        target = batch["target"][0, 1:]
        total += float(F.cross_entropy(logits, target, reduction="sum"))
        count, right = count + len(target), right + int((logits.argmax(-1) == target).sum())
    assert quick.metrics["test/perplexity"] == pytest.approx(math.exp(total / count), rel=1e-5)
    assert quick.metrics["test/token_accuracy"] == pytest.approx(right / count)


def test_validation_judges_what_is_written(quick: Result) -> None:
    task = quick.task.eval()
    batch = task.collate([quick.data.val[i] for i in range(50)])
    meters = task.metrics()
    with torch.no_grad():
        task.measure(meters, task(batch), batch)
    assert float(meters["exact"].compute()) == pytest.approx(quick.metrics["val/exact"])
    assert float(meters["bleu"].compute()) == pytest.approx(quick.metrics["val/bleu"], rel=1e-4)


def test_batches(quick: Result) -> None:
    task = quick.task
    assert isinstance(task, TranslationTask)
    batch = TranslationCollate(task.texts, train=True)([("a b", "b a"), ("c", "c")])
    assert "reference" not in batch and batch["target"].shape == (2, 4) and batch["source"].shape == (2, 3)
    assert batch["target"][:, 0].tolist() == [BOS, BOS] and batch["target"][1, 2:].tolist() == [EOS, PADDING]
    assert task.count(batch) == 5
    assert list(task.lengths(quick.data, "val")) == [len(source.split()) + 2 for source, _ in quick.data.val]


def test_label_smoothing_is_torch_s_and_ignores_padding(quick: Result) -> None:
    task = quick.task.eval()
    assert isinstance(task, TranslationTask)
    batch = task.collate([("a b", "b a"), ("c", "c")])
    with torch.no_grad():
        logits = task(batch)
        real = batch["target"][:, 1:] != PADDING
        expected = F.cross_entropy(logits[real], batch["target"][:, 1:][real], label_smoothing=task.label_smoothing)
        assert float(task.training_loss(logits, batch)) == pytest.approx(float(expected))
        spoiled = torch.where(real[..., None], logits, 1e6)
        assert float(task.training_loss(spoiled, batch)) == pytest.approx(float(expected))


def test_a_checkpoint_translates_as_the_run_did(quick: Result) -> None:
    import vsattn

    translator = vsattn.load(quick.folder)
    written = (quick.folder / "test.hypothesis.txt").read_text(encoding="utf-8").splitlines()
    sources = [quick.data.test[i][0] for i in range(70)]
    assert [found.text for found in translator.predict(sources)] == written


def test_a_blank_source_stays_blank(quick: Result) -> None:
    task = quick.task.eval()
    batch = task.collate([("a b", "a b"), (" ", "a")])
    with torch.no_grad():
        first, blank = task.remember(task(batch), batch)["found"]
    assert first.ids and blank.ids == () and blank.finished


def test_what_is_written_has_room_in_learned_positions(tmp_path: Path) -> None:
    words = ["positions=learned", "tokenizer.max_length=15", "encoder.num_layers=1", "decoder.num_layers=1"]
    result = experiment(tmp_path, "data.strings=[50,5,5]", "trainer.max_epochs=1", *words)
    assert result.metrics["test/unfinished"] == 5  # after one epoch it cannot end
    assert (result.folder / "plots" / "alignment.png").is_file()


@pytest.mark.parametrize("batches", [["batch_vectors=null"], []])
def test_a_test_sentence_that_is_too_long_stops_the_run_at_its_start(batches: list[str], tmp_path: Path) -> None:
    for split, line in (("train", "a b"), ("val", "a b"), ("test", "a " * 20)):
        for side in ("source", "target"):
            (tmp_path / f"{split}_{side}").write_text(f"{line}\n" * 3)
    own = [f"data.{name}={tmp_path / name}" for name in sorted(file.name for file in tmp_path.iterdir())]
    words = ["data=parallel", *own, "data.source_language=de", "data.target_language=en", "tokenizer.max_length=9"]
    with pytest.raises(DataError, match=r"test of Parallel: 3 of 3 pairs have more than tokenizer.max_length=9"):
        experiment(tmp_path, *words, *batches)
    assert not (tmp_path / "run" / "metrics.csv").exists()


@pytest.mark.parametrize("words", ["task=translation", "experiment=multi30k_gru", "experiment=multi30k_transformer"])
def test_learning_by_heart_composes(words: str) -> None:
    config, found = plain_config([words, "debug=overfit"])
    assert found + faults(config) == [] and config["schedule"] is None


def test_the_models_of_a_comparison_have_about_as_many_weights() -> None:
    config, _ = plain_config(["task=translation"])
    pairs = [("ein zwei drei", "one two three")] * 3
    sizes = []
    for words in config["compare"]["models"].values():
        chosen, found = plain_config(["task=translation", *words])
        assert found + faults(chosen) == []
        tokenizer = build(chosen["tokenizer"], Tokenizer).fit(pairs)
        model = build_model(chosen, tokenizer, num_classes=len(tokenizer.writes))
        sizes.append(sum(p.numel() for p in model.parameters()))
    assert max(sizes) < 1.1 * min(sizes)


def test_the_floor_is_the_nearest_training_sentence(quick: Result) -> None:
    task, data = quick.task, NumberPhrases(phrases=[50, 5, 5])
    data.setup(0)
    data.test = [data.train[3], ("neun", "no such number")]
    assert task.floor(data).tolist() == [True, False]


def test_shapes_of_every_stage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["encoder=bigru", "decoder=gru", "positions=none", "head=vector", "dim=256", "debug=shapes"]
    experiment(tmp_path, "data.strings=[50,5,5]", *words)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("shape ")]
    printed = {line[10:57].strip(): line[57:].strip() for line in lines}
    assert printed["encoder outputs"] == "17 x 8 x 1024"
    assert printed["encoder hidden (last forward, first backward)"] == "2 x 8 x 512"
    assert printed["first decoder state"] == "8 x 512" and printed["attention of one step"] == "8 x 17"
    assert printed["decoder outputs"] == "15 x 8 x 256"


@pytest.mark.parametrize(
    "words",
    [
        ("encoder=bigru", "encoder.hidden_dim=48", "positions=none"),  # and the Transformer writes
        ("decoder=gru", "decoder.hidden_dim=32", "head=vector"),  # from a Transformer's memory
        ("tokenizer=word_pairs", "head=tied", "positions=learned", "tokenizer.max_length=40"),
        ("tokenizer=subwords_small", "tokenizer.source.model=unigram", "encoder=birnn", "task.teacher_forcing=0.5"),
        ("score=additive", "encoder.norm_placement=post", "decoder.norm_placement=post", "positions=none"),
        ("rotary=halves", "positions=none", "relation=t5", "schedule=noam", "structure=window"),
        ("norm=rms", "encoder=cnn", "schedule=inverse_sqrt", "trainer.precision=bf16-mixed"),
    ],
    ids=lambda words: words[0],
)
def test_parts_go_together(words: tuple[str, ...], tmp_path: Path) -> None:
    result = experiment(tmp_path, *words, "debug=fast", "data.strings=[40,6,6]")
    assert (
        math.isfinite(result.metrics["test/loss"]) and len((tmp_path / "run" / "test.hypothesis.txt").read_text()) > 0
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["decoder=none"], "decoder=transformer"),
        (["head=mean"], "head=tied"),
        (["task.beam_width=0"], "beam_width at least 1"),
        (["tokenizer=words", "decoder=none", "head=vector", "data=toy"], "decoder=transformer"),
        (["+callbacks.shapes={_target_: vsattn.tasks.shapes.ShowShapes, batch: 0}"], "at least 1"),
    ],
)
def test_what_does_not_fit_is_told(words: list[str], message: str, tmp_path: Path) -> None:
    config, found = plain_config([*TOY, *words])
    assert found == []
    with pytest.raises(ConfigError, match=message):
        run(config, tmp_path / "run")


def test_a_decoder_needs_text(tmp_path: Path) -> None:
    config, _ = plain_config(["task=image", "decoder=transformer"])
    with pytest.raises(ConfigError, match="decoder=none"):
        run(config, tmp_path / "run")


def test_a_beam_finds_what_is_at_least_as_likely(quick: Result) -> None:
    import vsattn

    translator, sources = vsattn.load(quick.folder), [quick.data.test[i][0] for i in range(70)]
    mean = [np.mean([one.log_prob for one in translator.predict(sources, width=width, length_penalty=0.0)])
            for width in (1, 2, 5)]  # fmt: skip
    assert mean[0] < mean[2] and mean[0] <= mean[1] + 1e-6
