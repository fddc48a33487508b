"""What the image tokenizers share: reading pictures of any size and mode, normalising them, and batching them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence, Sized
from itertools import islice
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from vsattn.errors import ConfigError, DataError
from vsattn.tokenizers.base import Tokenizer

#: At most so many items are read to fit mean, deviation and size.
FIT_ITEMS = 5000


def read_image(path: str | Path) -> Image.Image:
    """Read a picture file, turned upright where its EXIF data say how.

    Raises:
        DataError: naming the file, when it is missing, empty, truncated, or no picture.
    """
    try:
        with Image.open(path) as image:
            if image.format == "EPS":  # PIL would start Ghostscript, whatever the name of the file says
                raise UnidentifiedImageError
            image.load()
            return ImageOps.exif_transpose(image).copy()
    except FileNotFoundError:
        raise DataError(f"there is no picture {path}") from None
    except Exception as error:  # decoders raise many kinds on bytes that are wrong; all mean this
        reason = "the format is not known" if isinstance(error, UnidentifiedImageError) else str(error)
        raise DataError(f"{path} cannot be read as a picture: {reason or type(error).__name__}") from error


def to_tensor(item: Any, name: str) -> Tensor:
    """Turn a picture of any accepted kind into float32 ``(C, H, W)`` in [0, 1], with C = 1 or 3.

    Accepted: a path, a PIL image of any mode, an array ``(H, W)`` or ``(H, W, C)``, a tensor ``(H, W)`` or
    ``(C, H, W)``; arrays and tensors in uint8, or floating point in [0, 1], with C = 1 or 3. What is transparent
    in a path or PIL image is laid on white.

    Raises:
        DataError: naming the item, for anything else, an empty picture, NaN, or values out of range.
    """
    if isinstance(item, (str, Path)):
        name = str(item)
        item = read_image(item)
    if isinstance(item, Image.Image):
        return _from_pil(item, name)
    shape, order = None, "(C, H, W)"
    if isinstance(item, np.ndarray):
        shape, order = item.shape, "(H, W, C)"
        item = torch.from_numpy(np.ascontiguousarray(_native(item, name)))
        item = item.permute(2, 0, 1) if item.ndim == 3 else item
    if not isinstance(item, Tensor):
        raise DataError(f"{name} is a {type(item).__name__}; a picture is a path, PIL image, array or tensor")
    shape = tuple(item.shape) if shape is None else shape
    item = item[None] if item.ndim == 2 else item
    if item.ndim != 3 or item.shape[0] not in (1, 3) or item.numel() == 0:
        raise DataError(f"{name} has shape {shape}; a picture is (H, W) or {order} with 1 or 3 channels, not empty")
    if item.dtype == torch.uint8:
        return item.float() / 255
    if not item.is_floating_point():
        raise DataError(f"{name} holds {item.dtype}; use uint8, or floating point in [0, 1]")
    return _in_range(item.float(), 1.0, name)


def _native(array: np.ndarray, name: str) -> np.ndarray:
    if array.dtype == np.bool_ or array.dtype.kind not in "uif":
        raise DataError(f"{name} holds {array.dtype}; use uint8, or floating point in [0, 1]")
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _in_range(values: Tensor, top: float, name: str) -> Tensor:
    if not bool(values.isfinite().all()):
        raise DataError(f"{name} holds NaN or infinity")
    low, high = float(values.min()), float(values.max())
    if low < 0 or high > top * (1 + 1e-5):  # resizing may leave the range by a rounding
        raise DataError(f"{name} has values in [{low:.6g}, {high:.6g}], not in [0, {top:g}]")
    return (values / top).clamp(max=1)


def _on_white(picture: Tensor) -> Tensor:
    if picture.shape[0] in (1, 3):
        return picture
    opacity = picture[-1:]
    return picture[:-1] * opacity + (1 - opacity)


def _from_pil(image: Image.Image, name: str) -> Tensor:
    if 0 in image.size:
        raise DataError(f"{name} is {image.height} x {image.width} pixels: empty")
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):
        return _in_range(torch.from_numpy(np.array(image).astype(np.float32))[None], 65535.0, name)
    if image.mode in ("I", "F"):  # what made them decides their range: a conversion by PIL, or a 16-bit file
        values = torch.from_numpy(np.array(image, dtype=np.float32))[None]
        high = float(values.max())
        unit = image.mode == "F" and high <= 1
        return _in_range(values, 1.0 if unit else 255.0 if high <= 255 else 65535.0, name)
    grey = image.mode in ("1", "L", "LA", "La")
    transparent = image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info
    wanted = ("LA" if grey else "RGBA") if transparent else "L" if grey else "RGB"
    try:
        array = np.array(image.convert(wanted), dtype=np.uint8)
    except ValueError as error:
        raise DataError(f"{name} has mode {image.mode}, which PIL cannot make {wanted}: {error}") from None
    tensor = torch.from_numpy(array)
    return _on_white((tensor[None] if tensor.ndim == 2 else tensor.permute(2, 0, 1)).float() / 255)


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
        if size is not None and (len(sides) not in (1, 2) or any(side < 1 for side in sides)):
            raise ConfigError(f"size is null, a longer side, or [height, width], all positive; not {size}")
        self.size = size if size is None or isinstance(size, int) else (int(sides[0]), int(sides[-1]))
        if max_vectors < 1:
            raise ConfigError(f"max_vectors is at least 1, not {max_vectors}")
        self.channels, self.max_vectors = channels, max_vectors

    def grid_of(self, height: int, width: int) -> tuple[int, int]:
        """Return the grid of vectors that a picture of this size becomes."""
        raise NotImplementedError(f"{type(self).__name__} must define grid_of(height, width)")

    def fit(self, items: Iterable[Any]) -> ImageTokenizer:
        """Learn channels, size, and mean and standard deviation of each channel, one picture in memory at a time.

        At most `FIT_ITEMS` are read: evenly spaced ones of a sequence, the first ones of another iterable.

        Raises:
            DataError: when there is no item, or one cannot be read or would become more than ``max_vectors``.
        """
        channels, height, width, count = self.channels or 1, 0, 0, 0
        total = torch.zeros(2, 3, dtype=torch.float64)  # sums of values and of squares, in three channels
        for index, item in _spread(items):
            picture = to_tensor(item, f"training item {index}")
            if self.channels is None:
                channels = max(channels, picture.shape[0])
            picture = self._resized(picture if self.channels is None else _with_channels(picture, channels))
            self._check_count(picture, f"training item {index}")
            pixels = picture.double().flatten(1)
            total += torch.stack([pixels.sum(1), pixels.square().sum(1)])  # grey counts for all three
            height, width, count = max(height, picture.shape[1]), max(width, picture.shape[2]), count + pixels.shape[1]
        if not count:
            raise DataError(f"{type(self).__name__}.fit got no pictures")
        mean, square = total[:, :channels] / count
        self._state = {
            "channels": channels,
            "height": height,
            "width": width,
            "mean": mean.tolist(),
            "std": (square - mean.square()).clamp(min=1e-6).sqrt().tolist(),
        }
        return self

    def load_state(self, state: dict[str, Any]) -> ImageTokenizer:
        """Take over what another image tokenizer learned, and return self.

        Raises:
            DataError: for the state of another kind of tokenizer.
        """
        missing = sorted({"channels", "height", "width", "mean", "std"} - set(state))
        if missing:
            raise DataError(f"this is no state of {type(self).__name__}: {', '.join(missing)} missing")
        for name in ("mean", "std"):
            values = state[name]
            numbers = isinstance(values, list) and all(isinstance(v, float) and isfinite(v) for v in values)
            if not numbers or len(values) != state["channels"] or (name == "std" and min(values) <= 0):
                raise DataError(f"this is no state of {type(self).__name__}: {name} is {values!r}")
        super().load_state(state)
        return self

    def collate(self, items: Sequence[Any], train: bool = False) -> dict[str, Tensor]:
        """Return ``{"image": (B, C, H, W)}``, with ``"size": (B, 2)`` of heights and widths when they differ.

        Raises:
            DataError: naming the item that cannot be read, or is too large.
        """
        if len(items) == 0:
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
        self._check_count(picture, name)
        return picture

    def _check_count(self, picture: Tensor, name: str) -> None:
        height, width = self.grid_of(*picture.shape[1:])
        if height * width > self.max_vectors:
            raise DataError(
                f"{name} is {picture.shape[1]} x {picture.shape[2]} and would become {height * width} vectors, more "
                f"than max_vectors={self.max_vectors}; set tokenizer.size (say 64), use larger patches, or raise it"
            )

    def _resized(self, picture: Tensor) -> Tensor:
        height, width = picture.shape[1:]
        if self.size is None:
            return picture
        if isinstance(self.size, int):
            scale = self.size / max(height, width)
            target = (max(1, round(height * scale)), max(1, round(width * scale)))
        else:
            target = self.size
        if target == (height, width):
            return picture
        import torchvision.transforms.v2.functional as TF  # slow to import, and often not needed

        return TF.resize(picture, list(target), antialias=True)


def _spread(items: Iterable[Any]) -> Iterator[tuple[int, Any]]:
    if isinstance(items, Sized) and hasattr(items, "__getitem__"):
        step = max(1, -(-len(items) // FIT_ITEMS))
        return ((i, items[i]) for i in range(0, len(items), step))
    return enumerate(islice(items, FIT_ITEMS))


def _with_channels(picture: Tensor, channels: int) -> Tensor:
    if picture.shape[0] == channels:
        return picture
    if channels == 3:
        return picture.expand(3, -1, -1)
    red, green, blue = picture
    return (0.2989 * red + 0.587 * green + 0.114 * blue)[None]  # ITU-R BT.601, as torchvision has it


def cell_mask(cells: Tensor | None, grid: tuple[int, int]) -> Tensor | None:
    """Return bool ``(B, H * W)``, True on the real cells, given each picture's ``cells (B, 2)``; None if all are."""
    if cells is None:
        return None
    rows = torch.arange(grid[0], device=cells.device)[None, :] < cells[:, :1]
    columns = torch.arange(grid[1], device=cells.device)[None, :] < cells[:, 1:]
    return (rows[:, :, None] & columns[:, None, :]).flatten(1)
