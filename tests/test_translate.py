"""Translations of a model that has learned to reverse words, by the class and by the command."""

from __future__ import annotations

import gzip
import io
import random
import sys
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import vsattn
from vsattn.build import build
from vsattn.checkpoint import payload
from vsattn.errors import ConfigError, DataError
from vsattn.hypotheses import Translation
from vsattn.model import build_model
from vsattn.predict import main as predict
from vsattn.tokenizers.base import Tokenizer
from vsattn.translate import main
from vsattn.translator import Translator

TEXT = {"_target_": "vsattn.tokenizers.Text", "model": "words", "split": "spaces", "min_count": 1}
CONFIG: dict[str, Any] = {
    "dim": 32,
    "tokenizer": {"_target_": "vsattn.tokenizers.TextPairs", "source": TEXT, "max_length": 12},
    "positions": {"_target_": "vsattn.positions.Sinusoidal"},
    "encoder": {"_target_": "vsattn.encoders.TransformerEncoder", "num_layers": 1, "num_heads": 2},
    "decoder": {"_target_": "vsattn.decoders.TransformerDecoder", "num_layers": 1, "num_heads": 2},
    "head": {"_target_": "vsattn.heads.TiedHead"},
    "task": {"_target_": "vsattn.tasks.translation.TranslationTask", "beam_width": 3, "length_penalty": 0.5},
}
LINES = ["ä b c", "", "e", "d d ä b c e", "  ", "b ä", "c e d b", "d"]


def reverse(line: str) -> str:
    return " ".join(reversed(line.split()))


def made(seed: int, words: str = "ä b c d e", **parts: Any) -> Translator:
    config = {**CONFIG, **parts}
    torch.manual_seed(seed)
    drawn = random.Random(seed)
    sources = [" ".join(drawn.choices(words.split(), k=drawn.randint(1, 6))) for _ in range(500)]
    tokenizer: Any = build(config["tokenizer"], Tokenizer, path="tokenizer").fit([(s, reverse(s)) for s in sources])
    model = build_model(config, tokenizer, num_classes=len(tokenizer.writes))
    return Translator(model, tokenizer, tokenizer.writes, config=config)


