"""Text to rows and back: restored exactly, cut as the peers cut, and the same in any batch."""

from __future__ import annotations

import json
import os
import pickle
import unicodedata
from collections import Counter
from functools import cache
from itertools import combinations, pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vsattn.errors import ConfigError, DataError
from vsattn.tokenizers import Text, TextPairs
from vsattn.tokenizers.text import BOS, EOS, PADDING, SPACE, SPECIALS, UNKNOWN, tidy

GERMAN = [
    'Ein Mann mit einem weißen Hut (links) sagt: "Grüß Gott!"',
    "Zwei Männer, die an der Straße stehen, sagen nichts.",
    "Der Mann kauft 21 Hüte für 1987,50 Euro; die Frau kauft keine Hüte.",
    "Die Frau sagt, der Hut sei rot-weiß und der Mann sei z.B. 40 Jahre alt.",
] * 2
ENGLISH = [
    'A man in a white hat (on the left) says: "Hello!"',
    "Two men standing at the street don't say anything.",
    "The man buys 21 hats for $1987.50; the woman doesn't buy the man's hats.",
    "The woman's friend says the hat is red-and-white and the man is 40 years old.",
] * 2
PAIRS = list(zip(GERMAN, ENGLISH, strict=True))
MODELS = ["bpe", "unigram", "words"]


@cache
def fitted(model: str, **options) -> Text:
    return Text(model=model, **{"vocab_size": 160, **options}).fit([*GERMAN, *ENGLISH])


@pytest.mark.parametrize("model", ["bpe", "unigram"])
@given(text=st.text(st.sampled_from(sorted(set("".join([*GERMAN, *ENGLISH])))), max_size=60))
def test_raw_text_comes_back_exactly(model, text) -> None:
    tokenizer = fitted(model)
    assert tokenizer.unknown(text) == 0
    assert tokenizer.decode(tokenizer.encode(text)) == tidy(text)


@pytest.mark.parametrize("model", MODELS)
def test_training_texts_come_back_from_raw_text(model) -> None:
    tokenizer = fitted(model)
    for text in [*GERMAN, *ENGLISH]:
        assert tokenizer.decode(tokenizer.encode(text)) == text


@given(text=st.text(max_size=40))
def test_any_text_can_be_encoded_and_unknown_characters_are_counted(text) -> None:
    for model in ("bpe", "words"):
        tokenizer = fitted(model)
        ids = tokenizer.encode(text)
        assert all(UNKNOWN <= row < len(tokenizer) for row in ids)
        assert tokenizer.unknown(text) == ids.count(UNKNOWN) == tokenizer.decode(ids).count("<unk>")
    known = {name for name in fitted("bpe").names if len(name) == 1}
    tokenizer, marked = fitted("bpe"), SPACE + tidy(text).replace(" ", SPACE) if tidy(text) else ""
    assert tokenizer.unknown(text) == sum(character not in known for character in marked)


@pytest.mark.parametrize(
    "text, expected",
    [
        ("  a \t b\n", "a b"),
        ("a\N{NO-BREAK SPACE}\N{NO-BREAK SPACE}b\N{IDEOGRAPHIC SPACE}c\N{LINE SEPARATOR}d", "a b c d"),
        ("a\x00b\x1fc\x85d", "a b c d"),
        ("so\N{SOFT HYPHEN}ft\N{ZERO WIDTH SPACE}ly\N{ZERO WIDTH NO-BREAK SPACE}", "softly"),
        ("u\N{COMBINING DIAERESIS}ber", "über"),
        ("half \ud83d", "half \N{REPLACEMENT CHARACTER}"),
        ("a▁b", "a_b"),
        ("\N{ZERO WIDTH SPACE}\t", ""),
    ],
)  # fmt: skip
def test_tidy_texts(text, expected) -> None:
    assert tidy(text) == expected == tidy(expected)
    for model in MODELS:
        assert fitted(model).encode(text) == fitted(model).encode(expected)


@given(text=st.text(max_size=60))
def test_a_tidy_text_is_tidy(text) -> None:
    found = tidy(text)
    assert tidy(found) == found == unicodedata.normalize("NFC", found) == " ".join(found.split())
    found.encode("utf-8")


@pytest.mark.parametrize("model", MODELS)
def test_no_piece_has_both_letters_and_other_signs(model) -> None:
    for name in fitted(model).names[len(SPECIALS) :]:
        piece = name.removeprefix(SPACE)
        letters = [character.isalpha() for character in piece]
        assert all(letters) or len(piece) == 1 or piece in ("'s", "'t"), name
    assert fitted(model).pieces(fitted(model).encode("(21."))[-1] == "."


