"""Time series of several channels: each moment is a vector; an item is an array ``(T, C)``, NaN for what is missing.

One file is all that a new modality needs: a tokenizer, which turns items into vectors, and data to train on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
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


class TimeSeries(Tokenizer):
    """Each moment is a vector of all channels, each by its mean and deviation in training, and of which are missing.

    Args:
        max_length: a longer series is refused, since attention is quadratic.
    """

    def __init__(self, *, max_length: int = 4096) -> None:
        if max_length < 1:
            raise ConfigError(f"tokenizer.max_length is at least 1, not {max_length}")
        self.max_length = max_length

    def fit(self, items: Iterable[Any]) -> TimeSeries:
        """Learn each channel's mean and deviation from what is not missing, and count what is, as plain JSON values.

        Raises:
            DataError: for no series, one that cannot be read, or a channel without any value.
        """
        rows = [self.read(item, f"training item {i}") for i, item in enumerate(items)]
        if len({series.shape[1] for series in rows}) != 1:
            raise DataError(f"series share their channels; these have {sorted({s.shape[1] for s in rows}) or 'none'}")
        values = np.concatenate(rows)
        missing = np.isnan(values).sum(0)
        if (missing == len(values)).any():
            raise DataError(f"channel {int((missing == len(values)).argmax())} has no value in any training item")
        deviation = np.nanstd(values, 0)
        self._state = {
            "mean": np.nanmean(values, 0).tolist(),
            "std": np.where(deviation > 0, deviation, 1.0).tolist(),
            "missing": (missing / len(values)).tolist(),  # the share of each channel, to be looked at
            "longest": max(map(len, rows)),
        }
        return self

    @property
    def sizes(self) -> dict[str, Any]:
        """The longest training series, for which learned positions are made."""
        return {"max_length": self.state["longest"]}

    def collate(self, items: Sequence[Any], train: bool = False) -> dict[str, Tensor]:
        """Turn series into ``{"values": (B, T, C), "present": (B, T, C), "mask": (B, T)}``.

        A missing value is 0, which is the channel's mean, and ``present`` is 0 there; ``mask`` is True where a moment
        is real.

        Raises:
            DataError: naming an item that is no series, or has other channels than `fit` has seen.
        """
        mean, std = np.array(self.state["mean"]), np.array(self.state["std"])
        rows = [self.read(item, f"item {i} of the batch", len(mean)) for i, item in enumerate(items)]
        scaled = [torch.from_numpy((series - mean) / std).float() for series in rows]
        counts = torch.tensor([len(series) for series in scaled])
        values = pad_sequence(scaled, batch_first=True, padding_value=float("nan"))
        mask = torch.arange(values.shape[1]) < counts[:, None]
        return {"values": values.nan_to_num(0.0), "present": (~values.isnan()).float(), "mask": mask}

    def decode(self, batch: dict[str, Tensor]) -> list[np.ndarray]:
        """Return the series of a batch, gaps and all."""
        mean, std = torch.tensor(self.state["mean"]), torch.tensor(self.state["std"])
        values = (batch["values"].cpu() * std + mean).masked_fill(batch["present"].cpu() == 0, float("nan"))
        return [series[mask].numpy() for series, mask in zip(values, batch["mask"].cpu(), strict=True)]

    def embedder(self, dim: int) -> nn.Module:
        """Make the module ``batch -> VectorSet (B, T, dim)``."""
        return MomentEmbedder(len(self.state["mean"]), dim)

    def summary(self, item: Any) -> np.ndarray:
        """Return mean, deviation, least and greatest value of each channel and the length; 0 for what is not known."""
        series = np.ma.masked_invalid(self.read(item, "an item"))
        figures = [series.mean(0), series.std(0), series.min(0), series.max(0)]
        return np.append(np.ma.concatenate(figures).filled(0.0), len(series))

    def read(self, item: Any, name: str, channels: int | None = None) -> np.ndarray:
        """Return an array, or a ``.npy`` file, as ``(T, C)``; what is infinite counts as missing."""
        try:
            series = np.array(np.load(item) if isinstance(item, (str, Path)) else item, dtype=np.float64)
        except (OSError, ValueError, TypeError) as error:
            raise DataError(f"{name} cannot be read as a time series: {error}") from error
        if series.ndim != 2 or not series.size or len(series) > self.max_length:
            raise DataError(f"{name} has shape {series.shape}; a series is (T, C), T from 1 to {self.max_length}")
        if channels not in (None, series.shape[1]):
            raise DataError(f"{name} has {series.shape[1]} channels; the training series had {channels}")
        series[np.isinf(series)] = np.nan
        return series


class MomentEmbedder(nn.Module):
    """A small network over each moment's channels and which of them are there."""

    def __init__(self, channels: int, dim: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2 * channels, dim), nn.GELU(), nn.Linear(dim, dim))

    def forward(self, batch: dict[str, Tensor]) -> VectorSet:
        """Map a batch to a set in sequence, whose positions are the numbers of the moments."""
        features = torch.cat([batch["values"], batch["present"]], -1)
        return VectorSet(self.layers(features), batch["mask"], layout="sequence")


