"""How far an explanation is true of the model: what happens when the vectors it names are taken away, or alone left."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vsattn.errors import ConfigError, DataError
from vsattn.measures.intervals import mean_interval
from vsattn.measures.orders import METHODS, attributions, evenly, ranks
from vsattn.measures.removal import Questions, log_probability
from vsattn.model import Model

#: Shares of the vectors that are taken away, or left.
FRACTIONS = (0.0, 0.05, 0.1, 0.2, 0.5, 1.0)

#: What a method must beat.
BASELINES = ("random", "uniform")

#: The measures of a method, and whether a higher value is better.
HIGHER = {"comprehensiveness": True, "sufficiency": False, "deletion": False, "insertion": True}


@dataclass(frozen=True, eq=False)
class Curves:
    """Probabilities of the answers of n questions under F shares of vectors.

    Args:
        fractions: the shares, ascending.
        deletion: by method, when that share, the most important first, is taken away, ``(n, F)``.
        insertion: by method, when only that share is left.
        counts: of the vectors that can be taken away, ``(n,)``.
    """

    fractions: tuple[float, ...]
    deletion: dict[str, Tensor]
    insertion: dict[str, Tensor]
    counts: Tensor

    def measures(self, method: str) -> dict[str, Tensor]:
        """Return the measures of a method for each question, ``(n,)``.

        ``"comprehensiveness"``: the mean of ``p(whole) - p(without the share)`` over the shares between 0 and 1, high
        when what was named is needed; ``"sufficiency"``: of ``p(whole) - p(the share alone)``, low when it is enough
        (DeYoung et al. 2020, "ERASER", section 4.2). ``"deletion"`` and ``"insertion"``: the areas under the two
        curves (Petsiuk et al. 2018, "RISE", section 4.1).
        """
        inner = [i for i, share in enumerate(self.fractions) if 0 < share < 1]
        shares = torch.tensor(self.fractions, dtype=torch.float64)
        without, alone = self.deletion[method], self.insertion[method]
        whole = without[:, :1]
        return {
            "comprehensiveness": (whole - without[:, inner]).mean(1),
            "sufficiency": (whole - alone[:, inner]).mean(1),
            "deletion": torch.trapezoid(without, shares),
            "insertion": torch.trapezoid(alone, shares),
        }


@dataclass(frozen=True)
class Difference:
    """By how much a method is better than a baseline, item by item, with its 95% interval; above 0 is better."""

    value: float
    low: float
    high: float

    @property
    def says(self) -> str:
        """``"better"`` or ``"worse"`` where the interval leaves out 0, else ``"no different"``."""
        return "better" if self.low > 0 else "worse" if self.high < 0 else "no different"


@dataclass(frozen=True)
class Verdict:
    """What the curves say of one method.

    Args:
        method: its name.
        means: each measure's mean over the questions, and its 95% interval.
        against: by baseline, each measure's `Difference`.
    """

    method: str
    means: dict[str, tuple[float, float, float]]
    against: dict[str, dict[str, Difference]]

    def sentence(self, baseline: str = "random") -> str:
        """Say in words whether the method beats a baseline."""
        found: dict[str, list[str]] = {}
        for name, difference in self.against[baseline].items():
            found.setdefault(difference.says, []).append(name)
        parts = [f"{says} in {', '.join(names)}" for says, names in found.items()]
        if set(found) == {"better"}:
            return f"{self.method} beats {baseline} order in all four measures"
        if "better" not in found:
            return f"{self.method} does not beat {baseline} order: {'; '.join(parts)}"
        return f"{self.method} against {baseline} order: {'; '.join(parts)}"


def faithfulness(
    model: Model,
    batches: Iterable[Questions],
    *,
    methods: Sequence[str] = METHODS,
    fractions: Sequence[float] = FRACTIONS,
    seeds: Sequence[int] = (0, 1, 2),
) -> Curves:
    """Take vectors away in the order that each method, even spacing and chance give, and note the answers' probability.

    Args:
        model: in evaluation mode.
        batches: of questions, see :func:`vsattn.measures.ask`.
        methods: see :func:`vsattn.measures.attributions`.
        fractions: ascending, from 0 to 1; the number of vectors is rounded up.
        seeds: of random orders, over which ``"random"`` is the mean.

    Raises:
        ConfigError: for fractions that are not such, no seed, or a model that cannot be asked.
        DataError: for no question.
    """
    shares = tuple(float(share) for share in fractions)
    if list(shares) != sorted(set(shares)) or shares[:1] != (0.0,) or shares[-1:] != (1.0,) or len(shares) < 3:
        raise ConfigError(f"fractions ascend from 0 to 1, with others between, not {list(fractions)}")
    if not seeds:
        raise ConfigError("faithfulness: seeds names at least one random order")
    names = [*methods, *BASELINES]
    deletion: dict[str, list[Tensor]] = {name: [] for name in names}
    insertion: dict[str, list[Tensor]] = {name: [] for name in names}
    counts = []
    for number, questions in enumerate(batches):
        taker = _Taker(model, questions, shares)
        values = attributions(model, questions, methods) if methods else {}
        values["uniform"] = evenly(questions.candidates.cpu())
        found = {name: taker.curves(ranks(one, taker.candidates, seed=seeds[0])) for name, one in values.items()}
        drawn = [taker.curves(_random(taker.candidates, seed, number)) for seed in seeds]
        found["random"] = torch.stack([a for a, _ in drawn]).mean(0), torch.stack([b for _, b in drawn]).mean(0)
        for name in names:
            deletion[name].append(found[name][0])
            insertion[name].append(found[name][1])
        counts.append(taker.count)
    if not counts:
        raise DataError("faithfulness: there is no question")
    without, alone = ({name: torch.cat(parts) for name, parts in of.items()} for of in (deletion, insertion))
    return Curves(shares, without, alone, torch.cat(counts))


def verdicts(curves: Curves, *, seed: int = 0) -> list[Verdict]:
    """Judge each method against the baselines, by paired bootstrap over the questions."""
    measured = {name: curves.measures(name) for name in curves.deletion}
    found = []
    for method, own in measured.items():
        means = {name: (float(v.mean()), *mean_interval(v, seed=seed)) for name, v in own.items()}
        against: dict[str, dict[str, Difference]] = {}
        for baseline in BASELINES if method not in BASELINES else ():
            against[baseline] = {}
            for name, value in own.items():
                better = (value - measured[baseline][name]) * (1 if HIGHER[name] else -1)
                against[baseline][name] = Difference(float(better.mean()), *mean_interval(better, seed=seed))
        found.append(Verdict(method, means, against))
    return found


class _Taker:
    """Takes vectors away from the sets of a batch of questions."""

    def __init__(self, model: Model, questions: Questions, shares: Sequence[float]) -> None:
        self.model, self.questions, self.shares = model, questions, shares
        self.candidates = questions.candidates.cpu()
        self.count = self.candidates.sum(1)
        self.whole = self._probability(torch.ones_like(self.candidates))
        self.nothing = self._probability(~self.candidates)

    def curves(self, ranks: Tensor) -> tuple[Tensor, Tensor]:
        """Return the curves of deletion and insertion, ``(R, F)`` each."""
        without, alone = [self.whole], [self.nothing]
        for share in self.shares[1:-1]:
            taken = self.candidates & (ranks < (share * self.count - 1e-9).ceil()[:, None])
            without.append(self._probability(~taken))
            alone.append(self._probability(~self.candidates | taken))
        return torch.stack([*without, self.nothing], 1), torch.stack([*alone, self.whole], 1)

    def _probability(self, keep: Tensor) -> Tensor:
        found = log_probability(self.model, self.questions, keep.to(self.questions.vectors.x.device))
        return found.exp().cpu()


def _random(candidates: Tensor, seed: int, batch: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed * 1_000_003 + batch)
    drawn = torch.rand(candidates.shape, generator=generator)
    return ranks(drawn, candidates, seed=seed)
