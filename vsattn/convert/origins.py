"""Peers' weights by the names that they have in a model of ours: a vision transformer's, wav2vec 2.0's, BERT's."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vsattn.errors import CheckpointError, ConfigError
from vsattn.initial import Origin
from vsattn.saved import why
from vsattn.vectorset import VectorSet

Weights = dict[str, Tensor]

#: Mean and deviation of the colours that torchvision's models were trained on (its ``ImageClassification`` preset).
IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}

#: Heads of the published models of each width (Dosovitskiy et al. 2021, table 1; Baevski et al. 2020, section 4.2).
PUBLISHED_HEADS = {768: 12, 1024: 16, 1280: 16}

#: Where torchaudio keeps the direction of the convolution of positions, now and in older files.
PLACES = [
    f"encoder.transformer.pos_conv_embed.conv.{name}" for name in ("parametrizations.weight.original1", "weight_v")
]

#: Names of what `from_wav2vec2` makes, and of the same in :class:`vsattn.tokenizers.waves.WaveStem`.
STEM = [
    (r"^embedder\.extractor\.conv_layers\.(\d+)\.conv\.", r"embedder.convolutions.\1."),
    (r"^embedder\.extractor\.conv_layers\.(\d+)\.layer_norm\.", r"embedder.norms.\1."),
    (r"^embedder\.project\.layer_norm\.", "embedder.project_norm."),
    (r"^embedder\.project\.projection\.", "embedder.project."),
    (r"^positions\.convolution\.conv\.", "embedder.place."),
    (r"^norm\.", "embedder.norm."),
]

#: Vectors of the longest clip that a model of sound is said to have seen: 30 s.
LONGEST = 1500


def vit(name: str, held: Weights, config: dict[str, Any]) -> Origin:
    """Take over the weights of a ``torchvision.models.VisionTransformer``."""
    from torchvision.models import VisionTransformer

    from vsattn.convert.torchvision_vit import from_vit

    dim, _, patch, _ = held["conv_proj.weight"].shape
    side = round((held["encoder.pos_embedding"].shape[1] - 1) ** 0.5) * patch
    hidden = held.get("heads.pre_logits.weight")
    make = partial(
        VisionTransformer,
        image_size=side,
        patch_size=patch,
        num_layers=_count(held, r"encoder\.layers\.encoder_layer_(\d+)\."),
        num_heads=_heads(dim, config),
        hidden_dim=dim,
        mlp_dim=_mlp_dim(held),
        num_classes=held["heads.head.weight"].shape[0],
        representation_size=None if hidden is None else hidden.shape[0],
    )
    model = from_vit(_filled(make, held))
    return Origin(
        name=name,
        weights=dict(model.state_dict()),
        tokenizer={"_target_": "vsattn.tokenizers.Patches", "patch_size": patch},
        tokenizer_state={"channels": 3, "height": side, "width": side, **IMAGENET},
        encode=model.encode,
    )


def wav2vec2(name: str, held: Weights, config: dict[str, Any]) -> Origin:
    """Take over the weights of a ``torchaudio.models.Wav2Vec2Model``: wav2vec 2.0 or HuBERT.

    The strides are those of the run's tokenizer. All published models with a norm after every convolution have their
    layers' norms first.
    """
    from torchaudio.models import wav2vec2_model

    from vsattn.convert.wav2vec2 import from_wav2vec2
    from vsattn.tokenizers.waves import Waves

    settings = {key: value for key, value in config["tokenizer"].items() if key in ("strides", "sample_rate")}
    strides = settings.get("strides", Waves().stack_strides)
    count = _count(held, r"feature_extractor\.conv_layers\.(\d+)\.")
    shapes = [held[f"feature_extractor.conv_layers.{i}.conv.weight"].shape for i in range(count)]
    if len(strides) != count or len({shape[0] for shape in shapes}) > 1:
        raise CheckpointError(
            f"{name} has convolutions of {[shape[0] for shape in shapes]} channels; known are equal ones, as many as "
            f"tokenizer.strides {list(strides)}"
        )
    first = count > 1 and "feature_extractor.conv_layers.1.layer_norm.weight" in held
    place = next(held[name] for name in PLACES if name in held)
    dim, share, kernel = place.shape
    stack = {
        "channels": shapes[0][0],
        "kernel_sizes": [shape[2] for shape in shapes],
        "norm": "all" if first else "first",
        "bias": "feature_extractor.conv_layers.0.conv.bias" in held,
        "position_kernel": kernel,
        "position_groups": dim // share,
        "last_norm": not first,
        "normalise": first,
    }
    aux = held.get("aux.weight")
    make = partial(
        wav2vec2_model,
        extractor_mode="layer_norm" if first else "group_norm",
        extractor_conv_layer_config=[(*shape[::2], stride) for shape, stride in zip(shapes, strides, strict=True)],
        extractor_conv_bias=stack["bias"],
        encoder_embed_dim=dim,
        encoder_projection_dropout=0.0,
        encoder_pos_conv_kernel=kernel,
        encoder_pos_conv_groups=dim // share,
        encoder_num_layers=_count(held, r"encoder\.transformer\.layers\.(\d+)\."),
        encoder_num_heads=_heads(dim, config),
        encoder_attention_dropout=0.0,
        encoder_ff_interm_features=held["encoder.transformer.layers.0.feed_forward.intermediate_dense.weight"].shape[0],
        encoder_ff_interm_dropout=0.0,
        encoder_dropout=0.0,
        encoder_layer_norm_first=first,
        encoder_layer_drop=0.0,
        aux_num_out=None if aux is None else aux.shape[0],
    )
    model = from_wav2vec2(_filled(make, held))
    model.head = None

    def encode(batch: dict[str, Tensor]) -> VectorSet:
        """Clip by clip, since the peer's norm over a clip would see the padding."""
        clips = [clip[None, :count] for clip, count in zip(batch["wave"], batch["samples"].tolist(), strict=True)]
        return VectorSet(nn.utils.rnn.pad_sequence([model(clip).x[0] for clip in clips], batch_first=True))

    extent = Waves(**{**stack, "strides": strides}).window  # type: ignore[arg-type]
    return Origin(
        name=name,
        weights={_stem_name(key): value for key, value in model.state_dict().items()}
        | {f"head.{key}": value for key, value in held.items() if key.startswith("aux.")},
        tokenizer={"_target_": "vsattn.tokenizers.Waves", "strides": strides, **stack},
        tokenizer_state={"features": "raw", "num_features": extent, "longest": LONGEST},
        encode=encode,
    )


