"""Word alignments from attention, and how they are judged: by hand, and on numbers whose words are known."""

from __future__ import annotations

import pytest
import torch

from vsattn.errors import DataError, ShapeError
from vsattn.measures import align, alignment_error_rate, between_words, diagonal
from vsattn.tasks.data.number_links import number_links
from vsattn.tasks.data.numbers import NumberPhrases


def test_the_error_rate_by_hand() -> None:
    found, sure, possible = {(0, 0), (1, 1), (2, 2)}, {(0, 0)}, {(0, 0), (1, 1)}
    assert alignment_error_rate([found], [sure], [possible]) == 1 - (1 + 2) / (3 + 1)
    assert alignment_error_rate([found], [sure], [{(1, 1)}]) == 1 - (1 + 2) / (3 + 1)  # what is sure is possible
    assert alignment_error_rate([sure], [sure], [set()]) == 0.0
    assert alignment_error_rate([{(5, 5)}], [sure], [set()]) == 1.0
    # Links are counted over all sentences: (1 + 1 + 0 + 0) of (1 + 1 + 3 + 1).
    assert alignment_error_rate([sure, {(7, 0), (7, 1), (7, 2)}], [sure, sure], [set(), set()]) == 1 - 2 / 6


def test_only_possible_links_are_right_but_need_not_be_found() -> None:
    assert alignment_error_rate([{(0, 0), (1, 1)}], [{(0, 0)}], [{(1, 1), (2, 2)}]) == 0.0


def test_what_the_error_rate_refuses() -> None:
    with pytest.raises(DataError, match=r"of \[1, 2, 1\] sentences do not match"):
        alignment_error_rate([set()], [set(), set()], [set()])
    with pytest.raises(DataError, match="there is no link"):
        alignment_error_rate([set()], [set()], [set()])


def test_each_target_goes_to_the_source_that_it_looks_at_most() -> None:
    weights = torch.tensor([[0.1, 0.9], [0.6, 0.4], [0.0, 0.0]])
    assert align(weights) == {(1, 0), (0, 1)}
    assert align(torch.zeros(2, 0)) == set()


def test_words_look_as_their_pieces_do_by_hand() -> None:
    weights = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]])
    targets = torch.tensor([[1.0, 0.5]])  # one word: the first piece, and half of the letters of the second
    sources = torch.tensor([[1.0, 0.5, 0.0], [0.0, 0.5, 1.0]])
    found = between_words(weights, targets, sources)
    torch.testing.assert_close(found, torch.tensor([[(2 * 0.65 + 0.15) / 3, (2 * 0.35 + 0.85) / 3]]))
    with pytest.raises(ShapeError, match=r"weights \(2, 3\) are not between 1 and 3 pieces"):
        between_words(weights, torch.ones(1, 1), sources)


def test_side_by_side() -> None:
    assert diagonal(3, 3) == {(0, 0), (1, 1), (2, 2)}
    assert diagonal(2, 4) == {(1, 0), (3, 1)}
    assert diagonal(4, 2) == {(0, 0), (0, 1), (1, 2), (1, 3)}
    assert diagonal(2, 0) == set()


@pytest.mark.parametrize(
    ("german", "english", "wanted", "possible"),
    [
        ("einundzwanzig", "twenty-one", "zwanzig=twenty ein=one", ""),
        (
            "dreihundertfünfundvierzigtausendsechs",
            "three hundred and forty-five thousand and six",
            "drei=three hundert=hundred vierzig=forty fünf=five tausend=thousand sechs=six",
            "",
        ),
        ("einundzwanzigste", "twenty-first", "zwanzig=twenty ein=first", "ste=first"),
        ("siebenhundertste", "seven hundredth", "sieben=seven hundert=hundredth", "ste=hundredth"),
        ("eintausenderste", "one thousand and first", "ein=one tausend=thousand erste=first", ""),
        ("neunzehnhundertfünf", "nineteen oh-five", "neunzehn=nineteen fünf=five", ""),
        ("zwei Euro und zwölf Cent", "two euro, twelve cents", "zwei=two Euro=euro zwölf=twelve Cent=cents", ""),
        ("achthundertacht", "eight hundred and eight", "acht=eight hundert=hundred acht=eight", ""),
    ],
)
def test_the_parts_of_numbers_are_linked_by_value(german: str, english: str, wanted: str, possible: str) -> None:
    found = number_links(german, english)
    assert found is not None

    def named(links: set[tuple[int, int]]) -> str:
        pairs = [(found.source[s], found.target[t]) for s, t in sorted(links, key=lambda link: link[1])]
        return " ".join(f"{german[a.start : a.stop]}={english[b.start : b.stop]}" for a, b in pairs)

    assert named(found.sure) == wanted and named(found.possible) == possible


def test_the_second_eight_is_not_the_first() -> None:
    found = number_links("achthundertacht", "eight hundred and eight")
    assert found is not None and found.sure == {(0, 0), (1, 1), (2, 2)}


@pytest.mark.parametrize(
    ("german", "english"), [("zwanzig", "thirty"), ("Guten Tag", "hello"), ("eins", ""), ("zwei", "two men")]
)
def test_other_texts_have_no_links(german: str, english: str) -> None:
    assert number_links(german, english) is None


def test_all_phrases_but_one_are_linked_one_to_one_and_units_and_tens_cross() -> None:
    data = NumberPhrases(phrases=(1500, 50, 50))
    data.setup(0)
    crossed = 0
    for german, english in (data.train[i] for i in range(len(data.train))):
        found = number_links(german, english)
        if found is None:
            assert (german, english) in {("hundertste", "one hundredth"), ("tausendste", "one thousandth")}
            continue
        sources, targets = zip(*sorted(found.sure), strict=True)
        assert len(set(sources)) == len(sources) and sorted(targets) == list(range(len(found.target)))
        crossed += list(targets) != sorted(targets)
    assert crossed > 500
