"""A whole model, from a batch to an answer, and how a config becomes one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from vsattn.build import build
from vsattn.decoders import Decoder
from vsattn.encoders import Encoder
from vsattn.errors import ConfigError
from vsattn.heads import Head, TiedHead
from vsattn.positions import Positions
from vsattn.vectorset import VectorSet

if TYPE_CHECKING:
    from vsattn.tokenizers.base import Tokenizer


class Model(nn.Module):
    """batch -> embedder -> `VectorSet` -> positions -> encoder -> head -> logits.

    Args:
        embedder: made by a tokenizer's ``embedder(dim)``; maps a batch to a set.
        encoder: maps a set to a set.
        head: maps a set to logits.
        positions: adds position vectors, or None.
    """

    def __init__(
        self, embedder: nn.Module, encoder: Encoder, head: Head, *, positions: Positions | None = None
    ) -> None:
        super().__init__()
        self.embedder, self.positions, self.encoder, self.head = embedder, positions, encoder, head

    def embed(self, batch: dict[str, Tensor]) -> VectorSet:
        """Return the set that the encoder sees, positions added."""
        vector_set = self.embedder(batch)
        return vector_set if self.positions is None else self.positions(vector_set)

    def encode(self, batch: dict[str, Tensor]) -> VectorSet:
        """Return the set that the head sees."""
        return self.encoder(self.embed(batch))

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """Return the head's logits for a collated batch."""
        return self.head(self.encode(batch))


def build_model(config: dict[str, Any], tokenizer: Tokenizer, *, num_classes: int) -> Model:
    """Build a model from a plain config, for a fitted tokenizer.

    Args:
        config: has ``dim``, ``encoder``, ``head`` and ``positions`` (a config or None), as `vsattn.build` reads them;
            with ``decoder`` too, an :class:`~vsattn.encoder_decoder.EncoderDecoder` is built.
        tokenizer: fitted; makes the embedder and supplies the sizes that are known only at run time.
        num_classes: C.

    Raises:
        ConfigError: naming all faults of a part at once, or a decoder that has no text to write, or text without one;
            an encoder of another width, or a head tied to a target, where there is no decoder.
    """
    dim = config["dim"]
    sizes = {"dim": dim, "num_classes": num_classes, **tokenizer.sizes}

    def part(name: str, slot: type) -> Any:
        return None if config.get(name) is None else build(config[name], slot, path=name, **sizes)

    positions, encoder, head = part("positions", Positions), part("encoder", Encoder), part("head", Head)
    sizes["memory_dim"] = encoder.output_dim or dim
    decoder, embedder = part("decoder", Decoder), tokenizer.embedder(dim)
    if decoder is None and tokenizer.writes is None:
        if sizes["memory_dim"] != dim:
            raise ConfigError(
                f"encoder: it gives vectors of {sizes['memory_dim']} and the head reads {dim}: set encoder.project=true"
            )
        if isinstance(head, TiedHead):
            raise ConfigError("head: TiedHead scores by a decoder's embedding, and there is no decoder: head=vector")
        return Model(embedder, encoder, head, positions=positions)
    if decoder is None:
        raise ConfigError(f"decoder: {type(tokenizer).__name__} has text to be written; choose decoder=transformer")
    if tokenizer.writes is None:
        raise ConfigError(f"decoder: {type(tokenizer).__name__} has no text to be written; decoder=none")
    from vsattn.encoder_decoder import EncoderDecoder

    return EncoderDecoder(
        embedder,  # type: ignore[arg-type]
        encoder,
        decoder,
        head,
        target_embedder=tokenizer.target_embedder(dim, embedder),  # type: ignore[attr-defined]
        positions=positions,
        target_positions=part("positions", Positions),
    )
