"""Ours, with the weights of transformers' BERT, against it."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from parity import Parity, compare, same_in_training, shaken
from torch import nn

from vsattn.convert import from_bert
from vsattn.errors import ConfigError

transformers = pytest.importorskip("transformers")

IDS = torch.tensor([[2, 7, 9, 4, 3, 8], [2, 11, 5, 3, 0, 0], [2, 0, 0, 0, 0, 0]])
MASK = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0], [1, 0, 0, 0, 0, 0]])
SEGMENTS = torch.tensor([[0, 0, 0, 1, 1, 1], [0, 0, 1, 1, 0, 0], [0, 0, 0, 0, 0, 0]])
SMALL = {
    "vocab_size": 13, "hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 20,
    "max_position_embeddings": 16,
}  # fmt: skip


def small(*, implementation: str = "eager", dropout: float = 0.0, pooler: bool = True, **options: object):
    rates = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    config = transformers.BertConfig(**{**SMALL, **rates, **options}, attn_implementation=implementation)
    return transformers.BertModel(config, add_pooling_layer=pooler)


def theirs(module, ids, mask, segments):
    output = module(ids, mask, segments)
    return torch.cat([output.last_hidden_state[mask != 0], output.pooler_output])


def ours(module, ids, mask, segments):
    vectors = module(ids, mask, segments)
    return torch.cat([vectors.x[vectors.mask], module.pooled(vectors)])


def bert_case(dtype: torch.dtype, **options: object) -> Parity:
    return compare(shaken(small(**options), dtype), from_bert, theirs, ours, [IDS, MASK, SEGMENTS])


def bert_base_case(dtype: torch.dtype) -> Parity:
    torch.manual_seed(0)
    peer = transformers.BertModel(transformers.BertConfig(attn_implementation="sdpa")).to(dtype).eval()
    ids = torch.randint(1, 30522, (2, 64))
    mask = (torch.arange(64) < torch.tensor([[64], [40]])).long()
    return compare(peer, from_bert, theirs, ours, [ids, mask, torch.zeros_like(ids)])


CASES = {
    "transformers `BertModel`, 2 layers of width 12": bert_case,
    "transformers `BertModel`, the same by sdpa": partial(bert_case, implementation="sdpa"),
}
LARGE = {"transformers `BertModel`, bert-base, random weights": bert_base_case}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("case", [*CASES.values(), partial(bert_case, hidden_act="relu", layer_norm_eps=1e-3)])
def test_vectors_pooler_and_weight_gradients_equal_the_peers(case, dtype):
    case(dtype).check(dtype)


@pytest.mark.bench
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_bert_base_equals_the_peer(dtype):
    bert_base_case(dtype).check(dtype)


def test_without_mask_and_segments_and_with_positions_of_ones_own():
    peer = shaken(small(), torch.float64)
    model = from_bert(peer)
    torch.testing.assert_close(model(IDS).x, peer(IDS).last_hidden_state, atol=1e-10, rtol=0)
    places = torch.tensor([[3, 0, 5, 5, 15, 1]])
    expected = peer(IDS, position_ids=places).last_hidden_state
    torch.testing.assert_close(model(IDS, position_ids=places).x, expected, atol=1e-10, rtol=0)


def test_padding_changes_nothing_and_is_zero():
    model = from_bert(shaken(small(), torch.float64))
    vectors = model(IDS, MASK)
    assert torch.equal(vectors.x[MASK == 0], torch.zeros(7, 12).double())
    torch.testing.assert_close(vectors.x[1, :4], model(IDS[1:2, :4]).x[0], atol=1e-12, rtol=0)


def test_dropout_falls_in_the_same_places():
    peer = shaken(small(dropout=0.2, implementation="sdpa"), torch.float64)
    same_in_training(peer, from_bert, theirs, ours, [IDS[:1], MASK[:1], SEGMENTS[:1]])


def test_without_pooler():
    peer = shaken(small(pooler=False), torch.float64)
    model = from_bert(peer)
    vectors = model(IDS, MASK)
    torch.testing.assert_close(vectors.x[0], peer(IDS, MASK).last_hidden_state[0], atol=1e-10, rtol=0)
    with pytest.raises(ConfigError, match="add_pooling_layer=True"):
        model.pooled(vectors)


def test_what_ours_cannot_express_is_in_one_error():
    peer = small(hidden_act="gelu_new", is_decoder=True)
    peer.encoder.layer[1].output.dropout.p = 0.5
    with pytest.raises(ConfigError, match=r"is_decoder=True.*'gelu_new'.*layer\.1 has branches of different dropout"):
        from_bert(peer)
    with pytest.raises(ConfigError, match="it is a BertForMaskedLM, where BertModel"):
        from_bert(transformers.BertForMaskedLM(transformers.BertConfig(**SMALL)))
    adapted = small()
    adapted.encoder.layer[0].attention.adapter = nn.Linear(2, 2)
    with pytest.raises(ConfigError, match=r"no place here, encoder\.layer\.0\.attention\.adapter\.weight"):
        from_bert(adapted)
