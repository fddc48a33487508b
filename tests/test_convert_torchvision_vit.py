"""Ours, with the weights of torchvision's vision transformer, against it."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from parity import TOLERANCE, Parity, compare, same_in_training, shaken
from torch import nn
from torchvision.models import VisionTransformer, vit_b_16
from torchvision.models.vision_transformer import ConvStemConfig

from vsattn.convert import from_vit
from vsattn.errors import ConfigError

SMALL = {"image_size": 32, "patch_size": 8, "num_layers": 2, "num_heads": 3, "hidden_dim": 12, "mlp_dim": 20}


def pictures(batch: int, size: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)


def theirs(module, image):
    return module(image)


def ours(module, image):
    return module({"image": image})


def vit_case(dtype: torch.dtype, **options: object) -> Parity:
    peer = shaken(VisionTransformer(**SMALL, num_classes=5, **options), dtype)
    # The prefix is the sum of the class token and its position, each of which has the prefix's gradient.
    return compare(peer, from_vit, theirs, ours, [pictures(2, 32, dtype)], reparametrized=["encoder.prefix"])


def vit_b_16_case(dtype: torch.dtype) -> Parity:
    peer = vit_b_16(weights=None).to(dtype).eval()
    nn.init.normal_(peer.heads.head.weight, std=0.03)
    return compare(peer, from_vit, theirs, ours, [pictures(1, 224, dtype)], reparametrized=["encoder.prefix"])


CASES = {"torchvision `VisionTransformer`, 2 layers of width 12": vit_case}
LARGE = {"torchvision `vit_b_16`, random weights, 224x224": vit_b_16_case}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("case", [*CASES.values(), partial(vit_case, representation_size=7)])
def test_logits_and_gradients_equal_the_peers(case, dtype):
    case(dtype).check(dtype)


@pytest.mark.bench
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_vit_b_16_equals_the_peer(dtype):
    vit_b_16_case(dtype).check(dtype)


def test_the_prefix_has_the_class_tokens_gradient():
    peer = shaken(VisionTransformer(**SMALL), torch.float64)
    model, image = from_vit(peer), pictures(2, 32, torch.float64)
    for run, module in ((theirs, peer), (ours, model)):
        run(module, image).square().sum().backward()
    torch.testing.assert_close(model.encoder.prefix.grad, peer.class_token.grad[0], atol=1e-10, rtol=0)
    torch.testing.assert_close(model.encoder.prefix.grad, peer.encoder.pos_embedding.grad[0, :1], atol=1e-10, rtol=0)


def test_dropout_falls_in_the_same_places():
    peer = VisionTransformer(**SMALL, dropout=0.2, attention_dropout=0.3)
    same_in_training(shaken(peer, torch.float64), from_vit, theirs, ours, [pictures(1, 32, torch.float64)])


def test_another_image_size_reads_the_positions_by_interpolation():
    peer = shaken(VisionTransformer(**SMALL), torch.float64)
    image = pictures(2, 64, torch.float64)
    table = peer.encoder.pos_embedding[:, 1:].unflatten(1, (4, 4)).permute(0, 3, 1, 2)
    wider = nn.functional.interpolate(table, size=(8, 8), mode="bilinear", align_corners=False)
    larger = VisionTransformer(**{**SMALL, "image_size": 64}).double().eval()
    state = {**peer.state_dict(), "encoder.pos_embedding": larger.encoder.pos_embedding}
    larger.load_state_dict(state)
    with torch.no_grad():
        larger.encoder.pos_embedding[:, :1] = peer.encoder.pos_embedding[:, :1]
        larger.encoder.pos_embedding[:, 1:] = wider.flatten(2).transpose(1, 2)
    found = from_vit(peer)({"image": image})
    torch.testing.assert_close(found, larger(image), atol=TOLERANCE[torch.float64], rtol=0)


def test_what_is_not_known_is_refused():
    stem = [ConvStemConfig(8, 3, 2), ConvStemConfig(8, 3, 2), ConvStemConfig(8, 3, 2)]
    with pytest.raises(ConfigError, match="conv_proj is a Sequential, where Conv2d"):
        from_vit(VisionTransformer(**SMALL, conv_stem_configs=stem))
    with pytest.raises(ConfigError, match="ln_1 is a RMSNorm, where LayerNorm"):
        from_vit(VisionTransformer(**SMALL, norm_layer=nn.RMSNorm))
    for heads in (nn.Sequential(nn.Dropout(), nn.Linear(12, 3)), nn.Identity()):
        peer = VisionTransformer(**SMALL)
        peer.heads = heads
        with pytest.raises(ConfigError, match="this VisionTransformer cannot be taken over: heads"):
            from_vit(peer)
    peer = VisionTransformer(**SMALL)
    peer.encoder.layers[0].mlp[1] = nn.GELU(approximate="tanh")
    peer.encoder.layers[1].dropout.p = 0.1
    with pytest.raises(ConfigError, match=r"approximate='tanh'.*encoder_layer_1 has branches of different dropout"):
        from_vit(peer)
