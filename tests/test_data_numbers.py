"""Numbers in words: read back to the numbers they say, and none that tests is ever trained on."""

from __future__ import annotations

import re

import pytest

from vsattn.errors import ConfigError, DataError
from vsattn.tasks.data.numbers import NAMES, NumberPhrases, Splits, phrase, sane

GERMAN = (
    "null ein zwei drei vier fünf sechs sieben acht neun zehn elf zwölf dreizehn vierzehn fünfzehn sechzehn siebzehn "
)
GERMAN += "achtzehn neunzehn"
GERMAN_TENS = "zwanzig dreißig vierzig fünfzig sechzig siebzig achtzig neunzig"
ENGLISH = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
)
ENGLISH += "eighteen nineteen"
ENGLISH_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
ENGLISH_ORDINALS = {"first": "one", "second": "two", "third": "three", "fifth": "five", "eighth": "eight",
                    "ninth": "nine", "twelfth": "twelve"}  # fmt: skip
#: A number and its kind, ordinal or not, as a phrase says; or ("EUR", whole, cents).
Meaning = tuple


def german_number(text: str) -> int:
    """Read a German number below a million by its grammar: [n tausend][n hundert][unit und ten | teen | ten]."""
    for word, size in (("tausend", 1000), ("hundert", 100)):
        if word in text:
            before, after = text.split(word, 1)
            return german_number(before or "ein") * size + (german_number(after) if after else 0)
    if "und" in text:
        unit, ten = text.split("und")
        assert unit in GERMAN.split()[1:10], text
        return german_number(unit) + german_number(ten)
    names = [*GERMAN.split(), *GERMAN_TENS.split()]
    return [*range(20), *range(20, 100, 10)][names.index("ein" if text == "eins" else text)]


def german(text: str) -> Meaning:
    if money := re.fullmatch(r"(\S+) (Euro|Dollar) und (\S+) Cent", text):
        return {"Euro": "EUR", "Dollar": "USD"}[money[2]], german_number(money[1]), german_number(money[3])
    if text.endswith("te"):
        regular = re.sub("erste$", "einste", re.sub("dritte$", "dreite", re.sub("siebte$", "siebente", text)))
        stem = re.sub("ach$", "acht", regular.removesuffix("te"))
        return "ordinal", german_number(re.sub("(?<!sech)s$", "", stem))
    return "number", german_number(text)


def english_number(text: str) -> int:
    """Read an English number below a million, or a year such as *nineteen oh-five*."""
    names = dict(zip([*ENGLISH.split(), *ENGLISH_TENS.split()], [*range(20), *range(20, 100, 10)], strict=True))
    if year := re.fullmatch(r"(\w+) (oh-\w+|[\w-]+)", text):
        century = names.get(year[1], 0)
        if 11 <= century <= 19 and year[2] not in ("hundred", "thousand"):
            return 100 * century + english_number(year[2].removeprefix("oh-"))
    total, part = 0, 0
    for word in re.findall(r"\w+", text):
        if word == "thousand":
            total, part = total + 1000 * part, 0
        elif word == "hundred":
            part *= 100
        elif word != "and":
            part += names[word]
    return total + part


def english(text: str) -> Meaning:
    if money := re.fullmatch(r"(.+) (euro|dollars?), (.+) cents?", text):
        return {"e": "EUR", "d": "USD"}[money[2][0]], english_number(money[1]), english_number(money[3])
    start, last = re.fullmatch(r"(.*?)(\w+)", text).groups()
    plain = ENGLISH_ORDINALS.get(last)
    if plain is None and last.endswith("th"):
        plain = re.sub("ie$", "y", last.removesuffix("th"))
    return ("number", english_number(text)) if plain is None else ("ordinal", english_number(start + plain))


@pytest.fixture(scope="module")
def data() -> NumberPhrases:
    made = NumberPhrases(phrases=[4000, 300, 300])
    made.setup(0)
    return made


def numbers_in(pairs) -> set[int]:
    return {number for source, _ in pairs for number in german(source)[1:]}


def test_both_languages_say_the_same(data) -> None:
    for source, target in [*data.train, *data.val, *data.test]:
        assert german(source) == english(target), (source, target)
        assert not re.search(r"  |^ | $|[^\w ,-]", f"{source} {target}"), (source, target)


def test_a_number_of_val_or_test_is_never_trained_on_in_any_phrase(data) -> None:
    train, val, test = map(numbers_in, (data.train, data.val, data.test))
    assert not train & val and not train & test and not val & test
    assert set(range(1, NAMES)) <= train and min(val | test) >= NAMES
    assert {number for number in val | test if number < 100}, "cents of their own"


def test_every_kind_of_phrase_is_in_every_split(data) -> None:
    for split, count in ((data.train, 4000), (data.val, 300), (data.test, 300)):
        kinds = [german(source)[0] for source, _ in split]
        assert len(split) == count and {*kinds} == {"number", "ordinal", "EUR", "USD"}
        years = [target for source, target in split if re.match(r"\w+zehnhundert|elfhundert|zwölfhundert", source)]
        assert len(years) > 0.01 * count
        sizes = {len(str(german(source)[1])) for source, _ in split}
        assert {*range(2, 7)} <= sizes
        assert len({source for source, _ in split}) == count


def test_the_units_and_tens_cross() -> None:
    assert phrase("cardinal", 21, 0, "de") == "einundzwanzig" and phrase("cardinal", 21, 0, "en") == "twenty-one"
    assert phrase("EUR", 345, 67, "de") == "dreihundertfünfundvierzig Euro und siebenundsechzig Cent"
    assert phrase("EUR", 345, 67, "en") == "three hundred and forty-five euro, sixty-seven cents"
    assert phrase("year", 1905, 0, "en") == "nineteen oh-five" and phrase("ordinal", 101, 0, "de") == "einhunderterste"


def test_only_right_german_is_kept() -> None:
    for number in (101_000, 201_345, 901_001):
        assert not sane(number) and "einstausend" in phrase("cardinal", number, 0, "de")
    for number in (1, 101, 1000, 1001, 1999, 2001, 11_000, 21_000, 102_000, 999_999):
        assert sane(number) and german(phrase("cardinal", number, 0, "de")) == ("number", number)


def test_the_seed_decides_which_numbers_test(data) -> None:
    again = NumberPhrases(phrases=[4000, 300, 300])
    again.setup(0)
    assert again.train == data.train and again.test == data.test
    again.setup(1)
    assert again.train != data.train and len(numbers_in(again.test) & numbers_in(data.train)) > 0
    splits = Splits(3)
    found = [splits(number) for number in range(NAMES, 10_000)]
    assert found.count("val") == found.count("test") == (10_000 - NAMES) // 20


def test_values_out_of_range() -> None:
    for options in ({"phrases": [1, 2]}, {"phrases": [0, 1, 1]}, {"highest": 50}, {"highest": 1_000_000}):
        with pytest.raises(ConfigError):
            NumberPhrases(**options)
    with pytest.raises(DataError, match=r"numbers up to 99 make fewer than 300 phrases for val: raise data\.hi"):
        NumberPhrases(phrases=[10, 300, 10], highest=99).setup(0)
