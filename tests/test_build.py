"""The builder: what it makes, what it finds wrong, and what it refuses to touch."""

from __future__ import annotations

import functools
import sys
import types

import pytest
import torch
from torch import nn

from vsattn import build as building
from vsattn.attention import MultiHeadAttention
from vsattn.build import allow_package, build, check, resolve
from vsattn.encoders import Encoder, TransformerEncoder
from vsattn.errors import ConfigError
from vsattn.layers import FeedForward
from vsattn.positions import Learned, Positions
from vsattn.relations import Relative2d
from vsattn.scores import Additive, Score
from vsattn.structure import Structure, Window

HOSTILE = [
    "os.system",
    "builtins.eval",
    "subprocess.Popen",
    "importlib.import_module",
    "lightning.pytorch.cli.os.system",
    "torch_geometric.data.download.os.system",
    "torch.nn.modules.module.functools.partial",
    "torch.nn.modules.module.Any",
    "torch.nn.modules.module.OrderedDict",
    "torch.hub.load",
    "torch.load",
    "torch.nn.init.xavier_uniform_",
    "vsattn.scores.__builtins__",
    "vsattn.scores.Score.__init__",
    "vsattn.scores.__class__",
    "vsattn.build.build",
    "vsattnx.scores.Score",
    "torch.nnx.Linear",
]


def encoder_config() -> dict:
    return {
        "_target_": "vsattn.encoders.TransformerEncoder",
        "num_layers": 2,
        "num_heads": 2,
        "attention": {
            "_target_": "vsattn.attention.MultiHeadAttention",
            "_partial_": True,
            "structure": {"_target_": "vsattn.structure.Window", "left": 1, "right": None},
            "score": {"_target_": "vsattn.scores.Additive", "_partial_": True, "activation": "leaky_relu"},
            "relation": {"_target_": "vsattn.relations.Relative2d", "_partial_": True, "start": "convolution"},
        },
        "feed_forward": {"_target_": "vsattn.layers.FeedForward", "_partial_": True, "ratio": 3},
        "norm_placement": "post",
    }


def test_builds_the_same_as_python() -> None:
    torch.manual_seed(0)
    built = build(encoder_config(), Encoder, path="encoder", dim=8, num_classes=3)
    torch.manual_seed(0)
    attention = functools.partial(
        MultiHeadAttention,
        structure=Window(1, None),
        score=functools.partial(Additive, activation="leaky_relu"),
        relation=functools.partial(Relative2d, start="convolution"),
    )
    feed_forward = functools.partial(FeedForward, ratio=3)
    written = TransformerEncoder(8, 2, 2, attention=attention, feed_forward=feed_forward, norm_placement="post")
    assert repr(built) == repr(written)
    assert all(torch.equal(a, b) for a, b in zip(built.parameters(), written.parameters()))
    assert built.blocks[0].attention.structure == Window(1, None)


def test_the_config_is_left_as_it_was() -> None:
    config = encoder_config()
    build(config, Encoder, dim=8)
    assert config == encoder_config()


def test_injects_by_name_what_is_not_given() -> None:
    config = {"_target_": "vsattn.positions.Learned", "grid": None}
    positions = build(config, Positions, dim=6, grid=(2, 3), num_classes=4)
    assert isinstance(positions, Learned)
    assert positions.table.shape == (6, 6)
    given = build({**config, "dim": 4}, Positions, dim=6, grid=(2, 3))
    assert given.table.shape == (6, 4)


def test_partials_of_the_top_take_what_is_injected_and_nested_ones_do_not() -> None:
    schedule = {"_target_": "torch.optim.lr_scheduler.OneCycleLR", "_partial_": True, "pct_start": 0.2}
    made = build(schedule, torch.optim.lr_scheduler.LRScheduler, total_steps=10, max_lr=0.1)
    assert made.keywords == {"pct_start": 0.2, "total_steps": 10, "max_lr": 0.1}
    encoder = build(encoder_config(), Encoder, dim=8)  # its feed_forward has a parameter `dim` too, given by position
    assert encoder.blocks[0].feed_forward is not None


