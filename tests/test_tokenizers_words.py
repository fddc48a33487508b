"""Tokenizers of sentences: vocabularies, characters, spelling, and that neighbours in a batch change nothing."""

from __future__ import annotations

import json
import pickle
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vsattn.errors import ConfigError, DataError
from vsattn.tokenizers import Characters, Spelling, WordFeatures, Words
from vsattn.tokenizers.spelling import outline

SENTENCES = [
    ["The", "cat", "saw", "the", "saw", "."],
    ["Cats", "can", "can", "cans", "."],
    ["the", "the", "cat", "in", "1984", "-", "85", "."],
    ["naïve", "Ünïcode", "日本語", "x" * 473, "."],
]


def everything(**options) -> WordFeatures:
    views = {"words": Words(width=6), "characters": Characters(width=7, char_width=4), "spelling": Spelling(width=5)}
    return WordFeatures(**views, **options)


MAKERS = [
    Words,
    lambda: Characters(char_width=4, kernel_sizes=(1, 3, 5)),
    lambda: Spelling(suffixes=(2, 3), prefixes=(1,)),
    everything,
    lambda: everything(join="sum"),
]
IDS = ["words", "characters", "spelling", "concatenated", "summed"]


def vectors(embedder, tokenizer, sentences, **options):
    """Return one tensor ``(N, D)`` per sentence."""
    with torch.no_grad():
        return [single.x[0] for single in embedder(tokenizer.collate(sentences, **options)).unbind()]


