"""Images: scikit-learn's digits, torchvision's standard sets, and your own folders."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vsattn.errors import ConfigError, DataError
from vsattn.tokenizers.images import read_image

from .base import Augment, Data, split_off
from .download import load_split

#: Endings that `ImageFolder` reads.
EXTENSIONS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff", ".webp")

#: Files that file managers leave in picture folders.
LITTER = ("thumbs.db", "desktop.ini")


class TensorImages:
    """Pictures in memory, uint8 ``(n, C, H, W)``, with their targets."""

    def __init__(self, images: Tensor, targets: Tensor) -> None:
        self.images, self.targets = images, targets

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images[index], int(self.targets[index])

    def select(self, indices: Sequence[int]) -> TensorImages:
        """Return the part of these pictures at ``indices``."""
        chosen = torch.as_tensor(indices, dtype=torch.long)
        return TensorImages(self.images[chosen], self.targets[chosen])


class Digits(Data):
    """scikit-learn's 1,797 real handwritten digits, 8 x 8, embedded: nothing is downloaded.

    Neighbours in the set share writers, so it is not shuffled: the first half trains, of which a seeded
    tenth of each class validates, and the second half tests.
    """

    def setup(self, seed: int) -> None:
        from sklearn.datasets import load_digits

        images, targets = load_digits(return_X_y=True)
        pixels = (torch.from_numpy(images) * (255 / 16)).round().to(torch.uint8).view(-1, 1, 8, 8)
        whole = TensorImages(pixels, torch.from_numpy(targets).long())
        half = len(whole) // 2
        rest, part = split_off(whole.targets[:half].tolist(), 0.1, seed)
        self.classes = [str(digit) for digit in range(10)]
        self.train, self.val = whole.select(rest), whole.select(part)
        self.test = whole.select(range(half, len(whole)))


class _ImagesOnDisk(Data):
    """Pictures under a folder ``root``, of whose training split ``val_fraction`` may be set aside."""

    def __init__(self, root: str | Path, *, val_fraction: float = 0.1, augment: Augment | None = None) -> None:
        super().__init__(augment=augment)
        if not 0 < val_fraction < 1:
            raise ConfigError(f"{self.name}.val_fraction is between 0 and 1, not {val_fraction}")
        self.root, self.val_fraction = Path(root).expanduser(), val_fraction


class _TorchvisionImages(_ImagesOnDisk):
    """A torchvision data set under ``root``: found there, else downloaded there.

    Args:
        root: the folder that holds the set's own folder.
        val_fraction: the seeded part of each class of the training split that validates.
        augment: see :class:`Data`.
    """

    files: tuple[str, ...] = ()

    def setup(self, seed: int) -> None:
        training, test = self._load(train=True), self._load(train=False)
        rest, part = split_off(training.targets.tolist(), self.val_fraction, seed)
        self.train, self.val, self.test = training.select(rest), training.select(part), test

    def _load(self, train: bool) -> TensorImages:
        import torchvision

        found = load_split(getattr(torchvision.datasets, self.name), self.root, self.files, train=train)
        self.classes = [str(name) for name in found.classes]
        data = torch.as_tensor(found.data)
        images = data[:, None] if data.ndim == 3 else data.permute(0, 3, 1, 2).contiguous()
        return TensorImages(images, torch.as_tensor(found.targets).long())


def _idx(folder: str) -> tuple[str, ...]:
    names = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
    return tuple(f"{folder}/raw/{name}-ubyte" for name in names)


class FashionMNIST(_TorchvisionImages):
    """70,000 grey pictures of clothes, 28 x 28, ten classes (Xiao et al. 2017)."""

    files = _idx("FashionMNIST")


class MNIST(_TorchvisionImages):
    """70,000 grey handwritten digits, 28 x 28 (LeCun et al. 1998)."""

    files = _idx("MNIST")


class CIFAR10(_TorchvisionImages):
    """60,000 colour pictures, 32 x 32, ten classes (Krizhevsky 2009)."""

    files = tuple(
        f"cifar-10-batches-py/{name}"
        for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta")
    )


class ImageFiles:
    """Picture files that are opened when they are read, with their targets."""

    def __init__(self, paths: Sequence[Path], targets: Sequence[int]) -> None:
        self.paths, self.targets = list(paths), list(targets)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return read_image(self.paths[index]), self.targets[index]


class ImageFolder(_ImagesOnDisk):
    """Your own pictures: ``root/{train,val,test}/class/*.png``, of any size, mode and common format.

    Args:
        root: holds ``train`` and ``test``, and ``val`` or not.
        val_fraction: without ``val``, the seeded part of each class of ``train`` that validates.
        augment: see :class:`Data`.
    """

    def setup(self, seed: int) -> None:
        if not self.root.is_dir():
            raise DataError(f"there is no folder {self.root}; data=image_folder reads data.root=FOLDER")
        self.classes = self._class_names("train")
        training, self.test = self._files("train"), self._files("test")
        if (self.root / "val").is_dir():
            self.train, self.val = training, self._files("val")
            return
        rest, part = split_off(training.targets, self.val_fraction, seed)
        if not part:
            raise DataError(f"{self.root / 'train'} has too few pictures to set some aside; give a val folder")
        self.train = ImageFiles([training.paths[i] for i in rest], [training.targets[i] for i in rest])
        self.val = ImageFiles([training.paths[i] for i in part], [training.targets[i] for i in part])

    def _class_names(self, split: str) -> list[str]:
        folder = self.root / split
        if not folder.is_dir():
            raise DataError(
                f"there is no folder {folder}; {self.root} needs train/, test/ and perhaps val/: {self._example(split)}"
            )
        entries = [entry for entry in sorted(folder.iterdir()) if not entry.name.startswith(".")]
        stray = [entry for entry in entries if entry.is_file() and entry.suffix.lower() in EXTENSIONS]
        if stray:
            raise DataError(f"{stray[0]} lies in no class folder: {self._example(split)}")
        names = [entry.name for entry in entries if entry.is_dir()]
        if len(names) < (2 if split == "train" else 1):
            raise DataError(f"{folder} needs one folder per class, {names or 'none'} found: {self._example(split)}")
        return names

    def _files(self, split: str) -> ImageFiles:
        extra = sorted(set(self._class_names(split)) - set(self.classes))
        if extra:
            raise DataError(
                f"{self.root / split} has classes that train does not know: {', '.join(extra)}; "
                f"train has: {', '.join(self.classes)}"
            )
        paths: list[Path] = []
        targets: list[int] = []
        for target, name in enumerate(self.classes):
            folder = self.root / split / name
            found = sorted(_visible_files(folder))
            pictures = [path for path in found if path.suffix.lower() in EXTENSIONS]
            others = [path for path in found if path.suffix.lower() not in EXTENSIONS]
            if others:
                raise DataError(
                    f"{others[0]} is no picture file; move it away, or hide it with a leading dot "
                    f"(picture files end in {' '.join(EXTENSIONS)})"
                )
            if not pictures and split == "train":
                raise DataError(f"class folder {folder} holds no picture; fill it, or remove it")
            paths += pictures
            targets += [target] * len(pictures)
        if not paths:
            raise DataError(f"{self.root / split} holds no picture")
        return ImageFiles(paths, targets)

    def _example(self, split: str) -> str:
        return f"pictures lie like {self.root / split / 'cat' / '1.png'}, where cat is a class"


def _visible_files(folder: Path) -> Iterator[Path]:
    """Yield all files below a folder but hidden ones and those that file managers leave behind."""
    seen: set[str] = set()
    for base, folders, files in os.walk(folder, followlinks=True):
        if (real := os.path.realpath(base)) in seen:  # a link that leads back up
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(base) / name for name in files if not name.startswith(".") and name.lower() not in LITTER)
