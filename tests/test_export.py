"""Exported programs answer as their models do, in other sizes and without this package; what the command refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import tiny
import torch
from sklearn.metrics import accuracy_score

import vsattn
from vsattn.build import build
from vsattn.compose import plain_config
from vsattn.errors import ConfigError, DataError, VsattnError
from vsattn.export import main
from vsattn.exporting import (
    describe,
    export_program,
    load_onnx,
    load_program,
    made_up,
    program_inputs,
    save_program,
    to_onnx,
)  # fmt: skip
from vsattn.exporting.check import difference, other_sizes
from vsattn.model import build_model
from vsattn.predictor import Predictor
from vsattn.tasks.data.images import Digits
from vsattn.tasks.experiment import run
from vsattn.tokenizers import Graph
from vsattn.tokenizers.base import Tokenizer

GENERATOR = torch.Generator().manual_seed(0)


def graph(nodes: int, features: int = 5) -> Graph:
    x = torch.rand(nodes, features, generator=GENERATOR)
    return Graph(x, torch.randint(nodes, (2, 2 * nodes), generator=GENERATOR))


def clip(samples: int) -> torch.Tensor:
    return torch.randn(samples, generator=GENERATOR)


def picture(height: int, width: int) -> torch.Tensor:
    return torch.randint(256, (1, height, width), dtype=torch.uint8, generator=GENERATOR)


#: Items of several lengths, none of which a model is traced with.
ITEMS = {
    "image": [picture(9, 12), picture(20, 7), picture(15, 15), picture(6, 31)],
    "labeling": [text.split() for text in ("the dog barks", "a", "an old dog that barks and barks all the night long")],
    "speech": [clip(16000), clip(7000), clip(9001), clip(12345)],
    "recognition": [clip(16000), clip(7000), clip(9001)],
    "node": [graph(8), graph(31), graph(3), graph(12)],
}
DIGITS = {"_target_": "vsattn.tasks.data.images.Digits"}
PAIRS = [("ein hund bellt laut", "a dog barks loud"), ("der alte baum", "the old tree")] * 3


def predictor_of(task: str, *words: str) -> Predictor:
    """Return a model with the weights that it starts from."""
    config, faults = plain_config([f"task={task}", "dim=16", *words])
    assert not faults, faults
    torch.manual_seed(0)
    tokenizer = build(config["tokenizer"], Tokenizer, path="tokenizer").fit(ITEMS.get(task, PAIRS))
    classes = tokenizer.writes or ["a", "b", "c"]
    return Predictor(build_model(config, tokenizer, num_classes=len(classes)), tokenizer, classes, config=config)


def assert_same_answers(outputs: tuple[torch.Tensor, ...], predictor: Predictor, items: list) -> None:
    """Compare with each item's own answer, without padding."""
    expected = predictor.logits(items, batch_size=1)
    if isinstance(expected, torch.Tensor):
        torch.testing.assert_close(outputs[0], expected, atol=2e-5, rtol=0)
        return
    logits, real = outputs
    assert real.sum(1).tolist() == [len(rows) for rows in expected]
    for row, mask, rows in zip(logits, real, expected, strict=True):
        torch.testing.assert_close(row[mask], rows, atol=2e-5, rtol=0)


@pytest.mark.parametrize(
    "words",
    [
        "image encoder.num_layers=1 tokenizer=patches positions=learned head=cls encoder.num_prefix=1",
        "node encoder=diffusion",
    ],
)
def test_a_program_answers_as_its_model_whatever_the_sizes(words: str, tmp_path: Path) -> None:
    task = words.split()[0]
    predictor = predictor_of(*words.split())
    program = export_program(predictor)
    description = describe(predictor, program)
    save_program(program, tmp_path / "model.pt2", description)
    call, found = load_program(tmp_path / "model.pt2")
    assert found == description
    for items in (ITEMS[task], ITEMS[task][:1]):
        inputs = program_inputs(predictor.tokenizer, predictor.tokenizer.collate(items))
        assert list(inputs) == list(description["inputs"])
        assert_same_answers(call(inputs), predictor, items)


