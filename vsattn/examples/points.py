"""Point clouds: each point in space is a vector, and an item is an array ``(N, 3)`` of any number of points.

One file is all that a new modality needs: a tokenizer, which turns items into vectors, and data to train on.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from vsattn.errors import ConfigError, DataError
from vsattn.tasks.data.base import Data
from vsattn.tokenizers import Tokenizer
from vsattn.vectorset import VectorSet


class PointCloud(Tokenizer):
    """Each point is a vector; a cloud is moved to its centre and scaled to radius 1, so size and place do not count.

    Args:
        resolution: `pos` counts in steps of this length, which is what relations and rotary positions see.
    """

    def __init__(self, *, resolution: float = 0.05) -> None:
        if resolution <= 0:
            raise ConfigError(f"tokenizer.resolution is positive, not {resolution}")
        self.resolution = resolution

    def fit(self, items: Iterable[Any]) -> PointCloud:
        """Learn nothing: what a cloud becomes depends on it alone. What is learned must be plain JSON values."""
        self._state = dict[str, Any]()
        return self

    @property
    def sizes(self) -> dict[str, Any]:
        """Sizes that parts of the model need by name, such as ``grid`` or ``max_length``: none."""
        return {}

    def collate(self, items: Sequence[Any], train: bool = False) -> dict[str, Tensor]:
        """Turn clouds into ``{"points": (B, N, 3), "mask": (B, N)}``, True where a point is real; in training, turned.

        Raises:
            DataError: naming an item that is no cloud of points.
        """
        clouds = [torch.from_numpy(self.read(item, f"item {i} of the batch")) for i, item in enumerate(items)]
        if train:  # a cloud that is turned about its upright axis is the same shape
            clouds = [cloud @ upright_turn(float(torch.rand(())) * 2 * np.pi) for cloud in clouds]
        points, counts = pad_sequence(clouds, batch_first=True), torch.tensor([len(cloud) for cloud in clouds])
        return {"points": points, "mask": torch.arange(points.shape[1]) < counts[:, None]}

    def decode(self, batch: dict[str, Tensor]) -> list[np.ndarray]:
        """Return the clouds of a batch, each at its centre with radius 1."""
        return [points[mask].numpy() for points, mask in zip(batch["points"].cpu(), batch["mask"].cpu(), strict=True)]

    def embedder(self, dim: int) -> nn.Module:
        """Make the module ``batch -> VectorSet (B, N, dim)``."""
        return PointEmbedder(dim, self.resolution)

    def summary(self, item: Any) -> np.ndarray:
        """Return the lengths of the cloud's principal axes, and the mean distance from its centre."""
        points = self.read(item, "an item")
        axes = np.linalg.eigvalsh(np.cov(points.T) if len(points) > 1 else np.zeros((3, 3)))
        return np.append(np.sqrt(axes.clip(min=0)), np.linalg.norm(points, axis=1).mean())

    def read(self, item: Any, name: str) -> np.ndarray:
        """Return an array, or a ``.npy`` file, as float32 ``(N, 3)`` at its centre with radius 1."""
        try:
            points = np.asarray(np.load(item) if isinstance(item, (str, Path)) else item, dtype=np.float64)
        except (OSError, ValueError, TypeError) as error:
            raise DataError(f"{name} cannot be read as points: {error}") from error
        if points.ndim != 2 or points.shape[1] != 3 or not len(points) or not np.isfinite(points).all():
            raise DataError(f"{name} has shape {points.shape}; a cloud is finite numbers (N, 3), at least one point")
        points = points - points.mean(0)
        return (points / max(np.linalg.norm(points, axis=1).max(), 1e-12)).astype(np.float32)


def upright_turn(angle: float) -> Tensor:
    """Return the matrix ``(3, 3)`` of a turn about the third axis."""
    cos, sin = np.cos(angle), np.sin(angle)
    return torch.tensor([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]], dtype=torch.float32)


