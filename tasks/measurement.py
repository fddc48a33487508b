"""A whole measurement: tables on the terminal, and the same in files."""

from __future__ import annotations

import contextlib
import csv
import json
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from vsattn.errors import ConfigError, DataError
from vsattn.measures.ablation import Ablated
from vsattn.measures.faithfulness import BASELINES, Curves, Verdict
from vsattn.measures.orders import METHODS
from vsattn.predictor import Predictor

from .aligning import Aligned, alignment_rates
from .measure_plots import curves_plot, heads_plot, named
from .measuring import Subject
from .pointing import pronoun_pointing
from .report import aligned, number

#: One row for each head: what is measured of it, by name.
HeadRow = dict[str, Any]


def measure(
    predictor: Predictor,
    folder: Path,
    *,
    split: str,
    what: Sequence[str],
    chosen: bool,
    ckpt: str,
    count: int,
    seed: int,
) -> dict[str, Any]:
    """Measure a model, print tables, write files, and return what ``measure.json`` holds.

    Args:
        predictor: as :func:`vsattn.load` gives it.
        folder: for the files.
        split: of the data that the model was trained on.
        what: of ``heads``, ``ablation``, ``faithfulness``, ``alignment`` and ``pointing``.
        chosen: a person has named them: what the model does not allow is an error, and not left out.
        ckpt: named in the files.
        count: of items.
        seed: of all random choices.

    Raises:
        ConfigError: for a model that does not allow it, when chosen, or has no attention.
        DataError: see :meth:`~vsattn.tasks.judging.Judge.of`, or when the folder cannot be written.
    """
    started = time.time()
    subject = Subject.of(predictor, split, count=count, seed=seed)
    print(f"items     {subject.count} of {split}, seed {seed}", flush=True)
    found: dict[str, Any] = {"checkpoint": ckpt, "split": split, "items": subject.count, "seed": seed}
    rows = _heads(subject, what, found)
    left_out: dict[str, ConfigError] = {}
    curves: Curves | None = None
    verdicts: list[Verdict] = []
    alignments: list[Aligned] = []
    if "faithfulness" in what:
        with _unless_refused("faithfulness", left_out):
            curves, verdicts = subject.faithfulness(METHODS)
            _show_faithfulness(curves, verdicts)
            found["faithfulness"] = _faithfulness(curves, verdicts)
    if "alignment" in what:
        with _unless_refused("alignment", left_out):
            alignments, pairs, unknown = alignment_rates(predictor, split, count=count, seed=seed)
            _show_alignment(alignments, pairs, unknown, split)
            found["alignment"] = {"pairs": pairs, "left_out": unknown, "rates": [vars(one) for one in alignments]}
    if "pointing" in what:
        with _unless_refused("pointing", left_out):
            found["pointing"] = pronoun_pointing(predictor, split, count=count, seed=seed)
    for name, reason in left_out.items():
        if chosen:
            raise reason
        print(f"\n{name} is left out: {reason}")
    found |= {"left_out": {name: str(reason) for name, reason in left_out.items()}, "seconds": time.time() - started}
    try:
        _write(folder, found, rows, curves, alignments)
        if rows:
            heads_plot(rows, folder / "heads.png", score=found.get("score"))
        if curves is not None:
            curves_plot(curves, verdicts, folder / "faithfulness.png")
    except OSError as error:
        raise DataError(f"{folder} cannot be written: {error.strerror or error}") from error
    print(f"\n{found['seconds']:.1f} s; in {folder}: {', '.join(sorted(file.name for file in folder.iterdir()))}")
    return found


@contextlib.contextmanager
def _unless_refused(name: str, left_out: dict[str, ConfigError]) -> Iterator[None]:
    """Note why a measure is left out, where the model does not allow it."""
    try:
        yield
    except ConfigError as error:
        left_out[name] = error


def _heads(subject: Subject, what: Sequence[str], found: dict[str, Any]) -> list[HeadRow]:
    """Return a row for each head, and print them."""
    rows: dict[tuple[str, int], HeadRow] = {}
    if "heads" in what:
        for path, measures in subject.heads().items():
            for name, values in measures.items():
                for head, value in enumerate([] if values is None else values.tolist()):
                    rows.setdefault((path, head), {"path": path, "head": head})[name] = value
    if "ablation" in what:
        score, changes = subject.ablation()
        found |= {"score_name": subject.score, "score": score}
        print(f"score     {score:.4f} {subject.score}", flush=True)
        for one in changes:
            row = rows.setdefault((one.path, one.head), {"path": one.path, "head": one.head})
            row |= {"without": one.score, "change": one.change, "change_low": one.low, "change_high": one.high}
            row |= {"p": one.p, "says": one.says}
        _tell_ablation(changes)
    if rows:
        names = [name for name in ("entropy", "entropy_share", "distance", "sink") if "heads" in what]
        heading = ["head", *names, *(["change without it", "95% interval", "p"] if "ablation" in what else [])]
        _show(heading, [_head_cells(row, names, "ablation" in what) for row in rows.values()])
    found["heads"] = list(rows.values())
    return list(rows.values())


