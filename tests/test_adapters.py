"""What users add: files of their own folder, packages that publish tokenizers, and the worked examples."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

import vsattn
from vsattn.build import build, check, resolve
from vsattn.compose import plain_config
from vsattn.errors import CheckpointError, ConfigError, DataError
from vsattn.examples.points import PointCloud, Solids
from vsattn.examples.series import LAWS, Motions, TimeSeries, motion
from vsattn.extensions import config_dir, groups, published, published_packages, using
from vsattn.init import main as init
from vsattn.run import main as run
from vsattn.tasks.checks import faults
from vsattn.tokenizers.base import Tokenizer

ADAPTER = """\
import os
import subprocess
from subprocess import Popen
from vsattn.tokenizers import Pixels
class Own(Pixels):
    number = {number}
"""


@pytest.fixture(autouse=True)
def _no_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each test works in an empty folder, and no folder is named."""
    monkeypatch.delenv("VSATTN_CONFIG_DIR", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., Path]:
    """Make a config folder with the adapter ``own.py``."""

    def make(name: str = "mine", number: int = 1) -> Path:
        (tmp_path / name / "adapters").mkdir(parents=True)
        (tmp_path / name / "adapters" / "own.py").write_text(ADAPTER.format(number=number), encoding="utf-8")
        return tmp_path / name

    return make


def test_a_file_of_the_folder_is_a_module_while_the_folder_is_named(folder: Callable[..., Path]) -> None:
    first, second = folder("first", 1), folder("second", 2)
    target = "vsattn.adapters.own.Own"
    with pytest.raises(ConfigError, match=r"the file adapters/own\.py .* --config-dir or VSATTN_CONFIG_DIR: none is"):
        resolve(target)
    with using(first):
        assert build({"_target_": target}, Tokenizer).number == 1
        with using(second):
            assert resolve(target).number == 2
        assert resolve(target).number == 1
        with pytest.raises(ConfigError, match=rf"adapters/other\.py.*{first} has none; did you mean|{first} has none"):
            resolve("vsattn.adapters.other.Own")
    with pytest.raises(ConfigError, match="none is named"):
        resolve(target)


