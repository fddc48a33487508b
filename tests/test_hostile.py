"""Checkpoints and configs made to do harm: nothing of them runs, nothing hangs, and the error says what is wrong."""

from __future__ import annotations

import copy
import gzip
import inspect
import os
import pickle
import shutil
import typing
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import standins
import torch
from fuzzing import limited
from PIL import Image
from torch import nn

import vsattn
from vsattn import signatures
from vsattn.build import build, check, parameters_of, resolve
from vsattn.checkpoint import payload, read
from vsattn.decoders import Decoder
from vsattn.encoders import Encoder
from vsattn.errors import CheckpointError, ConfigError, DataError
from vsattn.heads import Head
from vsattn.model import build_model
from vsattn.positions import Positions
from vsattn.run import main
from vsattn.tasks.data import text_files
from vsattn.tasks.data.folders import ClassFolders
from vsattn.tasks.data.own_graph import read_adjacency
from vsattn.tasks.data.parallel import read_texts
from vsattn.tasks.data.pyg import Planetoid
from vsattn.tokenizers import Patches, Text
from vsattn.tokenizers.base import Tokenizer
from vsattn.tokenizers.images import read_image

#: A class of an allowed package that evaluates what it is given.
EVALUATES = {
    "_target_": "torch_geometric.nn.Sequential",
    "input_args": "x, y=__import__('pathlib').Path('PWNED').touch()",
    "modules": ["x"],
}
RUNS = "__import__('pathlib').Path('PWNED').touch()"

MODEL: dict[str, Any] = {
    "dim": 8,
    "tokenizer": {"_target_": "vsattn.tokenizers.Patches", "patch_size": 4},
    "positions": {"_target_": "vsattn.positions.Sinusoidal"},
    "encoder": {
        "_target_": "vsattn.encoders.TransformerEncoder",
        "num_layers": 1,
        "num_heads": 2,
        "attention": {"_target_": "vsattn.attention.MultiHeadAttention", "_partial_": True},
    },
    "head": {"_target_": "vsattn.heads.MeanHead"},
    "task": {"_target_": "vsattn.tasks.image.ImageTask"},
}


@pytest.fixture(scope="module")
def good() -> dict[str, Any]:
    """A checkpoint of an untrained model."""
    tokenizer = Patches(patch_size=4).fit([np.full((8, 8), 100, np.uint8), np.zeros((8, 8), np.uint8)])
    weights = build_model(MODEL, tokenizer, num_classes=2).state_dict()
    held = {f"model.{name}": weight for name, weight in weights.items()}
    return {"state_dict": held, "vsattn": payload(MODEL, tokenizer, ["a", "b"])}


