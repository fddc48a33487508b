"""Distortions of training pictures, by torchvision's transforms."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchvision.transforms import v2

from vsattn.errors import ConfigError

from .base import Augment

#: RandAugment has 31 strengths, from 0.
MAX_MAGNITUDE = 30


class ImageAugment(Augment):
    """Random crop, flip, affine map, RandAugment and cutout of one picture, in this order; a plain picklable callable.

    Args:
        crop_padding: pad by so many pixels on each side, then crop back at a random place; 0 is off.
        flip: mirror left and right half of the time.
        rotation: up to so many degrees either way.
        shift: up to this fraction of the height and width.
        scale: a factor of ``1 - scale`` to ``1 + scale``.
        shear: up to so many degrees either way.
        rand_augment: number of RandAugment operations (Cubuk et al. 2020); 0 is off.
        magnitude: their strength, 0 to 30.
        cutout: erase a square of so many pixels a side half of the time, in the mean colour (DeVries and Taylor 2017).
    """

    def __init__(
        self,
        *,
        crop_padding: int = 0,
        flip: bool = False,
        rotation: float = 0.0,
        shift: float = 0.0,
        scale: float = 0.0,
        shear: float = 0.0,
        rand_augment: int = 0,
        magnitude: int = 9,
        cutout: int = 0,
    ) -> None:
        for name, value in (("crop_padding", crop_padding), ("rotation", rotation), ("shift", shift), ("shear", shear),
                            ("rand_augment", rand_augment), ("cutout", cutout)):  # fmt: skip
            if value < 0:
                raise ConfigError(f"ImageAugment.{name} must not be negative, but is {value}")
        if not (0 <= scale < 1 and shift <= 1):
            raise ConfigError(f"ImageAugment.scale is in [0, 1) and shift in [0, 1]; got {scale} and {shift}")
        if not 0 <= magnitude <= MAX_MAGNITUDE:
            raise ConfigError(f"ImageAugment.magnitude is in 0 .. {MAX_MAGNITUDE}, not {magnitude}")
        self.crop_padding, self.flip, self.cutout = crop_padding, flip, cutout
        self.transforms: list[Any] = []
        if rotation or shift or scale or shear:
            self.transforms.append(
                v2.RandomAffine(
                    rotation,
                    translate=(shift, shift) if shift else None,
                    scale=(1 - scale, 1 + scale) if scale else None,
                    shear=(-shear, shear, -shear, shear) if shear else None,
                    interpolation=v2.InterpolationMode.BILINEAR,
                )
            )
        if rand_augment:
            self.transforms.append(v2.RandAugment(rand_augment, magnitude))

    def __call__(self, image: Any) -> Tensor:
        """Distort a picture, tensor uint8 ``(C, H, W)`` or PIL; the size stays."""
        tensor = image if isinstance(image, Tensor) else v2.functional.pil_to_tensor(_eight_bit(image))
        if self.crop_padding:
            tensor = self._cropped(tensor)
        if self.flip and torch.rand(()) < 0.5:
            tensor = v2.functional.horizontal_flip(tensor)
        for transform in self.transforms:
            tensor = transform(tensor)
        if self.cutout and torch.rand(()) < 0.5:
            tensor = self._cut(tensor)
        return tensor

    def _cropped(self, image: Tensor) -> Tensor:
        pad, (height, width) = self.crop_padding, image.shape[-2:]
        top, left = torch.randint(0, 2 * pad + 1, (2,)).tolist()
        return v2.functional.crop(v2.functional.pad(image, [pad]), top, left, height, width)

    def _cut(self, image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        side = self.cutout
        row, column = (int(torch.randint(0, n, ())) - side // 2 for n in (height, width))
        top, left = max(0, row), max(0, column)
        colour = image.float().mean(dim=(-2, -1), keepdim=True).to(image.dtype)
        return v2.functional.erase(
            image, top, left, min(height, row + side) - top, min(width, column + side) - left, colour
        )


def _eight_bit(image: Any) -> Any:
    """Return a PIL image that torchvision's transforms take: 8 bits, grey or colour."""
    from vsattn.tokenizers.images import to_tensor

    if image.mode in ("L", "RGB") and "transparency" not in image.info:
        return image
    return v2.functional.to_pil_image(to_tensor(image, "a picture"))


class Mix:
    """MixUp (Zhang et al. 2018) or CutMix (Yun et al. 2019) of a whole batch; targets become ``(B, num_classes)``.

    Args:
        num_classes: C.
        mixup: the alpha of MixUp's Beta distribution; 0 is off.
        cutmix: the alpha of CutMix's; with both on, each batch takes one of them at random.
    """

    def __init__(self, num_classes: int, *, mixup: float = 0.0, cutmix: float = 0.0) -> None:
        if mixup < 0 or cutmix < 0:
            raise ConfigError(f"mixup and cutmix are alphas >= 0; got {mixup} and {cutmix}")
        chosen: list[Any] = []
        if mixup:
            chosen.append(v2.MixUp(alpha=mixup, num_classes=num_classes))
        if cutmix:
            chosen.append(v2.CutMix(alpha=cutmix, num_classes=num_classes))
        self.transform = v2.RandomChoice(chosen) if chosen else None

    def __call__(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Mix ``batch["image"]`` and ``batch["target"]``."""
        if self.transform is None or len(batch["target"]) < 2:
            return batch
        if "size" in batch:
            raise ConfigError("mixup and cutmix need pictures of one size: set tokenizer.size=[height, width]")
        image, target = self.transform(batch["image"], batch["target"])
        return {**batch, "image": image, "target": target}
