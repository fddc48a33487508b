"""What a user adds to vsattn: a folder of configs and classes of their own, and packages that publish tokenizers.

A folder is named by ``--config-dir`` or the environment variable VSATTN_CONFIG_DIR. Its YAML files are options like the
shipped ones, and its files ``adapters/NAME.py`` are the modules ``vsattn.adapters.NAME``. Only a person names a folder
or installs a package; nothing inside a config or a checkpoint does.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import resources
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from vsattn.environment import variable
from vsattn.errors import ConfigError

#: The folder, where ``--config-dir`` does not name one.
VARIABLE = "VSATTN_CONFIG_DIR"
#: The entry points by which an installed package publishes its tokenizers.
ENTRY_POINTS = "vsattn.tokenizers"
#: The package whose modules are the files of the folder.
PACKAGE = "vsattn.adapters"


def config_dir(given: str | Path | None = None) -> Path | None:
    """Return the user's folder: the given one, or that of the environment, or None.

    Raises:
        ConfigError: for a folder that does not exist, saying who named it.
    """
    named, source = (given, "--config-dir") if given else (os.environ.get(VARIABLE), f"the variable {VARIABLE}")
    if not named:
        return None
    folder = Path(named).expanduser().absolute()
    if not folder.is_dir():
        raise ConfigError(f"there is no folder {named} for {source}; `vsattn init {named}` makes one")
    return folder


@contextmanager
def using(given: str | Path | None) -> Iterator[Path | None]:
    """Use the user's folder meanwhile, in processes that are started meanwhile too; see :func:`config_dir`."""
    folder = config_dir(given)
    if folder is None:
        yield None
        return
    with variable(VARIABLE, str(folder)):
        yield folder


def groups(folder: str | Path | None = None) -> dict[str, list[str]]:
    """Return the groups and their options by the names of files alone, those of a user's folder included."""
    found: dict[str, set[str]] = {}
    roots: list[Any] = [resources.files("vsattn.conf")] + ([] if folder is None else [Path(folder)])
    for group in (entry for root in roots for entry in root.iterdir() if entry.is_dir()):
        options = {entry.name.removesuffix(".yaml") for entry in group.iterdir() if entry.name.endswith(".yaml")}
        if options:
            found.setdefault(group.name, set()).update(options)
    found["tokenizer"].update(published())
    return {name: sorted(found[name]) for name in sorted(found)}


def shadowed(folder: str | Path) -> list[str]:
    """Return a fault for each file of a user's folder that has the name of a shipped one, which would be taken."""
    shipped = groups()
    return [
        f"{file}: there is a shipped {file.parent.name}={file.stem}, which would be taken instead; rename the file"
        for file in sorted(Path(folder).glob("*/*.yaml"))
        if file.stem in shipped.get(file.parent.name, ())
    ]


def adapter_folders() -> list[str]:
    """Return where the modules of `vsattn.adapters` lie: in ``adapters`` of the user's folder, if there is one."""
    folder = config_dir()
    return [str(folder / "adapters")] if folder is not None and (folder / "adapters").is_dir() else []


def refresh() -> None:
    """Forget the modules of another folder than the one that is named now."""
    package = sys.modules.get(PACKAGE)
    if package is not None and list(package.__path__) != adapter_folders():
        for name in [name for name in sys.modules if name == PACKAGE or name.startswith(f"{PACKAGE}.")]:
            del sys.modules[name]


def missing(module: str) -> str:
    """Say what to do when a module of `vsattn.adapters` is not there; "" for any other."""
    if not module.startswith(f"{PACKAGE}."):
        return ""
    file = f"adapters/{module.removeprefix(PACKAGE + '.').replace('.', '/')}.py"
    now = config_dir()
    where = f"{now} has none" if now is not None else "none is named"
    return f"; it is the file {file} of your own config folder, named by --config-dir or {VARIABLE}: {where}"


def published() -> dict[str, str]:
    """Return the tokenizers that installed packages publish: dotted paths of classes, by name."""
    return {found.name: f"{found.module}.{found.attr}" for found in _entry_points(tuple(sys.path))}


def published_packages() -> list[str]:
    """Return the packages of those tokenizers; to install one is to let configs name its classes."""
    tops = {found.module.partition(".")[0] for found in _entry_points(tuple(sys.path))}
    return sorted(tops - sys.stdlib_module_names)


@cache
def _entry_points(path: tuple[str, ...]) -> tuple[EntryPoint, ...]:
    """Look once for each ``sys.path``, which says what is installed."""
    return tuple(entry_points(group=ENTRY_POINTS))
