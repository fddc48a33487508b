"""From ``transformers``: BERT. Needs the package: ``pip install 'vsattn[bert]'``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from vsattn.convert import parts
from vsattn.convert.transfer import Transfer
from vsattn.encoders import Encoder
from vsattn.errors import ConfigError
from vsattn.layers import LayerNorm, TransformerBlock
from vsattn.positions import Learned
from vsattn.vectorset import VectorSet

if TYPE_CHECKING:
    from transformers import BertModel


class BertEmbedder(nn.Module):
    """``norm(word + segment + position)`` (Devlin et al. 2019, section 3, figure 2).

    Args:
        words: table of the vocabulary.
        segments: table of the token types.
        positions: learned, added before the norm.
        norm: of the sum.
        dropout: after the norm.
    """

    def __init__(
        self, words: nn.Embedding, segments: nn.Embedding, positions: Learned, norm: LayerNorm, *, dropout: float
    ) -> None:
        super().__init__()
        self.words, self.segments, self.positions, self.norm = words, segments, positions, norm
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
    ) -> VectorSet:
        """Map ``(B, N)`` to a sequence ``(B, N, D)``; arguments as :meth:`Bert.forward`."""
        segments = self.segments.weight[0] if token_type_ids is None else self.segments(token_type_ids)
        mask = None if attention_mask is None else attention_mask != 0
        vectors = VectorSet(self.words(input_ids) + segments, mask, layout="sequence")
        if position_ids is not None:
            vectors = vectors.replace(pos=position_ids[..., None])
        vectors = self.positions(vectors)
        return vectors.replace(x=self.dropout(self.norm(vectors.x)))


class Bert(nn.Module):
    """Token ids to contextual vectors.

    Args:
        embedder: maps ids to a set.
        encoder: maps a set to a set.
        pooler: maps the first vector to the one that stands for the whole text, or None.
    """

    def __init__(self, embedder: BertEmbedder, encoder: Encoder, pooler: nn.Linear | None) -> None:
        super().__init__()
        self.embedder, self.encoder, self.pooler = embedder, encoder, pooler

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
    ) -> VectorSet:
        """Map token ids ``(B, N)`` to vectors ``(B, N, D)``.

        Args:
            attention_mask: ``(B, N)``, 1 or True = real; None when all are.
            token_type_ids: ``(B, N)``; None is 0.
            position_ids: ``(B|1, N)``; None counts from 0.
        """
        return self.encoder(self.embedder(input_ids, attention_mask, token_type_ids, position_ids))

    def pooled(self, vectors: VectorSet) -> Tensor:
        """Return ``tanh(W x_0 + b)`` of the first vector, ``(B, D)``.

        Raises:
            ConfigError: for a model without a pooler.
        """
        if self.pooler is None:
            raise ConfigError("this BERT came without a pooler; load it with add_pooling_layer=True")
        return self.pooler(vectors.x[:, 0]).tanh()


def from_bert(peer: BertModel) -> Bert:
    """Take over a ``transformers.BertModel``, whatever its attention implementation::

        ours = from_bert(transformers.BertModel.from_pretrained("bert-base-uncased"))
        vectors = ours(input_ids, attention_mask)  # vectors.x is the peer's last_hidden_state (B, N, 768)
        pooled = ours.pooled(vectors)  # its pooler_output (B, 768)

    Real vectors equal the peer's; padded ones are 0. Of a model with a task's head, give the part ``model.bert``.

    Raises:
        ConfigError: when ``transformers`` is missing; for a decoder, cross-attention, relative positions, and other
            activations than the exact gelu and relu.

    Source: Devlin et al. 2019, "BERT", section 3.
    """
    try:
        from transformers import BertModel
    except ImportError as error:
        raise ConfigError("from_bert needs the package transformers: pip install 'vsattn[bert]'") from error
    with Transfer(peer, BertModel) as transfer:
        config, tables, theirs = peer.config, peer.embeddings, peer.encoder.layer
        transfer.refuse(peer, config.is_decoder, "has is_decoder=True, where an encoder is known")
        transfer.refuse(peer, config.add_cross_attention, "has add_cross_attention=True, where an encoder is known")
        kind = getattr(config, "position_embedding_type", "absolute")
        transfer.refuse(peer, kind != "absolute", f"has position_embedding_type={kind!r}, where 'absolute' is known")
        known = config.hidden_act in ("gelu", "relu")
        transfer.refuse(peer, not known, f"has hidden_act={config.hidden_act!r}, where 'gelu' and 'relu' are known")
        positions = Learned(config.hidden_size, max_length=config.max_position_embeddings)
        transfer.put(positions, "table", tables.position_embeddings.weight)
        embedder = BertEmbedder(
            transfer.keep(tables.word_embeddings),
            transfer.keep(tables.token_type_embeddings),
            positions,
            parts.layer_norm(transfer, tables.LayerNorm),
            dropout=tables.dropout.p,
        )
        activation: parts.Activation = "relu" if config.hidden_act == "relu" else "gelu"
        encoder = parts.encoder([_layer(transfer, layer, activation) for layer in theirs], norm=None)
        pooler = None if peer.pooler is None else transfer.keep(peer.pooler.dense)
        return transfer.finish(Bert(embedder, encoder, pooler))


def _layer(transfer: Transfer, peer: Any, activation: parts.Activation) -> TransformerBlock:
    own, mixed, up, down = peer.attention.self, peer.attention.output, peer.intermediate.dense, peer.output
    return parts.block(
        parts.attention(
            transfer, own.num_attention_heads, own.query, own.key, own.value, mixed.dense, dropout=own.dropout.p
        ),
        parts.feed_forward(transfer, up, down.dense, activation, 0.0),
        (parts.layer_norm(transfer, mixed.LayerNorm), parts.layer_norm(transfer, down.LayerNorm)),
        is_pre_norm=False,
        dropout=parts.same_dropout(transfer, peer, mixed.dropout.p, down.dropout.p),
    )