class Motions(Data):
    """Generated: three noisy sensors at a system that moves by one of five laws, with gaps where a sensor was silent.

    Every series starts elsewhere and runs at its own pace. Sensors see mixtures of the system's coordinates, the same
    mixtures for all laws, and each series is scaled to deviation 1, so that size tells nothing.

    Args:
        sizes: series of the training, validation and test split, each drawn from its own random numbers.
        length: the least and the most moments of a series.
        noise: standard deviation, where a sensor's own is 1.
        missing: the share of what the sensors miss, in stretches of about 5 moments.
    """

    def __init__(
        self,
        *,
        sizes: Sequence[int] = (2000, 300, 1000),
        length: Sequence[int] = (48, 96),
        noise: float = 0.2,
        missing: float = 0.1,
    ) -> None:
        super().__init__()
        if len(sizes) != 3 or min(sizes) < 1 or len(length) != 2 or not 2 <= length[0] <= length[1]:
            raise ConfigError(f"data: sizes are three numbers from 1, length is [least, most]; not {sizes}, {length}")
        if noise < 0 or not 0 <= missing < 0.9:
            raise ConfigError(f"data: noise is not negative and missing in [0, 0.9), not {noise} and {missing}")
        self.sizes, self.length, self.noise, self.missing = sizes, length, noise, missing

    def setup(self, seed: int) -> None:
        """Make the series; the seed decides all of them."""
        self.classes = list(LAWS)
        for number, (split, size) in enumerate(zip(("train", "val", "test"), self.sizes, strict=True)):
            random = np.random.default_rng([seed, number])
            targets = np.arange(size) % len(LAWS)
            states = [
                motion(law, random, int((targets == i).sum()), self.length[1]) for i, law in enumerate(LAWS.values())
            ]
            setattr(
                self, split, [(self._sensed(states[t][i // len(LAWS)], random), int(t)) for i, t in enumerate(targets)]
            )

    def _sensed(self, states: np.ndarray, random: np.random.Generator) -> np.ndarray:
        series = (states @ MIXTURE)[: int(random.integers(self.length[0], self.length[1] + 1))]
        series = (series - series.mean(0)) / series.std(0) + random.normal(scale=self.noise, size=series.shape)
        starts = random.random(series.shape) < self.missing / 5
        for moment, sensor in zip(*starts.nonzero(), strict=True):
            series[moment : moment + random.integers(1, 10), sensor] = np.nan
        return series


#: How the three sensors see a system's three coordinates.
MIXTURE = np.array([[1.0, 0.4, -0.3], [-0.5, 1.0, 0.4], [0.3, -0.6, 1.0]])


def motion(law: Callable[..., Any], random: np.random.Generator, count: int, length: int) -> np.ndarray:
    """Follow ``dx/dt = law(x)`` from random places, by Runge and Kutta's fourth order: ``(count, length, 3)``."""
    x, pace = random.normal(size=(3, count)), random.uniform(0.06, 0.12, count)
    states = []
    for step in range(-100, length):  # the first steps lead to where the system stays
        for _ in range(2):
            k1 = np.stack(law(*x))
            k2 = np.stack(law(*(x + pace / 4 * k1)))
            k3 = np.stack(law(*(x + pace / 4 * k2)))
            k4 = np.stack(law(*(x + pace / 2 * k3)))
            x = x + pace / 12 * (k1 + 2 * k2 + 2 * k3 + k4)
        if step >= 0:
            states.append(x)
    return np.stack(states).transpose(2, 0, 1)


#: The laws by name: the velocity of a place (x, y, z).
LAWS: dict[str, Callable[..., Any]] = {
    "harmonic": lambda x, y, z: (2 * y, -2 * x, 0.5 * (x - z)),
    "van der Pol": lambda x, y, z: (2 * y, 4 * (1 - x * x) * y - 2 * x, 0.5 * (x - z)),
    "Roessler": lambda x, y, z: (2 * (-y - z), 2 * (x + 0.2 * y), 2 * (0.2 + z * (x - 5.7))),
    "Lorenz": lambda x, y, z: (3 * (y - x), 0.3 * (x * (28 - z) - y), 0.3 * (x * y - 8 / 3 * z)),
    "Thomas": lambda x, y, z: (4 * np.sin(y) - 0.6 * x, 4 * np.sin(z) - 0.6 * y, 4 * np.sin(x) - 0.6 * z),
}
