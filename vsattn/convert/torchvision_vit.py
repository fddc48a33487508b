"""From ``torchvision``: the vision transformer."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torchvision.models import VisionTransformer
from torchvision.models.vision_transformer import Encoder, EncoderBlock

from vsattn.convert import parts
from vsattn.convert.torch_nn import multihead_attention
from vsattn.convert.transfer import Transfer
from vsattn.heads import ClsHead
from vsattn.layers import TransformerBlock
from vsattn.model import Model
from vsattn.positions import Learned
from vsattn.tokenizers.patches import PatchEmbedder
from vsattn.vectorset import VectorSet


class TanhClsHead(ClsHead):
    """``tanh(cls W + b)``, classified (Dosovitskiy et al. 2021, section 3.1: the head of pre-training)."""

    def __init__(self, dim: int, num_classes: int, *, hidden_dim: int) -> None:
        super().__init__(hidden_dim, num_classes)
        self.hidden = nn.Linear(dim, hidden_dim)

    def features(self, vector_set: VectorSet) -> Tensor:
        return self.hidden(super().features(vector_set)).tanh()


def from_vit(peer: VisionTransformer) -> Model:
    """Take over a ``torchvision.models.VisionTransformer``, such as ``vit_b_16``.

    The class token with its position becomes the encoder's prefix vector, the other positions a learned table, which
    serves other image sizes too, by interpolation. Pictures come as the peer takes them, normalised floats::

        ours = from_vit(torchvision.models.vit_b_16(weights="DEFAULT"))
        logits = ours({"image": torch.randn(2, 3, 224, 224)})  # (2, 1000)

    Raises:
        ConfigError: for ``conv_stem_configs``, a norm other than LayerNorm, and heads that torchvision does not make.

    Source: Dosovitskiy et al. 2021, "An Image is Worth 16x16 Words", section 3.1.
    """
    with Transfer(peer, VisionTransformer) as transfer:
        theirs: Any = peer
        transfer.require(theirs.conv_proj, nn.Conv2d)
        transfer.require(theirs.encoder, Encoder)
        side = theirs.image_size // theirs.patch_size
        embedder = PatchEmbedder(theirs.conv_proj.in_channels, theirs.hidden_dim, theirs.patch_size)
        transfer.copy(embedder.project, theirs.conv_proj)
        positions = Learned(theirs.hidden_dim, grid=(side, side))
        transfer.read(theirs.class_token, theirs.encoder.pos_embedding)
        first, rest = theirs.encoder.pos_embedding[0].split([1, side * side])
        transfer.put(positions, "table", rest)
        encoder = parts.encoder(
            [_block(transfer, layer) for layer in theirs.encoder.layers],
            norm=parts.layer_norm(transfer, theirs.encoder.ln),
            dropout=theirs.encoder.dropout.p,
            prefix=theirs.class_token[0] + first,
        )
        return transfer.finish(Model(embedder, encoder, _head(transfer, theirs.heads), positions=positions))


def _block(transfer: Transfer, peer: Any) -> TransformerBlock:
    transfer.require(peer, EncoderBlock)
    up, function, hidden_dropout, down, out_dropout = peer.mlp
    activation = parts.activation_of(transfer, peer, function)
    return parts.block(
        multihead_attention(transfer, peer.self_attention),
        parts.feed_forward(transfer, up, down, activation, hidden_dropout.p),
        (parts.layer_norm(transfer, peer.ln_1), parts.layer_norm(transfer, peer.ln_2)),
        is_pre_norm=True,
        dropout=parts.same_dropout(transfer, peer, peer.dropout.p, out_dropout.p),
    )


def _head(transfer: Transfer, peer: Any) -> ClsHead:
    parts_of = dict(peer.named_children())
    if list(parts_of) not in (["head"], ["pre_logits", "act", "head"]):
        raise transfer.stop(
            peer, f"has the parts {list(parts_of)}, where 'head', or 'pre_logits', 'act', 'head' are known"
        )
    transfer.require(peer.head, nn.Linear)
    if "pre_logits" not in parts_of:
        ours = ClsHead(peer.head.in_features, peer.head.out_features)
    else:
        transfer.require(peer.act, nn.Tanh)
        ours = TanhClsHead(peer.pre_logits.in_features, peer.head.out_features, hidden_dim=peer.head.in_features)
        transfer.copy(ours.hidden, peer.pre_logits)
    transfer.copy(ours.classify, peer.head)
    return ours
