"""The package of converters: each library is loaded by its own file alone."""

from __future__ import annotations

import subprocess
import sys

import pytest

import vsattn.convert


def test_every_name_is_there_and_no_other():
    for name in vsattn.convert.__all__:
        assert getattr(vsattn.convert, name).__name__ == name and name in dir(vsattn.convert)
    with pytest.raises(AttributeError, match="no attribute 'from_nothing'"):
        _ = vsattn.convert.from_nothing


@pytest.mark.parametrize(
    ("name", "unloaded"),
    [
        ("__all__", ("torch", "numpy")),
        ("from_transformer", ("torchvision", "torchaudio", "torch_geometric", "transformers")),
        ("from_vit", ("torchaudio", "torch_geometric", "transformers")),
        ("from_gat_conv", ("torchvision", "torchaudio")),  # it loads transformers, if that is there
        ("from_wav2vec2", ("torchvision", "torch_geometric", "transformers")),
        ("from_bert", ("torchvision", "torchaudio", "torch_geometric", "transformers")),
    ],
)
def test_a_converter_loads_its_own_library_alone(name, unloaded, root):
    code = f"from vsattn.convert import {name}\nimport sys\nprint(*sorted(set({unloaded!r}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