@pytest.fixture
def load(good: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Change a checkpoint, load it, and return the error, after making sure that nothing of it ran."""
    monkeypatch.chdir(tmp_path)

    def load(change: Callable[[dict[str, Any]], Any]) -> str:
        content = copy.deepcopy(good)
        change(content)
        torch.save(content, "evil.ckpt")
        with limited(10), pytest.raises(CheckpointError) as caught:
            vsattn.load("evil.ckpt")
        message = str(caught.value)
        assert "evil.ckpt" in message and len(message) < 2500
        assert all(line.isprintable() for line in message.split("\n"))
        assert [path.name for path in tmp_path.iterdir()] == ["evil.ckpt"]
        return message

    return load


def config_of(content: dict[str, Any]) -> dict[str, Any]:
    return content["vsattn"]["config"]


def test_the_checkpoint_itself_is_good(good: dict[str, Any], tmp_path: Path) -> None:
    torch.save(good, tmp_path / "good.ckpt")
    answer = vsattn.load(tmp_path / "good.ckpt").predict([np.zeros((8, 8), np.uint8)])[0]
    assert answer.label in ("a", "b")


@pytest.mark.parametrize("target", [
    "os.system", "builtins.exec", "builtins.eval", "subprocess.Popen", "pathlib.Path", "pickle.loads", "runpy.run_path",
    "lightning.pytorch.cli.os.system", "torch.nn.modules.module.functools.partial", "torch.hub.load", "torch.load",
    "torch_geometric.data.download.os.system", "torch_geometric.nn.Sequential", "torch_geometric.datasets.Planetoid",
    "torch_geometric.llm.models.LLM", "lightning.pytorch.Trainer", "torch.utils.data.DataLoader", "vsattn.build.build",
    "vsattn.vsattn.heads.MeanHead", "vsattn.tests.test_hostile.Runs", "vsattn.tests.conftest.Path", "vsattn.pytest.X",
    "vsattn.tasks.data.pyg.Planetoid", "vsattn.tasks.image.ImageTask", "vsattn.heads.__class__",
    "vsattn.heads.nn.Linear", "vsattn..heads.MeanHead", "vsattn.heads.MeanHead\n", "vsattn.heads." + "M" * 9999,
    "vsattn.heads.MeanHead; import os", "../heads.MeanHead", "", "MeanHead", None, 3, [], {}, ["vsattn.heads.MeanHead"],
])  # fmt: skip
@pytest.mark.parametrize("part", ["head", "tokenizer"])
def test_no_part_of_the_model_is_another_class(target: Any, part: str, load) -> None:
    assert f"rebuilt here: {part}: " in load(lambda c: config_of(c)[part].update(_target_=target))


@pytest.mark.parametrize("partial", [True, False])
@pytest.mark.parametrize(
    "place",
    [
        lambda c, bad: c.update(positions={"_target_": "vsattn.convert.wav2vec2.ConvPositions", "convolution": bad}),
        lambda c, bad: c["encoder"].update(
            _target_="vsattn.encoders.graph.GraphConvEncoder", convolution=bad, activation=bad, dropout=0.0
        ),
        lambda c, bad: c["encoder"].update(norm=bad),
        lambda c, bad: c["encoder"].update(dropout=bad),
        lambda c, bad: c["encoder"].update(_partial_=bad),
        lambda c, bad: c["encoder"]["attention"].update(score=bad),
        lambda c, bad: c["encoder"]["attention"].update(structure={"_target_": "vsattn.structure.Dense", "mask": bad}),
        lambda c, bad: c["tokenizer"].update(size=[bad, bad]),
        lambda c, bad: c["tokenizer"].update(patch_size={"deep": [{"deeper": bad}]}),
        lambda c, bad: c["head"].update({"unheard": bad}),
        lambda c, bad: c.update(positions=bad),
        lambda c, bad: c.update(dim=bad),
        lambda c, bad: c.update(decoder=bad),
    ],
)
def test_a_class_that_evaluates_text_is_built_nowhere(place, partial: bool, load) -> None:
    assert load(lambda c: place(config_of(c), EVALUATES | ({"_partial_": True} if partial else {})))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda c: config_of(c).update(dim=2**62), "dim is 4611686018427387904, and its weights allow at most"),
        (lambda c: config_of(c)["encoder"].update(num_layers=10**9), "encoder.num_layers is 1000000000"),
        (lambda c: config_of(c)["encoder"].update(num_layers=10**40), "encoder.num_layers is 1000"),
        (lambda c: config_of(c)["encoder"].update(num_prefix=2**63 - 1), "rebuilt here"),
        (lambda c: config_of(c)["encoder"].update(dropout=10**400), "encoder.dropout: a number is expected"),
        (lambda c: config_of(c)["encoder"].update(dropout=float("nan")), "encoder.dropout: a number is expected"),
        (lambda c: config_of(c)["encoder"].update({3: 4}), "encoder.3: TransformerEncoder has no argument"),
        (lambda c: config_of(c)["encoder"].update({("a", "\x1b[2J\nok"): 4}), "TransformerEncoder has no argument"),
        (lambda c: config_of(c)["encoder"].update({"\x1b[2J\nall is well": 4}), r"'\x1b[2J\nall is well'"),
        (lambda c: config_of(c)["encoder"].update(dropout="x" * 10**7), "encoder.dropout: a number is expected"),
        (lambda c: config_of(c)["encoder"].update(dropout=[[0.1]] * 10**5), "encoder.dropout: a number is expected"),
        (lambda c: config_of(c)["encoder"].update(dropout=_nested(200)), "rebuilt here"),
        (lambda c: config_of(c)["encoder"].update(attention=_nested(200, config_of(c)["encoder"])), "rebuilt here"),
        (lambda c: config_of(c)["encoder"].update(attention=config_of(c)["encoder"]), "rebuilt here"),
        (lambda c: config_of(c).update(encoder=[config_of(c)["encoder"]]), "encoder: a component is a mapping"),
        (lambda c: config_of(c).update(task="vsattn.tasks.image.ImageTask"), "task: a component is a mapping"),
        (lambda c: config_of(c).update(data=[1]), "data: a component is a mapping"),
        (lambda c: config_of(c).update(dim="8"), "rebuilt here"),
        (lambda c: c["vsattn"].update(classes=[1, 2]), "lacks a valid classes"),
        (lambda c: c["vsattn"].update(classes=["a"] * 10**6), "weights in evil.ckpt do not fit"),
        (lambda c: c["vsattn"].update(schema=10**30), "has schema 1000"),
        (lambda c: c["vsattn"]["tokenizer_state"].update(channels=10**12), "no state of Patches"),
        (lambda c: c["vsattn"]["tokenizer_state"].update(mean=[float("inf")]), "no state of Patches"),
        (lambda c: c["vsattn"].update(tokenizer_state={}), "no state of Patches"),
        (lambda c: c["state_dict"].update({3: torch.zeros(1)}), "keys that are no names"),
        (lambda c: c["state_dict"].update(dict.fromkeys(c["state_dict"], "text")), "evil.ckpt"),
        (lambda c: c["state_dict"].update({n: w.to("meta") for n, w in c["state_dict"].items()}), "do not fit"),
        (lambda c: c["state_dict"].update({n: w[..., :1] for n, w in c["state_dict"].items()}), "evil.ckpt"),
        (lambda c: c.update(state_dict={}), "evil.ckpt"),
    ],
)
def test_odd_values_end_in_one_line(change, says: str, load) -> None:
    assert says in load(change)


def _nested(depth: int, inner: Any = 0) -> Any:
    for _ in range(depth):
        inner = {"_target_": "vsattn.encoders.TransformerEncoder", "_partial_": True, "attention": inner}
    return inner


class Runs:
    """Runs code when it is unpickled by a reader that lets it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, (RUNS,)


@pytest.mark.parametrize("place", ["whole", "config", "weight", "beside"])
@pytest.mark.parametrize("protocol", [2, 5])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_runs_code_is_refused(
    place: str, protocol: int, zipped: bool, good, tmp_path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    content: Any = copy.deepcopy(good)
    if place == "whole":
        content = Runs()
    elif place == "config":
        config_of(content)["dim"] = Runs()
    elif place == "weight":
        content["state_dict"]["model.head.classify.weight"] = Runs()
    else:
        content["optimizer_states"] = [Runs()]
    torch.save(content, "evil.ckpt", pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=r"evil.ckpt cannot be read as a checkpoint"):
        vsattn.load("evil.ckpt")
    Path("plain.ckpt").write_bytes(pickle.dumps(content if place == "whole" else Runs(), protocol))
    with pytest.raises(CheckpointError, match=r"plain.ckpt cannot be read as a checkpoint"):
        vsattn.load("plain.ckpt")
    assert not Path("PWNED").exists()


def test_a_part_that_is_packed_or_altered_is_refused(good, tmp_path: Path) -> None:
    torch.save(good, tmp_path / "good.ckpt")
    with zipfile.ZipFile(tmp_path / "good.ckpt") as parts:
        held = {name: parts.read(name) for name in parts.namelist()}
    with zipfile.ZipFile(tmp_path / "bomb.ckpt", "w", zipfile.ZIP_DEFLATED) as parts:
        for name, content in held.items():
            parts.writestr(name, content)
    with pytest.raises(CheckpointError, match=r"bomb.ckpt .*is compressed"):
        read(tmp_path / "bomb.ckpt")
    weight = good["state_dict"]["model.head.classify.weight"].numpy().tobytes()
    content = (tmp_path / "good.ckpt").read_bytes()
    start = content.index(weight)
    flipped = content[:start] + bytes([content[start] ^ 1]) + content[start + 1 :]
    (tmp_path / "flipped.ckpt").write_bytes(flipped)
    with pytest.raises(CheckpointError, match=r"flipped.ckpt .*the checksum of its part .* is wrong"):
        read(tmp_path / "flipped.ckpt")


def test_every_truncation_is_one_line(good, tmp_path: Path) -> None:
    torch.save(good, tmp_path / "good.ckpt")
    content = (tmp_path / "good.ckpt").read_bytes()
    for length in range(0, len(content), max(1, len(content) // 40)):
        (tmp_path / "cut.ckpt").write_bytes(content[:length])
        with pytest.raises(CheckpointError, match=r"^[^\n]*cut.ckpt cannot be read as a checkpoint: [^\n]*$"):
            vsattn.load(tmp_path / "cut.ckpt")


def test_the_state_of_a_text_has_no_rules_of_its_own() -> None:
    text = Text(model="words", min_count=1).fit(["a b", "b c"])
    state = text.state["tokenizer"]
    assert Text(model="words").load_state({"tokenizer": state}).encode("a b") == text.encode("a b")
    rule = '"normalizer":{"type":"Replace","pattern":{"Regex":"(x+x+)+y"},"content":""},'
    slow = state.replace('"normalizer":null,', rule)
    assert slow != state
    with pytest.raises(DataError, match="rules of its own"):
        Text(model="words").load_state({"tokenizer": slow})
    with pytest.raises(DataError, match="rules of its own"):
        Text(model="words", split="spaces").load_state({"tokenizer": state})


def _known_slots(roots: list[type]) -> dict[type, list[tuple[type, str, Any]]]:
    """Return the base classes of ours that can be reached, with the parameters of the classes that fit them."""
    found: dict[type, list[tuple[type, str, Any]]] = {}
    todo = list(roots)
    while todo:
        slot = todo.pop()
        if slot in found or not slot.__module__.startswith("vsattn"):
            continue
        found[slot] = []
        for cls in _below(slot):
            hints = signatures.hints(cls)
            for name in parameters_of(cls) if not inspect.isabstract(cls) else ():
                annotation = hints.get(name, typing.Any)
                found[slot].append((cls, name, annotation))
                todo += [signatures.slot(annotation, partial) for partial in (True, False)]
    return found


def _below(cls: type) -> set[type]:
    found, todo = {cls}, [cls]
    while todo:
        new = {sub for sub in todo.pop().__subclasses__() if sub.__module__.startswith("vsattn.")} - found
        found |= new
        todo += new
    return found


def test_what_a_checkpoint_can_reach_opens_no_file_and_evaluates_nothing() -> None:
    """Every parameter of every class that `load` may build is a number, a choice or a part of ours, but for a few."""
    import vsattn.convert.wav2vec2
    import vsattn.tokenizers as tokenizers

    for name in tokenizers.__all__:
        getattr(tokenizers, name)
    slots = _known_slots([Tokenizer, Positions, Encoder, Decoder, Head])
    assert len(slots) > 12 and any(cls is vsattn.convert.wav2vec2.ConvPositions for cls, *_ in slots[Positions])
    texts, modules = set(), set()
    for cls, name, annotation in (row for rows in slots.values() for row in rows):
        options = signatures.options(annotation)
        if any(option in (str, Path, os.PathLike, typing.Any, object) for option in options):
            texts.add(f"{cls.__name__}.{name}")
        if any(signatures.slot(annotation, partial) in (nn.Module, object) for partial in (True, False)):
            modules.add(f"{cls.__name__}.{name}") if nn.Module in options else None
    assert texts <= {"Text.language"}  # a code that spaCy and sacremoses know
    assert modules <= {"ConvPositions.convolution", "GraphConvEncoder.activation"}  # of torch.nn and vsattn alone
    for name in ("torch_geometric.nn.GCNConv", "torch_geometric.nn.Sequential", "lightning.pytorch.LightningModule"):
        (fault,) = check({"_target_": name}, nn.Module, path="part", injected=("in_channels", "out_channels"))[:1]
        assert "only classes of vsattn and torch.nn" in fault
    assert isinstance(build({"_target_": "torch.nn.ReLU"}, nn.Module), nn.ReLU)


def test_what_lies_beside_a_checkout_is_not_of_vsattn() -> None:
    for target in ("vsattn.vsattn.heads.MeanHead", "vsattn.tests.tiny.X", "vsattn.conftest.X", "vsattn.setup.X"):
        with pytest.raises(ConfigError, match="may not be built from a config"):
            resolve(target)
    assert resolve("vsattn.tasks.image.ImageTask").__name__ == "ImageTask"


def test_a_picture_starts_no_other_program(tmp_path: Path) -> None:
    """PIL hands PostScript to Ghostscript, whatever a file is called."""
    (tmp_path / "a.png").write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n/x 1 def\n%%EOF\n"
    )
    with Image.open(tmp_path / "a.png") as image:
        assert image.format == "EPS"
    with pytest.raises(DataError, match=r"a.png cannot be read as a picture: the format is not known"):
        read_image(tmp_path / "a.png")


def test_a_small_file_that_unpacks_to_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_files, "MAX_BYTES", 10**6)
    (tmp_path / "a.gz").write_bytes(gzip.compress(b"a\n" * 10**6))
    with pytest.raises(DataError, match=r"a.gz cannot be read: it unpacks to more than 1,000,000 bytes"):
        read_texts(tmp_path / "a.gz")
    (tmp_path / "b.gz").write_bytes(gzip.compress(b"a\n") + gzip.compress(b"b\n") + bytes(100))
    assert read_texts(tmp_path / "b.gz") == ["a", "b"]
    Image.new("1", (20_000, 20_000)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"a.png cannot be read as a picture: .*pixels"):
        read_image(tmp_path / "a.png")


def test_a_name_that_no_file_system_takes_is_told() -> None:
    with pytest.raises(DataError, match="cannot be read"):
        ClassFolders(Path("x" * 300), (".png",), "picture")
    with pytest.raises(DataError, match="cannot be read"):
        read_texts("~nobody-of-that-name/a.txt")


def test_indices_outside_of_a_sparse_matrix_are_refused(tmp_path: Path) -> None:
    arrays = {"row": [0, 99999], "col": [0, 1], "data": [1.0, 1.0], "shape": [3, 3], "format": b"coo"}
    np.savez(tmp_path / "a.npz", **{name: np.array(value) for name, value in arrays.items()})
    with pytest.raises(DataError, match=r"a.npz cannot be read as an adjacency matrix"):
        read_adjacency(tmp_path / "a.npz", 3, "source")


def test_a_data_set_of_pickles_runs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    standins.citations(tmp_path / "Cora" / "raw")
    Planetoid(tmp_path).setup(0)
    Planetoid(tmp_path).setup(0)
    torch.save(Runs(), tmp_path / "Cora" / "processed" / "data.pt")
    with pytest.raises(DataError, match=r"data.pt cannot be read .*delete the folder"):
        Planetoid(tmp_path).setup(0)
    shutil.rmtree(tmp_path / "Cora" / "processed")
    (tmp_path / "Cora" / "raw" / "ind.cora.graph").write_bytes(pickle.dumps(Runs(), 2))
    with pytest.raises(DataError, match=r"ind.cora.graph: it holds .*exec"):
        Planetoid(tmp_path).setup(0)
    assert not Path("PWNED").exists()


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("encoder.dropout=1.5", "encoder"),
        ("encoder.dropout=nan", "encoder.dropout: a number is expected, not nan"),
        ("optimizer.lr=inf", "optimizer.lr"),
        ("optimizer.lr=-1", "Invalid learning rate"),
        ("num_workers=100000", "a whole number from 0 to 256"),
        ("num_threads=100000", "a whole number from 1 to 1,024"),
        ("batch_size=0", "at least 1"),
        ("+norm.eps=-1", "eps of a norm is positive"),
        ("positions.max_wavelength=0", "max_wavelength is positive"),
        ("tokenizer.size=[]", "size is null, a longer side"),
        ("tokenizer.widths=[-1]", "positive"),
        ("task.label_smoothing=2", "label_smoothing is in [0, 1)"),
        ("task.mixup=nan", "task.mixup"),
        ("callbacks.early_stopping.patience=-1", "callbacks.early_stopping.patience: a whole number of at least 0"),
        ("trainer.max_epochs=-5", "max_epochs"),
        ("trainer.gradient_clip_val=nan", "trainer.gradient_clip_val"),
        ("trainer.accelerator=tpuu", "accelerator"),
        ("trainer.limit_val_batches=0", "trainer.limit_val_batches: a number above 0 is expected, not 0"),
        ("trainer.limit_train_batches=-1", "trainer.limit_train_batches"),
        ("trainer.accumulate_grad_batches=0", "trainer.accumulate_grad_batches: a number from 1 is expected, not 0"),
        ("+trainer.check_val_every_n_epoch=0", "trainer.check_val_every_n_epoch: a number from 1"),
        ("trainer.gradient_clip_val=-1", "trainer.gradient_clip_val: a number from 0 is expected, not -1"),
        ("+trainer.overfit_batches=-1", "trainer"),
        ("+task.model.x=1", "task.model: the run gives this itself"),
        ("score._target_=torch_geometric.nn.Sequential", "not a Score"),
        ("norm._target_=torch_geometric.nn.Sequential", "only classes of vsattn and torch.nn"),
        ("+encoder.attention.bias._target_=os.system", "encoder.attention.bias"),
    ],
)
def test_a_bad_word_of_the_command_never_ends_in_a_traceback(
    word: str, says: str, tmp_path, capsys, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with limited(60):
        assert (
            main(["debug=fast", "logger=none", "num_threads=1" if "num_threads" not in word else "seed=1", word]) == 2
        )
    said = capsys.readouterr()
    assert says in said.err and "Traceback" not in said.err + said.out
    assert not list(tmp_path.rglob("*.ckpt")) and not (tmp_path / "PWNED").exists()


def test_data_that_unpickle_are_named_by_a_person(tmp_path: Path) -> None:
    from vsattn.tasks.data.base import of_checkpoint

    dataset = {"_target_": "torch_geometric.datasets.KarateClub", "_partial_": True}
    with pytest.raises(ConfigError, match="PyG reads pickles, which can run code, where the checkpoint's config says"):
        of_checkpoint({"_target_": "vsattn.tasks.data.pyg.PyG", "dataset": dataset})
    of_checkpoint({"_target_": "vsattn.tasks.data.pyg.Planetoid", "root": str(tmp_path)})
    of_checkpoint({"_target_": "vsattn.tasks.data.images.Digits"})