def test_byte_pairs_are_merged_in_the_order_they_were_learned() -> None:
    """The definition (Sennrich et al. 2016, algorithm 1): the earliest learned pair of neighbours first."""
    tokenizer = fitted("bpe")
    ranks = {tuple(pair): rank for rank, pair in enumerate(json.loads(tokenizer.state["tokenizer"])["model"]["merges"])}
    assert len(ranks) > 50
    for word in ("stehen", "anything", "weißen", "whites", "Hut", "mananas"):
        symbols = list(SPACE + word)
        while pairs := [p for p in pairwise(symbols) if p in ranks]:
            best = min(pairs, key=ranks.__getitem__)
            merged, i = [], 0
            while i < len(symbols):
                both = tuple(symbols[i : i + 2]) == best
                merged.append("".join(symbols[i : i + 2]) if both else symbols[i])
                i += 2 if both else 1
            symbols = merged
        assert tokenizer.pieces(tokenizer.encode(word)) == symbols


def test_byte_pairs_are_learned_by_their_counts() -> None:
    """Each new piece is a most frequent pair of neighbours, counted anew in all words."""
    words = Counter(["low"] * 5 + ["lower"] * 2 + ["newest"] * 6 + ["widest"] * 3)
    tokenizer = Text(vocab_size=4 + 11 + 8, min_count=1).fit([" ".join(words.elements())])
    assert set(tokenizer.names[4:15]) == set("".join(words)) | {SPACE} and len(tokenizer) == 23
    cut = {word: [*(SPACE + word)] for word in words}
    for name in tokenizer.names[15:]:
        counts: Counter = Counter()
        for word, symbols in cut.items():
            counts.update(dict.fromkeys(pairwise(symbols), words[word]))
        assert name in {"".join(pair) for pair, count in counts.items() if count == max(counts.values())}
        for symbols in cut.values():
            for i in reversed(range(len(symbols) - 1)):
                if symbols[i] + symbols[i + 1] == name:
                    symbols[i : i + 2] = [name]


def test_unigram_pieces_are_the_likeliest_of_all_ways_to_cut() -> None:
    """Brute force over every way to cut a word."""
    tokenizer = fitted("unigram")
    scores = dict(json.loads(tokenizer.state["tokenizer"])["model"]["vocab"][4:])
    for word in ("Hüte", "stehen", "white", "friend"):
        whole = SPACE + word
        best = -torch.inf
        for count in range(len(whole)):
            for places in combinations(range(1, len(whole)), count):
                borders = [0, *places, len(whole)]
                pieces = [whole[a:b] for a, b in pairwise(borders)]
                best = max(best, sum(scores.get(piece, -torch.inf) for piece in pieces))
        found = sum(scores[piece] for piece in tokenizer.pieces(tokenizer.encode(word)))
        assert found == pytest.approx(best, abs=1e-9)


@pytest.mark.parametrize("lower", [False, True])
@pytest.mark.parametrize("min_count", [1, 2, 3, 4])
def test_word_vocabularies_are_what_occurs_often_enough(min_count, lower) -> None:
    tokenizer = Text(model="words", vocab_size=None, min_count=min_count, lower=lower, split="spaces").fit(ENGLISH)
    counts = Counter(word.lower() if lower else word for text in ENGLISH for word in text.split())
    assert tokenizer.names[:4] == SPECIALS
    assert set(tokenizer.names[4:]) == {word for word, count in counts.items() if count >= min_count}
    ordered = [counts[word] for word in tokenizer.names[4:]]
    assert ordered == sorted(ordered, reverse=True)
    bounded = Text(model="words", vocab_size=9, min_count=min_count, lower=lower, split="spaces").fit(ENGLISH)
    assert len(bounded) == 9 and bounded.names == tokenizer.names[:9]
    assert tokenizer.decode(tokenizer.encode("The zebra says")).split()[1] == "<unk>"


@pytest.mark.parametrize("language, texts", [("de", GERMAN), ("en", ENGLISH)])
@pytest.mark.parametrize("model", ["bpe", "words"])
def test_words_are_those_of_the_moses_toolkit(model, language, texts) -> None:
    from sacremoses import MosesTokenizer

    tokenizer = Text(model=model, vocab_size=200, split="moses", language=language, min_count=1).fit(texts)
    expected = [MosesTokenizer(language).tokenize(text, escape=False) for text in texts]
    words = [_words_of(tokenizer, text) for text in texts]
    assert words == expected
    assert [tokenizer.decode(tokenizer.encode(text)) for text in texts] == texts


