"""Models that start from earlier weights: what is taken, what stays new and is said, and what is refused."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from torch import nn
from torchvision.models import VisionTransformer
from torchvision.transforms import v2

import vsattn
from vsattn.compose import plain_config
from vsattn.convert.files import peer_of, weights_of
from vsattn.depth import grouped
from vsattn.errors import CheckpointError, ConfigError, DataError
from vsattn.initial import Origin, agree, differences, initialise, own_run, ready_tokenizer
from vsattn.model import Model, build_model
from vsattn.tasks.checks import faults
from vsattn.tasks.experiment import run
from vsattn.tasks.finetune import find_origin, resampled, same_grid
from vsattn.tokenizers import Patches, WordPieces, Words

PICTURES = [np.random.default_rng(seed).integers(0, 256, (20, 16, 3), dtype=np.uint8) for seed in range(3)]
CLASSES = [f"class {i}" for i in range(4)]


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run on the digits."""
    folder = tmp_path_factory.mktemp("before") / "run"
    run(tiny.config(norm={"_target_": "vsattn.layers.BatchNorm", "_partial_": True}), folder)
    return folder


def peer_weights(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]


def built(config: dict[str, Any], origin: Origin, items: list[Any], classes: list[str] = CLASSES) -> tuple[Any, Any]:
    """Return the model of a config with the origin's weights, and its tokenizer."""
    made = vsattn.build.build(config["tokenizer"], vsattn.tokenizers.Tokenizer)
    tokenizer = ready_tokenizer(made, config["tokenizer"], origin, items)
    model = build_model(config, tokenizer, num_classes=len(classes)).eval()
    return model, (initialise(model, origin, classes=classes), tokenizer)


# An own run.


def test_a_run_goes_on_from_another_runs_weights(before: Path, tmp_path: Path, capsys: Any) -> None:
    """Before the first step the model answers as the other did; with a rate of 0 it does so for ever."""
    config = tiny.config(init_from=str(before), seed=3, schedule=None)
    config["optimizer"] |= {"lr": 0.0}
    result = run(config | {"freeze": 0}, tmp_path / "run")
    printed = capsys.readouterr().out
    assert "init      " in printed and f"from the checkpoint {before}" in printed
    assert "frozen    " in printed and "parameters: embedder, positions" in printed
    assert "\nnew" not in printed and "\nleft" not in printed
    items = [result.data.test[i][0] for i in range(20)]
    predictors = [vsattn.load(folder) for folder in (before, tmp_path / "run")]
    one, other = (predictor.logits(items) for predictor in predictors)
    torch.testing.assert_close(one, other)
    assert predictors[0].tokenizer.state == predictors[1].tokenizer.state


def test_what_is_frozen_does_not_move_and_the_rest_does(before: Path, tmp_path: Path) -> None:
    """Dropout and batch statistics of what is frozen stand still too; the checkpoint loads by itself."""
    result = run(tiny.config(init_from=str(before), freeze=["embedder", "encoder.blocks.0.attention"]), tmp_path / "b")
    old, new = peer_weights(before), peer_weights(tmp_path / "b")
    frozen = ("model.embedder.", "model.encoder.blocks.0.attention.")
    assert any("running_mean" in name for name in old if name.startswith(frozen))
    for name in old:
        if name.startswith("model.") and name.endswith(("weight", "bias", "running_mean")):
            assert torch.equal(old[name], new[name]) == name.startswith(frozen), name
    kept = sum(p.numel() for n, p in result.task.named_parameters() if n.startswith(frozen))
    assert result.metrics["parameters_frozen"] == kept > 0
    assert vsattn.load(tmp_path / "b").classes == [str(i) for i in range(10)]


def test_a_head_for_other_answers_is_new(before: Path) -> None:
    origin = own_run(before)
    config = tiny.config()
    for classes in (CLASSES, [*origin.classes[1:], origin.classes[0]]):  # another number, another order
        model, (taken, _) = built(config, origin, [], classes)
        fresh = model.head.classify.weight
        assert set(taken.new) == {n for n in model.state_dict() if n.startswith("head.")} == set(taken.left)
        assert set(taken.new.values()) == {"other classes"}
        assert fresh.shape != origin.weights["head.classify.weight"].shape or not torch.equal(
            fresh, origin.weights["head.classify.weight"]
        )
        for name, value in model.state_dict().items():
            assert name.startswith("head.") or torch.equal(value, origin.weights[name])