@pytest.mark.parametrize(
    "words",
    [
        "labeling encoder.num_layers=1 positions=learned structure=causal",
        "recognition encoder.num_layers=1 structure=window",
        "node encoder.num_layers=1 encoder.num_prefix=1",
    ],
)
def test_an_onnx_file_answers_as_its_model_and_says_what_it_takes(words: str, tmp_path: Path) -> None:
    task = words.split()[0]
    predictor = predictor_of(*words.split())
    program = export_program(predictor)
    to_onnx(program, tmp_path / "model.onnx", describe(predictor, program))
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    notes = session.get_modelmeta().custom_metadata_map
    assert json.loads(notes["classes"]) == predictor.classes and notes["vsattn"] == vsattn.__version__
    shapes = {value.name: value.shape for value in session.get_inputs()}
    assert shapes == {name: value["shape"] for name, value in json.loads(notes["inputs"]).items()}
    assert {size for shape in shapes.values() for size in shape if isinstance(size, str)} >= {"batch"}
    for items in (ITEMS[task], ITEMS[task][:1], ITEMS[task][1:2]):
        batch = program_inputs(predictor.tokenizer, predictor.tokenizer.collate(items))
        outputs = session.run(None, {name: batch[name].numpy() for name in shapes})
        assert_same_answers(tuple(map(torch.from_numpy, outputs)), predictor, items)


def test_a_program_writes_as_a_cached_decoder_does() -> None:
    predictor = predictor_of("translation", "encoder.num_layers=1", "decoder.num_layers=1")
    model, source = predictor.model, predictor.tokenizer.collate(["der hund bellt", "ein baum"])
    call = export_program(predictor).module()
    ids, state = torch.ones(2, 1, dtype=torch.long), model.start(source)
    with torch.no_grad():
        for _ in range(6):
            expected, state = model.step(ids[:, -1], state)
            given = torch.nn.functional.pad(ids, (0, 2 if ids.shape[1] == 1 else 1))  # the last is not read
            (logits,) = call({**source, "target": given})
            torch.testing.assert_close(logits[:, ids.shape[1] - 1].log_softmax(-1), expected, atol=2e-5, rtol=0)
            ids = torch.cat([ids, expected.argmax(-1, keepdim=True)], 1)


def test_sparse_features_of_nodes_are_given_dense() -> None:
    graphs = [Graph(torch.eye(30)[:n], torch.randint(n, (2, 2 * n), generator=GENERATOR)) for n in (30, 11)]
    predictor = predictor_of("node", "encoder.num_layers=1")
    predictor.tokenizer.fit(graphs)
    batch = predictor.tokenizer.collate(graphs)
    assert "feature_value" in batch
    inputs = program_inputs(predictor.tokenizer, batch)
    assert torch.equal(inputs["x"][1, :11], graphs[1].x) and not inputs["x"][1, 11:].any()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("labeling head=crf", "CrfHead cannot be exported: .*head=vector"),
        ("labeling encoder=birnn", "RecurrentEncoder cannot be exported: .*encoder=transformer"),
        ("node positions=random_walk", "RandomWalk cannot be exported: .*positions=none"),
        ("node encoder=gcn", "GCNEncoder cannot be exported: .*encoder=diffusion"),
        ("translation decoder=gru", "RecurrentDecoder cannot be exported: .*decoder=transformer"),
    ],
)
def test_what_cannot_be_exported_says_what_can(words: str, says: str) -> None:
    with pytest.raises(VsattnError, match=says):
        export_program(predictor_of(*words.split()))


def test_the_check_finds_a_program_of_another_model() -> None:
    predictor, other = (predictor_of("labeling", "encoder.num_layers=1") for _ in range(2))
    batch = made_up(predictor.tokenizer, 4, 9)

    def answer(model: Predictor, shift: float = 0.0):
        def call(inputs):
            with torch.no_grad():
                return model.model(inputs) + shift, inputs["mask"]

        return call

    assert difference(answer(other), predictor, batch).within(1e-6)
    assert not difference(answer(other, 1e-3), predictor, batch).within(1e-4)
    assert not difference(answer(other, float("nan")), predictor, batch).within(1e-4)
    masked = difference(lambda inputs: (predictor.model(inputs), ~inputs["mask"]), predictor, batch)
    assert not masked.within(1e9)

    def refuse(inputs):
        raise RuntimeError("length is at most 8\nand more")

    with pytest.raises(VsattnError, match=r"does not take word \(4, 9\).*: length is at most 8; no file was written"):
        difference(refuse, predictor, batch)


