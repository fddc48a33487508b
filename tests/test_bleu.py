"""Scores of translations, against sacreBLEU's own command, and Moses' text, against files that its scripts made."""

from __future__ import annotations

import gzip
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import sacrebleu

from vsattn.errors import DataError
from vsattn.tasks.bleu import Bleu, moses, scores, signatures

TRUE = [
    "A man in an orange hat starring at something.",
    "Five people wearing jackets stand in the snow, with snowmobiles in the background.",
    'It\'s the "Boston Terrier" & friends (3.5 km) again.',
    "People are fixing the roof of a house.",
] * 5


@pytest.fixture(scope="module")
def said() -> list[str]:
    drawn = random.Random(0)
    lines = [" ".join(word for word in line.split() if drawn.random() > 0.2) for line in TRUE]
    return [line.lower() if i % 3 else line for i, line in enumerate(lines)]


def command(said: list[str], true: list[str], folder: Path, *options: str, seed: int) -> list[dict]:
    """Run sacreBLEU's command."""
    for name, lines in (("said", said), ("true", true)):
        (folder / name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    words = [sys.executable, "-m", "sacrebleu", "true", "-i", "said", "-w", "6", "--force", *options]
    environment = {**os.environ, "SACREBLEU_SEED": str(seed), "PYTHONUTF8": "1"}
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    return found if isinstance(found, list) else [found]


def test_scores_intervals_and_signatures_are_those_of_the_command(said, tmp_path) -> None:
    found, signed = (
        scores(said, TRUE, language="en", tokenised=False, seed=7),
        signatures(tokenised=False, seed=7),
    )
    lowered = command(moses(said, "en"), moses(TRUE, "en"), tmp_path, "-lc", "-tok", "none", "--confidence", seed=7)[0]
    cased = command(said, TRUE, tmp_path, "--confidence", seed=7)[0]
    chrf = command(said, TRUE, tmp_path, "-m", "chrf", seed=7)[0]
    for name, true in (("bleu_lc_tok", lowered), ("bleu_13a", cased)):
        assert found[name] == pytest.approx(true["score"], abs=1e-5)
        middle, half = true["confidence_mean"], true["confidence_var"]
        assert [found[f"{name}_low"], found[f"{name}_high"]] == pytest.approx([middle - half, middle + half], abs=1e-5)
        assert half > 1
    assert found["chrf"] == pytest.approx(chrf["score"], abs=1e-5)
    assert found["bleu_lc_tok"] > found["bleu_13a"]
    assert signed["bleu_13a"] == cased["signature"] and signed["chrf"] == chrf["signature"]
    assert signed["bleu_lc_tok"].replace("|text:moses.lc.norm.tok", "") == lowered["signature"]


def test_tokenised_text_is_scored_as_it_is(said) -> None:
    lines = moses(said, "en"), moses(TRUE, "en")
    given = scores(*lines, language="en", tokenised=True, seed=7)
    raw = scores(said, TRUE, language="en", tokenised=False, seed=7)
    assert {name: raw[name] for name in given if name != "chrf"} == {k: v for k, v in given.items() if k != "chrf"}
    assert set(given) == {"bleu_lc_tok", "bleu_lc_tok_low", "bleu_lc_tok_high", "chrf"}
    assert "|text:given|" in signatures(tokenised=True, seed=7)["bleu_lc_tok"]


def test_a_seed_repeats_and_leaves_the_environment_alone(said, monkeypatch) -> None:
    monkeypatch.setenv("SACREBLEU_SEED", "5")
    one, same, other = (scores(said, TRUE, language="en", tokenised=False, seed=seed) for seed in (1, 1, 2))
    assert one == same != other
    assert one["bleu_13a"] == other["bleu_13a"]
    assert os.environ["SACREBLEU_SEED"] == "5"
    monkeypatch.delenv("SACREBLEU_SEED")
    scores(said, TRUE, language="en", tokenised=False, seed=1)
    assert "SACREBLEU_SEED" not in os.environ


@pytest.mark.parametrize("tokenised", [False, True])
def test_bleu_over_batches_is_bleu_of_the_whole(said, tokenised) -> None:
    metric = Bleu(tokenised=tokenised)
    for start in range(0, len(said), 6):
        metric.update(said[start : start + 6], TRUE[start : start + 6])
    options = {"lowercase": True, "tokenize": "none"} if tokenised else {}
    whole = sacrebleu.corpus_bleu(said, [TRUE], force=True, **options).score
    assert float(metric.compute()) == pytest.approx(whole, rel=1e-6)
    metric.reset()
    metric.update(TRUE[:1], TRUE[:1])
    assert float(metric.compute()) == pytest.approx(100)
    metric.reset()
    metric.update([""], ["a word"])
    assert float(metric.compute()) == 0


@pytest.mark.parametrize(("said", "true"), [([], []), (["a"], ["a", "b"])])
def test_what_cannot_be_scored(said, true) -> None:
    for score in (
        lambda: scores(said, true, language="en", tokenised=False, seed=0),
        lambda: Bleu().update(said, true),
    ):
        with pytest.raises(DataError, match=f"{len(said)} translations cannot be scored against {len(true)} ref"):
            score()


def test_lines_of_moses() -> None:
    # English puts a comma inside the quotation; other languages put a full stop that ends the line outside.
    assert moses(["Mr. Smith's dog -- isn't it 3.5 km?", "“Yes”, she said… [no]"], "en") == [
        "mr. smith &apos;s dog -- isn &apos;t it 3.5 km ?",
        "&quot; yes , &quot; she said ... &#91; no &#93;",
    ]
    assert moses(["„Das ist gut.“"], "de") == ["&quot; das ist gut &quot; ."]


@pytest.mark.parametrize(("name", "language", "different"), [("test_2016_flickr", "en", 0), ("val", "de", 0)])
def test_multi30k_becomes_its_tokenised_files(root, name, language, different) -> None:
    folder = root.parent / "shared" / "data" / "multi30k"
    if not folder.is_dir():
        pytest.skip("no Multi30k in ../shared/data")
    with gzip.open(folder / f"{name}.{language}.gz", "rt", encoding="utf-8", newline="\n") as file:
        found = moses(file.read().rstrip("\n").split("\n"), language)
    true = (folder / f"{name}.lc.norm.tok.{language}").read_bytes().decode().rstrip("\n").split("\n")
    assert sum(line != other for line, other in zip(found, true, strict=True)) == different
