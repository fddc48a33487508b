"""The package: what the wheel holds, what importing loads, and that a folder's own files cannot get in the way."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

#: Where each top-level folder lies inside the installed package.
PLACES = {"vsattn": "vsattn", "tasks": "vsattn/tasks", "conf": "vsattn/conf"}


def run_python(*words: str, cwd: Path, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run an interpreter that sees the libraries of this one, and `path` before them, but not this checkout."""
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONSAFEPATH")}
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    return subprocess.run(
        [sys.executable, *words], cwd=cwd, env=environment, capture_output=True, text=True, timeout=300, check=False
    )


def copy_tree(root: Path, target: Path) -> Path:
    """Copy what is built, so that building leaves nothing in the checkout."""
    target.mkdir(parents=True)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(root / name, target / name)
    for name in PLACES:
        shutil.copytree(root / name, target / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    return target


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built once; by this environment's setuptools where that is new enough, which needs no network."""
    root = Path(__file__).resolve().parent.parent
    source, dist = copy_tree(root, tmp_path_factory.mktemp("source") / "tree"), tmp_path_factory.mktemp("dist")
    isolation = [] if int(importlib.metadata.version("setuptools").split(".")[0]) < 77 else ["--no-build-isolation"]
    words = ["-m", "pip", "wheel", "--quiet", "--no-deps", *isolation, "--wheel-dir", str(dist), str(source)]
    done = run_python(*words, cwd=source)
    assert done.returncode == 0, done.stderr
    (built,) = dist.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel installed in it."""
    target = tmp_path_factory.mktemp("installed")
    words = ["-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(target), str(wheel)]
    done = run_python(*words, cwd=target)
    assert done.returncode == 0, done.stderr
    return target


def expected_files(root: Path) -> set[str]:
    return {
        f"{place}/{path.relative_to(root / folder).as_posix()}"
        for folder, place in PLACES.items()
        for path in (root / folder).rglob("*")
        if path.suffix in (".py", ".yaml", ".typed", ".css", ".html", ".js") and "__pycache__" not in path.parts
    }


def test_the_wheel_holds_every_module_and_every_config(wheel: Path, root: Path) -> None:
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert held == expected_files(root)
    assert {name.split("/")[0] for name in held} == {"vsattn"}  # nobody's site-packages gets a `tasks` or a `conf`


def test_the_wheel_says_what_it_is(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    (metadata,) = (n for n in archive.namelist() if n.endswith("METADATA"))
    text = archive.read(metadata).decode()
    assert "\nName: vsattn\n" in text and "\nLicense-Expression: MIT\n" in text
    needed = dict(re.findall(r"^Requires-Dist: ([\w-]+)(.*)$", text, re.MULTILINE))
    assert all(re.search(r"[<=]", bounds) for bounds in needed.values()), needed
    assert set(needed["lightning"].split(",")) == {"<2.7", ">=2.6.4"}
    (scripts,) = (n for n in archive.namelist() if n.endswith("entry_points.txt"))
    assert "vsattn = vsattn.__main__:main" in archive.read(scripts).decode()
    assert any(name.endswith("LICENSE") for name in archive.namelist())


def test_it_runs_from_a_folder_with_hostile_files(installed: Path, tmp_path: Path) -> None:
    for name in ("tasks.py", "conf/__init__.py", "build.py", "run.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("raise SystemExit('a file of the current folder was imported')\n")
    (tmp_path / "conf" / "config.yaml").write_text("hostile: true\n")
    words = ["task=image", "debug=fast", "trainer=cpu", "encoder.num_layers=1", "dim=16", "num_threads=1"]
    done = run_python("-m", "vsattn.run", *words, cwd=tmp_path, path=installed)
    assert done.returncode == 0, done.stderr
    (run,) = (tmp_path / "outputs" / "image").iterdir()
    assert (run / "checkpoints" / "best.ckpt").is_file()
    code = f"""
import vsattn, vsattn.tasks, vsattn.conf
places = [vsattn.__file__, vsattn.tasks.__file__, vsattn.conf.__file__]
assert all(place.startswith({str(installed)!r}) for place in places), places
import sys
assert "tasks" not in sys.modules and "conf" not in sys.modules
print(vsattn.load({str(run / "checkpoints" / "best.ckpt")!r}))
"""
    done = run_python("-c", code, cwd=tmp_path, path=installed)
    assert done.returncode == 0, done.stderr


def test_an_editable_install_finds_everything(root: Path, tmp_path: Path) -> None:
    if int(importlib.metadata.version("setuptools").split(".")[0]) < 77:
        pytest.skip("an editable install without network needs setuptools 77 or newer")
    source, libraries = copy_tree(root, tmp_path / "tree"), tmp_path / "libraries"
    libraries.mkdir()
    for entry in Path(sysconfig.get_path("purelib")).iterdir():  # all but this package itself
        if "vsattn" not in entry.name:
            (libraries / entry.name).symlink_to(entry)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "venv")], check=True, timeout=120)
    python = str(tmp_path / "venv" / "bin" / "python")
    find = "import sysconfig; print(sysconfig.get_path('purelib'))"
    packages = Path(subprocess.check_output([python, "-c", find], text=True).strip())
    (packages / "libraries.pth").write_text(f"{libraries}\n")
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    code = f"""
import vsattn, vsattn.tasks.data, vsattn.conf
from vsattn.compose import plain_config
assert all(m.__file__.startswith({str(source)!r}) for m in (vsattn, vsattn.tasks.data, vsattn.conf)), vsattn.__file__
assert plain_config(["task=image"])[1] == []
"""
    install = ["-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "-e", str(source)]
    for words in (install, ["-c", code]):
        done = subprocess.run(
            [python, *words], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("statement", "unloaded"),
    [
        ("import vsattn; dir(vsattn)", ("torch", "numpy", "yaml", "hydra", "lightning")),
        ("import vsattn.run", ("torch", "numpy", "hydra", "lightning")),
        ("from vsattn.tokenizers import Pixels", ("torchaudio", "torch_geometric", "lightning", "hydra", "sklearn")),
        ("import vsattn.model, vsattn.build, vsattn.attention", ("torchvision", "lightning", "hydra", "PIL")),
        ("from vsattn import load", ("torchaudio", "torch_geometric", "lightning", "hydra", "sklearn", "matplotlib")),
        ("import vsattn.tasks.experiment", ("hydra", "omegaconf", "torchaudio")),
    ],
)  # fmt: skip
def test_importing_loads_no_more_than_it_needs(statement: str, unloaded: tuple[str, ...], root: Path) -> None:
    code = f"{statement}\nimport sys\nprint(*sorted(set({unloaded!r}) & set(sys.modules)))"
    done = run_python("-c", code, cwd=root)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ""


def test_every_public_name_is_there() -> None:
    import vsattn

    for name in vsattn.__all__:
        assert getattr(vsattn, name).__name__ == name
        assert name in dir(vsattn)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = vsattn.nothing


def test_a_checkout_knows_tasks_and_conf_by_their_installed_names() -> None:
    import vsattn.conf
    import vsattn.tasks

    assert vsattn.tasks.__name__ == "vsattn.tasks" and vsattn.conf.__name__ == "vsattn.conf"


def test_ci_runs_the_two_commands_of_the_readme(root: Path) -> None:
    commands = [
        "python -m pip install . && python -m vsattn.run task=image",
        "python -m pip install '.[test]' && python -m pytest",
    ]
    lines = (root / "README.md").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if line.startswith("python -m pip install ")] == commands
    script = (root / ".ci" / "run").read_text(encoding="utf-8")
    assert "grep '^python -m pip install ' README.md" in script and 'eval "${commands[1]}"' in script
    assert os.access(root / ".ci" / "run", os.X_OK)
