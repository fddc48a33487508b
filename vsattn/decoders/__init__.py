"""Decoders: from a set that was encoded to a sequence, one vector after the other."""

from vsattn.decoders.base import Decoder
from vsattn.decoders.block import DecoderBlock
from vsattn.decoders.transformer import DecoderState, TransformerDecoder

__all__ = ["Decoder", "DecoderBlock", "DecoderState", "TransformerDecoder"]