def test_lists_become_tuples_where_a_tuple_is_annotated() -> None:
    config = {"_target_": "torch.optim.AdamW", "_partial_": True, "lr": 1, "betas": [0.9, 0.95]}
    assert build(config, torch.optim.Optimizer).keywords["betas"] == (0.9, 0.95)


def test_all_faults_at_once_with_their_places() -> None:
    config = encoder_config()
    del config["num_heads"]
    config["num_layer"] = 3
    config["dropout"] = "0.1"
    config["norm_placement"] = "middle"
    config["norm"] = {"_target_": "vsattn.layers.LayerNorm"}
    config["feed_forward"]["_target_"] = "vsattn.layers.feedforwad.FeedForward"
    config["attention"]["score"]["activation"] = "tan"
    config["attention"]["structure"] = {"_target_": "vsattn.structure.Window", "lef": 1, "left": True, "right": 1.5}
    config["attention"]["relation"] = {"_target_": "vsattn.scores.Additive", "_partial_": True}
    config["attention"]["head_dim"] = [4]
    with pytest.raises(ConfigError) as caught:
        build(config, Encoder, path="encoder", dim=8)
    faults = dict(line.split(": ", 1) for line in str(caught.value).splitlines())
    assert set(faults) == {
        "encoder.num_heads",
        "encoder.num_layer",
        "encoder.dropout",
        "encoder.norm_placement",
        "encoder.norm",
        "encoder.feed_forward",
        "encoder.attention.score.activation",
        "encoder.attention.structure.lef",
        "encoder.attention.structure.left",
        "encoder.attention.structure.right",
        "encoder.attention.relation",
        "encoder.attention.head_dim",
    }
    assert "did you mean 'num_layers'?" in faults["encoder.num_layer"]
    assert "did you mean vsattn.layers.feedforward?" in faults["encoder.feed_forward"]
    assert "'tanh', 'leaky_relu'" in faults["encoder.attention.score.activation"]
    assert "_partial_: true" in faults["encoder.norm"]
    assert "not a Relation" in faults["encoder.attention.relation"]
    assert "whole number or null" in faults["encoder.attention.head_dim"]


@pytest.mark.parametrize("target", HOSTILE)
@pytest.mark.parametrize("slot", [object, Score])
def test_hostile_targets_are_refused(target: str, slot: type) -> None:
    for config in ({"_target_": target}, {"_target_": target, "_partial_": True}):
        with pytest.raises(ConfigError, match=r"may not be built|cannot be imported|is not a class|no class"):
            build(config, slot, path="score")
    nested = encoder_config()
    nested["attention"]["score"] = {"_target_": target, "_partial_": True}
    assert check(nested, Encoder, path="encoder", injected=["dim"])[0].startswith("encoder.attention.score: ")


#: A class of an allowed package that evaluates a text it is given.
EVALUATES = {
    "_target_": "torch_geometric.nn.Sequential",
    "input_args": "x -> __import__('pathlib').Path('PWNED').touch()",
    "modules": [],
}