def test_a_longer_model_says_what_is_new_and_another_one_is_refused(before: Path) -> None:
    origin = own_run(before)
    config = tiny.config()
    config["encoder"] |= {"num_layers": 2}
    model, (taken, _) = built(config, origin, [], origin.classes)
    assert grouped(taken.new, model.state_dict()) == "encoder.blocks.1"
    assert "encoder.num_layers: 1 there, 2 here" in differences(origin.config["encoder"], config["encoder"], "encoder")
    with pytest.raises(CheckpointError, match=r"(?s)0 of the .*Build it as it was there.*16x16 there, 8x8 here"):
        built(tiny.config(dim=8), origin, [])


def test_weights_that_are_not_finite_are_refused(before: Path) -> None:
    origin = own_run(before)
    origin.weights["encoder.norm.weight"][3] = torch.nan
    with pytest.raises(CheckpointError, match=r"NaN or infinity in encoder\.norm\.weight"):
        built(tiny.config(), origin, [])


def test_a_setting_that_no_weight_shows_is_told(before: Path, tmp_path: Path, capsys: Any) -> None:
    config = tiny.config(init_from=str(before), trainer={"fast_dev_run": True, "accelerator": "cpu"})
    config["encoder"] |= {"num_heads": 4, "dropout": 0.1}
    config["head"] = {"_target_": "vsattn.heads.AttentionHead"}
    run(config, tmp_path / "run")
    said = "encoder.num_heads: 2 there, 4 here; head: vsattn.heads.MeanHead there, vsattn.heads.AttentionHead here"
    assert f"\ndiffers   {said}\n" in capsys.readouterr().out


def test_positions_of_a_grid_turned_round_are_new(tmp_path: Path) -> None:
    """As many cells, in rows of another length."""
    config = vit_config()
    config["tokenizer"] |= {"size": [16, 24]}
    old = vsattn.build.build(config["tokenizer"], vsattn.tokenizers.Tokenizer).fit(PICTURES)
    model = build_model(config, old, num_classes=4)
    origin = Origin("it", model.state_dict(), config["tokenizer"], old.state, CLASSES, config)
    for size, same in (([24, 16], False), ([16, 24], True)):
        config["tokenizer"] = config["tokenizer"] | {"size": size}
        tokenizer = vsattn.build.build(config["tokenizer"], vsattn.tokenizers.Tokenizer).fit(PICTURES[:1])
        assert tokenizer.state != old.state
        new = build_model(config, tokenizer, num_classes=4)
        assert same_grid(new, origin) == same
        taken = initialise(new, origin, classes=CLASSES, same_state=False, same_grid=same)
        assert taken.new == ({} if same else {"positions.table": "of another grid"})


# Tokenizers: a row of a table means a word.

SENTENCES = [["a", "dog", "barks"], ["a", "tree", "barks"], ["dog", "a"]]
OTHERS = [["tree", "tree", "grows"], ["grows", "tree", "new"], ["new", "a"]]


def words_origin() -> tuple[Origin, dict[str, Any], Model]:
    target = {"_target_": "vsattn.tokenizers.Words", "min_count": 1}
    config = tiny.config(tokenizer=target, head={"_target_": "vsattn.heads.VectorHead"})
    tokenizer = Words(min_count=1).fit(SENTENCES)
    model = build_model(config, tokenizer, num_classes=4)
    return Origin("it", model.state_dict(), target, tokenizer.state, CLASSES, config), config, model


def test_words_keep_their_vectors() -> None:
    origin, config, model = words_origin()
    new, (taken, tokenizer) = built(config, origin, OTHERS)
    assert not taken.new and tokenizer.decode(tokenizer.collate([["tree", "new"]])) == [["tree", "<unknown>"]]
    old = Words(min_count=1).fit(SENTENCES)
    for word in ("a", "dog", "tree"):
        vectors = [m.embedder(t.collate([[word]])).x for m, t in ((model, old), (new, tokenizer))]
        assert torch.equal(*vectors)


def test_a_vocabulary_of_its_own_makes_new_vectors_and_says_so() -> None:
    origin, config, _ = words_origin()
    tokenizer = ready_tokenizer(Words(min_count=1), config["tokenizer"], origin, OTHERS, "fit")
    assert tokenizer.state["words"] != origin.tokenizer_state["words"]
    model = build_model(config, tokenizer, num_classes=4)
    taken = initialise(model, origin, classes=CLASSES, same_state=False)
    assert taken.new == {"embedder.table.weight": "its rows mean other words"}
    assert set(taken.left) == {"embedder.table.weight"}