def test_lengths_to_check_are_others_and_within_limits() -> None:
    for limits in ({}, {"length": [1, 511]}, {"frames": [5, None]}, {"length": [1, 24]}, {"length": [20, 30]}):
        sizes = other_sizes(24, limits)
        assert len(sizes) == 2 and len({count for count, _ in sizes} | {3}) == 3
        for _, length in sizes:
            low, high = next(iter(limits.values()), [1, None])
            assert low <= length <= (high or length) and length != 24


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "a"
    small = {"max_epochs": 1, "limit_test_batches": 1, "accelerator": "cpu", "devices": 1}
    run(tiny.config(tokenizer={**tiny.config()["tokenizer"], "size": [8, 8]}, trainer=small), folder)  # quick to trace
    return folder


def test_a_program_runs_without_vsattn(trained: Path, root: Path, tmp_path: Path, capsys) -> None:
    output = tmp_path / "new" / "model.pt2"
    assert main([f"ckpt={trained}", f"output={output}"]) == 0
    assert sorted(path.name for path in output.parent.iterdir()) == ["model.pt2", "model.pt2.json"]
    shown = capsys.readouterr().out
    assert "inputs   image (batch, 1, 8, 8) float32\n" in shown
    assert shown.count("check    made-up items") == 2 and "items of the val split, image (64, 1, 8, 8)" in shown
    for path in output.parent.iterdir():
        assert str(root).encode() not in path.read_bytes() and str(tmp_path).encode() not in path.read_bytes()
    predictor = vsattn.load(trained)
    torch.save(program_inputs(predictor.tokenizer, predictor.tokenizer.collate(ITEMS["image"])), tmp_path / "batch")
    code = (
        "import sys; sys.modules['vsattn'] = None\n"
        "import torch\n"
        f"call = torch.export.load({str(output)!r}).module()\n"
        f"torch.save(call(torch.load({str(tmp_path / 'batch')!r}))[0].detach(), {str(tmp_path / 'logits')!r})"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert_same_answers((torch.load(tmp_path / "logits"),), predictor, ITEMS["image"])
    notes = json.loads((output.parent / "model.pt2.json").read_text())
    assert notes["tokenizer"]["state"] == predictor.tokenizer.state and notes["classes"] == predictor.classes
    copy = build(notes["tokenizer"]["config"], Tokenizer, path="tokenizer").load_state(notes["tokenizer"]["state"])
    assert torch.equal(copy.collate(ITEMS["image"])["image"], predictor.tokenizer.collate(ITEMS["image"])["image"])


def test_what_int8_loses_is_measured_on_the_data(trained: Path, tmp_path: Path, capsys) -> None:
    output = tmp_path / "small.onnx"
    assert main([f"ckpt={trained}", f"output={output}", "format=int8"]) == 0
    shown = capsys.readouterr().out
    data = Digits()
    data.setup(0)
    items, targets = zip(*(data.val[i] for i in range(len(data.val))), strict=True)
    predictor = vsattn.load(trained)
    session, parts = onnxruntime.InferenceSession(str(output)), []
    for batch in (items[:64], items[64:]):  # what 8 bits hold depends on the batch
        inputs = program_inputs(predictor.tokenizer, predictor.tokenizer.collate(batch))
        parts.append(session.run(None, {name: value.numpy() for name, value in inputs.items()})[0])
    logits = np.concatenate(parts)
    notes = json.loads((tmp_path / "small.onnx.json").read_text())["int8"]
    before = accuracy_score(targets, predictor.logits(items).argmax(-1))
    after = accuracy_score(targets, logits.argmax(-1))
    assert notes["items"] == len(items) == 90
    assert notes["float32"]["accuracy"] == pytest.approx(before) and notes["int8"]["accuracy"] == pytest.approx(after)
    (line,) = (line for line in shown.splitlines() if "val/accuracy" in line)
    assert line.split()[2:] == [f"{before:.4f}", f"{after:.4f}", f"{after - before:+.4f}"]
    weights = [tensor for tensor in onnx.load(str(output)).graph.initializer if len(tensor.dims) == 2]
    assert any(tensor.data_type == onnx.TensorProto.UINT8 for tensor in weights)
    assert np.abs(logits - predictor.logits(items).numpy()).max() < 0.5


def test_nothing_is_left_of_a_file_that_fails_the_check(trained: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    output = tmp_path / "model.pt2"
    output.write_text("mine")
    assert main([f"ckpt={trained}", f"output={output}"]) == 2
    assert "there already; choose another name, or say overwrite=true" in capsys.readouterr().err
    monkeypatch.setattr("vsattn.exporting.program.load_program", lambda path: (lambda b: (torch.zeros(5, 10),), {}))
    assert main([f"ckpt={trained}", f"output={output}", "overwrite=true", "split=none"]) == 1
    assert "the torch file does not answer as the model" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt2"] and output.read_text() == "mine"
    monkeypatch.undo()
    words = [f"ckpt={trained}", f"output={output / 'inside.pt2'}", "split=none"]
    assert main(words) == 1 and "inside.pt2 cannot be written" in capsys.readouterr().err
    (tmp_path / "folder.pt2").mkdir()
    assert main([words[0], f"output={tmp_path / 'folder.pt2'}", "overwrite=true"]) == 2
    assert "is a folder" in capsys.readouterr().err and not (tmp_path / "folder.pt2.json").exists()


def test_without_the_data_int8_wants_a_word(trained: Path, tmp_path: Path, capsys) -> None:
    held = torch.load(trained / "checkpoints" / "best.ckpt", weights_only=True)
    held["vsattn"]["config"]["data"] = {"_target_": "vsattn.tasks.data.images.ImageFolder", "root": "nowhere"}
    torch.save(held, tmp_path / "moved.ckpt")
    words = [f"ckpt={tmp_path / 'moved.ckpt'}", f"output={tmp_path / 'model.onnx'}", "format=int8"]
    assert main(words) == 1
    assert "to go without a measurement, say split=none" in capsys.readouterr().err
    for name, value in (("batch_size", -5), ("batch_size", "x"), ("seed", [1])):
        wrong = {**held["vsattn"], "config": {**held["vsattn"]["config"], "data": DIGITS, name: value}}
        torch.save({**held, "vsattn": wrong}, tmp_path / "moved.ckpt")
        assert main(words) == 1 and f"{name}={value!r}" in capsys.readouterr().err
    assert not (tmp_path / "model.onnx").exists()


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        ([], 2, "ckpt: is missing"),
        (["ckpt=x", "output=model.bin"], 2, "end it in .pt2 or .onnx"),
        (["ckpt=x", "output=model.pt2", "format=onnx"], 2, "a file of format=onnx ends in .onnx"),
        (["ckpt=x", "output=model.onnx", "format=onx"], 2, "did you mean 'onnx'?"),
        (["ckpt=x", "output=model.pt2", "split=vla"], 2, "did you mean 'val'?"),
        (["ckpt=x", "output=model.pt2", "length=long"], 2, "length: is a whole number of at least 4, not long"),
        (["ckpt=x", "output=model.pt2", "tolerance=nan"], 2, "tolerance: is a number above 0, not nan"),
        (["ckpt=nowhere", "output=model.pt2"], 1, "there is no checkpoint nowhere"),
        (["ckpt=BAD", "output=model.pt2"], 1, "cannot be read as a checkpoint"),
    ],
)
def test_mistakes(words: list[str], code: int, says: str, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.ckpt").write_bytes(b"\x80\x02.")
    assert main([word.replace("BAD", "bad.ckpt") for word in words]) == code
    assert says in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["bad.ckpt"]


def test_without_the_packages_onnx_says_how_to_get_them(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert main(["ckpt=nowhere", f"output={tmp_path / 'model.onnx'}"]) == 2
    assert "pip install 'vsattn[onnx]'" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="format=torch"):
        load_onnx(tmp_path / "model.onnx")


def test_files_that_are_no_programs(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"no model")
    (tmp_path / "model.pt2").write_bytes(b"no model")
    with pytest.raises(DataError, match="is no ONNX file"):
        load_onnx(tmp_path / "model.onnx")
    with pytest.raises(DataError, match=r"is no program of torch\.export"):
        load_program(tmp_path / "model.pt2")


def test_help_is_quick(root: Path) -> None:
    code = (
        "import sys, vsattn.export\n"
        "assert vsattn.export.main(['-h']) == 0\n"
        "heavy = {'torch', 'onnx', 'onnxruntime', 'lightning', 'hydra'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "python -m vsattn.export ckpt=" in done.stdout, done.stderr
