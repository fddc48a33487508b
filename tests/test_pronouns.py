"""What a pronoun means: the sentences, words without a label, and whether heads point at the noun that is meant."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
import torch.nn.functional as F
from torch import nn

from vsattn.attention import MultiHeadAttention
from vsattn.compose import plain_config
from vsattn.errors import ConfigError, DataError
from vsattn.measure import main as measure
from vsattn.measures import Hits, Meant, hits, pointing
from vsattn.model import build_model
from vsattn.predictor import Predictor
from vsattn.tasks.classification import IGNORED
from vsattn.tasks.data.pronouns import BY_KIND, KIND, NEUTRAL, Pronouns
from vsattn.tasks.data.tagged import TaggedWords
from vsattn.tasks.experiment import run
from vsattn.tasks.labeling import LabelingTask
from vsattn.tasks.pointing import pronoun_pointing
from vsattn.tokenizers import Words
from vsattn.vectorset import VectorSet

#: Written by hand: what can be so.
SAID_OF = {
    "tired": "animals", "hungry": "animals", "wide": "ways", "muddy": "ways", "steep": "heights", "tall": "heights",
    "heavy": "loads", "bulky": "loads", "sour": "food", "rotten": "food", "dark": "rooms", "narrow": "rooms",
}  # fmt: skip


@pytest.fixture(scope="module")
def data() -> Pronouns:
    found = Pronouns(pairs=(1200, 240, 480), plain=600, alone=600)
    found.setup(0)
    return found


def nouns_of(words: list[str]) -> list[str]:
    return [word for word in words if word in KIND]


def meant(data: Pronouns, split: str, index: int) -> str:
    words, target = getattr(data, split)[index]
    return data.classes[target[words.index("it")]]


@pytest.mark.parametrize("seed", range(5))
def test_each_noun_belongs_to_one_split(seed: int) -> None:
    data = Pronouns(pairs=(10, 10, 10), plain=100, alone=266)
    data.setup(seed)
    for kind, nouns in BY_KIND.items():
        parts = [data.nouns[split][kind] for split in ("train", "val", "test")]
        assert Counter(noun for part in parts for noun in part) == Counter(nouns)
        assert len(parts[1]) == len(parts[2]) == round(0.2 * len(nouns))
    assert "animal" in data.nouns["test"]["animals"] and "street" in data.nouns["test"]["ways"]


def test_the_nouns_of_val_and_test_are_never_one_of_several_in_training(data: Pronouns) -> None:
    own = {split: {noun for nouns in kinds.values() for noun in nouns} for split, kinds in data.nouns.items()}
    seen = Counter()
    for words, target in data.train:
        nouns, labels = nouns_of(words), {i: data.classes[t] for i, t in enumerate(target) if t != IGNORED}
        assert words.count("it") <= 1 <= len(nouns) == len(set(nouns))
        if "it" not in words:
            assert labels == {i: KIND[word] for i, word in enumerate(words) if word in KIND}
            seen["plain"] += not own["train"] >= set(nouns)
            continue
        assert list(labels) == [words.index("it")] and labels[words.index("it")] in nouns
        if len(nouns) == 1:
            assert set(words) & set(NEUTRAL) and not set(words) & set(SAID_OF)
            seen["alone"] += nouns[0] not in own["train"]
        else:
            assert own["train"] >= set(nouns) and not set(words) & set(NEUTRAL)
            seen["choice"] += 1
    assert seen["plain"] > 100 and seen["alone"] > 100 and seen["choice"] == 2400
    for split in ("val", "test"):
        for index, (words, target) in enumerate(getattr(data, split)):
            assert own[split] >= set(nouns_of(words)) and meant(data, split, index) in own[split]
            assert sum(t != IGNORED for t in target) == 1


def test_one_adjective_changes_what_is_meant_and_nothing_else_tells(data: Pronouns) -> None:
    firsts = Counter()
    for split in ("train", "val", "test"):
        pairs = [i for i, (words, _) in enumerate(getattr(data, split)) if "it" in words and len(nouns_of(words)) > 1]
        for one, other in zip(pairs[::2], pairs[1::2], strict=True):
            a, b = (getattr(data, split)[i][0] for i in (one, other))
            (place,) = [i for i, (x, y) in enumerate(zip(a, b, strict=True)) if x != y]
            reference = data.reference(b, meant(data, split, other))
            assert reference.adjective == place and b[reference.antecedent] == meant(data, split, other)
            assert [a[i] for i in reference.nouns] == nouns_of(a) and a[reference.pronoun] == "it"
            assert {meant(data, split, one), meant(data, split, other)} <= set(nouns_of(a))
            assert meant(data, split, one) != meant(data, split, other)
            assert KIND[meant(data, split, one)] == "animals"
            firsts["animal"] += nouns_of(a).index(meant(data, split, one)) == 0
            firsts["other"] += nouns_of(b).index(meant(data, split, other)) == 0
            firsts["fronted"] += a.index("it") < a.index(nouns_of(a)[-2])
            firsts["third"] += len(nouns_of(a)) == 3
            firsts["all"] += 1
    shares = {name: count / firsts["all"] for name, count in firsts.items()}
    assert shares["fronted"] == shares["third"] == 0.5
    assert shares["animal"] == shares["other"] == 5 / 12  # half of the sentences that do not begin with the third noun


def test_rules_that_do_not_read_the_adjective_are_right_in_half_at_most(data: Pronouns) -> None:
    truth = [meant(data, "test", i) for i in range(len(data.test))]
    shares = {
        name: np.mean([a == b for a, b in zip(guess, truth, strict=True)]) for name, guess in data.guesses().items()
    }
    assert list(shares) == ["nearest noun", "first noun", "subject"]
    assert shares["subject"] == 0.5 and shares["first noun"] == shares["nearest noun"] == 5 / 12


def test_the_noun_meant_is_the_one_that_can_be_so(data: Pronouns) -> None:
    judged = 0
    for split in ("train", "val", "test"):
        for index, (words, _) in enumerate(getattr(data, split)):
            if "it" in words and words[-1] in SAID_OF:
                fits = [noun for noun in nouns_of(words) if noun in BY_KIND[SAID_OF[words[-1]]]]
                assert fits == [meant(data, split, index)], words
                judged += 1
    assert judged > 300


def test_the_seed_decides(data: Pronouns) -> None:
    again, other = (Pronouns(pairs=(1200, 240, 480), plain=600, alone=600) for _ in range(2))
    again.setup(0)
    other.setup(1)
    assert (again.train, again.val, again.test) == (data.train, data.val, data.test)
    assert other.nouns != data.nouns and other.test != data.test and other.classes == data.classes
    known = {word for words, _ in data.train for word in words}
    assert known >= {
        "The",
        "animal",
        "did",
        "not",
        "cross",
        "the",
        "street",
        "because",
        "it",
        "was",
        "too",
        "tired",
        "wide",
    }


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"pairs": (1, 0, 1)}, "pairs are three"),
        ({"plain": 0}, "plain"),
        ({"alone": 100}, "266"),
        ({"held_out": 0.5}, "0.1 to 0.4"),
    ],
)
def test_numbers_out_of_range_are_refused(options: dict, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Pronouns(**options)


class Partly(TaggedWords):
    """Words of which some have no label."""

    def setup(self, seed: int) -> None:
        train = [(["a", "b", "a"], ["X", None, "Y"]), (["b", "c"], ["Y", "X"])]
        test = [(["b", "a"], [None, "X"]), (["c", "b", "a"], ["Y", None, None])]
        self.take({"train": train, "val": test, "test": test})


def task_of(head: str = "vsattn.heads.VectorHead") -> tuple[LabelingTask, Partly]:
    data = Partly()
    data.setup(0)
    tokenizer = Words(min_count=1).fit(data.fit_items(1))
    model = build_model(tiny.config(head={"_target_": head}), tokenizer, num_classes=2)
    return LabelingTask(model, tokenizer, data.classes), data


def test_words_without_a_label_are_neither_taught_nor_judged(tmp_path: Path) -> None:
    task, data = task_of()
    assert data.classes == ["X", "Y"] and data.test[1][1] == [1, IGNORED, IGNORED]
    batch = task.eval().collate(data.test)
    logits = torch.randn(2, 3, 2, generator=torch.Generator().manual_seed(0))
    judged = logits[[0, 1], [1, 0]]
    torch.testing.assert_close(task.loss(logits, batch), F.cross_entropy(judged, torch.tensor([0, 1])))
    task.remembered = [task.remember(logits, batch)]
    scores = task.evaluate(task.remembered, data, seed=0)
    assert scores["test/accuracy"] == (judged.argmax(-1) == torch.tensor([0, 1])).double().mean()
    assert scores["test/loss"] == pytest.approx(float(F.cross_entropy(judged, torch.tensor([0, 1]))), rel=1e-5)
    assert scores["test/words_known"] == 2 and scores["test/words_ambiguous"] == 1  # "a" is X and Y, "c" X alone
    assert task.floor(data).tolist() == [True, False]
    assert {path.name for path in task.draw(tmp_path, data)} == {"confusion.png", "sentences.png"}
    task.remembered = [(np.zeros(5, int), np.full(5, IGNORED), 0.0)]
    with pytest.raises(DataError, match="no labels"):
        task.evaluate(task.remembered, data, seed=0)


def test_a_random_field_refuses_sentences_with_gaps() -> None:
    task, data = task_of("vsattn.crf.CrfHead")
    with pytest.raises(ConfigError, match="words without a label"):
        task.check(data, "train")


class Looks(nn.Module):
    """One head, whose score is the product of the first numbers of two vectors."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = MultiHeadAttention(2, 1)
        with torch.no_grad():
            for projection in (self.attention.query_proj, self.attention.key_proj):
                projection.weight.copy_(torch.eye(2))
                projection.bias.zero_()

    def forward(self, batch: dict) -> torch.Tensor:
        return self.attention(VectorSet(batch["x"])).x