def test_another_tokenizer_is_a_choice_to_make() -> None:
    origin, config, _ = words_origin()
    other = {**config["tokenizer"], "lower": True, "dropout": 1.0}
    with pytest.raises(
        CheckpointError, match=r"tokenizer\.lower: False there, True here\. .*init_tokenizer=fit"
    ) as caught:
        ready_tokenizer(Words(lower=True), other, origin, OTHERS)
    assert "dropout" not in str(caught.value)
    assert ready_tokenizer(Words(lower=True), other, origin, OTHERS, "take").state == origin.tokenizer_state
    with pytest.raises(CheckpointError, match="does not fit this Patches"):
        ready_tokenizer(Patches(), {"_target_": "vsattn.tokenizers.Patches"}, origin, PICTURES, "take")


# torchvision's vision transformer.


def vit_config(**changes: Any) -> dict[str, Any]:
    norm = {"_target_": "vsattn.layers.LayerNorm", "_partial_": True, "eps": 1e-6}
    encoder = {
        "_target_": "vsattn.encoders.TransformerEncoder", "num_layers": 2, "num_heads": 3, "num_prefix": 1,
        "norm": norm,
        "feed_forward": {"_target_": "vsattn.layers.FeedForward", "_partial_": True, "hidden_dim": 20},
    }  # fmt: skip
    tokenizer = {"_target_": "vsattn.tokenizers.Patches", "patch_size": 4, "size": [16, 16], "channels": 3}
    positions, head = {"_target_": "vsattn.positions.Learned"}, {"_target_": "vsattn.heads.ClsHead"}
    return {**tiny.config(dim=12, tokenizer=tokenizer, positions=positions, head=head, encoder=encoder), **changes}


@pytest.fixture
def vit(tmp_path: Path) -> tuple[Path, VisionTransformer]:
    torch.manual_seed(0)
    sizes = {"image_size": 16, "patch_size": 4, "num_layers": 2, "num_heads": 3, "hidden_dim": 12, "mlp_dim": 20}
    peer = VisionTransformer(**sizes, num_classes=7).eval()
    for parameter in peer.parameters():
        nn.init.normal_(parameter, std=0.5)
    torch.save(peer.state_dict(), tmp_path / "vit.pth")
    return tmp_path / "vit.pth", peer


def test_a_vision_transformers_body_is_the_peers(vit: tuple[Path, VisionTransformer]) -> None:
    """From the raw picture on: resized, normalised as torchvision does it, and through all layers."""
    path, peer = vit
    config = vit_config(init_from=str(path))
    origin = find_origin(config)
    assert origin is not None
    model, (taken, tokenizer) = built(config, origin, [])
    assert set(taken.new) == set(taken.left) == {"head.classify.weight", "head.classify.bias"}
    batch = tokenizer.collate(PICTURES)
    to_peers = v2.Compose([
        v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Resize((16, 16)),
        v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ])  # fmt: skip
    image = torch.stack([to_peers(picture) for picture in PICTURES])
    torch.testing.assert_close(batch["image"], image)
    with torch.no_grad():
        x = peer._process_input(image)
        theirs = peer.encoder(torch.cat([peer.class_token.expand(len(x), -1, -1), x], 1))
        torch.testing.assert_close(model.encode(batch).x, theirs)
    assert agree(model, origin, batch) < 1e-5


def test_a_peer_is_tuned_and_loads_without_its_file(
    vit: tuple[Path, VisionTransformer], tmp_path: Path, capsys: Any
) -> None:
    path, _ = vit
    config = vit_config(init_from=str(path), freeze=1, layer_decay=0.5)
    result = run(config, tmp_path / "run")
    printed = capsys.readouterr().out
    assert "\nnew       head (other classes)\n" in printed and "\nchecked   two items become the peer's own" in printed
    path.unlink()
    assert len(vsattn.load(tmp_path / "run").predict([result.data.test[0][0]])) == 1
    now, then = peer_weights(tmp_path / "run"), result.task.model.state_dict()
    assert all(torch.equal(now[f"model.{name}"], value) for name, value in then.items())
    peer = vit[1].state_dict()
    assert torch.equal(then["embedder.project.weight"], peer["conv_proj.weight"])
    moved = then["encoder.blocks.1.feed_forward.up.weight"], peer["encoder.layers.encoder_layer_1.mlp.0.weight"]
    assert not torch.equal(*moved)