@pytest.mark.parametrize("language, texts", [("de", GERMAN), ("en", ENGLISH)])
def test_words_are_those_of_spacy(language, texts) -> None:
    spacy = pytest.importorskip("spacy")
    tokenizer = Text(model="words", vocab_size=None, split="spacy", language=language, min_count=1).fit(texts)
    rules = spacy.blank(language).tokenizer
    assert [_words_of(tokenizer, text) for text in texts] == [[token.text for token in rules(text)] for text in texts]
    assert [tokenizer.decode(tokenizer.encode(text)) for text in texts] == texts
    again = pickle.loads(pickle.dumps(tokenizer))
    assert [again.encode(text) for text in texts] == [tokenizer.encode(text) for text in texts]


def _words_of(tokenizer: Text, text: str) -> list[str]:
    """Return the words that pieces are parts of; where the pieces are words they have no sign for spaces."""
    pieces = tokenizer.pieces(tokenizer.encode(text))
    return pieces if tokenizer.model == "words" else "".join(pieces).split(SPACE)[1:]


def test_lower_case_follows_cutting_so_that_rules_for_capitals_hold() -> None:
    spacy = pytest.importorskip("spacy")
    text = "We met Mr. Smith in the U.S. I'm sure."
    tokenizer = Text(model="words", split="spacy", language="en", lower=True, min_count=1).fit([text])
    assert _words_of(tokenizer, text) == [token.text.lower() for token in spacy.blank("en").tokenizer(text)]


@pytest.mark.parametrize("model", MODELS)
def test_the_state_is_json_and_restores_everything(model) -> None:
    tokenizer = fitted(model)
    state = json.loads(json.dumps(tokenizer.state))
    for other in (Text(model=model).load_state(state), pickle.loads(pickle.dumps(tokenizer))):
        assert other.state == tokenizer.state and len(other) == len(tokenizer) and other.names == tokenizer.names
        assert [other.encode(text) for text in GERMAN] == [tokenizer.encode(text) for text in GERMAN]


@pytest.mark.parametrize("model", MODELS)
def test_the_same_texts_give_the_same_vocabulary(model) -> None:
    again = Text(model=model, vocab_size=160).fit([*GERMAN, *ENGLISH])
    assert again.state == fitted(model).state
    assert "TOKENIZERS_PARALLELISM" not in os.environ


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("split", ["raw", "spaces"])
def test_names_of_special_rows_are_plain_text_in_a_text(model, split) -> None:
    texts = ["a <eos> b <pad> c <bos> d <unk> e"] * 3
    tokenizer = Text(model=model, vocab_size=60, split=split).fit(texts)
    ids = tokenizer.encode(texts[0])
    assert not {PADDING, BOS, EOS} & set(ids)
    if model != "words":
        assert tokenizer.decode(ids) == texts[0]


def test_rare_characters_and_words_are_unknown() -> None:
    tokenizer = Text(min_count=2, vocab_size=40).fit(["ab ab ab ☃", "ab cd cd"])
    assert tokenizer.unknown("ab cd") == 0 and tokenizer.unknown("ab ☃x") == 2
    assert tokenizer.decode(tokenizer.encode("ab ☃ cd")) == "ab <unk> cd"
    assert tokenizer.decode([*tokenizer.encode("ab"), EOS, PADDING, BOS]) == "ab"
    space = tokenizer.names.index(SPACE)
    assert tokenizer.decode([space, *tokenizer.encode("ab"), space, space, *tokenizer.encode("cd"), space]) == "ab cd"
    assert tokenizer.pieces([BOS, *tokenizer.encode("ab"), EOS]) == ["<bos>", "▁ab", "<eos>"]
    with pytest.raises(DataError, match=f"no row {len(tokenizer)}"):
        tokenizer.decode([len(tokenizer)])


@pytest.mark.parametrize(
    "options, message",
    [
        ({"model": "byte"}, "bpe, unigram or words"),
        ({"vocab_size": None}, "model=bpe needs a number"),
        ({"vocab_size": 4}, "above 4"),
        ({"min_count": 0}, "at least 1"),
        ({"split": "commas"}, "raw, spaces, moses, spacy"),
        ({"split": "moses"}, "needs Text.language"),
    ],
)
def test_values_out_of_range(options, message) -> None:
    with pytest.raises(ConfigError, match=message):
        Text(**options)


