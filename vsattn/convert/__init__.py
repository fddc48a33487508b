"""Weights from other libraries' modules: ours with the same numbers, one file per library, loaded when it is used.

Each function takes a peer's module and returns ours with the same outputs and gradients, in the peer's dtype, on its
device and in its mode (training or evaluation). What ours cannot express is refused, all of it in one error.
"""

from __future__ import annotations

from vsattn.lazy import on_demand

_HOME_OF = {
    "from_multihead_attention": "vsattn.convert.torch_nn",
    "from_transformer": "vsattn.convert.torch_nn",
    "from_transformer_decoder": "vsattn.convert.torch_nn",
    "from_transformer_encoder": "vsattn.convert.torch_nn",
    "from_vit": "vsattn.convert.torchvision_vit",
    "add_self_loops": "vsattn.convert.geometric",
    "from_gat_conv": "vsattn.convert.geometric",
    "from_gatv2_conv": "vsattn.convert.geometric",
    "from_transformer_conv": "vsattn.convert.geometric",
    "from_wav2vec2": "vsattn.convert.wav2vec2",
    "from_bert": "vsattn.convert.bert",
}

__all__ = sorted(_HOME_OF)
__getattr__, __dir__ = on_demand(__name__, _HOME_OF)