def test_pictures_of_another_size_are_told(vit: tuple[Path, VisionTransformer]) -> None:
    config = vit_config(init_from=str(vit[0]))
    config["tokenizer"] |= {"size": [24, 16]}
    origin = find_origin(config)
    assert origin is not None
    model, (_, tokenizer) = built(config, origin, [])
    batch = tokenizer.collate(PICTURES)
    assert resampled(model, batch) == {"positions": "of a grid of 4 x 4, interpolated for 6 x 4"}
    assert agree(model, origin, batch) < 1e-5


@pytest.mark.parametrize(
    ("part", "changes", "message"),
    [
        ("encoder", {"norm": {"_target_": "vsattn.layers.LayerNorm", "_partial_": True, "eps": 0.5}}, "norm.eps"),
        ("encoder", {"norm_placement": "sandwich"}, "attention_out_norm"),
        ("encoder", {"num_layers": 3}, r"encoder\.blocks\.2 \(not there\)"),
        ("encoder", {"num_layers": 1}, r"encoder\.blocks\.1 \(there, not here\)"),
        ("encoder", {"num_prefix": 2}, "1x12 there, 2x12 here"),
        ("tokenizer", {"patch_size": 2}, "tokenizer.patch_size: 4 there, 2 here"),
    ],
)
def test_another_architecture_than_the_peers_is_refused(
    vit: tuple[Path, VisionTransformer], part: str, changes: dict[str, Any], message: str
) -> None:
    config = vit_config(init_from=str(vit[0]))
    config[part] |= changes
    origin = find_origin(config)
    assert origin is not None
    with pytest.raises(CheckpointError, match=message):
        model, (_, tokenizer) = built(config, origin, [])
        agree(model, origin, tokenizer.collate(PICTURES))


def test_heads_of_a_published_width_are_known() -> None:
    held = {"class_token": torch.zeros(1, 1, 768), "conv_proj.weight": torch.zeros(768, 3, 16, 16),
            "encoder.pos_embedding": torch.zeros(1, 197, 768), "heads.head.weight": torch.zeros(2, 768),
            "encoder.layers.encoder_layer_0.mlp.0.weight": torch.zeros(5, 768)}  # fmt: skip
    with pytest.raises(ConfigError, match="of width 768 have 12 heads, not 8"):
        peer_of(Path("x.pth"), held, {"encoder": {"num_heads": 8}})


# torchaudio's wav2vec 2.0.


@pytest.mark.parametrize("large", [False, True])
def test_wav2vec2_is_the_peers_alone_and_padded(tmp_path: Path, large: bool) -> None:
    from torchaudio.models import wav2vec2_model

    torch.manual_seed(0)
    peer = wav2vec2_model(
        "layer_norm" if large else "group_norm", [(8, 10, 5), (8, 3, 2), (8, 2, 2)], large, 12, 0.1, 6, 3, 2, 3, 0.1,
        20, 0.1, 0.1, large, 0.1, None if large else 5,
    ).eval()  # fmt: skip
    for name, parameter in peer.named_parameters():
        if "original0" not in name:
            nn.init.normal_(parameter, std=0.4)
    torch.save(peer.state_dict(), tmp_path / "w.pth")
    tokenizer = {
        "_target_": "vsattn.tokenizers.Waves", "channels": 8, "kernel_sizes": [10, 3, 2], "strides": [5, 2, 2],
        "norm": "all" if large else "first", "bias": large, "position_kernel": 6, "position_groups": 3,
        "last_norm": not large, "normalise": large,
    }  # fmt: skip
    encoder = {**vit_config()["encoder"], "num_prefix": 0, "norm_placement": "pre" if large else "post"}
    encoder["norm"] = {"_target_": "vsattn.layers.LayerNorm", "_partial_": True}
    head = {"_target_": "vsattn.heads.MeanHead"}
    config = vit_config(
        tokenizer=tokenizer, encoder=encoder, positions=None, head=head, init_from=str(tmp_path / "w.pth")
    )
    origin = find_origin(config)
    assert origin is not None
    model, (taken, made) = built(config, origin, [])
    assert {name.split(".")[0] for name in taken.new} == {"head"} and set(taken.left) == (
        set() if large else {"head.aux.weight", "head.aux.bias"}
    )
    clips = [0.1 * torch.randn(length) for length in (900, 500, 30)]
    batch = made.collate(clips)
    with torch.no_grad():
        together = model.encode(batch)
        for i, clip in enumerate(clips):
            clip = nn.functional.layer_norm(clip, clip.shape) if large else clip
            theirs = peer.extract_features(clip[None])[0][-1] if len(clip) >= made.window else None
            alone = model.encode(made.collate([clips[i]])).x[0]
            torch.testing.assert_close(together.x[i][together.mask[i]], alone, atol=1e-5, rtol=1e-4)
            if theirs is not None:
                theirs = peer(clip[None])[0] if large else theirs
                torch.testing.assert_close(alone, theirs[0], atol=1e-5, rtol=1e-4)
    assert made.counts(batch).tolist() == together.mask.sum(1).tolist()
    assert agree(model, origin, batch) < 1e-4


