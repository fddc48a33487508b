"""Checkpoints that stand alone, and everything that can be wrong with one."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
import torch
from PIL import Image

import vsattn
from vsattn import checkpoint as checkpoints
from vsattn.errors import CheckpointError, ConfigError, DataError
from vsattn.tasks.experiment import run


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of two epochs."""
    return run(tiny.config(), tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture(scope="module")
def best(trained) -> Path:
    return trained.folder / "checkpoints" / "best.ckpt"


@pytest.fixture
def altered(best, tmp_path):
    """Write the checkpoint again, changed by a function."""

    def write(change) -> Path:
        content = torch.load(best, weights_only=True)
        change(content)
        torch.save(content, tmp_path / "altered.ckpt")
        return tmp_path / "altered.ckpt"

    return write


def test_loaded_model_gives_the_logits_of_the_test(trained, best) -> None:
    items = [trained.data.test[i][0] for i in range(len(trained.data.test))]
    logits = torch.cat([batch for batch, _ in trained.task.remembered])
    for path in (best, str(best), trained.folder):
        assert torch.equal(vsattn.load(path).logits(items), logits)
    answers = vsattn.load(best).predict(items[:100])
    assert [a.label for a in answers] == [trained.data.classes[i] for i in logits[:100].argmax(-1)]
    for answer, row in zip(answers, logits[:100].softmax(-1), strict=True):
        assert answer.probability == max(answer.probabilities.values()) == pytest.approx(float(row.max()))
        assert list(answer.probabilities) == trained.data.classes


def test_batches_change_nothing(trained, best) -> None:
    predictor = vsattn.load(best)
    items = [trained.data.test[i][0] for i in range(20)]
    whole = predictor.logits(items)
    assert torch.allclose(torch.cat([predictor.logits([item]) for item in items]), whole, atol=1e-5)
    assert torch.allclose(predictor.logits(iter(items), batch_size=7), whole, atol=1e-5)
    assert predictor.predict([]) == [] and predictor.logits([]).shape == (0, 10)


def test_pictures_of_different_sizes_go_together(best) -> None:
    predictor = vsattn.load(best)
    generator = torch.Generator().manual_seed(0)
    items = [
        torch.randint(0, 256, (1, h, w), dtype=torch.uint8, generator=generator) for h, w in ((8, 8), (5, 11), (12, 6))
    ]
    alone = torch.cat([predictor.logits([item]) for item in items])
    assert torch.allclose(predictor.logits(items), alone, atol=1e-4)


def test_prediction_needs_neither_lightning_nor_hydra(best, root, tmp_path) -> None:
    Image.new("L", (8, 8), 200).save(tmp_path / "p.png")
    code = (
        "import sys, vsattn\n"
        f"answer = vsattn.load({str(best)!r}).predict([{str(tmp_path / 'p.png')!r}])[0]\n"
        "heavy = {'lightning', 'pytorch_lightning', 'hydra', 'omegaconf', 'matplotlib', 'sklearn'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "print(answer.label)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() in "0123456789"


def test_checkpoint_holds_plain_types_alone(best) -> None:
    held = torch.load(best, weights_only=True)["vsattn"]
    assert held == checkpoints.plain(held)
    assert held["config"] == tiny.config()
    assert set(held) == {"schema", "version", "config", "tokenizer_state", "classes"}


def test_config_that_is_not_plain_is_refused() -> None:
    assert checkpoints.plain({"a": (1, Path("b")), 2: None}) == {"a": [1, "b"], "2": None}
    with pytest.raises(ConfigError, match=r"config\.optimizer\.0 is a Tensor"):
        checkpoints.plain({"optimizer": [torch.zeros(1)]})


def test_bad_items_are_named(best, tmp_path) -> None:
    predictor = vsattn.load(best)
    good = torch.zeros(1, 8, 8, dtype=torch.uint8)
    (tmp_path / "broken.png").write_bytes(b"\x89PNG nothing more")
    with pytest.raises(DataError, match=r"item 70 cannot be predicted: .*broken\.png cannot"):
        predictor.predict([good] * 70 + [tmp_path / "broken.png"])
    with pytest.raises(DataError, match=r"item 3 .*NaN"):
        predictor.predict([good] * 3 + [torch.full((8, 8), float("nan"))], batch_size=2)
    with pytest.raises(DataError, match="takes a list"):
        predictor.predict("picture.png")
    with pytest.raises(DataError, match="batch_size"):
        predictor.predict([good], batch_size=0)


def test_missing_files(tmp_path) -> None:
    with pytest.raises(CheckpointError, match=r"there is no checkpoint .*nothing\.ckpt"):
        vsattn.load(tmp_path / "nothing.ckpt")
    (tmp_path / "other.ckpt").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"no checkpoints/best\.ckpt; checkpoints in it: other\.ckpt"):
        vsattn.load(tmp_path)


@pytest.mark.parametrize("content", [b"", b"hello, this is text\n" * 50, b"PK\x03\x04 no archive", b"\x80\x02."])
def test_files_that_are_no_checkpoint(tmp_path, content) -> None:
    (tmp_path / "bad.ckpt").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"bad\.ckpt cannot be read as a checkpoint"):
        vsattn.load(tmp_path / "bad.ckpt")


