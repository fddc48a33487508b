"""Attention in plain Python and float64, pair by pair, written from the definition alone."""

from __future__ import annotations

import math

import torch


def naive_attention(query, key, value, score, allowed):
    """Loop over samples, heads, queries and keys.

    Args:
        query, key, value: ``(B, H, N, d)`` tensors.
        score: function of two float64 vectors and the head's number.
        allowed: function of (sample, query index, key index).
    """
    query, key, value = (t.double() for t in (query, key, value))
    batch, heads, num_queries, _ = query.shape
    output = torch.zeros(batch, heads, num_queries, value.shape[-1], dtype=torch.float64)
    weights = torch.zeros(batch, heads, num_queries, key.shape[2], dtype=torch.float64)
    for b in range(batch):
        for h in range(heads):
            for i in range(num_queries):
                keys = [j for j in range(key.shape[2]) if allowed(b, i, j)]
                if not keys:
                    continue
                scores = [float(score(query[b, h, i], key[b, h, j], h)) for j in keys]
                top = max(scores)
                parts = [math.exp(s - top) for s in scores]
                for j, part in zip(keys, parts, strict=True):
                    weights[b, h, i, j] = part / sum(parts)
                    output[b, h, i] += part / sum(parts) * value[b, h, j]
    return output, weights