@pytest.mark.parametrize("partial", [True, False])
@pytest.mark.parametrize(
    "place",
    [
        lambda c, bad: c.update(norm=bad),
        lambda c, bad: c.update(norm={"_target_": "torch.nn.LSTM", "_partial_": True, "x": bad}),
        lambda c, bad: c.update(norm={"_target_": "vsattn.layers.LayerNorm", "_partial_": True, "eps": bad}),
        lambda c, bad: c.update(dropout=bad),
        lambda c, bad: c.update(num_layers=[bad]),
        lambda c, bad: c["attention"].update(structure=bad),
        lambda c, bad: c["attention"].update(score={"_target_": "vsattn.scores.Additive", "_partial_": True, "a": bad}),
        lambda c, bad: c["attention"].update(bias={"deep": [bad]}),
    ],
)
def test_a_class_that_evaluates_text_is_built_in_no_slot(place, partial, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = encoder_config()
    place(config, {**EVALUATES, **({"_partial_": True} if partial else {})})
    with pytest.raises(ConfigError):
        build(config, Encoder, path="encoder", dim=8)
    assert not (tmp_path / "PWNED").exists()


@pytest.mark.parametrize(
    "target", ["", ".", ".scores.Score", "vsattn..scores", "Score", "vsattn.scores.Dot ", 3, None, []]
)
def test_what_is_no_dotted_path_is_refused(target: object) -> None:
    with pytest.raises(ConfigError, match="dotted path"):
        resolve(target)


def test_refusing_imports_nothing_foreign() -> None:
    for name in ("this", "antigravity"):
        sys.modules.pop(name, None)
        assert check({"_target_": f"{name}.X"}, object)
        assert name not in sys.modules


@pytest.mark.parametrize("target", ["torch.nn.Linear", "vsattn.structure.Full", "vsattn.heads.MeanHead"])
def test_a_class_of_another_kind_is_refused(target: str) -> None:
    (fault,) = check({"_target_": target, "_partial_": True}, Score, path="score")
    assert fault == f"score: {target} is not a Score, and only that belongs here"


def test_a_class_that_pretends_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A foreign class reached through a module of ours keeps its own module, and is refused."""
    import vsattn.scores

    monkeypatch.setattr(vsattn.scores, "Popen", types.SimpleNamespace, raising=False)
    with pytest.raises(ConfigError, match="not a class of an allowed package"):
        resolve("vsattn.scores.Popen")


def test_a_package_is_added_in_python_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(building, "_user_packages", [])
    module = types.ModuleType("adapters_of_mine")

    class Mine(Score):
        """Somebody's own score."""

    Mine.__module__ = "adapters_of_mine"
    module.Mine = Mine  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "adapters_of_mine", module)
    config = {"_target_": "adapters_of_mine.Mine", "num_heads": 1, "head_dim": 2}
    with pytest.raises(ConfigError, match="allow_package"):
        build(config, Score)
    allow_package("adapters_of_mine")
    assert isinstance(build(config, Score), Mine)
    with pytest.raises(ConfigError, match="dotted name"):
        allow_package("no good")


@pytest.mark.parametrize("config", [None, 3, "vsattn.scores.Dot", [], {}, {"num_heads": 1}])
def test_what_is_no_component_is_refused(config: object) -> None:
    (fault,) = check(config, Score, path="score")
    assert "mapping with a _target_" in fault


def test_objects_where_a_factory_is_due_and_the_reverse() -> None:
    config = encoder_config()
    del config["attention"]["score"]["_partial_"]
    config["attention"]["structure"]["_partial_"] = True
    first, second = sorted(check(config, Encoder, path="encoder", injected=["dim"]))
    assert "encoder.attention.score: " in first and "add _partial_: true" in first
    assert "encoder.attention.structure: " in second and "_partial_ must go" in second
    (fault,) = check({"_target_": "vsattn.scores.Dot", "_partial_": "yes"}, Score, path="score")
    assert fault == "score._partial_: true or false is expected, not 'yes'"


def test_what_a_class_itself_refuses_is_told_with_its_place() -> None:
    with pytest.raises(ConfigError, match=r"^encoder: .*8.*3"):
        build(
            {"_target_": "vsattn.encoders.TransformerEncoder", "num_layers": 1, "num_heads": 3},
            Encoder,
            path="encoder",
            dim=8,
        )
    with pytest.raises(ConfigError, match=r"^norm: Linear refused its arguments"):
        build({"_target_": "torch.nn.Linear", "in_features": -1, "out_features": 2}, nn.Module, path="norm")


def test_arguments_that_a_class_hands_on_are_judged_only_when_nearly_right() -> None:
    from lightning.pytorch import Callback

    config = {"_target_": "lightning.pytorch.callbacks.EMAWeightAveraging", "decay": 0.9}
    assert check(config, Callback) == []
    (fault,) = check({**config, "deccay": 0.9}, Callback, path="ema")
    assert fault.startswith("ema.deccay: ") and "did you mean 'decay'?" in fault


def test_null_only_where_null_is_meant() -> None:
    config = encoder_config()
    config["attention"]["relation"] = None
    assert check(config, Encoder, injected=["dim"]) == []
    config["attention"]["score"] = None
    (fault,) = check(config, Encoder, path="encoder", injected=["dim"])
    assert fault == "encoder.attention.score: a component that makes a Score is expected, not None"


def test_structures_are_built_as_objects() -> None:
    assert build({"_target_": "vsattn.structure.Window", "left": 2, "right": 0}, Structure) == Window(2, 0)