def test_pointing_by_hand() -> None:
    first = torch.tensor(
        [[1.0, 5.0, 2.0, 9.0], [1.0, 2.0, 5.0, 4.0], [-1.0, 5.0, 2.0, 3.0]]
    )  # the last seeks the least
    batch = {"x": torch.stack([first, torch.zeros(3, 4)], dim=-1)}
    candidates = torch.tensor([[False, True, True, False]] * 3)
    asked = Meant(batch, torch.tensor([0, 0, 0]), candidates, torch.tensor([1, 2, 1]))
    found = hits(Looks(), [asked, asked])
    assert list(found) == ["attention"]
    assert found["attention"].candidates[:, 0].tolist() == [True, True, False] * 2
    assert found["attention"].everything[:, 0].tolist() == [False, True, False] * 2
    (row,) = pointing(found)
    assert (row.path, row.head, row.share, row.of_all) == ("attention", 0, pytest.approx(2 / 3), pytest.approx(1 / 3))
    assert row.low < row.share < row.high
    (sure,) = pointing({"p": Hits(torch.ones(9, 1, dtype=torch.bool), torch.zeros(9, 1, dtype=torch.bool))})
    assert (sure.low, sure.share, sure.high, sure.all_high) == (1.0, 1.0, 1.0, 0.0)
    with pytest.raises(DataError, match="is not among"):
        hits(Looks(), [Meant(batch, torch.tensor([1, 0, 0]), candidates, torch.tensor([1, 2, 1]))])
    with pytest.raises(DataError, match="no question"):
        hits(Looks(), [])


