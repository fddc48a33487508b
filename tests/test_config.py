"""The shipped configs: they compose, they fit the classes they name, and what comes later wins."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from vsattn.attention import MultiHeadAttention
from vsattn.build import build
from vsattn.compose import groups, jobs, plain_config
from vsattn.errors import ConfigError
from vsattn.scores import SplitAdditive
from vsattn.tasks.checks import faults

NAMED = {
    "task", "data", "tokenizer", "positions", "structure", "score", "relation", "rotary", "norm", "encoder", "decoder",
    "head", "optimizer", "schedule", "trainer", "logger", "callbacks", "experiment", "debug",
}  # fmt: skip
#: What options need beside themselves: their task, and what only the user knows.
NEEDS = {
    "image_folder": "data.root=pictures",
    "python_source pronouns ud_ewt bert_base word_pieces": "task=labeling",
    "conllu columns": "task=labeling data.train=a data.val=b data.test=c",
    "fsdd fsdd_speaker speech_commands vowels vowel_sequences wav2vec2_base waves": "task=speech",
    "audio_folder": "task=speech data.root=clips",
    "digit_strings vowel_strings": "task=recognition",
    "digits_graph karate planetoid pyg": "task=node",
    "numbers multi30k toy subwords subwords_small word_pairs": "task=translation",
    "parallel": "task=translation data.train_source=a data.train_target=b data.val_source=c data.val_target=d "
    "data.source_language=de data.target_language=en",
    "multi_task": "task=labeling data=ud_ewt data.beside={xpos:49}",
    "gru": "task=translation encoder=bigru",
    "own_graph": "task=node data.graph=graph.pt",
}
OPTIONS = [(group, option) for group, options in groups().items() for option in options]


def compose(*overrides: str, **options: Any) -> dict[str, Any]:
    config, found = plain_config(overrides, **options)
    assert found == []
    return config


def faults_of(*overrides: str, **options: Any) -> list[str]:
    config, found = plain_config(overrides, **options)
    return found + faults(config)


@pytest.fixture
def own(tmp_path: Path) -> Callable[[str, str], Path]:
    """Write a file of a user's own config folder."""

    def write(name: str, text: str) -> Path:
        path = tmp_path / "own" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return tmp_path / "own"

    return write


def test_the_groups_are_those_of_the_readme() -> None:
    assert set(groups()) == NAMED


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_composes_and_fits_its_classes(group: str, option: str) -> None:
    own = {name: word for names, word in NEEDS.items() for name in names.split()}
    assert faults_of(f"{group}={option}", *own.get(option, "").split()) == []


def test_every_file_of_the_folder_is_plain_yaml(root: Path) -> None:
    files = sorted((root / "conf").rglob("*.yaml"))
    assert len(files) == len(OPTIONS) + 1
    for file in files:
        assert isinstance(yaml.safe_load(file.read_text(encoding="utf-8")), dict), file


def test_the_defaults() -> None:
    config = compose("task=image")
    assert config == compose()
    assert config["data"]["_target_"].endswith("Digits")
    assert config["relation"] is None and config["encoder"]["attention"]["relation"] is None
    assert config["encoder"]["attention"]["score"] == config["score"]
    assert config["paths"] == {"data": "~/.cache/vsattn"}


def test_data_folder_by_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VSATTN_DATA", "../some/where")
    assert compose("data=mnist")["data"]["root"] == "../some/where"
    assert compose("data=mnist", "paths.data=/else")["data"]["root"] == "/else"


def test_single_pixels_bring_their_recipe_and_words_still_win() -> None:
    config = compose("tokenizer=pixels")
    assert config["encoder"]["attention"]["relation"]["start"] == "convolution"
    assert config["encoder"]["num_heads"] == 8
    assert compose("tokenizer=pixels", "relation=none")["relation"] is None
    assert compose("tokenizer=pixels", "relation=relative_2d")["relation"]["start"] == "zeros"
    assert compose("tokenizer=pixels", "optimizer.lr=0.5")["optimizer"]["lr"] == 0.5
    assert compose("relation=none", "tokenizer=pixels", "encoder=cnn")["encoder"]["_target_"].endswith("ConvEncoder")


def test_data_bring_their_tokenizer_and_words_still_win() -> None:
    assert compose("data=fashion_mnist")["tokenizer"]["pools"] == [0, 2]
    assert "pools" not in compose("data=fashion_mnist", "tokenizer=patches")["tokenizer"]
    folder = ("data=image_folder", "data.root=x")
    assert compose(*folder)["tokenizer"]["size"] == 64
    assert compose(*folder, "tokenizer=patches", "tokenizer.size=null")["tokenizer"]["size"] is None


def test_cls_brings_a_prefix_vector() -> None:
    assert compose("head=cls")["encoder"]["num_prefix"] == 1
    assert compose("head=cls", "encoder.num_prefix=3")["encoder"]["num_prefix"] == 3


