"""Scores of translations by sacreBLEU, with their signatures (Post 2018), and the text that most papers score."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torchmetrics import Metric

from vsattn.environment import variable
from vsattn.errors import DataError

if TYPE_CHECKING:
    from sacrebleu.metrics import BLEU
    from sacrebleu.metrics.base import Score, Signature

#: Resamples of the bootstrap, as many as sacreBLEU itself takes; the longest n-grams that BLEU counts.
RESAMPLES, ORDER = 1000, 4


def scores(
    hypotheses: Sequence[str], references: Sequence[str], *, language: str, tokenised: bool, seed: int
) -> dict[str, float]:
    """Score translations against one reference each; every BLEU has a 95% bootstrap interval over sentences.

    Args:
        hypotheses, references: line by line.
        language: of both, for Moses' rules, such as ``"en"``.
        tokenised: whether the text is that of Moses' scripts already, as files named ``lc.norm.tok`` are.
        seed: of the bootstrap.

    Returns:
        ``bleu_lc_tok`` with ``_low`` and ``_high``, on text as `moses` gives it; ``bleu_13a`` likewise, cased and by
        sacreBLEU's own tokeniser, unless the text is tokenised; ``chrf`` (Popović 2015), on the text as it is.

    Raises:
        DataError: for no sentence at all, or lists of different lengths.
    """
    from sacrebleu.metrics import CHRF

    _check(hypotheses, references)
    plain = list(hypotheses), list(references)
    lowered = plain if tokenised else (moses(hypotheses, language), moses(references, language))
    found: dict[str, float] = {}
    for name, metric in _metrics(tokenised).items():
        score = _bootstrap(metric, *(plain if name == "bleu_13a" else lowered), seed=seed)
        interval = json.loads(score.format(width=6, signature=str(metric.get_signature()), is_json=True))
        mean, half = interval.get("confidence_mean", 0.0), interval.get("confidence_var", 0.0)
        found |= {name: score.score, f"{name}_low": max(0.0, mean - half), f"{name}_high": mean + half}
    return {**found, "chrf": CHRF().corpus_score(plain[0], [plain[1]]).score}


def signatures(*, tokenised: bool, seed: int) -> dict[str, str]:
    """Return sacreBLEU's signature of each of `scores`; ``text`` says what was done to it before."""
    from sacrebleu.metrics import CHRF

    found: dict[str, Signature] = {}
    for name, metric in _metrics(tokenised).items():
        _bootstrap(metric, ["a"], ["a"], seed=seed)  # a metric knows its signature only after it was used
        found[name] = metric.get_signature()
    chrf = CHRF()
    chrf.corpus_score(["a"], [["a"]])
    found["chrf"] = chrf.get_signature()
    text = dict.fromkeys(found, "given") if tokenised else {"bleu_lc_tok": "moses.lc.norm.tok"}
    for name, signature in found.items():
        signature.update("text", text.get(name))
    return {name: str(signature) for name, signature in found.items()}


class Bleu(Metric):
    """BLEU of all that was seen, for validation: cased 13a, or lower-cased where the text is ``tokenised``.

    What is kept, and added up over devices, are the counts of n-grams: BLEU is no mean over batches.
    """

    full_state_update = False
    higher_is_better = True
    counts: Tensor

    def __init__(self, *, tokenised: bool = False) -> None:
        super().__init__()
        self.bleu = _metrics(tokenised)["bleu_lc_tok" if tokenised else "bleu_13a"]
        # n-grams that are right, n-grams, words of translations and of references
        self.add_state("counts", torch.zeros(2 * ORDER + 2, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, hypotheses: Sequence[str], references: Sequence[str]) -> None:
        """Add translations with one reference each.

        Raises:
            DataError: see `scores`.
        """
        _check(hypotheses, references)
        found: Any = self.bleu.corpus_score(list(hypotheses), [list(references)])
        counts = [*found.counts, *found.totals, found.sys_len, found.ref_len]
        self.counts += torch.tensor(counts, device=self.counts.device)

    def compute(self) -> Tensor:
        """Return BLEU in percent."""
        *counts, length, true_length = self.counts.tolist()
        found = self.bleu.compute_bleu(counts[:ORDER], counts[ORDER:], length, true_length, smooth_method="exp")
        return torch.tensor(found.score)


def moses(lines: Iterable[str], language: str) -> list[str]:
    """Return lines as Moses' scripts leave them: lower case, then punctuation normalised, then words cut by spaces.

    ``lowercase.perl | normalize-punctuation.perl | tokenizer.perl``, by sacremoses. A language without rules of its
    own gets those of English.
    """
    from sacremoses import MosesPunctNormalizer, MosesTokenizer

    normalize, tokenize = MosesPunctNormalizer(language).normalize, MosesTokenizer(language).tokenize
    # A rule of the scripts looks at what follows a quotation mark, and finds the line's end there: so it stays on.
    return [tokenize(normalize(line.lower() + "\n"), escape=True, return_str=True) for line in lines]


def _metrics(tokenised: bool) -> dict[str, BLEU]:
    from sacrebleu.metrics import BLEU

    found = {"bleu_lc_tok": BLEU(lowercase=True, tokenize="none", force=True)}
    return found if tokenised else {**found, "bleu_13a": BLEU(force=True)}


def _bootstrap(metric: BLEU, hypotheses: list[str], references: list[str], *, seed: int) -> Score:
    with variable("SACREBLEU_SEED", str(seed)):  # it learns its seed by no other way
        return metric.corpus_score(hypotheses, [references], n_bootstrap=RESAMPLES)


def _check(hypotheses: Sequence[str], references: Sequence[str]) -> None:
    if len(hypotheses) != len(references) or not references:
        raise DataError(
            f"{len(hypotheses)} translations cannot be scored against {len(references)} references: "
            "give one reference for each, and at least one"
        )