def test_the_variable_and_the_option_name_the_folder(
    folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = folder("first", 1), folder("second", 2)
    assert config_dir() is None
    monkeypatch.setenv("VSATTN_CONFIG_DIR", "first")
    assert config_dir() == first and config_dir("second") == second
    assert resolve("vsattn.adapters.own.Own").number == 1
    monkeypatch.setenv("VSATTN_CONFIG_DIR", "")
    assert config_dir() is None
    with pytest.raises(ConfigError, match="no folder nowhere for --config-dir"):
        config_dir("nowhere")
    monkeypatch.setenv("VSATTN_CONFIG_DIR", "nowhere")
    with pytest.raises(ConfigError, match="no folder nowhere for the variable VSATTN_CONFIG_DIR"):
        config_dir()


@pytest.mark.parametrize(
    "target",
    ["vsattn.adapters.own.os.system", "vsattn.adapters.own.Popen", "vsattn.adapters.own.subprocess.Popen",
     "vsattn.adapters._adapter_folders", "vsattn.adapters..own.Own", "vsattn.adapters.own", "own.Own",
     "adapters.own.Own"],
)  # fmt: skip
def test_a_config_reaches_only_classes_that_the_file_itself_defines(target: str, folder: Callable[..., Path]) -> None:
    with using(folder()), pytest.raises(ConfigError):
        resolve(target)


def test_an_adapter_of_the_wrong_kind_and_one_that_does_not_load_are_refused(folder: Callable[..., Path]) -> None:
    mine = folder()
    (mine / "adapters" / "broken.py").write_text("import nothing_of_this_name\n", encoding="utf-8")
    with using(mine):
        assert "is not a Head" in check({"_target_": "vsattn.adapters.own.Own"}, vsattn.Head)[0]
        with pytest.raises(ConfigError, match=r"No module named 'nothing_of_this_name'$"):
            resolve("vsattn.adapters.broken.Broken")


def test_a_config_names_no_folder(folder: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    """Not even by Hydra's own settings, where it takes the place of the person's."""
    mine, other = folder("mine"), folder("other")
    (other / "adapters" / "own.py").write_text("raise RuntimeError('this was run')", encoding="utf-8")
    recipe = {
        "defaults": [{"override /task": "image"}, {"override /tokenizer": "pixels"}],
        "tokenizer": {"_target_": "vsattn.adapters.own.Own"},
        "hydra": {"job": {"env_set": {"VSATTN_CONFIG_DIR": str(other)}}},
    }
    (mine / "experiment").mkdir()
    text = "# @package _global_\n" + yaml.safe_dump(recipe)
    (mine / "experiment" / "theirs.yaml").write_text(text, encoding="utf-8")
    assert run(["--config-dir", str(mine), "experiment=theirs", "debug=fast", "hydra.run.dir=run"]) == 2
    assert "env_set.VSATTN_CONFIG_DIR: only a person names this folder" in capsys.readouterr().err


def test_other_processes_find_it_too(folder: Callable[..., Path], root: Path) -> None:
    """As loaders' processes and a sweep's jobs do, which get pickles and the environment."""
    with using(folder()):
        made = pickle.dumps(resolve("vsattn.adapters.own.Own")())
        code = f"import sys, pickle; sys.path.insert(0, {str(root)!r}); print(pickle.loads({made!r}).number)"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout == "1\n", done.stderr


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A distribution that publishes a tokenizer, as pip leaves it, and a package that publishes none."""
    site = tmp_path / "site"
    texts = {
        "dots_for_vsattn/__init__.py": "",
        "dots_for_vsattn/dots.py": "from vsattn.tokenizers import Pixels\nclass Dots(Pixels):\n    pass\n",
        "silent_package/__init__.py": "from vsattn.tokenizers import Pixels\nclass Silent(Pixels):\n    pass\n",
        "dots-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: dots\nVersion: 1.0\n",
        "dots-1.0.dist-info/entry_points.txt": "[vsattn.tokenizers]\n"
        "dots = dots_for_vsattn.dots:Dots\nsystem = subprocess:Popen\n",
    }
    for name, text in texts.items():
        (site / name).parent.mkdir(parents=True, exist_ok=True)
        (site / name).write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(str(site))
    return str(site)


def test_an_installed_package_publishes_its_tokenizer(installed: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert published()["dots"] == "dots_for_vsattn.dots.Dots" and published_packages() == ["dots_for_vsattn"]
    assert "dots" in groups()["tokenizer"]
    config, found = plain_config(["tokenizer=dots", "+tokenizer.size=8"])
    assert found + faults(config) == []
    assert config["tokenizer"] == {"_target_": "dots_for_vsattn.dots.Dots", "size": 8}
    assert type(build(config["tokenizer"], Tokenizer)).__module__ == "dots_for_vsattn.dots"
    assert any("'dotz'; did you mean 'dots'?" in fault for fault in plain_config(["tokenizer=dotz"])[1])
    for target in ("silent_package.Silent", "subprocess.Popen"):  # nobody published it; not what publishing allows
        with pytest.raises(ConfigError, match=r"may not be built from a config.*dots_for_vsattn"):
            resolve(target)
    assert run(["--help"]) == 0
    assert " dots " in capsys.readouterr().out


def test_what_is_no_longer_installed_is_no_longer_allowed() -> None:
    assert published() == {}
    with pytest.raises(ConfigError, match="may not be built"):
        resolve("dots_for_vsattn.dots.Dots")


# The examples.

SMALL = ["dim=16", "encoder.num_layers=1", "trainer=cpu", "logger=none", "num_threads=1"]


#: A part of the time, the data and the size that the examples take.
PARTS = {"points": ["trainer.max_epochs=7", "dim=48"], "series": ["trainer.max_epochs=4", "encoder.num_layers=1"]}
SIZES = [1000, 50, 400]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Runs of both examples, as a user makes them: a folder, and what each says next, for a part of its time."""
    folder = tmp_path_factory.mktemp("examples")
    assert init([str(folder / "my"), "--example", "points", "--example", "series"]) == 0
    runs = {}
    for name, part in PARTS.items():
        words = ["--config-dir", str(folder / "my"), f"experiment={name}", "trainer=cpu", "logger=none", *part]
        runs[name] = folder / name
        assert run([*words, f"data.sizes={SIZES}".replace(" ", ""), f"hydra.run.dir={runs[name]}"]) == 0
    return {**runs, "folder": folder / "my"}


@pytest.mark.parametrize("name", ["points", "series"])
def test_an_example_beats_its_floor_and_its_model_needs_the_folder_to_be_loaded(
    name: str, trained: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    metrics = json.loads((trained[name] / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["floor/name"] == "logistic regression on a summary of each item"
    assert 0.5 < metrics["floor/accuracy"] < metrics["floor/accuracy_high"] < metrics["test/accuracy_low"]
    assert (trained[name] / "plots" / "confusion.png").is_file()
    with pytest.raises(CheckpointError, match=rf"adapters/{name}\.py .* VSATTN_CONFIG_DIR: none is named"):
        vsattn.load(trained[name])
    monkeypatch.setenv("VSATTN_CONFIG_DIR", str(trained["folder"]))
    predictor = vsattn.load(trained[name])
    data = (Solids if name == "points" else Motions)(sizes=SIZES)
    data.setup(0)
    answers = predictor.predict([item for item, _ in data.test])
    right = np.mean([answer.label == data.classes[target] for answer, (_, target) in zip(answers, data.test)])
    assert metrics["test/accuracy"] == pytest.approx(right, abs=0.02)  # a rounding can turn one answer
    np.save("item.npy", data.test[0][0])
    assert predictor.predict(["item.npy"])[0].probability == pytest.approx(answers[0].probability, abs=1e-4)


def model_of(tokenizer: Tokenizer, classes: int) -> torch.nn.Module:
    """Return an untrained model in double precision."""
    torch.manual_seed(0)
    config, found = plain_config([*SMALL, "positions=none"])
    assert found == []
    return vsattn.build_model(config, tokenizer, num_classes=classes).double().eval()


def logits(model: torch.nn.Module, tokenizer: Tokenizer, items: list[Any]) -> torch.Tensor:
    batch = {k: v.double() if v.is_floating_point() else v for k, v in tokenizer.collate(items).items()}
    with torch.no_grad():
        return model(batch)


def test_points_in_another_order_elsewhere_and_larger_are_the_same_cloud() -> None:
    data, tokenizer = Solids(sizes=[6, 1, 1]), PointCloud().fit([])
    data.setup(0)
    model, clouds = model_of(tokenizer, 5), [cloud for cloud, _ in data.train]
    assert len({len(cloud) for cloud in clouds}) > 1  # padding is part of this
    plain, random = logits(model, tokenizer, clouds), np.random.default_rng(0)
    alone = torch.cat([logits(model, tokenizer, [cloud]) for cloud in clouds])
    changed = [random.permutation(cloud) * 3.5 + [1.0, -20.0, 300.0] for cloud in clouds]
    assert torch.allclose(alone, plain, atol=1e-6)
    assert torch.allclose(logits(model, tokenizer, changed), plain, atol=1e-4)
    assert not torch.allclose(logits(model, tokenizer, [cloud * [1, 1, 2] for cloud in clouds]), plain, atol=1e-3)


def test_points_stand_where_they_are_in_space() -> None:
    tokenizer = PointCloud(resolution=0.5).fit([])
    corners = np.array([[0.0, 0, 0], [2, 0, 0], [0, 2, 0], [0, 0, 2]])
    batch = tokenizer.collate([corners, corners[:2]])
    vectors = tokenizer.embedder(8)(batch)
    centred = (corners - 0.5) / np.linalg.norm([1.5, -0.5, -0.5])
    assert vectors.layout == "free" and torch.allclose(vectors.pos[0].double(), torch.tensor(centred / 0.5), atol=1e-6)
    assert vectors.mask.tolist() == [[True] * 4, [True, True, False, False]]
    decoded = tokenizer.decode(batch)
    assert [len(cloud) for cloud in decoded] == [4, 2] and np.allclose(decoded[1], [[-1, 0, 0], [1, 0, 0]])
    turned = tokenizer.collate([corners], train=True)["points"][0]  # about the upright axis alone
    assert torch.allclose(torch.cdist(turned, turned), torch.cdist(*2 * [batch["points"][0]]), atol=1e-5)
    assert torch.allclose(turned[:, 2], batch["points"][0, :, 2]) and not torch.allclose(turned, batch["points"][0])


def test_solids_lie_on_their_surfaces() -> None:
    from vsattn.examples.points import SURFACES

    random = np.random.default_rng(0)
    points = {name: make(random, 500) for name, make in SURFACES.items()}
    away = {name: np.hypot(p[:, 0], p[:, 1]) for name, p in points.items()}
    height = {name: p[:, 2] for name, p in points.items()}
    assert np.allclose(np.linalg.norm(points["ball"], axis=1), 1)
    assert np.allclose(np.abs(points["cube"]).max(1), 1)
    assert np.allclose(np.maximum(away["cylinder"], np.abs(height["cylinder"])), 1)
    assert np.allclose(np.where(height["cone"] > -1, away["cone"] - (1 - height["cone"]) / 2, 0), 0)
    assert np.allclose(np.hypot(away["torus"] - 0.75, height["torus"]), 0.3)


def test_missing_values_are_counted_left_out_of_what_is_learned_and_looked_at_by_nobody() -> None:
    random = np.random.default_rng(0)
    items = [random.normal([5.0, -3.0], [2.0, 0.1], (length, 2)) for length in (30, 40, 25)]
    items[0][3:9, 1], items[2][0, 0] = np.nan, np.inf
    tokenizer = TimeSeries().fit(items)
    every = np.where(np.isinf(np.concatenate(items)), np.nan, np.concatenate(items))
    assert np.allclose(tokenizer.state["mean"], np.nanmean(every, 0))
    assert np.allclose(tokenizer.state["std"], np.nanstd(every, 0))
    assert tokenizer.state["missing"] == [1 / 95, 6 / 95] and tokenizer.sizes == {"max_length": 40}
    assert TimeSeries().load_state(json.loads(json.dumps(tokenizer.state))).state == tokenizer.state
    batch = tokenizer.collate(items)
    assert batch["present"][0, 3:9, 1].sum() == 0 and batch["present"].sum() == 2 * 95 - 7
    assert bool(batch["values"].isfinite().all()) and batch["mask"].sum(1).tolist() == [30, 40, 25]
    for decoded, item in zip(tokenizer.decode(batch), items, strict=True):
        assert np.allclose(decoded, np.where(np.isinf(item), np.nan, item), atol=1e-5, equal_nan=True)
    model = model_of(tokenizer, 3)
    together = logits(model, tokenizer, items)
    assert torch.allclose(together, torch.cat([logits(model, tokenizer, [item]) for item in items]), atol=1e-6)
    scaled = TimeSeries().fit([item * 100 + 7 for item in items])  # units do not count
    assert torch.allclose(together, logits(model, scaled, [item * 100 + 7 for item in items]), atol=1e-4)


def test_motions_follow_their_laws() -> None:
    """By scipy's integrator."""
    from scipy.integrate import solve_ivp

    for name in ("harmonic", "van der Pol", "Thomas"):  # the others forget where they came from
        random = np.random.default_rng(3)
        start, pace = random.normal(size=(3, 1))[:, 0], random.uniform(0.06, 0.12, 1)[0]
        found = motion(LAWS[name], np.random.default_rng(3), 1, 5)[0]
        times = pace * np.arange(101, 106)
        true = solve_ivp(
            lambda t, x, law=LAWS[name]: law(*x), (0, times[-1]), start, t_eval=times, rtol=1e-9, atol=1e-9
        )
        assert np.allclose(found, true.y.T, atol=1e-2), name


@pytest.mark.parametrize(
    ("tokenizer", "item", "says"),
    [
        (PointCloud().fit([]), np.zeros((4, 2)), r"item 1 of the batch has shape \(4, 2\)"),
        (PointCloud().fit([]), [[0, 0, np.nan]], "finite"),
        (PointCloud().fit([]), np.zeros((0, 3)), "at least one point"),
        (PointCloud().fit([]), "nowhere.npy", "item 1 of the batch cannot be read"),
        (PointCloud().fit([]), {"x": 1}, "cannot be read as points"),
        (TimeSeries(max_length=5).fit([np.ones((3, 3))]), np.ones((6, 3)), "T from 1 to 5"),
        (TimeSeries().fit([np.ones((3, 3))]), np.ones((3, 2)), "has 2 channels; the training series had 3"),
        (TimeSeries().fit([np.ones((3, 3))]), np.ones(3), r"shape \(3,\)"),
    ],
)
def test_what_is_no_item_is_named(tokenizer: Tokenizer, item: Any, says: str) -> None:
    good = np.ones((3, 3))
    with pytest.raises(DataError, match=says):
        tokenizer.collate([good, item])


@pytest.mark.parametrize("items", [[], [np.ones((3, 2)), np.ones((3, 1))], [np.full((3, 1), np.nan)]])
def test_series_that_teach_nothing_are_refused(items: list[Any]) -> None:
    with pytest.raises(DataError):
        TimeSeries().fit(items)


@pytest.mark.parametrize("make", [Solids, Motions])
def test_the_seed_decides_the_data_and_splits_do_not_overlap(make: Any) -> None:
    first, again, other = (make(sizes=[10, 5, 5]) for _ in range(3))
    for data, seed in ((first, 1), (again, 1), (other, 2)):
        data.setup(seed)
    for split in ("train", "val", "test"):
        for (a, i), (b, j), (c, _) in zip(*(getattr(data, split) for data in (first, again, other)), strict=True):
            assert i == j and np.array_equal(a, b, equal_nan=True) and not np.array_equal(a, c, equal_nan=True)
    assert not np.array_equal(first.train[0][0][:5], first.val[0][0][:5], equal_nan=True)
    assert {target for _, target in first.train} == set(range(5))