def test_moses_has_rules_for_some_languages() -> None:
    for language in ("EN", "english", "zz"):
        with pytest.raises(ConfigError, match=f"Text.language={language}: Moses has rules for .*, de, .*split=spacy"):
            Text(split="moses", language=language).fit(ENGLISH)


def test_wrong_texts_and_states() -> None:
    with pytest.raises(DataError, match="has not seen data"):
        Text().encode("a")
    for texts in ([], [" ", "\n"]):
        with pytest.raises(DataError, match="got no words"):
            Text().fit(texts)
    with pytest.raises(DataError, match=r"need 3. rows for their characters alone: raise vocab_size or min_count"):
        Text(vocab_size=10).fit(["The quick brown fox jumps over the lazy dog"] * 2)
    with pytest.raises(DataError, match=r"\['a'\]\" \(list\) is no text"):
        fitted("bpe").encode(["a"])  # type: ignore[arg-type]
    foreign = json.loads(fitted("words").state["tokenizer"])
    foreign["model"]["vocab"] = {"a": 0, "<unk>": 1}
    for state in ({}, {"tokenizer": "{}"}, {"tokenizer": 7}, {"tokenizer": json.dumps(foreign)}):
        with pytest.raises(DataError, match="no state of Text"):
            Text().load_state(state)
    spacy = pytest.importorskip("spacy")
    assert spacy
    with pytest.raises(ConfigError, match="language=xyz"):
        Text(split="spacy", language="xyz").fit(["a"])


def pairs_tokenizer(joint: bool = True, **options) -> TextPairs:
    target = None if joint else Text(model="words", vocab_size=None, min_count=1)
    return TextPairs(source=Text(vocab_size=160), target=target, **options).fit(PAIRS)


@pytest.mark.parametrize("joint", [True, False])
def test_batches_hold_rows_between_their_marks_and_padding(joint) -> None:
    tokenizer = pairs_tokenizer(joint)
    source = tokenizer.collate([GERMAN[0], "", GERMAN[1]])["source"]
    target = tokenizer.targets([ENGLISH[0], "", ENGLISH[1]])
    for rows, text in zip(source.tolist(), [GERMAN[0], "", GERMAN[1]], strict=True):
        expected = [*tokenizer.source.encode(text), EOS]
        assert rows == expected + [PADDING] * (source.shape[1] - len(expected))
    for rows, text in zip(target.tolist(), [ENGLISH[0], "", ENGLISH[1]], strict=True):
        expected = [BOS, *tokenizer.target.encode(text), EOS]
        assert rows == expected + [PADDING] * (target.shape[1] - len(expected))
        assert tokenizer.target_text(rows) == tokenizer.target_text(torch.tensor(rows)) == text
    assert source.dtype == target.dtype == torch.long
    assert tokenizer.decode({"source": source}) == [GERMAN[0], "", GERMAN[1]]
    assert tokenizer.collate([""])["source"].tolist() == [[EOS]]
    assert tokenizer.joint is joint and tokenizer.writes == tokenizer.target.names
    assert tokenizer.lengths(PAIRS) == [
        2 + max(len(tokenizer.source.encode(s)), len(tokenizer.target.encode(t))) for s, t in PAIRS
    ]


def test_text_behind_the_end_is_not_text() -> None:
    tokenizer = pairs_tokenizer()
    rows = tokenizer.target.encode("the man")
    assert tokenizer.target_text([*rows, EOS, *rows]) == "the man"
    assert tokenizer.target_text([EOS, *rows]) == "" and tokenizer.target_text(rows) == "the man"


@pytest.mark.parametrize("joint", [True, False])
def test_the_state_restores_pairs(joint) -> None:
    tokenizer = pairs_tokenizer(joint)
    target = None if joint else Text(model="words", vocab_size=None, min_count=1)
    again = TextPairs(source=Text(), target=target).load_state(json.loads(json.dumps(tokenizer.state)))
    sent = pickle.loads(pickle.dumps(tokenizer))
    for other in (again, sent):
        assert other.state == tokenizer.state and other.joint is joint
        assert torch.equal(other.collate(GERMAN)["source"], tokenizer.collate(GERMAN)["source"])
        assert torch.equal(other.targets(ENGLISH), tokenizer.targets(ENGLISH))
    with pytest.raises(DataError, match="no state of TextPairs"):
        TextPairs(source=Text(), target=Text() if joint else None).load_state(tokenizer.state)


