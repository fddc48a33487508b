"""Images: scikit-learn's digits, torchvision's standard sets, and your own folders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vsattn.errors import ConfigError, DataError
from vsattn.tokenizers.images import read_image

from .base import Augment, Data, split_off
from .download import load_split
from .folders import ClassFolders

#: Endings that `ImageFolder` reads.
EXTENSIONS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff", ".webp")


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
        folders = ClassFolders(self.root, EXTENSIONS, "picture")
        self.classes = folders.classes
        paths, targets = folders.files("train")
        self.test = ImageFiles(*folders.files("test"))
        if folders.has("val"):
            self.train, self.val = ImageFiles(paths, targets), ImageFiles(*folders.files("val"))
            return
        rest, part = split_off(targets, self.val_fraction, seed)
        if not part:
            raise DataError(f"{self.root / 'train'} has too few pictures to set some aside; give a val folder")
        self.train, self.val = (
            ImageFiles([paths[i] for i in chosen], [targets[i] for i in chosen]) for chosen in (rest, part)
        )