# BERT.


@pytest.fixture
def bert(tmp_path: Path) -> tuple[Path, Any, Any]:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"adogbrks.", *(f"##{c}" for c in "adogbrks"), "bark"]
    (tmp_path / "vocab.txt").write_text("\n".join(pieces))
    tokenizer = transformers.BertTokenizerFast(vocab=str(tmp_path / "vocab.txt"), do_lower_case=True)
    config = transformers.BertConfig(
        vocab_size=len(pieces), hidden_size=12, num_hidden_layers=2, num_attention_heads=3, intermediate_size=20,
        max_position_embeddings=40, initializer_range=0.5,
    )  # fmt: skip
    peer = transformers.BertForMaskedLM(config).eval()
    peer.save_pretrained(tmp_path / "bert")
    tokenizer.save_pretrained(tmp_path / "bert")
    return tmp_path / "bert", peer, tokenizer


def bert_config(folder: Path) -> dict[str, Any]:
    tokenizer = {
        "_target_": "vsattn.tokenizers.WordPieces",
        "num_layers": 2,
        "num_heads": 3,
        "hidden_dim": 20,
        "max_pieces": 40,
    }
    parts = {"encoder": {"_target_": "vsattn.encoders.Identity"}, "head": {"_target_": "vsattn.heads.VectorHead"}}
    return tiny.config(dim=12, tokenizer=tokenizer, positions=None, init_from=str(folder), **parts)


def test_berts_words_are_the_peers_first_pieces(bert: tuple[Path, Any, Any]) -> None:
    folder, peer, pieces = bert
    config = bert_config(folder)
    origin = find_origin(config)
    assert origin is not None
    model, (taken, made) = built(config, origin, [])
    assert grouped(taken.new, model.state_dict()) == "head" and all(name.startswith("head.cls.") for name in taken.left)
    sentences = [["A", "Dog", "barks", "."], ["dog"], ["o", "Bark", "zzz", "\x00", "good"]]
    batch = made.collate(sentences)
    with torch.no_grad():
        ours = model.encode(batch)
        for i, words in enumerate(sentences):
            known = [word if word != "\x00" else "[UNK]" for word in words]
            theirs = pieces(known, is_split_into_words=True, return_tensors="pt")
            first = [theirs.word_ids().index(w) for w in range(len(words))]
            torch.testing.assert_close(ours.x[i, : len(words)], peer.bert(**theirs).last_hidden_state[0, first])
    assert batch["mask"].sum(1).tolist() == [4, 1, 5]
    assert agree(model, origin, batch) < 1e-5
    assert made.decode(batch)[0] == ["a", "dog", "barks", "."]


def test_another_bert_is_refused(bert: tuple[Path, Any, Any]) -> None:
    folder = bert[0]
    config = bert_config(folder)
    config["tokenizer"] |= {"num_heads": 4}
    origin = find_origin(config)
    assert origin is not None
    with pytest.raises(CheckpointError, match=r"tokenizer\.num_heads: 3 there, 4 here"):
        built(config, origin, [])
    (folder / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(CheckpointError, match="model_type 'gpt2', and bert is known"):
        find_origin(config)


def test_a_berts_files_run_nothing(bert: tuple[Path, Any, Any], capsys: Any, monkeypatch: Any) -> None:
    """Neither code beside them, nor a kernel that their config names, nor a question whether to."""
    folder = bert[0]
    (folder / "evil.py").write_text("print('code was run')\nclass Evil: pass\n")
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("it asks"))
    for file, more in (
        ("config.json", {"auto_map": {"AutoModel": "evil.Evil"}, "attn_implementation": "evil/kernel"}),
        ("tokenizer_config.json", {"tokenizer_class": "Evil", "auto_map": {"AutoTokenizer": ["evil.Evil"] * 2}}),
    ):
        (folder / file).write_text(json.dumps({**json.loads((folder / file).read_text()), **more}))
    origin = find_origin(bert_config(folder))
    assert origin is not None
    model, (_, made) = built(bert_config(folder), origin, [])
    assert agree(model, origin, made.collate([["a", "dog"]])) < 1e-5
    assert "code was run" not in capsys.readouterr().out