def save(translator: Translator, path: Path) -> Path:
    state = {f"model.{name}": value for name, value in translator.model.state_dict().items()}
    held = payload(translator.config, translator.tokenizer, translator.classes)
    torch.save({"state_dict": state, "vsattn": held}, path)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with checkpoints: good.ckpt reverses words, raw.ckpt has learned nothing, other.ckpt has other words."""
    path, drawn = tmp_path_factory.mktemp("run"), random.Random(0)
    good = made(0)
    model, tokenizer = good.model.train(), good.texts
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(260):
        sources = [" ".join(drawn.choices(["ä", "b", "c", "d", "e"], k=drawn.randint(1, 6))) for _ in range(64)]
        target = tokenizer.targets([reverse(source) for source in sources])
        logits = model({**tokenizer.collate(sources), "target": target})
        optimizer.zero_grad()
        F.cross_entropy(logits.flatten(0, 1), target[:, 1:].flatten(), ignore_index=0).backward()
        optimizer.step()
    save(good, path / "good.ckpt")
    raw = made(0)
    torch.manual_seed(1)
    raw.model.load_state_dict({k: v + 0.02 * torch.randn_like(v) for k, v in good.model.state_dict().items()})
    save(raw, path / "near.ckpt")
    save(made(1, "v w x y z"), path / "other.ckpt")
    return path


@pytest.fixture
def good(folder: Path) -> Translator:
    translator = vsattn.load(folder / "good.ckpt")
    assert isinstance(translator, Translator)
    return translator


def command(words: list[str], given: str | bytes = "", *, terminal: bool = False) -> int:
    """Run the command with standard input."""

    class Input(io.TextIOWrapper):
        def isatty(self) -> bool:
            return terminal

    before = sys.stdin
    sys.stdin = Input(io.BytesIO(given.encode() if isinstance(given, str) else given))
    try:
        return main(words)
    finally:
        sys.stdin = before


# The class.


@pytest.mark.parametrize("options", [{"width": 1}, {"width": 4}, {}])
def test_order_blanks_and_batches(good, options) -> None:
    found = good.predict(LINES, **options)
    assert [one.text for one in found] == [reverse(line) for line in LINES]
    assert all(one.finished for one in found)
    assert found[1] == found[4] == Translation("", 0.0, 0.0, (), (), (), True)
    assert found[0].pieces == ("c", "b", "ä") and found[0].source_pieces == ("ä", "b", "c")
    for batch_size in (1, 3):
        for one, other in zip(found, good.predict(iter(LINES), batch_size=batch_size, **options), strict=True):
            assert one.text == other.text and one.score == pytest.approx(other.score, abs=1e-5)


def test_scores_are_what_the_model_says_of_the_given_target(good) -> None:
    found = good.predict(LINES, n_best=3)
    assert [len(of_one) for of_one in found] == [1 if not line.strip() else 3 for line in LINES]
    pairs = [(line, one) for line, of_one in zip(LINES, found, strict=True) for one in of_one if line.strip()]
    given = good.score([line for line, _ in pairs], [one.text for _, one in pairs], batch_size=4)
    for (line, one), other in zip(pairs, given, strict=True):
        assert (other.text, other.ids, other.source_pieces) == (one.text, one.ids, one.source_pieces)
        assert other.log_prob == pytest.approx(one.log_prob, abs=1e-4)
        assert other.score == pytest.approx(one.score, abs=1e-4)
        assert one.score == pytest.approx(one.log_prob / ((6 + len(one.ids)) / 6) ** 0.5)  # the task's penalty
        target = good.texts.targets([one.text])
        logits = good.model({**good.texts.collate([line]), "target": target})[0]
        taught = -F.cross_entropy(logits, target[0, 1:], reduction="sum")
        assert one.log_prob == pytest.approx(taught.item(), abs=1e-4)
    for of_one in found:
        assert [one.score for one in of_one] == sorted((one.score for one in of_one), reverse=True)
        assert len({one.text for one in of_one}) == len(of_one)
    empty = good.score(["ä"], [""])[0]
    assert empty.finished and empty.log_prob < -1


def test_the_task_says_how_to_search(good) -> None:
    found = good.predict(["ä b c"], n_best=3)
    assert found == good.predict(["ä b c"], n_best=3, width=3, length_penalty=0.5)
    assert found != good.predict(["ä b c"], n_best=3, width=3, length_penalty=0.0)
    assert len(good.predict(["ä b c"], n_best=6)[0]) == 6


def test_an_alignment_is_where_tokens_come_from(good) -> None:
    source, target, weights = good.alignment("ä b c d", "d c b ä")
    assert source == ["ä", "b", "c", "d", "<eos>"] and target == ["d", "c", "b", "ä", "<eos>"]
    assert torch.allclose(weights.sum(1), torch.ones(5))
    batch = {**good.texts.collate(["ä b c d"]), "target": good.texts.targets(["d c b ä"])}
    assert torch.allclose(weights, good.model.attention(batch)[0, -1].mean(0))
    found = good.predict(["ä b c d"])[0]
    assert torch.equal(good.alignment("ä b c d", found).weights, weights)
    cut = Translation("", 0.0, 0.0, found.ids[:2], (), (), False)
    assert good.alignment("ä b c d", cut).target == ["d", "c"]


def test_an_alignment_leaves_prefix_vectors_out() -> None:
    translator = made(0, encoder={**CONFIG["encoder"], "num_prefix": 2})
    source, target, weights = translator.alignment("ä b c", "c b ä")
    assert weights.shape == (len(target), len(source)) == (4, 4)
    batch = {**translator.texts.collate(["ä b c"]), "target": translator.texts.targets(["c b ä"])}
    with torch.no_grad():
        whole = translator.model.decoder.attention(
            translator.model._embedded(batch["target"][:, :-1]), translator.model.encode(batch)
        )
    assert torch.allclose(weights, whole[0, -1].mean(0)[:, 2:]) and bool((weights.sum(1) < 1).all())


def test_drawn_translations_repeat_by_seed(good) -> None:
    def draw(seed: int, **options: Any) -> list[Any]:
        return good.sample(LINES, temperature=3.0, generator=torch.Generator().manual_seed(seed), **options)

    texts = [one.text for one in draw(0)]
    assert texts == [one.text for one in draw(0, batch_size=2)] != [one.text for one in draw(1)]
    assert [one.text for one in draw(0, top_k=1)] == [reverse(line) for line in LINES]
    several = draw(0, count=5)
    assert [len(of_one) for of_one in several] == [1 if not line.strip() else 5 for line in LINES]


def test_an_ensemble_is_the_mean_of_its_models(folder, good) -> None:
    near = vsattn.load(folder / "near.ckpt")
    both = Translator.ensemble([good, near])
    targets = [reverse(line) for line in LINES]
    batch = {**good.texts.collate(LINES), "target": good.texts.targets(targets)}
    mean = torch.stack([one.model(batch).softmax(-1) for one in (good, near)]).mean(0)
    taught = mean.log().gather(2, batch["target"][:, 1:, None])[..., 0].masked_fill(batch["target"][:, 1:] == 0, 0)
    found = both.score(LINES, targets)
    assert [one.log_prob for one in found] == pytest.approx(taught.sum(1).tolist(), abs=1e-4)
    assert [one.text for one in both.predict(LINES)] == targets
    weights = [one.alignment("ä b", "b ä").weights for one in (good, near, both)]
    assert torch.allclose(weights[2], (weights[0] + weights[1]) / 2)
    other = vsattn.load(folder / "other.ckpt")
    with pytest.raises(ConfigError, match="model 2 of the ensemble has another vocabulary"):
        Translator.ensemble([good, other])
    with pytest.raises(ConfigError, match="at least one model"):
        Translator.ensemble([])


def test_what_cannot_be_translated(good) -> None:
    long = "ä " * 12
    with pytest.raises(DataError, match=r"text 7 cannot be translated: .* has 12 pieces"):
        good.predict(["ä", long, "b"], first=6)
    with pytest.raises(DataError, match=r"text 1 .* '5' \(int\) is no text"):
        good.predict(["ä", 5])
    with pytest.raises(DataError, match="takes a list of items, not one"):
        good.predict("ä b")
    with pytest.raises(DataError, match="batch_size is at least 1"):
        good.predict(["ä"], batch_size=0)
    with pytest.raises(DataError, match="2 sources cannot be scored with 1 translations"):
        good.score(["ä", "b"], ["c"])
    with pytest.raises(ConfigError, match="no logits"):
        good.logits(["ä"])
    with pytest.raises(ConfigError, match=r"n_best is in 1 \.\. width"):
        good.predict(["ä"], width=2, n_best=3)
    assert good.predict([]) == []


def test_a_translation_may_be_as_long_as_the_positions_that_were_learned() -> None:
    translator = made(0, positions={"_target_": "vsattn.positions.Learned"})
    step = translator.model.step

    def endless(ids: Tensor, state: Any) -> tuple[Tensor, Any]:
        log_probs, state = step(ids, state)
        return log_probs.index_fill(1, torch.tensor([2]), -torch.inf), state

    translator.model.step = endless
    for width in (1, 3):
        found = translator.predict(["ä"], width=width)[0]
        assert not found.finished and len(found.ids) == 12
        assert translator.alignment("ä", found).weights.shape == (12, 2)


def test_a_recurrent_decoder_translates_too() -> None:
    recurrent = {"hidden_dim": 16, "_target_": "vsattn.encoders.RecurrentEncoder", "num_layers": 1, "project": False}
    decoder = {"_target_": "vsattn.decoders.RecurrentDecoder", "hidden_dim": 16, "memory_dim": 16}
    translator = made(0, encoder={**recurrent, "cell": "gru"}, decoder=decoder)
    translator.model.double()
    found = translator.predict(LINES, width=3, n_best=2)
    alone = [translator.predict([line], width=3, n_best=2)[0] for line in LINES]
    for one, other in zip(chain(*found), chain(*alone), strict=True):
        assert one.ids == other.ids and one.score == pytest.approx(other.score, abs=1e-12)
    given = translator.score(["ä b c"] * 2, [one.text for one in found[0]])
    assert [one.log_prob for one in given if one.finished] == pytest.approx(
        [one.log_prob for one in found[0] if one.finished]
    )
    source, target, weights = translator.alignment("ä b c", found[0][0])
    assert weights.shape == (len(target), len(source)) and torch.allclose(weights.sum(1), torch.ones(len(target)))


# The command.


def test_lines_of_standard_input(folder, capsys) -> None:
    words = [f"ckpt={folder / 'good.ckpt'}"]
    assert command(words, "\n".join(LINES) + "\n") == 0
    shown = capsys.readouterr()
    assert shown.out == "".join(f"{reverse(line)}\n" for line in LINES) and shown.err == ""
    assert command(words, "ä b\r\n\r\nb \u2028 c") == 0  # Windows' ends, a line separator that is none, no last end
    assert capsys.readouterr().out == "b ä\n\nc b\n"
    assert command(words, "") == 0
    assert capsys.readouterr().out == ""


def test_files_in_buffers(folder, tmp_path, capsys) -> None:
    (tmp_path / "a.txt").write_text("ä b\n\nc d", encoding="utf-8")
    with gzip.open(tmp_path / "b.gz", "wt", encoding="utf-8") as file:
        file.write("d e\n")
    (tmp_path / "b.gz").rename(tmp_path / "b.packed")
    (tmp_path / "a.txt").rename(tmp_path / "a.gz")  # what a file is called says nothing
    words = [f"ckpt={folder / 'good.ckpt'}", f"input={tmp_path / 'a.gz'},{tmp_path / 'b.packed'}"]
    for more in ([], ["--buffer", "1"], ["--batch-size=1", "--beam", "1"]):
        assert command([*words, *more, f"output={tmp_path / 'out.txt'}"]) == 0
        assert (tmp_path / "out.txt").read_bytes().decode() == "b ä\n\nd c\ne d\n"
    assert not (tmp_path / "out.txt.part").exists() and capsys.readouterr().out == ""


def test_the_general_command_translates_as_well(folder, tmp_path, capsys) -> None:
    (tmp_path / "in.txt").write_text("ä b\n\nc d\n", encoding="utf-8")
    assert predict([f"ckpt={folder / 'good.ckpt'}", f"input={tmp_path / 'in.txt'}"]) == 0
    assert capsys.readouterr().out == "b ä\n\nd c\n"


def test_a_buffer_is_written_before_the_next_is_read(good, folder) -> None:
    from vsattn.translate import write

    out, seen = io.StringIO(), []

    def lines():
        for line in ("ä b", "b c", "c d", "d e"):
            seen.append(out.getvalue())
            yield line

    write(lines(), lambda chunk, first: [[one] for one in good.predict(chunk)], out, buffer=2)
    assert seen == ["", "", "b ä\nc b\n", "b ä\nc b\n"] and out.getvalue() == "b ä\nc b\nd c\ne d\n"


def test_columns(folder, good, capsys) -> None:
    words = [f"ckpt={folder / 'good.ckpt'}"]
    assert command([*words, "--n-best", "3", "--scores", "--beam", "5", "--length-penalty", "1"], "ä b\n\nc\n") == 0
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [row[0] for row in rows] == ["1", "1", "1", "2", "3", "3", "3"]
    found = good.predict(["ä b", "", "c"], n_best=3, width=5, length_penalty=1.0)
    for row, one in zip(rows, [one for of_one in found for one in of_one], strict=True):
        assert row[1:] == [f"{one.score:.4f}", f"{one.log_prob:.4f}", one.text]
    assert command([*words, "--scores"], "ä b\n") == 0
    best = good.predict(["ä b"])[0]
    assert capsys.readouterr().out == f"{best.score:.4f}\t{best.log_prob:.4f}\tb ä\n"


def test_drawn_lines(folder, capsys) -> None:
    words = [f"ckpt={folder / 'good.ckpt'}", "--sample", "--temperature=4", "--buffer", "2"]

    def lines(*more: str) -> list[str]:
        assert command([*words, *more], "ä b\nä b\nä b\nä b\n") == 0
        return capsys.readouterr().out.splitlines()

    one = lines("--seed", "1")
    assert one == lines("--seed", "1") != lines("--seed", "2")
    assert len(set(one)) > 1
    assert one[:2] != one[2:]  # the second buffer draws on
    assert lines("--top-k", "1") == lines("--top-p", "0.0001") == ["b ä"] * 4
    assert [line.split("\t")[0] for line in lines("--n-best", "2")] == ["1", "1", "2", "2", "3", "3", "4", "4"]


def test_several_models(folder, capsys) -> None:
    both = f"ckpt={folder / 'good.ckpt'},{folder / 'near.ckpt'}"
    assert command([both, "--scores"], "ä b c\n") == 0
    one = Translator.ensemble([vsattn.load(folder / f"{name}.ckpt") for name in ("good", "near")]).predict(["ä b c"])[0]
    assert capsys.readouterr().out == f"{one.score:.4f}\t{one.log_prob:.4f}\tc b ä\n"
    assert command([f"ckpt={folder / 'good.ckpt'},{folder / 'other.ckpt'}"], "ä\n") == 2
    assert "another vocabulary" in capsys.readouterr().err
    assert command([f"ckpt={folder / 'good.ckpt'},{folder / 'good.ckpt'}"], "ä\n") == 2
    assert "names a model twice" in capsys.readouterr().err


def test_a_person_at_a_terminal(folder, capsys) -> None:
    assert command([f"ckpt={folder / 'good.ckpt'}"], "ä b\n" + "ä " * 12 + "\n\nb c\n", terminal=True) == 0
    shown = capsys.readouterr()
    assert shown.out == "b ä\n\nc b\n"
    assert shown.err.count("> ") == 5 and "text 2 cannot be translated" in shown.err


def test_pictures_of_attention(folder, tmp_path, capsys) -> None:
    from PIL import Image

    words = [f"ckpt={folder / 'good.ckpt'}", "--attention", str(tmp_path / "deep" / "pictures"), "--buffer", "2"]
    assert command(words, "ä b c\n\nd\n") == 0
    assert capsys.readouterr().out == "c b ä\n\nd\n"
    pictures = sorted((tmp_path / "deep" / "pictures").iterdir())
    assert [path.name for path in pictures] == ["000001.png", "000003.png"]
    large, small = (Image.open(path).size for path in pictures)
    assert large[0] > small[0] and large[1] > small[1]
    (tmp_path / "file").write_text("")
    assert command([*words[:2], str(tmp_path / "file")], "ä\n") == 1
    assert "cannot be a folder for pictures" in capsys.readouterr().err


def test_what_is_cut_is_told(folder, capsys) -> None:
    assert command([f"ckpt={folder / 'other.ckpt'}", "--beam", "1"], "v w\n\nx\n") == 0
    assert capsys.readouterr().err == "2 translations were cut at the most tokens that they may have\n"


@pytest.mark.parametrize(
    ("words", "given", "code", "says"),
    [
        ([], "", 2, "ckpt: is missing; add ckpt=PATH"),
        (["ckpt=GOOD", "inptu=y"], "", 2, "did you mean 'input'?"),
        (["ckpt=GOOD", "--n-bets", "2"], "", 2, "--n-bets"),
        (["ckpt=GOOD", "--n-best", "0"], "", 2, "--n-best: a whole number of at least 1 is expected, not 0"),
        (["ckpt=GOOD", "--beam", "many"], "", 2, "--beam: a whole number of at least 1 is expected, not many"),
        (["ckpt=GOOD", "--seed", "1", "--top-k", "2"], "", 2, "2 faults"),
        (["ckpt=GOOD", "--sample", "--beam", "2"], "", 2, "--beam: does not go with --sample"),
        (["ckpt=GOOD", "--sample", "--top-p", "2"], "ä\n", 2, "top_p is in (0, 1]"),
        (["ckpt=GOOD", "--beam=2", "--n-best=3"], "ä\n", 2, "n_best is in 1 .. width"),
        (["ckpt=GOOD", "device=tpu9"], "ä\n", 2, "device: tpu9 cannot be used here"),
        (["ckpt=nowhere"], "", 1, "there is no checkpoint nowhere"),
        (["ckpt=GOOD", "input=nothing.txt"], "", 1, "there is no nothing.txt"),
        (["ckpt=GOOD", "input=."], "", 1, ". cannot be read: Is a directory"),
        (["ckpt=GOOD", "input=FOLDER/good.ckpt"], "", 1, "good.ckpt is no UTF-8 text"),
        (["ckpt=GOOD", "output=FOLDER"], "ä\n", 1, "cannot be written: Is a directory"),
        (["ckpt=GOOD"], "ä\n" + "b " * 12, 1, "text 2 cannot be translated: "),
        (
            ["ckpt=GOOD"],
            b"b\n\xe4\n",
            1,
            "line 2 of standard input is no UTF-8 text (invalid continuation byte at byte 0)",
        ),
    ],
)
def test_mistakes(words, given, code, says, folder, capsys) -> None:
    words = [word.replace("GOOD", str(folder / "good.ckpt")).replace("FOLDER", str(folder)) for word in words]
    assert command(words, given) == code
    assert says in capsys.readouterr().err


def test_help(capsys) -> None:
    assert main(["-h"]) == 0
    assert "python -m vsattn.translate ckpt=" in capsys.readouterr().out