@pytest.mark.parametrize("make", MAKERS, ids=IDS)
def test_a_sentence_alone_equals_the_same_sentence_in_a_batch(make) -> None:
    tokenizer = make().fit(SENTENCES)
    embedder = tokenizer.embedder(8).double().eval()
    together = vectors(embedder, tokenizer, [*SENTENCES, [], ["unseen", "WORDS"]])
    assert [len(v) for v in together] == [6, 5, 8, 5, 0, 2]
    for sentence, expected in zip([*SENTENCES, [], ["unseen", "WORDS"]], together, strict=True):
        torch.testing.assert_close(vectors(embedder, tokenizer, [sentence])[0], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("make", MAKERS, ids=IDS)
@given(data=st.data())
def test_a_word_has_one_vector_wherever_it_stands(make, data) -> None:
    tokenizer = make().fit(SENTENCES)
    embedder = tokenizer.embedder(8).double().eval()
    word = data.draw(st.text(min_size=0, max_size=40))
    others = data.draw(st.lists(st.lists(st.text(max_size=60), max_size=4), max_size=3))
    (alone,) = vectors(embedder, tokenizer, [[word]])
    amid = vectors(embedder, tokenizer, [*others, ["cat", word, "."]])[-1][1]
    assert bool(alone.isfinite().all())
    torch.testing.assert_close(amid, alone[0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("make", MAKERS, ids=IDS)
def test_the_state_is_json_and_restores_everything(make) -> None:
    tokenizer = make().fit(iter(SENTENCES))
    state = json.loads(json.dumps(tokenizer.state))
    again = make().load_state(state)
    assert again.state == tokenizer.state and again.sizes == tokenizer.sizes == {"dimensions": 1, "max_length": 8}
    sent = pickle.loads(pickle.dumps(tokenizer))
    weights = tokenizer.embedder(8).state_dict()
    for other in (again, sent):
        one, two = tokenizer.collate(SENTENCES), other.collate(SENTENCES)
        assert one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)
        other.embedder(8).load_state_dict(weights)


@pytest.mark.parametrize("make", MAKERS, ids=IDS)
def test_wrong_items_and_states(make) -> None:
    with pytest.raises(DataError, match=r"sentence 0 .*'the cat'.*text\.split"):
        make().fit(["the cat"])
    with pytest.raises(DataError, match="got no words"):
        make().fit([[], []])
    with pytest.raises(DataError, match="has not seen data"):
        make().sizes  # noqa: B018
    tokenizer = make().fit(SENTENCES)
    for wrong in ("the cat", ["the", 7], None):
        with pytest.raises(DataError, match=r"sentence 1 of the batch is .* a sentence is a list of words"):
            tokenizer.collate([["fine"], wrong])
    with pytest.raises(DataError, match="at least one sentence"):
        tokenizer.collate([])
    with pytest.raises(DataError, match=r"no state of"):
        make().load_state({"grid": [2, 2], "max_length": 4})


@pytest.mark.parametrize("lower", [False, True])
@pytest.mark.parametrize("min_count", [1, 2, 3])
def test_the_vocabulary_is_what_occurs_often_enough(min_count, lower) -> None:
    tokenizer = Words(min_count=min_count, lower=lower).fit(SENTENCES)
    counts = Counter(w.lower() if lower else w for s in SENTENCES for w in s)
    assert set(tokenizer.state["words"]) == {w for w, n in counts.items() if n >= min_count}
    ordered = [counts[w] for w in tokenizer.state["words"]]
    assert ordered == sorted(ordered, reverse=True)
    sentence = ["the", "The", "dog", "."]
    known = [(w.lower() if lower else w) for w in sentence]
    expected = [w if counts[w] >= min_count else "<unknown>" for w in known]
    assert tokenizer.decode(tokenizer.collate([sentence, ["."]])) == [expected, ["."]]
    rows = tokenizer.collate([["dog", "zebra", "."]])["word"][0].tolist()
    assert rows[0] == rows[1] != rows[2]


def test_a_state_whose_counts_do_not_fit_its_words_is_refused() -> None:
    state = Words(min_count=1).fit(SENTENCES).state
    for counts in (None, [], state["counts"][1:], [None, *state["counts"][1:]]):
        with pytest.raises(DataError, match="'counts', a whole number for each of its 'words'"):
            Words().load_state({**state, "counts": counts})


def test_words_are_dropped_in_training_alone_and_never_padding() -> None:
    tokenizer = Words(min_count=1, dropout=2.0).fit(SENTENCES)
    torch.manual_seed(0)
    batch = [["the", "cat", "in"] * 2000, ["."]]
    plain, dropped = tokenizer.collate(batch)["word"], tokenizer.collate(batch, train=True)["word"]
    unknown = tokenizer.collate([["dog"]])["word"].item()
    changed = plain != dropped
    assert not changed[1, 1:].any() and bool((dropped[changed] == unknown).all())
    shares = changed[0].view(-1, 3).float().mean(0)  # the words occur 3, 2 and 1 times
    torch.testing.assert_close(shares, torch.tensor([2 / 5, 2 / 4, 2 / 3]), atol=0.03, rtol=0)
    assert torch.equal(plain, tokenizer.collate(batch)["word"])


def test_characters_equal_convolutions_by_hand() -> None:
    """The definition in plain loops: the largest dot product at a character of the word alone, with zeros around it."""
    tokenizer = Characters(char_width=3, kernel_sizes=(1, 5)).fit(SENTENCES)
    embedder = tokenizer.embedder(5).double()
    words = ["cat", "saw", "x", "inside", "qqq"]
    (found,) = vectors(embedder, tokenizer, [words])
    table = embedder.table.weight.detach()
    names = tokenizer.state["characters"]
    for word, vector in zip(words, found, strict=True):
        x = torch.stack([table[names.index(c) + 2 if c in names else 1] for c in word])
        expected = []
        for conv in embedder.convolutions:
            reach = conv.kernel_size[0] // 2
            for weight, bias in zip(conv.weight.detach(), conv.bias.detach(), strict=True):
                responses = []
                for t in range(len(word)):
                    total = bias
                    for k in range(-reach, reach + 1):
                        if 0 <= t + k < len(word):
                            total = total + weight[:, k + reach] @ x[t + k]
                    responses.append(total)
                expected.append(max(0, max(responses)))
        torch.testing.assert_close(vector, torch.stack([torch.as_tensor(v).double() for v in expected]))


def test_a_word_of_473_characters_is_read_by_its_ends() -> None:
    tokenizer = Characters(max_length=7).fit([["abcdefghij" * 2] * 2])
    word = "abcd" + "z" * 466 + "hij"
    batch = tokenizer.collate([[word, "abcdefg", "abcdefgh"]])
    assert len(word) == 473 and batch["char"].shape == (4, 7)
    assert tokenizer.decode(batch) == [["abcdhij", "abcdefg", "abcdfgh"]]
    assert tokenizer.decode(tokenizer.collate([["aXb"]])) == [["a\N{REPLACEMENT CHARACTER}b"]]


def test_each_spelling_is_read_once_a_batch() -> None:
    tokenizer = Characters().fit(SENTENCES)
    batch = tokenizer.collate([["the", "cat", "the"], ["cat", "cat"]])
    assert batch["char"].shape == (3, 3)  # nothing, the, cat
    assert batch["char_word"].tolist() == [[1, 2, 1], [2, 2, 0]]


def test_gradients_are_finite_with_empty_words_and_sentences() -> None:
    tokenizer = everything().fit(SENTENCES)
    embedder = tokenizer.embedder(8)
    embedder(tokenizer.collate([["", "cat"], [], [""]])).x.square().sum().backward()
    assert all(bool(p.grad.isfinite().all()) for p in embedder.parameters())


@pytest.mark.parametrize(
    "word, expected",
    [("McDonald's", "XxXxx'x"), ("1984-85", "00-00"), ("USA", "XX"), ("cat", "xx"), ("...", ".."), ("Éa9", "Xx0")],
)  # fmt: skip
def test_outlines(word, expected) -> None:
    assert outline(word) == expected


def test_spelling_features() -> None:
    tokenizer = Spelling(suffixes=(2, 3), prefixes=(1,), shape=True, min_count=1).fit(SENTENCES)
    assert tokenizer.decode(tokenizer.collate([["Cats", "I", "the"]])) == [
        ["-ts -ats c- <Xxx>", "i- <unknown>", "-he -the t- <xx>"]
    ]
    rare = Spelling(suffixes=(3,), shape=False, min_count=2).fit(SENTENCES)
    counts = Counter("-" + w.lower()[-3:] for s in SENTENCES for w in s if len(w) >= 3)
    assert set(rare.state["spelling"]) == {f for f, n in counts.items() if n >= 2}


def test_joins_are_a_sum_and_a_linear_layer() -> None:
    batch_of = everything().fit(SENTENCES).collate
    for join in ("sum", "concatenate"):
        embedder = everything(join=join).fit(SENTENCES).embedder(8)
        batch = batch_of(SENTENCES)
        mask = batch["mask"]
        parts = [view(batch).x[mask] for view in embedder.views]
        found = embedder(batch)
        if join == "sum":
            expected = parts[0] + parts[1] + parts[2]
        else:
            assert [part.shape[1] for part in parts] == [6, 7, 5]
            expected = torch.nn.functional.linear(torch.cat(parts, 1), embedder.project.weight, embedder.project.bias)
        torch.testing.assert_close(found.x[mask], expected)
        assert found.layout == "sequence" and torch.equal(found.mask, mask) and not found.x[~mask].any()


@pytest.mark.parametrize(
    "make",
    [
        lambda: Words(width=0),
        lambda: Words(dropout=-0.1),
        lambda: Characters(kernel_sizes=(2,)),
        lambda: Characters(kernel_sizes=()),
        lambda: Characters(max_length=1),
        lambda: Spelling(suffixes=(), shape=False),
        lambda: Spelling(suffixes=(0,)),
        lambda: WordFeatures(),
        lambda: WordFeatures(words=Words(), join="product"),
        lambda: Characters(kernel_sizes=(1, 3, 5)).fit(SENTENCES).embedder(2),
    ],
)
def test_values_out_of_range(make) -> None:
    with pytest.raises(ConfigError):
        make()