def test_word_pieces_learn_their_own_vocabulary_too() -> None:
    made = WordPieces(min_count=1, vocab_size=60, max_word=3).fit(SENTENCES)
    again = WordPieces(max_word=3).load_state(made.state)
    assert made.state == again.state
    batch, other = (pickle.loads(pickle.dumps(t)).collate([["barks", "dogdogdog"]]) for t in (made, again))
    assert all(torch.equal(batch[name], other[name]) for name in batch)
    assert int(batch["pieces"]) <= 2 + 2 * 3
    short = WordPieces(max_pieces=6).load_state(made.state).collate([["dogdogdog", "barks", "a"]])
    assert int(short["pieces"]) == 5 and short["first"].tolist() == [[1, 2, 3]]
    with pytest.raises(DataError, match="has 5 words and max_pieces=6 leaves room for 4"):
        WordPieces(max_pieces=6).load_state(made.state).collate([["a"] * 5])


# Files.


class Hostile:
    def __reduce__(self) -> Any:
        return print, ("code was run",)


def test_hostile_files_are_refused_in_one_line(
    vit: tuple[Path, VisionTransformer], tmp_path: Path, capsys: Any
) -> None:
    path, peer = vit
    whole = path.read_bytes()
    files: dict[str, tuple[Any, str]] = {
        "code.pth": ({"class_token": Hostile()}, "more than plain data"),
        "model.pth": (peer, "save its state_dict"),
        "list.pth": ([1, 2], "holds a list"),
        "other.pth": ({"a.weight": torch.zeros(2)}, "neither a checkpoint of vsattn nor weights of torchvision's"),
        "part.pth": ({"class_token": torch.zeros(1, 1, 12)}, "is not complete"),
        "number.pth": ({**peer.state_dict(), "epoch": 3}, "number.pth holds 'epoch', which is no tensor"),
        "less.pth": ({k: v for k, v in peer.state_dict().items() if "layer_0.ln_1" not in k}, "is not complete"),
    }
    for name, (held, message) in files.items():
        torch.save(held, tmp_path / name)
        with pytest.raises(CheckpointError, match=message) as caught:
            find_origin(vit_config(init_from=str(tmp_path / name)))
        assert "\n" not in str(caught.value)
    for name, held in {"short.pth": whole[:-200], "empty.pth": b"", "text.safetensors": b"x"}.items():
        (tmp_path / name).write_bytes(held)
        with pytest.raises(CheckpointError, match="damaged, incomplete"):
            find_origin(vit_config(init_from=str(tmp_path / name)))
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        find_origin(vit_config(init_from=str(tmp_path / "nothing")))
    assert "code was run" not in capsys.readouterr().out


def test_safetensors_are_read(vit: tuple[Path, VisionTransformer], tmp_path: Path) -> None:
    files = pytest.importorskip("safetensors.torch")
    files.save_file(vit[1].state_dict(), tmp_path / "vit.safetensors")
    held = weights_of(tmp_path / "vit.safetensors")
    assert all(torch.equal(held[name], value) for name, value in vit[1].state_dict().items())
    assert find_origin(vit_config(init_from=str(tmp_path / "vit.safetensors"))) is not None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_another_precision(vit: tuple[Path, VisionTransformer], dtype: torch.dtype) -> None:
    path, peer = vit
    torch.save({name: value.to(dtype) for name, value in peer.state_dict().items()}, path)
    config = vit_config(init_from=str(path))
    origin = find_origin(config)
    assert origin is not None
    model, (_, tokenizer) = built(config, origin, [])
    assert agree(model, origin, tokenizer.collate(PICTURES)) < 1e-5
    assert torch.equal(model.encoder.norm.weight, peer.encoder.ln.weight.to(dtype).float())