def test_heads_rotation_and_weights_are_chosen_on_the_command_line() -> None:
    config = compose("rotary=halves", "rotary.max_wavelength=50", "score=split_additive", "score.normalizer=entmax15",
                     "encoder.attention.num_key_value_heads=2", "encoder.attention.is_global=true")  # fmt: skip
    attention = config["encoder"]["attention"]
    assert attention["rotary"] == config["rotary"] and attention["score"] == config["score"]
    layer = build(attention, MultiHeadAttention)(24, 4)
    assert layer.rotary.pairing == "halves" and layer.rotary.max_wavelength == 50
    assert isinstance(layer.score, SplitAdditive) and layer.score.normalizer == "entmax15"
    assert layer.num_key_value_heads == 2 and layer.is_global
    plain = build(compose()["encoder"]["attention"], MultiHeadAttention)(24, 4)
    assert plain.rotary is None and plain.score.normalizer == "softmax"
    assert plain.num_key_value_heads == 4 and not plain.is_global


def test_words_over_debug_over_experiment_over_task(own: Callable[[str, str], Path]) -> None:
    """Choices and values alike: the command line wins over debug, debug over experiment, experiment over task."""
    task = """\
# @package _global_
defaults:
  - override /score: dot
  - override /head: mean
  - override /positions: none
task:
  _target_: vsattn.tasks.image.ImageTask
seed: 1
dim: 10
"""
    own("task/mine.yaml", task)
    layer = "# @package _global_\ndefaults:\n  - override /score: {}\n{}seed: {}\n{}"
    own("experiment/mine.yaml", layer.format("cosine", "  - override /head: cls\n", 2, "dim: 20\nnum_workers: 2\n"))
    folder = own("debug/mine.yaml", layer.format("bilinear", "", 3, "num_workers: 3\n"))

    def chosen(*words: str) -> tuple[Any, ...]:
        config = compose(*words, config_dir=folder)
        classes = tuple(
            config[part] and config[part]["_target_"].split(".")[-1] for part in ("score", "head", "positions")
        )
        return (*classes, config["seed"], config["dim"], config["num_workers"])

    everything = ("task=mine", "experiment=mine", "debug=mine")
    assert chosen("task=mine") == ("Dot", "MeanHead", None, 1, 10, 0)
    assert chosen("task=mine", "experiment=mine") == ("Cosine", "ClsHead", None, 2, 20, 2)
    assert chosen(*everything) == ("Bilinear", "ClsHead", None, 3, 20, 3)
    assert chosen(*everything, "score=additive", "seed=4") == ("Additive", "ClsHead", None, 4, 20, 3)


def test_an_experiment_overlays_the_values_of_the_groups(own: Callable[[str, str], Path]) -> None:
    folder = own(
        "experiment/mine.yaml",
        "# @package _global_\ndefaults:\n  - override /tokenizer: pixels\noptimizer:\n  lr: 0.7\n",
    )
    config = compose("experiment=mine", config_dir=folder)
    assert config["optimizer"]["lr"] == 0.7 and config["optimizer"]["_target_"] == "torch.optim.AdamW"
    assert config["relation"]["start"] == "convolution"


def test_the_shipped_experiment_keeps_what_it_says_beside_the_baseline() -> None:
    config = compose("experiment=fashion_mnist", "encoder=cnn")
    assert config["data"]["_target_"].endswith("FashionMNIST")
    assert config["encoder"]["_target_"].endswith("ConvEncoder")
    assert faults(config) == []


def test_what_the_baseline_does_not_use_is_null() -> None:
    config = compose("encoder=cnn")
    assert [config[group] for group in ("structure", "score", "relation")] == [None, None, None]