@pytest.mark.parametrize("num_prefix", [0, 2])
def test_pointing_agrees_with_the_weights_that_layers_return(num_prefix: int) -> None:
    task, _ = task_of()
    config = tiny.config(head={"_target_": "vsattn.heads.VectorHead"})
    config["encoder"] |= {"num_prefix": num_prefix, "num_heads": 4}
    model = build_model(config, task.tokenizer, num_classes=2).eval()
    sentences = [["a", "b", "c", "b", "a"], ["b", "a", "c"]]
    batch = task.tokenizer.collate(sentences)
    candidates = torch.tensor([[False, True, True, False, True], [False, True, True, False, False]])
    query, answer = torch.tensor([0, 0]), torch.tensor([4, 2])
    (found,) = hits(model, [Meant(batch, query, candidates, answer)]).values()
    block, kept = model.encoder.blocks[0], []
    block.attention.register_forward_pre_hook(lambda module, arguments: kept.append(arguments[0]))
    with torch.no_grad():
        model(batch)
        _, weights = block.attention(kept[0], return_weights=True)
    for row, true in enumerate(answer.tolist()):
        for head in range(4):
            line = weights[row, head, num_prefix].tolist()
            places = [i + num_prefix for i in candidates[row].nonzero()[:, 0].tolist()]
            assert bool(found.candidates[row, head]) == (max(places, key=lambda i: line[i]) == true + num_prefix)
            assert bool(found.everything[row, head]) == (line.index(max(line)) == true + num_prefix)


def test_the_experiment_trains_and_the_command_measures_where_its_heads_point(tmp_path: Path, capsys) -> None:
    words = ["experiment=pronouns", "debug=fast", "num_threads=1", "logger=none", "dim=16", "data.pairs=[60,24,48]"]
    words += ["data.plain=100", "data.alone=300", "trainer.limit_test_batches=1.0"]
    config, faults = plain_config(words)
    assert faults == []
    result = run(config, tmp_path / "run")
    assert result.metrics["floor/name"] == "nearest noun" and result.metrics["test/words_known"] == 96
    assert result.metrics["test/by_subject"] == 0.5
    arguments = [f"ckpt={tmp_path / 'run'}", "split=test", "n=96", "what=pointing"]
    assert measure([*arguments, f"output={tmp_path / 'measured'}"]) == 0
    found = json.loads((tmp_path / "measured" / "measure.json").read_text())["pointing"]
    assert "best in validation: encoder" in capsys.readouterr().out
    assert found["sentences"] == 96 and len(found["heads"]) == 8
    assert found["nearest_noun"] == pytest.approx(result.metrics["floor/accuracy"])
    assert found["accuracy"] == pytest.approx(result.metrics["test/accuracy"])
    assert found["best"]["val"] == max(row["val"] for row in found["heads"])
    assert measure([arguments[0], "split=train", "n=8", "what=pointing", f"output={tmp_path / 'train'}"]) == 0
    assert json.loads((tmp_path / "train" / "measure.json").read_text())["pointing"]["sentences"] == 8


def test_a_model_of_other_data_is_refused() -> None:
    task, data = task_of()
    with pytest.raises(ConfigError, match="data=pronouns"):
        pronoun_pointing(Predictor(task.model, task.tokenizer, data.classes), "val", count=2, seed=0)