def test_what_is_no_dense_number_is_refused(vit: tuple[Path, VisionTransformer], before: Path, tmp_path: Path) -> None:
    peer = vit[1].state_dict()
    own = torch.load(before / "checkpoints" / "best.ckpt", weights_only=True)
    ours, name = own["state_dict"], "encoder.norm.weight"
    code = {
        **own,
        "vsattn": {**own["vsattn"], "config": {**own["vsattn"]["config"], "head": {"_target_": "os.system"}}},
    }
    files: list[tuple[Any, str]] = [
        (
            {**peer, "encoder.ln.weight": peer["encoder.ln.weight"].to_sparse()},
            "holds 'encoder.ln.weight', which is no",
        ),
        (
            {**peer, "encoder.ln.weight": peer["encoder.ln.weight"] + 0j},
            "holds 'encoder.ln.weight', which is no tensor",
        ),
        ({**peer, 5: torch.zeros(1)}, "holds 5, which is no tensor"),
        ({**peer, "encoder.layers.encoder_layer_99999999.x": torch.zeros(1)}, "100000000 layers, and 33 weights"),
        ({**own, "state_dict": {**ours, f"model.{name}": "x"}}, f"holds '{name}', which is no tensor"),
        (code, "names what is not known here: os.system may not be built"),
        ({"class_token": Hostile()}, r"more than plain data \(it asks for .*print\)"),
    ]
    for held, message in files:
        torch.save(held, tmp_path / "it.ckpt")
        with pytest.raises(CheckpointError, match=message):
            find_origin(vit_config(init_from=str(tmp_path / "it.ckpt")))


def test_a_damaged_bit_is_no_other_weight(vit: tuple[Path, VisionTransformer]) -> None:
    held = bytearray(vit[0].read_bytes())
    weight = vit[1].encoder.ln.weight.detach().numpy().tobytes()
    held[held.index(weight)] ^= 1
    vit[0].write_bytes(held)
    with pytest.raises(CheckpointError, match="the checksum of its part"):
        find_origin(vit_config(init_from=str(vit[0])))


# Settings.


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"init_from": 3}, "init_from: a path or null is expected"),
        ({"init_tokenizer": "take"}, "without init_from there is nothing to take"),
        ({"init_from": "x", "init_tokenizer": "keep"}, "take, fit or null is expected"),
        ({"freeze": -1}, "freeze: a number of layers, names of parts"),
        ({"freeze": True}, "freeze: a number of layers, names of parts"),
        ({"freeze": []}, "freeze: a number of layers, names of parts"),
        ({"layer_decay": 0}, "layer_decay: a number above 0 and up to 1"),
        ({"layer_decay": 1.5}, "layer_decay: a number above 0 and up to 1"),
    ],
)
def test_settings_that_mean_nothing(changes: dict[str, Any], message: str) -> None:
    (fault,) = faults(tiny.config(**changes))
    assert message in fault


@pytest.mark.parametrize(
    "words",
    [["vit_b_16"], ["wav2vec2_base", "task=speech"], ["bert_base", "task=labeling"]],
    ids=lambda words: words[0],
)
def test_the_recipes_of_peers_compose(words: list[str]) -> None:
    config, found = plain_config([f"experiment={words[0]}", *words[1:], "init_from=FILE"])
    assert found + faults(config) == [] and config["init_from"] == "FILE"


def test_an_average_of_the_weights_is_one_word(tmp_path: Path) -> None:
    """With a decay of nearly 1 the average is still the first weights after a whole training."""
    config, found = plain_config(["callbacks=ema", "task=labeling"])
    assert found + faults(config) == []
    assert config["callbacks"]["checkpoint"]["monitor"] == "val/accuracy"
    callbacks = {**tiny.config()["callbacks"], "ema": {**config["callbacks"]["ema"], "decay": 1 - 1e-7}}
    trainer = {"max_epochs": 1, "accelerator": "cpu", "limit_train_batches": 4}
    weights = []
    for name, chosen in {"without": tiny.config()["callbacks"], "with": callbacks}.items():
        result = run(tiny.config(callbacks=chosen, trainer=trainer, schedule=None), tmp_path / name)
        weights.append(result.task.model.state_dict()["encoder.norm.weight"])
    moved, averaged = ((weight - 1).abs().max() for weight in weights)
    assert moved > 1e-3 and averaged < 2e-2 and averaged < moved
