"""Each short stretch of sound is a vector."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from vsattn.errors import ConfigError, DataError
from vsattn.tokenizers.base import Tokenizer
from vsattn.tokenizers.frame_stem import FrameEmbedder, after_strides
from vsattn.tokenizers.mel import cosines, emphasised, mel_filters
from vsattn.tokenizers.spec_augment import SpecAugment
from vsattn.tokenizers.waveforms import to_waveform, trimmed

#: MFCCs are made from so many mel bands.
MFCC_BANDS = 40

#: The root mean square of a clip that is normalised on its own: 26 dB below full scale, where speech usually lies
#: (ITU-T P.56, G.191).
LEVEL = 0.05

#: The root mean square of the loudest frame of a clip whose peak is normalised.
PEAK = 0.1

#: What silence and a band of average power in the loudest frame become where the peak is normalised.
SILENT, LOUD = -1.0, 1.5

#: An emphasis is at most so many decibels, either way.
MOST_EMPHASIS = 60.0

#: About the power of a mel band, on average, of a clip of that level at 8 kHz, in 40 bands of windows of 25 ms; at
#: 16 kHz it is about four times as much.
BAND_POWER = 0.5

#: Positions are made for clips up to so many times as long as the longest training clip.
ROOM = 1.5


class AudioFrames(Tokenizer):
    """Overlapping windows of a clip, each described by ``num_features`` numbers, then a stem of strided convolutions.

    A clip of S samples has ``T = 1 + (S - w) // h`` frames, with windows of w and hops of h samples; a shorter one is
    padded with zeros to one window. Nothing but a frame's own samples describes it. Clips may have any rate and
    several channels, see :func:`vsattn.tokenizers.waveforms.to_waveform`.

    Args:
        sample_rate: Hz; clips of another rate are resampled.
        features: ``"log_mel"`` (log energies of mel bands of the Hann-windowed power spectrum), ``"mfcc"`` (their
            cosine transform; Davis and Mermelstein 1980), or ``"raw"`` (the samples of the window themselves: the first
            stage is then a learned convolution over samples, as in wav2vec; Schneider et al. 2019, section 2.1).
        num_features: mel bands or cepstral coefficients; raw windows have as many as they have samples.
        window, hop: seconds.
        normalise: ``"utterance"`` brings each clip to one level, `LEVEL`, then subtracts the mean of all its numbers
            and divides by their standard deviation, so that it keeps its spectrum; ``"global"`` does the latter for
            each feature (raw: for all) with those of the training clips; ``"peak"`` (log_mel alone) brings the loudest
            frame of each clip to one level, `PEAK`, and maps its numbers linearly: silence becomes -1, and the average
            power of a band at that level 1.5 (as `BAND_POWER` counts it, so that some bands go beyond). It does not
            matter, then, how much of a clip is silent; ``"none"``.
        strides: one convolution over frames for each, of kernel ``2 s + 1`` and stride s, with GELU; without any, a
            linear map of each frame.
        frequencies: lowest and highest of the mel bands, in Hz; None is 0 and half the sample rate.
        trim: windows at both ends that are so many decibels less loud than the loudest are cut off; None cuts nothing.
        dynamic_range: so many decibels below `BAND_POWER` lies what is added to the power of each band before the
            logarithm, so that silence has one; a smaller range makes noisy and clean recordings alike. Near 8 kHz and
            with ``normalise="utterance"`` this is below a clip's average power; at 16 kHz it is about 6 dB lower, and
            with ``"peak"`` 6 dB more lie between it and the loudest frame, and with another ``normalise`` it is the
            same whatever a clip's level. Raw windows need none.
        emphasis: bands from 2,400 Hz on count so many decibels more, and those from 960 Hz on a share of that, so that
            a small range keeps what hisses; not for raw windows.
        spec_augment: distorts training clips, or None; raw windows have no frequencies to warp or mask.
        max_vectors: a clip that would become more vectors is refused, since attention is quadratic.

    Raises:
        ConfigError: for values that make no frames.
    """

    def __init__(
        self,
        *,
        sample_rate: int = 16000,
        features: Literal["log_mel", "mfcc", "raw"] = "log_mel",
        num_features: int = 40,
        window: float = 0.025,
        hop: float = 0.010,
        normalise: Literal["utterance", "global", "peak", "none"] = "utterance",
        strides: Sequence[int] = (2, 1),
        frequencies: Sequence[float] | None = None,
        trim: float | None = None,
        dynamic_range: float = 57.0,
        emphasis: float = 0.0,
        spec_augment: SpecAugment | None = None,
        max_vectors: int = 4096,
    ) -> None:
        self.sample_rate, self.features, self.normalise = sample_rate, features, normalise
        self.window, self.hop = round(window * sample_rate), round(hop * sample_rate)  # in samples
        if sample_rate < 1 or self.window < 1 or self.hop < 1 or max_vectors < 1:
            raise ConfigError(
                f"sample_rate, max_vectors, window and hop are positive, and the last two at least a sample long; not "
                f"{sample_rate} Hz, {max_vectors}, {window} s and {hop} s"
            )
        if features not in ("log_mel", "mfcc", "raw") or normalise not in ("utterance", "global", "peak", "none"):
            raise ConfigError(
                "features is log_mel, mfcc or raw, and normalise utterance, global, peak or none; not "
                f"{features}, {normalise}"
            )
        if normalise == "peak" and features != "log_mel":
            raise ConfigError(f"normalise=peak maps decibels, which features={features} has none of: use log_mel")
        low, high = (0.0, sample_rate / 2) if frequencies is None else map(float, frequencies)
        if not 0 <= low < high <= sample_rate / 2:
            raise ConfigError(f"frequencies rise within 0 and {sample_rate / 2:g} Hz, unlike {frequencies}")
        if num_features < 1 or (features == "mfcc" and num_features > MFCC_BANDS):
            raise ConfigError(f"num_features is at least 1, and at most {MFCC_BANDS} for mfcc; not {num_features}")
        if any(stride < 1 for stride in strides):
            raise ConfigError(f"strides are at least 1, unlike {list(strides)}")
        if features == "raw" and spec_augment is not None and (spec_augment.warp or spec_augment.frequency_masks):
            raise ConfigError(
                "features=raw has no frequencies to distort: set tokenizer.spec_augment.warp=0 and "
                "tokenizer.spec_augment.frequency_masks=0"
            )
        self.num_features = self.window if features == "raw" else num_features
        if not math.isfinite(dynamic_range) or (normalise == "peak" and dynamic_range <= 0):
            raise ConfigError(
                f"dynamic_range is a number of decibels, positive with normalise=peak, not {dynamic_range}"
            )
        if not abs(emphasis) <= MOST_EMPHASIS:
            raise ConfigError(f"emphasis is -{MOST_EMPHASIS:g} to {MOST_EMPHASIS:g} decibels, not {emphasis}")
        if features == "raw" and emphasis:
            raise ConfigError("features=raw has no bands to emphasise: set tokenizer.emphasis=0")
        if trim is not None and trim <= 0:
            raise ConfigError(f"trim is a positive number of decibels, or None, not {trim}")
        self.strides, self.frequencies, self.trim = tuple(strides), (low, high), trim
        self.floor = BAND_POWER * 10 ** (-dynamic_range / 10)
        self.bands = MFCC_BANDS if features == "mfcc" else num_features
        self.gains = emphasised(self.bands, self.frequencies, emphasis)
        self.spec_augment, self.max_vectors = spec_augment, max_vectors

    def num_frames(self, num_samples: int) -> int:
        """Return T of a clip of so many samples at :attr:`sample_rate`."""
        return 1 + max(0, num_samples - self.window) // self.hop

    def num_vectors(self, num_samples: int) -> int:
        """Return how many vectors a clip of so many samples at :attr:`sample_rate` becomes, after the stem."""
        return after_strides(self.num_frames(num_samples), self.strides)

    @property
    def seconds_per_vector(self) -> float:
        """From one vector to the next, in seconds."""
        return math.prod(self.strides) * self.hop / self.sample_rate

    def vector_times(self, count: int) -> Tensor:
        """Return the centres of the first ``count`` vectors, in seconds from the start, ``(count,)``; not with trim."""
        if self.trim is not None:
            raise ConfigError("where a vector lies in a clip is not kept when ends are cut: set tokenizer.trim=null")
        return torch.arange(count) * self.seconds_per_vector + 0.5 * self.window / self.sample_rate

    def borders(self, count: int) -> Tensor:
        """Return when the first ``count`` vectors begin and the last of them ends, in seconds, ``(count + 1,)``.

        Neighbours meet halfway between their centres. The first begins at 0, and the last ends with its window at the
        latest, hence within the clip, unless that is shorter than a window.
        """
        times = self.vector_times(count + 1)
        step, half = self.seconds_per_vector, 0.5 * self.window / self.sample_rate
        times[1:] -= step / 2
        times[-1:] -= max(0.0, step / 2 - half)
        times[0] = 0.0
        return times

    def counts(self, batch: dict[str, Tensor]) -> Tensor:
        """Return how many vectors each clip of a batch becomes, ``(B,)``."""
        return after_strides(batch["length"], self.strides)

    def fit(self, items: Iterable[Any]) -> AudioFrames:
        """Learn the longest clip, and mean and deviation of each feature if they are to be global.

        Raises:
            DataError: when there is no clip, or one cannot be read or is too long.
        """
        longest, count = 0, 0
        sums = torch.zeros(2, 1 if self.features == "raw" else self.num_features, dtype=torch.float64)
        for index, item in enumerate(items):
            samples = self._samples(item, f"training item {index}")
            longest = max(longest, self.num_vectors(len(samples)))
            if self.normalise == "global":
                frames = self._describe(samples).double().view(-1, sums.shape[1])
                sums += torch.stack([frames.sum(0), frames.square().sum(0)])
                count += len(frames)
        if not longest:
            raise DataError("AudioFrames.fit got no clips")
        mean, square = sums / max(1, count)
        std = (square - mean.square()).clamp(min=1e-10).sqrt()
        moments = {"mean": mean.tolist(), "std": std.tolist()} if count else {}
        self._state = {"features": self.features, "num_features": self.num_features, "longest": longest, **moments}
        return self

    def load_state(self, state: dict[str, Any]) -> AudioFrames:
        """Take over what another tokenizer of the same features learned, and return self.

        Raises:
            DataError: for the state of another kind of tokenizer.
        """
        wanted = {"features": self.features, "num_features": self.num_features}
        needed = {"longest", *(("mean", "std") if self.normalise == "global" else ())}
        if any(state.get(name) != value for name, value in wanted.items()) or not needed <= set(state):
            raise DataError(f"this is no state of AudioFrames with {wanted} and {', '.join(sorted(needed))}: {state}")
        super().load_state(state)
        return self

    def collate(self, items: Sequence[Any], train: bool = False) -> dict[str, Tensor]:
        """Return ``"frames" (B, T, F)``, padded with zeros, and ``"length" (B,)``, the real frames of each.

        Raises:
            DataError: naming the clip that cannot be read or is too long.
        """
        if len(items) == 0:
            raise DataError("a batch needs at least one clip")
        clips = [self.frames(item, f"item {i} of the batch", train=train) for i, item in enumerate(items)]
        return {"frames": pad_sequence(clips, batch_first=True), "length": torch.tensor([len(c) for c in clips])}

    def frames(self, item: Any, name: str = "the clip", *, train: bool = False) -> Tensor:
        """Return the normalised frames ``(T, F)`` of one clip; ``train`` lets `spec_augment` distort it."""
        samples = self._samples(item, name)
        if not (train and self.spec_augment is not None):
            return self._normalised(self._describe(samples))
        stretch, warp = self.spec_augment.draw()
        frames = self._normalised(self._describe(samples, stretch=stretch, warp=warp))
        return self.spec_augment.masked(frames)

    def decode(self, batch: dict[str, Tensor]) -> list[np.ndarray]:
        """Return the frames ``(T, F)`` of each clip without padding, as normalised as they are."""
        frames = batch["frames"].detach().cpu()
        return [clip[:length].numpy() for clip, length in zip(frames, batch["length"].tolist(), strict=True)]

    def embedder(self, dim: int) -> nn.Module:
        """Make the module ``batch -> VectorSet (B, N, dim)``."""
        return FrameEmbedder(self.num_features, dim, self.strides)

    @property
    def sizes(self) -> dict[str, Any]:
        """Vectors lie along one axis; positions are made for clips half as long again as the longest in training."""
        return {"dimensions": 1, "max_length": min(self.max_vectors, math.ceil(ROOM * self.state["longest"]))}

    def _samples(self, item: Any, name: str) -> Tensor:
        name = str(item) if isinstance(item, (str, Path)) else name
        samples = to_waveform(item, self.sample_rate, name)
        samples = samples if self.trim is None else trimmed(samples, self.trim, self.window)
        if self.num_vectors(len(samples)) > self.max_vectors:
            raise DataError(
                f"{name} is {len(samples) / self.sample_rate:.1f} s long and would become "
                f"{self.num_vectors(len(samples))} vectors, more than max_vectors={self.max_vectors}; cut it, use "
                "larger strides or hops, or raise tokenizer.max_vectors (with structure=window beyond a few thousand)"
            )
        return samples

    def _describe(self, samples: Tensor, *, stretch: float = 1.0, warp: float = 1.0) -> Tensor:
        """Return ``(T, F)``; ``stretch`` makes T so many times larger, ``warp`` the frequencies."""
        if self.normalise == "utterance":
            samples = samples * (LEVEL / samples.square().mean().sqrt().clamp(min=1e-8))
        samples = F.pad(samples, (0, max(0, self.window - len(samples))))
        count = 1 + int((len(samples) - self.window) * stretch / self.hop)
        starts = (torch.arange(count, dtype=torch.float64) * (self.hop / stretch)).long()
        windows = samples[starts[:, None] + torch.arange(self.window)]  # (T, w)
        if self.features == "raw":
            return windows
        if self.normalise == "peak":
            windows = windows * (PEAK / windows.square().mean(1).max().sqrt().clamp(min=1e-8))
        size = 2 ** math.ceil(math.log2(self.window))
        power = torch.fft.rfft(windows * torch.hann_window(self.window), size).abs().square()
        power = power @ mel_filters(self.bands, size, self.sample_rate, self.frequencies, warp)
        log_mel = (power * self.gains + self.floor).log()
        return log_mel if self.features == "log_mel" else log_mel @ cosines(self.bands, self.num_features)

    def _normalised(self, frames: Tensor) -> Tensor:
        if self.normalise == "none":
            return frames
        if self.normalise == "peak":
            loud = math.log1p(BAND_POWER * (PEAK / LEVEL) ** 2 / self.floor)
            return (frames - math.log(self.floor)) / loud * (LOUD - SILENT) + SILENT
        if self.normalise == "global":
            mean, std = (torch.tensor(self.state[name]) for name in ("mean", "std"))
        else:
            mean, variance = frames.mean(), frames.var(correction=0)
            if variance < 1e-10:  # silence: only the rounding of the mean is left
                return torch.zeros_like(frames)
            std = variance.sqrt()
        return (frames - mean) / std