class PointEmbedder(nn.Module):
    """A small network over each point's coordinates and its distance from the centre."""

    def __init__(self, dim: int, resolution: float) -> None:
        super().__init__()
        self.resolution = resolution
        self.layers = nn.Sequential(nn.Linear(4, dim), nn.GELU(), nn.Linear(dim, dim))

    def forward(self, batch: dict[str, Tensor]) -> VectorSet:
        """Map a batch to a set whose positions are the points; its layout is free: the order says nothing."""
        points = batch["points"]
        features = torch.cat([points, points.norm(dim=-1, keepdim=True)], -1)
        return VectorSet(self.layers(features), batch["mask"], points / self.resolution)


class Solids(Data):
    """Points on the surfaces of five solids, made on the spot: of random proportions, turned about the
    upright axis, with noise.

    Args:
        sizes: clouds of the training, validation and test split, each drawn from its own random numbers.
        points: the least and the most points of a cloud.
        noise: standard deviation of each coordinate, where the solid's half height is about 1.
    """

    def __init__(
        self, *, sizes: Sequence[int] = (2000, 300, 1000), points: Sequence[int] = (32, 64), noise: float = 0.03
    ) -> None:
        super().__init__()
        if len(sizes) != 3 or min(sizes) < 1 or len(points) != 2 or not 1 <= points[0] <= points[1] or noise < 0:
            raise ConfigError(
                f"data: sizes are three numbers from 1, points are [least, most] and noise is not negative; "
                f"not {list(sizes)}, {list(points)} and {noise}"
            )
        self.sizes, self.points, self.noise = sizes, points, noise

    def setup(self, seed: int) -> None:
        """Make the clouds; the seed decides all of them."""
        self.classes = list(SURFACES)
        for number, (split, size) in enumerate(zip(("train", "val", "test"), self.sizes, strict=True)):
            random = np.random.default_rng([seed, number])
            setattr(self, split, [(self._cloud(random, i % len(SURFACES)), i % len(SURFACES)) for i in range(size)])

    def _cloud(self, random: np.random.Generator, solid: int) -> np.ndarray:
        count = int(random.integers(self.points[0], self.points[1] + 1))
        points = list(SURFACES.values())[solid](random, count) * random.uniform(0.7, 1.3, 3)
        turn = upright_turn(random.uniform(0, 2 * np.pi)).numpy()
        return points @ turn + random.normal(scale=self.noise, size=(count, 3))


def _ball(random: np.random.Generator, n: int) -> np.ndarray:
    points = random.normal(size=(n, 3))
    return points / np.linalg.norm(points, axis=1, keepdims=True)


def _cube(random: np.random.Generator, n: int) -> np.ndarray:
    points = random.uniform(-1, 1, (n, 3))
    points[np.arange(n), random.integers(3, size=n)] = random.choice([-1, 1], n)  # onto one of the six faces
    return points


def _round(random: np.random.Generator, n: int, radius: Any, height: Any) -> np.ndarray:
    angle = random.uniform(0, 2 * np.pi, n)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle), height + np.zeros(n)], 1)


def _cylinder(random: np.random.Generator, n: int) -> np.ndarray:
    on_side = random.random(n) < 2 / 3  # side and both ends, by area
    radius = np.where(on_side, 1, np.sqrt(random.random(n)))
    return _round(random, n, radius, np.where(on_side, random.uniform(-1, 1, n), random.choice([-1, 1], n)))


def _cone(random: np.random.Generator, n: int) -> np.ndarray:
    radius, on_side = np.sqrt(random.random(n)), random.random(n) < 0.69
    return _round(random, n, radius, np.where(on_side, 1 - 2 * radius, -1))


def _torus(random: np.random.Generator, n: int) -> np.ndarray:
    around = random.uniform(0, 2 * np.pi, n)
    return _round(random, n, 0.75 + 0.3 * np.cos(around), 0.3 * np.sin(around))


#: Solids by name: functions from random numbers and a number of points to an array ``(n, 3)``.
SURFACES = {"ball": _ball, "cube": _cube, "cylinder": _cylinder, "cone": _cone, "torus": _torus}
