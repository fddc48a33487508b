"""Your own files: ``root/{train,val,test}/CLASS/...``, whatever they hold."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from vsattn.errors import DataError

#: Files that file managers leave behind.
LITTER = ("thumbs.db", "desktop.ini")


class ClassFolders:
    """Finds the files of each class in each split.

    Args:
        root: holds ``train`` and ``test``, and ``val`` or not, each with one folder per class.
        extensions: endings of the files, in lower case.
        noun: what one file is called in messages, such as ``"picture"``.

    Raises:
        DataError: naming a folder that is missing or empty.
    """

    def __init__(self, root: Path, extensions: Sequence[str], noun: str) -> None:
        self.root, self.extensions, self.noun = root, tuple(extensions), noun
        try:
            found = root.is_dir()
        except (OSError, ValueError) as error:  # a name that no file system takes
            raise DataError(f"{str(root)[:60]}... cannot be read: {error}; give data.root=FOLDER") from None
        if not found:
            raise DataError(f"there is no folder {root}; give data.root=FOLDER")
        self.classes = self._class_names("train")

    def has(self, split: str) -> bool:
        """Tell whether there is such a split."""
        return (self.root / split).is_dir()

    def files(self, split: str) -> tuple[list[Path], list[int]]:
        """Return the files of a split, sorted within each class, and their targets.

        Raises:
            DataError: naming what is missing, in the wrong place, or of another kind.
        """
        extra = sorted(set(self._class_names(split)) - set(self.classes))
        if extra:
            raise DataError(
                f"{self.root / split} has classes that train does not know: {', '.join(extra)}; "
                f"train has: {', '.join(self.classes)}"
            )
        paths: list[Path] = []
        targets: list[int] = []
        for target, name in enumerate(self.classes):
            found = self._class_files(self.root / split / name)
            if not found and split == "train":
                raise DataError(f"class folder {self.root / split / name} holds no {self.noun}; fill it, or remove it")
            paths += found
            targets += [target] * len(found)
        if not paths:
            raise DataError(f"{self.root / split} holds no {self.noun}")
        return paths, targets

    def _class_files(self, folder: Path) -> list[Path]:
        found = sorted(visible_files(folder))
        others = [path for path in found if path.suffix.lower() not in self.extensions]
        if others:
            raise DataError(
                f"{others[0]} is no {self.noun} file; move it away, or hide it with a leading dot "
                f"({self.noun} files end in {' '.join(self.extensions)})"
            )
        return found

    def _class_names(self, split: str) -> list[str]:
        folder = self.root / split
        if not folder.is_dir():
            raise DataError(
                f"there is no folder {folder}; {self.root} needs train/, test/ and perhaps val/: {self._example(split)}"
            )
        entries = [entry for entry in sorted(folder.iterdir()) if not entry.name.startswith(".")]
        stray = [entry for entry in entries if entry.is_file() and entry.suffix.lower() in self.extensions]
        if stray:
            raise DataError(f"{stray[0]} lies in no class folder: {self._example(split)}")
        names = [entry.name for entry in entries if entry.is_dir()]
        if len(names) < (2 if split == "train" else 1):
            raise DataError(f"{folder} needs one folder per class, {names or 'none'} found: {self._example(split)}")
        return names

    def _example(self, split: str) -> str:
        example = self.root / split / "cat" / f"1{self.extensions[0]}"
        return f"{self.noun}s lie like {example}, where cat is a class"


def visible_files(folder: Path) -> Iterator[Path]:
    """Yield all files below a folder but hidden ones and those that file managers leave behind."""
    seen: set[str] = set()
    for base, folders, files in os.walk(folder, followlinks=True):
        if (real := os.path.realpath(base)) in seen:  # a link that leads back up
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(base) / name for name in files if not name.startswith(".") and name.lower() not in LITTER)
