"""What the image tokenizers share: reading pictures of any size and mode, normalising them, and batching them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision.transforms.v2.functional as TF
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from vsattn.errors import ConfigError, DataError
from vsattn.tokenizers.base import Tokenizer

#: At most so many items are read to fit mean, deviation and size.
FIT_ITEMS = 5000


def read_image(path: str | Path) -> Image.Image:
    """Read a picture file.

    Raises:
        DataError: naming the file, when it is missing, empty, truncated, or no picture.
    """
    try:
        with Image.open(path) as image:
            image.load()
            return image.copy()
    except FileNotFoundError:
        raise DataError(f"there is no picture {path}") from None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{path} cannot be read as a picture: {error}") from None


def to_tensor(item: Any, name: str) -> Tensor:
    """Turn a picture of any accepted kind into float32 ``(C, H, W)`` in [0, 1], with C = 1 or 3.

    Accepted: a path, a PIL image of any mode (transparency is laid on white), an array ``(H, W)`` or
    ``(H, W, C)``, a tensor ``(H, W)`` or ``(C, H, W)``; arrays and tensors in uint8, or floating point in [0, 1].

    Raises:
        DataError: naming the item, for anything else, an empty picture, NaN, or values out of range.
    """
    if isinstance(item, (str, Path)):
        name = str(item)
        item = read_image(item)
    if isinstance(item, Image.Image):
        return _from_pil(item)
    if isinstance(item, np.ndarray):
        item = torch.from_numpy(np.ascontiguousarray(item))
        item = item.permute(2, 0, 1) if item.ndim == 3 else item
    if not isinstance(item, Tensor):
        raise DataError(f"{name} is a {type(item).__name__}; a picture is a path, PIL image, array or tensor")
    item = item[None] if item.ndim == 2 else item
    if item.ndim != 3 or item.shape[0] not in (1, 3) or item.numel() == 0:
        raise DataError(f"{name} has shape {tuple(item.shape)}; a picture is (C, H, W) with 1 or 3 channels, not empty")
    if item.dtype == torch.uint8:
        return item.float() / 255
    if not item.is_floating_point():
        raise DataError(f"{name} holds {item.dtype}; use uint8, or floating point in [0, 1]")
    if not bool(item.isfinite().all()):
        raise DataError(f"{name} holds NaN or infinity")
    if float(item.min()) < 0 or float(item.max()) > 1:
        raise DataError(f"{name} has values in [{float(item.min()):.3g}, {float(item.max()):.3g}], not in [0, 1]")
    return item.float()


def _from_pil(image: Image.Image) -> Tensor:
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        values = torch.from_numpy(np.array(image, dtype=np.float32))[None]
        top = 65535.0 if float(values.max()) > 255 else 255.0
        return (values / (1.0 if image.mode == "F" and float(values.max()) <= 1 else top)).clamp(0, 1)
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image).convert("RGB")
    grey = image.mode in ("L", "1")
    array = np.array(image.convert("L" if grey else "RGB"), dtype=np.uint8)
    tensor = torch.from_numpy(array)
    return (tensor[None] if grey else tensor.permute(2, 0, 1)).float() / 255


class ImageTokenizer(Tokenizer):
    """Base of the image tokenizers: normalised pictures in a batch, padded at the right and at the bottom.

    Args:
        size: None keeps each picture's size; an integer scales the longer side to it and keeps the aspect;
            ``(H, W)`` scales to exactly that.
        channels: 1 (grey), 3 (colour), or None for what the training pictures are.
        max_vectors: a picture that would become more vectors is refused, since attention is quadratic.
    """

    def __init__(
        self, *, size: int | Sequence[int] | None = None, channels: int | None = None, max_vectors: int = 4096
    ) -> None:
        if channels not in (None, 1, 3):
            raise ConfigError(f"channels is 1, 3 or null, not {channels}")
        sides = () if size is None else (size,) if isinstance(size, int) else tuple(size)
        if size is not None and (len(sides) > 2 or any(side < 1 for side in sides)):
            raise ConfigError(f"size is null, a longer side, or [height, width], all positive; not {size}")
        self.size = size if size is None or isinstance(size, int) else (int(sides[0]), int(sides[-1]))
        self.channels, self.max_vectors = channels, max_vectors

    def grid_of(self, height: int, width: int) -> tuple[int, int]:
        """Return the grid of vectors that a picture of this size becomes."""
        raise NotImplementedError(f"{type(self).__name__} must define grid_of(height, width)")

    def fit(self, items: Iterable[Any]) -> ImageTokenizer:
        """Learn channels, size, and mean and standard deviation of each channel.

        Raises:
            DataError: when there is no item, or one cannot be read.
        """
        pictures = [to_tensor(item, f"training item {i}") for i, item in enumerate(islice(items, FIT_ITEMS))]
        if not pictures:
            raise DataError(f"{type(self).__name__}.fit got no pictures")
        channels = self.channels or max(picture.shape[0] for picture in pictures)
        pictures = [self._resized(_with_channels(picture, channels)) for picture in pictures]
        pixels = torch.cat([picture.flatten(1).double() for picture in pictures], dim=1)
        self._state = {
            "channels": channels,
            "height": max(picture.shape[1] for picture in pictures),
            "width": max(picture.shape[2] for picture in pictures),
            "mean": pixels.mean(1).tolist(),
            "std": pixels.std(1, correction=0).clamp(min=1e-3).tolist(),
        }
        return self

    def collate(self, items: Sequence[Any], train: bool = False) -> dict[str, Tensor]:
        """Return ``{"image": (B, C, H, W)}``, with ``"size": (B, 2)`` of heights and widths when they differ.

        Raises:
            DataError: naming the item that cannot be read, or is too large.
        """
        if not items:
            raise DataError("a batch needs at least one picture")
        pictures = [self._picture(item, i) for i, item in enumerate(items)]
        sizes = [tuple(picture.shape[1:]) for picture in pictures]
        mean, std = (torch.tensor(self.state[key])[:, None, None] for key in ("mean", "std"))
        if len(set(sizes)) == 1:
            return {"image": (torch.stack(pictures) - mean) / std}
        height, width = (max(size[axis] for size in sizes) for axis in (0, 1))
        padded = [
            torch.nn.functional.pad((p - mean) / std, (0, width - p.shape[2], 0, height - p.shape[1])) for p in pictures
        ]
        return {"image": torch.stack(padded), "size": torch.tensor(sizes)}

    def decode(self, batch: dict[str, Tensor]) -> list[np.ndarray]:
        """Return the pictures of a batch as uint8 arrays ``(H, W, C)``, normalisation and padding undone."""
        mean, std = (torch.tensor(self.state[key])[:, None, None] for key in ("mean", "std"))
        pictures = ((batch["image"].detach().cpu() * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)
        sizes = batch["size"].tolist() if "size" in batch else [list(pictures.shape[2:])] * len(pictures)
        return [p[:, :h, :w].permute(1, 2, 0).numpy() for p, (h, w) in zip(pictures, sizes, strict=True)]

    @property
    def sizes(self) -> dict[str, Any]:
        """The grid of the largest training picture, which learned positions are made for."""
        return {"grid": self.grid_of(self.state["height"], self.state["width"])}

    def _picture(self, item: Any, index: int) -> Tensor:
        name = str(item) if isinstance(item, (str, Path)) else f"item {index} of the batch"
        picture = self._resized(_with_channels(to_tensor(item, name), self.state["channels"]))
        height, width = self.grid_of(*picture.shape[1:])
        if height * width > self.max_vectors:
            raise DataError(
                f"{name} is {picture.shape[1]} x {picture.shape[2]} and would become {height * width} vectors, more than "
                f"max_vectors={self.max_vectors}; set tokenizer.size (say 64), larger patches, or raise max_vectors"
            )
        return picture

    def _resized(self, picture: Tensor) -> Tensor:
        height, width = picture.shape[1:]
        if self.size is None:
            return picture
        if isinstance(self.size, int):
            scale = self.size / max(height, width)
            target = (max(1, round(height * scale)), max(1, round(width * scale)))
        else:
            target = self.size
        return picture if target == (height, width) else TF.resize(picture, list(target), antialias=True)


def _with_channels(picture: Tensor, channels: int) -> Tensor:
    if picture.shape[0] == channels:
        return picture
    return picture.expand(3, -1, -1) if channels == 3 else TF.rgb_to_grayscale(picture)


def cell_mask(cells: Tensor | None, grid: tuple[int, int]) -> Tensor | None:
    """Return bool ``(B, H * W)``, True on the real cells, given each picture's ``cells (B, 2)``; None if all are."""
    if cells is None:
        return None
    rows = torch.arange(grid[0], device=cells.device)[None, :] < cells[:, :1]
    columns = torch.arange(grid[1], device=cells.device)[None, :] < cells[:, 1:]
    return (rows[:, :, None] & columns[:, None, :]).flatten(1)