def _head_cells(row: HeadRow, names: Sequence[str], ablated: bool) -> list[str]:
    cells = [f"{named(row['path'])}, {row['head'] + 1}", *(number(row.get(name)) for name in names)]
    if ablated:
        cells += [f"{row['change']:+.4f}", f"{row['change_low']:+.4f} to {row['change_high']:+.4f}", f"{row['p']:.3f}"]
    return cells


def _tell_ablation(changes: Sequence[Ablated]) -> None:
    says = [one.says for one in changes]
    print(
        f"ablation  {says.count('needed')} of {len(says)} heads are needed (the score falls without them; p < 0.05 by "
        f"a sign test over items, times {len(says)} heads), {says.count('harmful')} do harm; others may be chance",
        flush=True,
    )


def _show_faithfulness(curves: Curves, verdicts: Sequence[Verdict]) -> None:
    heading = ["order", *verdicts[0].means]
    _show(
        heading,
        [[one.method, *(f"{m:.4f} ({a:.4f} to {b:.4f})" for m, a, b in one.means.values())] for one in verdicts],
    )
    rows = []
    for one in verdicts:
        for baseline, differences in one.against.items():
            cells = [f"{d.value:+.4f} ({d.low:+.4f} to {d.high:+.4f})" for d in differences.values()]
            rows.append([f"{one.method} over {baseline}", *cells])
    _show(["better by", *verdicts[0].means], rows)
    print()
    for one in verdicts:
        for baseline in one.against:
            print(one.sentence(baseline))
    tests = sum(len(differences) for one in verdicts for differences in one.against.values())
    print(f"({tests} comparisons, each by its own 95% interval over items: by chance 1 in 20 leaves out 0)")
    few = int((curves.counts <= 1).sum())
    if few:
        print(f"{few} of {len(curves.counts)} questions have no more than one vector that can be taken away")


def _faithfulness(curves: Curves, verdicts: Sequence[Verdict]) -> dict[str, Any]:
    return {
        "fractions": curves.fractions,
        "questions": len(curves.counts),
        "vectors": float(curves.counts.double().mean()),
        "deletion": {name: values.mean(0).tolist() for name, values in curves.deletion.items()},
        "insertion": {name: values.mean(0).tolist() for name, values in curves.insertion.items()},
        "means": {one.method: one.means for one in verdicts},
        "better_than": {
            one.method: {
                name: {measure: {**vars(d), "says": d.says} for measure, d in differences.items()}
                for name, differences in one.against.items()
            }
            for one in verdicts
            if one.method not in BASELINES
        },
        "sentences": [one.sentence(name) for one in verdicts for name in one.against],
    }


def _show_alignment(found: Sequence[Aligned], pairs: int, unknown: int, split: str) -> None:
    flat, best = found[0], found[1]
    cells = [[_way(one), number(one.val), number(one.rate)] for one in found]
    _show(["alignment error rate", "val", split], cells)
    same = ", the same items that chose it" if split == "val" else ""
    left = f"; {unknown} left out, whose parts are not known" if unknown else ""
    print(f"\nbest in validation: {_way(best)}, {best.rate:.4f} on {pairs} pairs of {split}{same}{left}")
    print(f"reading both texts side by side: {flat.rate:.4f}")


def _way(one: Aligned) -> str:
    if one.layer is None:
        return one.reading
    return f"decoder {one.layer + 1}, {'mean of heads' if one.head is None else one.head + 1}, {one.reading}"


def _write(
    folder: Path, found: dict[str, Any], rows: list[HeadRow], curves: Curves | None, alignments: Sequence[Aligned]
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(_plain(found), indent=2, allow_nan=False, ensure_ascii=False)
    (folder / "measure.json").write_text(text + "\n", encoding="utf-8")
    if rows:
        _table(folder / "heads.csv", list(dict.fromkeys(key for row in rows for key in row)), rows)
    if curves is not None:
        kinds = {"deletion": curves.deletion, "insertion": curves.insertion}
        cells = [
            {"order": name, "curve": kind, "fraction": share, "probability": value}
            for kind, by_name in kinds.items()
            for name, values in by_name.items()
            for share, value in zip(curves.fractions, values.mean(0).tolist(), strict=True)
        ]
        _table(folder / "faithfulness.csv", ["order", "curve", "fraction", "probability"], cells)
    if alignments:
        _table(folder / "alignment.csv", list(vars(alignments[0])), [vars(one) for one in alignments])


def _table(path: Path, heading: list[str], rows: Iterable[dict[str, Any]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, heading)
        writer.writeheader()
        writer.writerows(_plain(list(rows)))


def _show(heading: list[str], rows: list[list[str]]) -> None:
    print("\n" + "\n".join(aligned([heading, *rows])), flush=True)


def _plain(value: Any) -> Any:
    """Return what JSON can hold: no number that is not finite."""
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
