"""Every task, experiment and debug config: composed as the command does, trained for a step, and loaded without it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import standins
import torch

import vsattn
from vsattn.compose import groups, plain_config
from vsattn.hypotheses import Translation
from vsattn.predictor import Prediction
from vsattn.tasks.experiment import run

#: What every config runs with here: everything as chosen, but small.
SMALL = (
    "num_threads=1 seed=3 logger=none dim=32 trainer.accelerator=cpu trainer.precision=32-true ++trainer.max_steps=1 \
++trainer.limit_train_batches=1 ++trainer.limit_val_batches=1 ++trainer.limit_test_batches=1"
)
#: What makes a task's own data small.
DATA = {
    "speech": "data.speakers=[2,1,1]",
    "recognition": "data.speakers=[2,1,1] data.strings=[20,4,4] task.beam_width=2",
    "node": "data.labelled=3",
    "translation": "data.phrases=[60,8,8] tokenizer.source.vocab_size=200 task.beam_width=2",
}
#: What an experiment needs beside itself, and what makes it small.
MORE = {
    "bert_base": "task=labeling tokenizer.num_layers=2 tokenizer.num_heads=2 tokenizer.hidden_dim=32",
    "cora": "encoder.head_dim=4",
    "fsdd_strings": "data.strings=[12,4,4] task.beam_width=2",
    "multi30k_gru": "encoder.hidden_dim=16 decoder.hidden_dim=16 tokenizer.source.vocab_size=200",
    "multi30k_transformer": "encoder.num_layers=1 decoder.num_layers=1 tokenizer.source.vocab_size=200",
    "pronouns": "data.pairs=[60,8,8] data.plain=100 data.alone=300",
    "vit_b_16": "dim=48 encoder.num_layers=1 batch_size=4 tokenizer.size=[64,64]",
    "wav2vec2_base": "task=speech data.speakers=[1,1,1] dim=48 encoder.num_layers=1 tokenizer.channels=16",
}
#: The task that a debug config is tried with, unless any will do, and what it runs with.
DEBUGGED = {"shapes": "task=translation", "profile": "task=image callbacks.profile.warmup=0 callbacks.profile.steps=1"}

TABLE = groups()
CASES = {
    **{f"task={name}": f"task={name} {DATA.get(name, '')}" for name in TABLE["task"]},
    **{f"experiment={name}": f"experiment={name} {MORE.get(name, '')}" for name in TABLE["experiment"]},
    **{f"debug={name}": f"debug={name} {DEBUGGED.get(name, 'task=image')}" for name in TABLE["debug"]},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return a folder of small stand-ins for the standard data sets."""
    with pytest.MonkeyPatch.context() as patch:
        root = tmp_path_factory.mktemp("data")
        standins.make(root, patch)
        yield root


@pytest.mark.parametrize("case", CASES)
def test_it_trains_a_step_and_its_checkpoint_stands_alone(case: str, data: Path, tmp_path: Path) -> None:
    words = f"{SMALL} paths.data={data} {CASES[case]} {_like_its_task(CASES[case])}".split()
    config, faults = plain_config(words)
    assert faults == []
    result = run(config, tmp_path / "run")
    assert result.trainer.global_step == 1
    item, _ = result.data.test[0]
    item = item[0] if config["task"]["_target_"].endswith("TranslationTask") else item

    (tmp_path / "run" / "checkpoints" / "best.ckpt").rename(tmp_path / "alone.ckpt")
    shutil.rmtree(tmp_path / "run")
    predictor = vsattn.load(tmp_path / "alone.ckpt")
    assert predictor.config == {**config, "trainer": predictor.config["trainer"]}
    assert predictor.classes == result.task.classes
    (answer,) = predictor.predict([item])
    _judge(answer, predictor.classes)
    again = vsattn.load(tmp_path / "alone.ckpt").predict([item])
    assert again == [answer]


def _like_its_task(words: str) -> str:
    """Return what makes small the data of the task that a debug config is tried with."""
    tasks = [word.removeprefix("task=") for word in words.split() if word.startswith("task=")]
    return DATA.get(tasks[0], "") if "debug=" in words and tasks else ""


def _judge(answer: Any, classes: list[str]) -> None:
    """Check that an answer is one."""
    if isinstance(answer, list):
        assert answer
        for one in answer:
            _judge(one, classes)
    elif isinstance(answer, Prediction):
        assert answer.label in classes and list(answer.probabilities) == classes
        assert torch.tensor(list(answer.probabilities.values())).sum() == pytest.approx(1.0, abs=1e-5)
    elif isinstance(answer, Translation):
        assert isinstance(answer.text, str) and answer.log_prob < 0
    else:
        assert set(answer.text.split()) <= set(classes)