def bert(folder: Path) -> Origin:
    """Take over a folder of ``transformers``: a ``BertModel``, or a model with one, and its tokenizer.

    Raises:
        CheckpointError: for another model, missing files or weights.
        ConfigError: without the package, or for a BERT that ours cannot express.
    """
    try:
        from transformers import AutoTokenizer, BertModel
    except ImportError:
        raise ConfigError(f"{folder} needs the package transformers: pip install 'vsattn[bert]'") from None
    from vsattn.convert.bert import from_bert
    from vsattn.tokenizers.word_pieces import words_of

    try:
        kind = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
        if kind != "bert":
            raise ValueError(f"its config.json says model_type {kind!r}, and bert is known")
        with _silent():
            loaded: Any = BertModel.from_pretrained(
                folder,
                local_files_only=True,
                add_pooling_layer=False,
                output_loading_info=True,
                dtype=torch.float32,
                attn_implementation="eager",  # a config may name a kernel that would be fetched and run
            )
        peer, report = loaded
        made = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        pieces = made.backend_tokenizer.to_str()
    except Exception as error:  # foreign files can fail in any way
        raise CheckpointError(f"{folder} cannot be read as BERT: {why(error)[:300]}") from None
    if report["missing_keys"]:
        raise CheckpointError(f"{folder} lacks weights: {', '.join(sorted(report['missing_keys'])[:3])}, ...")
    model, shape = from_bert(peer.eval()), peer.config
    spare = {f"head.{name}": torch.empty(0) for name in sorted(report["unexpected_keys"])}

    def encode(batch: dict[str, Tensor]) -> VectorSet:
        real = torch.arange(batch["piece"].shape[1]) < batch["pieces"][:, None]
        return words_of(model(batch["piece"], real), batch)

    return Origin(
        name=f"BERT in {folder}",
        weights={f"embedder.bert.{name}": value for name, value in model.state_dict().items()} | spare,
        tokenizer={
            "_target_": "vsattn.tokenizers.WordPieces",
            "num_layers": shape.num_hidden_layers,
            "num_heads": shape.num_attention_heads,
            "hidden_dim": shape.intermediate_size,
            "activation": shape.hidden_act,
            "eps": shape.layer_norm_eps,
            "max_pieces": shape.max_position_embeddings,
            "segments": shape.type_vocab_size,
        },
        tokenizer_state={"max_length": shape.max_position_embeddings - 2, "pieces": pieces},
        encode=encode,
        part="embedder",
    )


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Keep back the bar and the report of ``transformers``: what it reports is looked at here."""
    from transformers.utils import logging

    level, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()


def _stem_name(name: str) -> str:
    """Return a converted weight's name in a `WaveStem`, to which everything before the layers belongs."""
    for pattern, ours in STEM:
        name = re.sub(pattern, ours, name)
    return name


def _mlp_dim(held: Weights) -> int:
    """Return the width within the first layer; older files number its two maps 0 and 3."""
    names = (f"encoder.layers.encoder_layer_0.mlp.{name}.weight" for name in ("0", "linear_1"))
    return next(held[name].shape[0] for name in names if name in held)


def _filled(make: Callable[[], nn.Module], held: Weights) -> Any:
    """Make a peer's module with these weights, initialising nothing and drawing no random number."""
    with torch.device("meta"):
        peer = make()
    peer.load_state_dict(held, assign=True)
    return peer.eval()


def _heads(dim: int, config: dict[str, Any]) -> int:
    """Return the number of heads, which no weight shows."""
    heads = (config.get("encoder") or {}).get("num_heads")
    published = PUBLISHED_HEADS.get(dim, heads)
    if not isinstance(heads, int) or heads != published:
        raise ConfigError(f"encoder.num_heads: models of this kind of width {dim} have {published} heads, not {heads}")
    return heads


def _count(held: Weights, pattern: str) -> int:
    count = 1 + max(int(found[1]) for name in held if (found := re.match(pattern, name)))
    if count > len(held):
        raise ValueError(f"{count} layers, and {len(held)} weights")
    return count