@pytest.mark.parametrize("share", [0.2, 0.9, 0.999])
def test_truncated_checkpoint(best, tmp_path, share) -> None:
    whole = best.read_bytes()
    (tmp_path / "cut.ckpt").write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(CheckpointError, match=r"cut\.ckpt cannot be read"):
        vsattn.load(tmp_path / "cut.ckpt")


class Runs:
    """Would run code when it is unpickled."""

    def __reduce__(self):
        return (Path.touch, (Path("it_ran"),))


def test_checkpoint_with_code_in_it_is_not_run(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"vsattn": Runs(), "state_dict": {}}, "evil.ckpt")
    with pytest.raises(CheckpointError, match="cannot be read"):
        vsattn.load("evil.ckpt")
    assert not Path("it_ran").exists()


@pytest.mark.parametrize("foreign", [{"weight": torch.zeros(2)}, torch.zeros(3), {"state_dict": {}}, {"vsattn": {}}])
def test_foreign_checkpoint(tmp_path, foreign) -> None:
    torch.save(foreign, tmp_path / "foreign.ckpt")
    with pytest.raises(CheckpointError, match="not written by vsattn"):
        vsattn.load(tmp_path / "foreign.ckpt")


def test_newer_schema(altered) -> None:
    with pytest.raises(CheckpointError, match=r"schema 2 .*reads up to 1: install a newer vsattn"):
        vsattn.load(altered(lambda c: c["vsattn"].update(schema=2)))


def test_damaged_entry(altered) -> None:
    with pytest.raises(CheckpointError, match="lacks a valid schema, classes"):
        vsattn.load(altered(lambda c: c["vsattn"].update(schema="1", classes=None)))


@pytest.mark.parametrize(
    ("part", "target"),
    [
        ("encoder", "os.system"),
        ("encoder", "lightning.pytorch.cli.os.system"),
        ("head", "subprocess.Popen"),
        ("tokenizer", "vsattn.heads.MeanHead"),
        ("head", "vsattn.heads.NoSuchHead"),
    ],
)
def test_class_that_may_not_be_built(altered, part, target) -> None:
    path = altered(lambda c: c["vsattn"]["config"][part].update(_target_=target))
    with pytest.raises(CheckpointError, match=rf"cannot be rebuilt here: {part}"):
        vsattn.load(path)


def test_config_that_lacks_a_part(altered) -> None:
    with pytest.raises(CheckpointError, match=r"holds no config\.head"):
        vsattn.load(altered(lambda c: c["vsattn"]["config"].pop("head")))
    with pytest.raises(CheckpointError, match=r"holds no config\.dim"):
        vsattn.load(altered(lambda c: c["vsattn"].update(config=None)))


def test_tokenizer_state_that_is_not_one(altered) -> None:
    with pytest.raises(CheckpointError, match=r"cannot be rebuilt here: .*missing"):
        vsattn.load(altered(lambda c: c["vsattn"].update(tokenizer_state={"channels": "many"})))


def test_weights_that_do_not_fit(altered) -> None:
    with pytest.raises(CheckpointError, match=r"weights in .* do not fit .*size mismatch"):
        vsattn.load(altered(lambda c: c["vsattn"]["config"].update(dim=32)))
    with pytest.raises(CheckpointError, match="Missing key"):
        vsattn.load(altered(lambda c: c["state_dict"].pop("model.head.classify.weight")))


def test_reading_leaves_the_content_as_it_was(best) -> None:
    first = checkpoints.read(best)
    kept = copy.deepcopy(first["vsattn"])
    vsattn.load(best)
    assert checkpoints.read(best)["vsattn"] == kept
    assert all(not name.startswith("model.") for name in checkpoints.model_weights(first))