@pytest.mark.parametrize(
    "word",
    ["score=additive", "score=scaled_dot", "relation=relative_2d", "rotary=halves", "structure=full", "score.a=1"],
)
def test_a_choice_that_would_do_nothing_is_a_fault(word: str) -> None:
    word = f"+{word}" if "." in word else word
    (fault,) = faults_of("encoder=cnn", word)
    assert fault.startswith(word.lstrip("+").split("=")[0]) and "ConvEncoder" in fault and "do nothing" in fault


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("task=imgae", "did you mean 'image'?"),
        ("taks=image", "did you mean 'task'?"),
        ("scroe=dot", "did you mean 'score'?"),
        ("sead=1", "did you mean 'seed'?"),
        ("optimizer.lrr=1", "did you mean 'lr'?"),
        ("+optimizer.lrr=1", "did you mean 'lr'?"),
        ("optimizer.betas=[0.9,0.95]", "write +optimizer.betas=[0.9,0.95]"),
        ("trainer.max_epoch=3", "did you mean 'max_epochs'?"),
        ("+trainer.max_epoch=3", "did you mean 'max_epochs'?"),
        ("trainer.fast_dev=1", "did you mean 'fast_dev_run'?"),
        ("trainer.precision=bf17", "'bf16-mixed'"),
        ("trainer.max_epochs=many", "a whole number or null is expected, not 'many'"),
        ("+trainer.callbacks=[]", "use the groups callbacks and logger"),
        ("encoder.num_layer=2", "did you mean 'num_layers'?"),
        ("encoder.num_layers=2.5", "a whole number is expected, not 2.5"),
        ("encoder.attention.score.activation=relu", "write score.activation instead"),
        ("+encoder.attention.score.activation=relu", "write score.activation instead"),
        ("encoder.dropout.x=1", "has nothing inside"),
        ("score=additiv", "did you mean 'additive'?"),
        ("score=null", "choices: additive"),
        ("relation=null", "choices: alibi"),
        ("score.normalizer=sparsmax", "one of 'softmax', 'sparsemax', 'entmax15' is expected, not 'sparsmax'"),
        ("encoder.attention.rotary.pairing=halves", "write rotary.pairing instead"),
        ("rotary=halves rotary.pairing=quarters", "one of 'interleaved', 'halves' is expected"),
        ("relation=edge_features relation.to=keys", "one of 'score', 'key', 'key_value' is expected"),
        ("score={a:1}", "choices: additive"),
        ("+experiment=fashion_mnist", "write experiment=fashion_mnist"),
        ("~encoder", "cannot be left out"),
        ("encoder", "key=value; for example encoder=bigru"),
        ("seed", "key=value"),
        ("seed=", "a whole number of at least 0 is expected, not ''"),
        ("seed=[", "cannot be read"),
        ("seed=-1", "at least 0"),
        ("seed=true", "a whole number"),
        ("seed=0,1", "needs -m"),
        ("task=image,image", "needs -m"),
        ("dim=0", "at least 1"),
        ("num_threads=0", "at least 1 or null"),
        ("+bla=1", "there is no such setting"),
        ("head=cls encoder=cnn", "choose head=mean or head=attention"),
        ("data=image_folder", "data.root: needs a value"),
        ("score._target_=os.system", "may not be built from a config"),
        ("head._target_=vsattn.scores.Dot", "not a Head"),
        ("optimizer.lr=-1", "optimizer: Invalid learning rate: -1"),
        ("schedule.pct_start=2", "schedule: "),
        ("optimizer._partial_=false", "add _partial_: true"),
        ("positions.max_wavelength=${no.such}", "'no.such' not found"),
        ("callbacks.checkpoint.monitr=x", "did you mean 'monitor'?"),
        ("+callbacks.mine=3", "callbacks.mine: a component"),
        ("logger.tensorboard._target_=os.system", "may not be built from a config"),
        ("data.augment.rotate=3", "did you mean 'rotation'?"),
    ],
)
def test_a_mistake_is_told_with_what_to_do(word: str, says: str) -> None:
    found = faults_of(*word.split(" "))
    assert len(found) == 1, found
    assert says in found[0]


def test_all_mistakes_at_once() -> None:
    found = faults_of("taks=image", "score=additiv", "optimizer.lrr=1", "+encoder.bla=2", "dim=x", "seed=[")
    assert [line.split(":")[0] for line in found] == [
        "score=additiv", "seed=[", "taks=image", "optimizer.lrr=1", "dim", "encoder.bla",
    ]  # fmt: skip


def test_hydras_own_complaints_come_as_one_message(own: Callable[[str, str], Path]) -> None:
    folder = own("experiment/bad.yaml", "# @package _global_\ndefaults:\n  - override /scroe: dot\n")
    own("experiment/torn.yaml", "dim: [1\nseed: 3\n")
    for words, options, says in (
        (["hydra.runn.dir=x"], {}, "runn"),
        (["experiment=bad"], {"config_dir": folder}, "scroe"),
        (["experiment=torn"], {"config_dir": folder}, "torn.yaml"),
        ([], {"config_dir": folder / "no"}, "--config-dir"),
        ([], {"config_name": "configg"}, "configg"),
    ):
        with pytest.raises(ConfigError, match=says):
            plain_config(words, **options)


def test_jobs_of_a_sweep() -> None:
    assert jobs(["seed=0,1", "score=dot"]) == [["seed=0", "score=dot"], ["seed=1", "score=dot"]]
    assert jobs(["seed=range(1,4)"]) == [["seed=1"], ["seed=2"], ["seed=3"]]
    assert jobs(["+optimizer.eps=1e-3,1e-4"]) == [["+optimizer.eps=0.001"], ["+optimizer.eps=0.0001"]]
    assert [job[0] for job in jobs(["encoder=glob(*)"])] == [f"encoder={name}" for name in groups()["encoder"]]
    assert jobs(["seed=["]) == [["seed=["]]
    many = jobs(["seed=range(0,40)", "dim=range(1,41)"])
    assert len(many) == 80 and {job[0] for job in many} == {f"seed={i}" for i in range(40)}
