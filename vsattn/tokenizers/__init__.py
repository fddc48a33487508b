"""Tokenizers: from raw items to vectors, one file per modality, each loading its own library when it is used."""

from __future__ import annotations

from vsattn.lazy import on_demand

_HOME_OF = {
    "Tokenizer": "vsattn.tokenizers.base",
    "AudioFrames": "vsattn.tokenizers.audio",
    "Waves": "vsattn.tokenizers.waves",
    "SpecAugment": "vsattn.tokenizers.spec_augment",
    "Pixels": "vsattn.tokenizers.pixels",
    "Patches": "vsattn.tokenizers.patches",
    "ConvStem": "vsattn.tokenizers.conv_stem",
    "Graph": "vsattn.tokenizers.graph",
    "GraphNodes": "vsattn.tokenizers.graph_nodes",
    "Words": "vsattn.tokenizers.words",
    "Characters": "vsattn.tokenizers.characters",
    "WordPieces": "vsattn.tokenizers.word_pieces",
    "Spelling": "vsattn.tokenizers.spelling",
    "WordFeatures": "vsattn.tokenizers.spelling",
    "Text": "vsattn.tokenizers.text",
    "TextPairs": "vsattn.tokenizers.text_pairs",
}

__all__ = sorted(_HOME_OF)
__getattr__, __dir__ = on_demand(__name__, _HOME_OF)
