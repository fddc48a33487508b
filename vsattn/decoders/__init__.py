"""Decoders: from a set that was encoded to a sequence, one vector after the other."""

from vsattn.decoders.base import Decoder
from vsattn.decoders.block import DecoderBlock
from vsattn.decoders.recurrent import RecurrentDecoder, RecurrentState
from vsattn.decoders.transformer import DecoderState, TransformerDecoder

__all__ = ["Decoder", "DecoderBlock", "DecoderState", "RecurrentDecoder", "RecurrentState", "TransformerDecoder"]
