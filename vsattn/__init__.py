"""vsattn: attention over sets of vectors, one core for words, sound, pictures and graphs.

Names load what they need when they are first used; ``import vsattn`` itself loads not even torch.
"""

from __future__ import annotations

from pathlib import Path

from vsattn.lazy import on_demand

__version__ = "0.1.0"

_HOMES = {
    "vsattn.attention": (
        "KeyValue",
        "MultiHeadAttention",
        "Observable",
        "Steps",
        "attend",
        "attention_weights",
        "explain_kernel",
        "steps",
        "steps_by_vector",
    ),
    "vsattn.checkpoint": ("load",),
    "vsattn.decoders": ("Decoder", "DecoderState", "TransformerDecoder"),
    "vsattn.encoder_decoder": ("EncoderDecoder",),
    "vsattn.encoders": (
        "ConvEncoder",
        "Encoder",
        "InducedEncoder",
        "LatentEncoder",
        "RecurrentEncoder",
        "TransformerEncoder",
        "WindowMLP",
    ),
    "vsattn.ensemble": ("Ensemble",),
    "vsattn.heads": (
        "AttentionHead",
        "ClsHead",
        "CtcHead",
        "Head",
        "MeanHead",
        "MultiTaskHead",
        "PoolingHead",
        "TiedHead",
        "VectorHead",
    ),
    "vsattn.layers.conv_as_attention": ("conv_as_attention",),
    "vsattn.measures": ("faithfulness", "head_measures", "relevance", "rollout"),
    "vsattn.model": ("Model", "build_model"),
    "vsattn.recording": ("Record", "Recording", "record"),
    "vsattn.silencing": ("silence",),
    "vsattn.structure": ("Causal", "Dense", "Edges", "Full", "Segments", "Structure", "Window"),
    "vsattn.vectorset": ("VectorSet",),
    "vsattn.viewing.view": ("View", "view"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = sorted(_HOME_OF)

# Installed, `tasks` and `conf` lie inside this package. In a checkout that is not installed they are the top-level
# folders beside it, and are found under the same names: vsattn.tasks, vsattn.conf.
_here = Path(__file__).resolve().parent
_is_checkout = (_here.parent / "pyproject.toml").is_file() and (_here.parent / "tasks" / "__init__.py").is_file()
if _is_checkout and not (_here / "tasks").is_dir():
    __path__.append(str(_here.parent))

__getattr__, __dir__ = on_demand(__name__, _HOME_OF)