def test_training_encodes_each_text_once_and_does_not_send_what_it_remembers(monkeypatch) -> None:
    tokenizer = pairs_tokenizer()
    sent = pickle.dumps(tokenizer)
    tokenizer.lengths([(f"{a} {b}", b) for a in GERMAN for b in ENGLISH])
    assert len(pickle.dumps(tokenizer)) == len(sent)
    expected = tokenizer.collate(GERMAN, train=True)["source"], tokenizer.targets(ENGLISH)
    monkeypatch.setattr(Text, "encode", lambda *_: pytest.fail("encoded again"))
    tokenizer.lengths(PAIRS)
    assert torch.equal(tokenizer.collate(GERMAN, train=True)["source"], expected[0])
    assert torch.equal(tokenizer.targets(ENGLISH), expected[1])


def test_a_text_that_is_too_long_is_named() -> None:
    tokenizer = pairs_tokenizer(max_length=120)
    long = "?" * 118  # the sign for a space before it makes 119
    assert tokenizer.collate([long])["source"].shape == (1, 120)
    with pytest.raises(DataError, match=r"text 1 of the batch \('\?.*120 pieces, and with its end at most 120"):
        tokenizer.collate(["short", long + "?"])
    with pytest.raises(DataError, match="text 0 of the batch"):
        tokenizer.targets([long + "?"])
    with pytest.raises(DataError, match=r"1 of 9 pairs have more than tokenizer.max_length=120 pieces, pair 8 is"):
        tokenizer.lengths([*PAIRS, ("a", long + "?")])
    with pytest.raises(DataError, match="raise it, or leave long pairs out"):
        pairs_tokenizer(max_length=10)


def test_wrong_items() -> None:
    tokenizer = pairs_tokenizer()
    with pytest.raises(DataError, match="at least one text"):
        tokenizer.collate([])
    with pytest.raises(DataError, match=r"'7' \(int\) is no text; a text is a string"):
        tokenizer.collate([7])  # type: ignore[list-item]
    for item in ("a b", ("a",), ("a", 7)):
        with pytest.raises(DataError, match=r"training pair 1 is .* a source text and a target text"):
            TextPairs(source=Text()).fit([("a", "b"), item])  # type: ignore[list-item]
    with pytest.raises(DataError, match="got no words"):
        TextPairs(source=Text()).fit([])
    with pytest.raises(ConfigError, match="max_length is at least 2"):
        TextPairs(source=Text(), max_length=1)


@pytest.mark.parametrize("scale", [True, False])
@pytest.mark.parametrize("joint", [True, False])
def test_vectors_are_scaled_rows_of_a_table(joint, scale) -> None:
    torch.manual_seed(0)
    tokenizer = pairs_tokenizer(joint, scale=scale)
    source = tokenizer.embedder(64)
    target = tokenizer.target_embedder(64, source)
    assert (source.table.weight is target.table.weight) is joint
    assert source.table.num_embeddings == len(tokenizer.source) and target.table.num_embeddings == len(tokenizer.target)
    batch = {**tokenizer.collate([*GERMAN, ""]), "target": tokenizer.targets([*ENGLISH, ""])}
    for module, name in ((source, "source"), (target, "target")):
        found = module(batch)
        mask = batch[name] != PADDING
        factor = 8.0 if scale else 1.0
        expected = torch.nn.functional.embedding(batch[name], module.table.weight) * factor
        torch.testing.assert_close(found.x, expected * mask[..., None])
        assert torch.equal(found.mask, mask) and found.layout == "sequence"
        torch.testing.assert_close(module.embed(batch[name]), expected)
        assert not module.table.weight[PADDING].any()
        assert float(module.table.weight[1:].detach().std()) == pytest.approx(64**-0.5, rel=0.05)
        found.x.sum().backward()
        assert not module.table.weight.grad[PADDING].any() and bool(module.table.weight.grad[EOS].any())


def test_a_text_alone_equals_the_same_text_in_a_batch() -> None:
    tokenizer = pairs_tokenizer()
    embedder = tokenizer.embedder(8).double()
    together = embedder(tokenizer.collate([*GERMAN, ""])).unbind()
    for text, expected in zip([*GERMAN, ""], together, strict=True):
        torch.testing.assert_close(embedder(tokenizer.collate([text])).x, expected.x, rtol=0, atol=0)
