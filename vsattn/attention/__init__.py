"""Attention: `attend` chooses a kernel, `MultiHeadAttention` holds the weights, `steps` takes it apart."""

from vsattn.attention.cache import KeyValue
from vsattn.attention.case import allowed_pairs
from vsattn.attention.functional import attend, attention_weights, explain_kernel
from vsattn.attention.multihead import MultiHeadAttention
from vsattn.attention.observing import Observable
from vsattn.attention.steps import Steps, steps, steps_by_vector

__all__ = [
    "KeyValue",
    "MultiHeadAttention",
    "Observable",
    "Steps",
    "allowed_pairs",
    "attend",
    "attention_weights",
    "explain_kernel",
    "steps",
    "steps_by_vector",
]
