"""A config that trains in a second, and a model that fits it."""

from __future__ import annotations

from typing import Any


def config(**changes: Any) -> dict[str, Any]:
    """Return a plain config of scikit-learn's digits and a very small Transformer, with whole parts replaced."""
    partial = {"_partial_": True}
    whole: dict[str, Any] = {
        "seed": 0,
        "num_threads": None,
        "dim": 16,
        "batch_size": 64,
        "num_workers": 0,
        "task": {"_target_": "vsattn.tasks.image.ImageTask", "label_smoothing": 0.1},
        "data": {"_target_": "vsattn.tasks.data.images.Digits"},
        "tokenizer": {"_target_": "vsattn.tokenizers.ConvStem", "widths": [8], "strides": [1, 2]},
        "positions": {"_target_": "vsattn.positions.Sinusoidal"},
        "encoder": {"_target_": "vsattn.encoders.TransformerEncoder", "num_layers": 1, "num_heads": 2},
        "head": {"_target_": "vsattn.heads.MeanHead"},
        "optimizer": {"_target_": "torch.optim.AdamW", **partial, "lr": 0.01, "weight_decay": 0.05},
        "schedule": {"_target_": "torch.optim.lr_scheduler.OneCycleLR", **partial, "pct_start": 0.3},
        "trainer": {"max_epochs": 2, "accelerator": "cpu", "devices": 1},
        "logger": {},
        "callbacks": {"checkpoint": {"_target_": "vsattn.tasks.callbacks.Checkpoints", "monitor": "val/loss"}},
    }
    return {**whole, **changes}
