"""Whether the heads of a model point from a pronoun at the noun that it means, and what that is worth."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from vsattn.build import resolve
from vsattn.errors import ConfigError
from vsattn.measures.ablation import ablation
from vsattn.measures.intervals import mean_interval
from vsattn.measures.pointing import Hits, Meant, hits, pointing
from vsattn.model import build_model
from vsattn.predictor import Predictor
from vsattn.silencing import silence

from .data.pronouns import Pronouns, is_choice
from .judging import Judge
from .measure_plots import named
from .report import aligned, number

#: A value and its 95% interval.
Share = tuple[float, float, float]


#: Of each head, by the path of its module and its number.
Shares = dict[tuple[str, int], float]


@dataclass(frozen=True, eq=False)
class Asked:
    """What pronouns mean: which of the nouns, and where their adjectives stand, ``(B,)``."""

    nouns: Meant
    adjective: Tensor


@dataclass(frozen=True)
class Pointer:
    """One head.

    Args:
        path: of its module.
        head: its number, from 0.
        val: share of the validation sentences in which its largest weight among the nouns is that of the noun meant.
        share: the same of the split, with its interval.
        of_all: share in which that noun has its largest weight of all words.
        adjective: share in which the adjective has, from the pronoun.
        moved: share of the pairs of sentences, one adjective apart, in both of which it points at the noun meant.
        untrained: as ``share``, in the same model before training.
        change: of the model's accuracy when the head is silent, with its interval.
    """

    path: str
    head: int
    val: float
    share: Share
    of_all: Share
    adjective: float
    moved: Share
    untrained: float
    change: Share

    @property
    def name(self) -> str:
        """What tables call it."""
        return f"{named(self.path)}, {self.head + 1}"


def pronoun_pointing(predictor: Predictor, split: str, *, count: int, seed: int) -> dict[str, Any]:
    """Measure all heads, print a table and what the best head in validation does, and return the numbers.

    Args:
        predictor: a model for data=pronouns.
        split: what is reported; the head is chosen in validation, whatever the split.
        count: of sentences of each of both, from the first; they are whole pairs.
        seed: of the bootstrap and of the untrained weights.

    Raises:
        ConfigError: for a model of other data, or one without attention.
        DataError: see :meth:`~vsattn.tasks.judging.Judge.of`.
    """
    target = (predictor.config.get("data") or {}).get("_target_")
    if target is None or not issubclass(resolve(target), Pronouns):
        raise ConfigError("pointing needs to know which noun a pronoun means: a model that learned data=pronouns")
    asked = {part: _questions(predictor, part, count) for part in ("val", split)}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh = build_model(predictor.config, predictor.tokenizer, num_classes=len(predictor.classes)).eval()
    untrained = {part: _shares(hits(fresh, _nouns(questions))) for part, questions in asked.items()}
    before, rows = _pointers(predictor, asked, split, untrained[split], seed)
    best = max(rows, key=lambda row: row.val)
    layer = [row.head for row in rows if row.path == best.path]
    together = {"without_layer": layer, "alone_in_layer": [head for head in layer if head != best.head]}
    found = {
        "sentences": sum(len(one.nouns.query) for one in asked[split]),
        "accuracy": before,
        **{name: _silenced(predictor, asked[split], {best.path: heads}) for name, heads in together.items()},
        "nearest_noun": float(torch.cat([_nearest(one.nouns) for one in asked[split]]).double().mean()),
        "untrained_best": untrained[split][max(untrained["val"].items(), key=lambda pair: pair[1])[0]],
        "best": vars(best),
        "heads": [vars(row) for row in rows],
    }
    _show(rows, best, found, split)
    return found


def _pointers(
    predictor: Predictor, asked: dict[str, list[Asked]], split: str, untrained: Shares, seed: int
) -> tuple[float, list[Pointer]]:
    """Return the accuracy of the whole model, and what is measured of each head."""
    model, questions = predictor.model, asked[split]
    found, val = hits(model, _nouns(questions)), _shares(hits(model, _nouns(asked["val"])))
    adjectives = hits(model, [replace(one.nouns, answer=one.adjective) for one in questions])
    before, changes = ablation(model, lambda: _right(predictor, questions), seed=seed)
    silent = {(one.path, one.head): (one.change, one.low, one.high) for one in changes}
    rows = [
        Pointer(
            path=one.path,
            head=one.head,
            val=val[one.path, one.head],
            share=(one.share, one.low, one.high),
            of_all=(one.of_all, one.all_low, one.all_high),
            adjective=float(adjectives[one.path].everything[:, one.head].double().mean()),
            moved=_moved(found[one.path], one.head, seed),
            untrained=untrained[one.path, one.head],
            change=silent[one.path, one.head],
        )
        for one in pointing(found, seed=seed)
    ]
    return before, rows


def _questions(predictor: Predictor, split: str, count: int) -> list[Asked]:
    """Return what each pronoun means that could mean several nouns, in batches."""
    judge = Judge.of(predictor, split)
    every = (judge.pairs[i] for i in range(len(judge.pairs)))
    pairs = list(islice((pair for pair in every if is_choice(pair[0])), count // 2 * 2))
    found = []
    for start in range(0, len(pairs), judge.batch_size):
        part = pairs[start : start + judge.batch_size]
        batch = judge.task.collate(part)
        references = [Pronouns.reference(words, predictor.classes[max(target)]) for words, target in part]
        candidates = torch.zeros_like(batch["mask"])
        for row, reference in enumerate(references):
            candidates[row, reference.nouns] = True
        query, adjective, answer = torch.tensor([(r.pronoun, r.adjective, r.antecedent) for r in references]).T
        found.append(Asked(Meant(batch, query, candidates, answer), adjective))
    return found


def _nouns(asked: Sequence[Asked]) -> list[Meant]:
    return [one.nouns for one in asked]


def _silenced(predictor: Predictor, asked: Sequence[Asked], heads: dict[str, Iterable[int]]) -> float:
    """Return the accuracy without these heads."""
    with silence(predictor.model, heads):
        return float(_right(predictor, asked)[0].double().mean())


@torch.no_grad()
def _right(predictor: Predictor, asked: Sequence[Asked]) -> tuple[Tensor, Tensor]:
    """Return whether the model answers right at each pronoun, ``(n,)``, and ones."""
    parts = []
    for one in _nouns(asked):
        rows = torch.arange(len(one.query))
        answers = predictor.model(one.batch)[rows, one.query].argmax(-1)
        parts.append(answers == one.batch["target"][rows, one.query])
    right = torch.cat(parts)
    return right.long(), torch.ones_like(right, dtype=torch.long)


def _shares(found: dict[str, Hits]) -> Shares:
    return {
        (path, head): float(value)
        for path, one in found.items()
        for head, value in enumerate(one.candidates.double().mean(0))
    }


def _moved(found: Hits, head: int, seed: int) -> Share:
    """Return the share of pairs in which a head is right twice."""
    both = found.candidates[:, head].view(-1, 2).all(1).double()
    return (float(both.mean()), *mean_interval(both, seed=seed))


def _nearest(asked: Meant) -> Tensor:
    """Return whether the noun nearest to the pronoun is meant, bool ``(B,)``."""
    places = torch.arange(asked.candidates.shape[1])
    far = (places - asked.query[:, None]).abs().masked_fill(~asked.candidates, len(places))
    return far.argmin(1) == asked.answer


def _show(rows: Sequence[Pointer], best: Pointer, found: dict[str, Any], split: str) -> None:
    heading = ["points at the noun meant", "val", split, "95% interval", "of all words", "both of a pair", "untrained"]
    heading += ["at the adjective", "accuracy without it", "95% interval"]
    cells = [
        [
            row.name,
            *(number(value) for value in (row.val, row.share[0])),
            _between(row.share),
            *(number(value) for value in (row.of_all[0], row.moved[0], row.untrained, row.adjective)),
            f"{row.change[0]:+.4f}",
            f"{row.change[1]:+.4f} to {row.change[2]:+.4f}",
        ]
        for row in rows
    ]
    print("\n" + "\n".join(aligned([heading, *cells])), flush=True)
    worst = min(rows, key=lambda row: row.change[0])
    before, after = found["accuracy"], best.change
    lines = (
        f"best in validation: {best.name}, measured on {found['sentences']} sentences of {split}:",
        f"  its strongest noun is the one meant in {number(best.share[0])} ({_between(best.share)}),",
        f"  its strongest word in {number(best.of_all[0])} ({_between(best.of_all)});",
        f"  the nearest noun is in {number(found['nearest_noun'])}, and the best head's before training in "
        f"{number(found['untrained_best'])}",
        f"  one adjective moves it from one noun to the other in {number(best.moved[0])} of the pairs "
        f"({_between(best.moved)})",
        f"  the model answers {number(before)} right; {number(before + after[0])} without this head, "
        f"{number(found['alone_in_layer'])} with no other in its layer, {number(found['without_layer'])} with none",
        f"  the head whose silence costs most: {worst.name}, {number(before + worst.change[0])} without it; from the "
        f"pronoun its strongest word is the adjective in {number(worst.adjective)}",
    )
    print("\n" + "\n".join(lines), flush=True)


def _between(share: Share) -> str:
    return f"{number(share[1])} to {number(share[2])}"
