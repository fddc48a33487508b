"""Image tokenizers: reading, normalising, batching and embedding, against torchvision and torch."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision.transforms import v2

from vsattn.errors import ConfigError, DataError
from vsattn.layers import BatchNorm
from vsattn.tokenizers import ConvStem, Patches, Pixels
from vsattn.tokenizers.images import read_image, to_tensor

TOKENIZERS = [
    Pixels(),
    Patches(patch_size=3),
    ConvStem(widths=(4,), strides=(1, 2)),
    ConvStem(widths=(4, 6), strides=(2, 1, 2), pools=(0, 1)),
]


def pictures(*sizes, channels=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(0, 256, (channels, *size), generator=generator, dtype=torch.uint8) for size in sizes]


def warmed(embedder, batch):
    """Give the running averages of batch norms other values than they start with."""
    for module in embedder.modules():
        if isinstance(module, BatchNorm):
            module.running_mean.normal_(), module.running_var.uniform_(0.5, 2)
            nn.init.normal_(module.weight), nn.init.normal_(module.bias)
    return embedder.eval()


def test_normalisation_equals_torchvision_and_is_undone_by_decode():
    items = pictures((5, 4), (5, 4), (5, 4))
    tokenizer = Pixels().fit(items)
    floats = torch.stack(items) / 255
    torch.testing.assert_close(torch.tensor(tokenizer.state["mean"]), floats.mean((0, 2, 3)))
    expected = v2.Normalize(tokenizer.state["mean"], tokenizer.state["std"])(floats)
    batch = tokenizer.collate(items)
    torch.testing.assert_close(batch["image"], expected, atol=1e-6, rtol=0)
    assert set(batch) == {"image"}
    for back, item in zip(tokenizer.decode(batch), items, strict=True):
        assert np.array_equal(back, item.permute(1, 2, 0).numpy())


def test_decode_cuts_off_the_padding():
    items = pictures((2, 3), (4, 2))
    tokenizer = Pixels().fit(items)
    assert [a.shape for a in tokenizer.decode(tokenizer.collate(items))] == [(2, 3, 3), (4, 2, 3)]


@pytest.mark.parametrize("size, expected", [(8, (8, 4)), ((6, 6), (6, 6)), (None, (20, 10))])
def test_resizing_keeps_the_aspect_or_hits_the_size_as_torchvision_does(size, expected):
    item = pictures((20, 10))[0]
    tokenizer = Pixels(size=size).fit([item])
    batch = tokenizer.collate([item])
    assert tuple(batch["image"].shape[2:]) == expected == tokenizer.sizes["grid"]
    resized = v2.functional.resize(item / 255, list(expected), antialias=True)
    normalised = v2.Normalize(tokenizer.state["mean"], tokenizer.state["std"])(resized)
    torch.testing.assert_close(batch["image"][0], normalised, atol=1e-5, rtol=0)


def test_pixels_are_a_linear_map_of_each_pixel():
    items = pictures((2, 3))
    tokenizer = Pixels().fit(items)
    embedder, batch = tokenizer.embedder(5), tokenizer.collate(items)
    sets = embedder(batch)
    assert sets.grid == (2, 3) and sets.layout == "grid" and sets.mask is None
    torch.testing.assert_close(sets.x[0, 4], embedder.project(batch["image"][0, :, 1, 1]))


def test_patches_equal_unfold_times_matrix():
    items = pictures((6, 9))
    tokenizer = Patches(patch_size=3).fit(items)
    embedder, batch = tokenizer.embedder(5), tokenizer.collate(items)
    columns = nn.functional.unfold(batch["image"], 3, stride=3).transpose(1, 2)
    expected = columns @ embedder.project.weight.flatten(1).T + embedder.project.bias
    sets = embedder(batch)
    assert sets.grid == (2, 3) == tokenizer.sizes["grid"]
    torch.testing.assert_close(sets.x, expected, atol=1e-5, rtol=0)


def test_conv_stem_equals_torchs_layers():
    items = pictures((9, 7))
    tokenizer = ConvStem(widths=(4, 6), strides=(2, 1, 2), pools=(0,)).fit(items)
    batch = tokenizer.collate(items)
    embedder = warmed(tokenizer.embedder(8), batch)
    layers = []
    for stage, (conv, norm) in enumerate(zip(embedder.convolutions, embedder.norms, strict=True)):
        reference = nn.BatchNorm2d(norm.weight.numel())
        reference.load_state_dict(norm.state_dict(), strict=False)
        layers += [conv, reference, nn.ReLU(), *([nn.MaxPool2d(2, ceil_mode=True)] if stage == 0 else [])]
    expected = nn.Sequential(*layers).eval()(batch["image"])
    sets = embedder(batch)
    assert sets.grid == tuple(expected.shape[2:]) == tokenizer.sizes["grid"]
    torch.testing.assert_close(sets.x, expected.flatten(2).transpose(1, 2), atol=1e-5, rtol=0)


@pytest.mark.parametrize("tokenizer", TOKENIZERS, ids=lambda t: type(t).__name__)
def test_a_small_picture_in_a_mixed_batch_equals_itself_alone(tokenizer):
    torch.manual_seed(0)
    items = pictures((7, 5), (4, 11), (1, 1), (12, 12))
    tokenizer.fit(items)
    batch = tokenizer.collate(items)
    assert batch["size"].tolist() == [[7, 5], [4, 11], [1, 1], [12, 12]]
    embedder = warmed(tokenizer.embedder(6), batch)
    together = embedder(batch)
    for one, item in zip(together.unbind(), items, strict=True):
        alone = embedder(tokenizer.collate([item]))
        assert one.x.shape[1] == alone.grid[0] * alone.grid[1] and alone.mask is None
        torch.testing.assert_close(one.x, alone.x, atol=1e-5, rtol=1e-5)
        assert torch.equal(one.positions(), alone.positions())


@pytest.mark.parametrize("tokenizer", TOKENIZERS, ids=lambda t: type(t).__name__)
def test_state_is_json_and_the_tokenizer_is_picklable(tokenizer):
    items = pictures((6, 6), (6, 6))
    tokenizer.fit(items)
    state = json.loads(json.dumps(tokenizer.state))
    twin = pickle.loads(pickle.dumps(tokenizer)).load_state(state)
    assert twin.state == tokenizer.state and twin.sizes == tokenizer.sizes
    assert torch.equal(twin.collate(items)["image"], tokenizer.collate(items)["image"])


MODES = ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I", "F"]


@pytest.mark.parametrize("mode", MODES)
def test_pictures_of_every_mode_are_read(mode, tmp_path):
    grey = Image.fromarray(np.linspace(0, 255, 30, dtype=np.uint8).reshape(5, 6))
    if mode in ("I;16", "I"):
        image = Image.fromarray(
            (np.asarray(grey).astype(np.uint16) * 257).astype(np.int32 if mode == "I" else np.uint16)
        )
    else:
        image = grey.convert("RGB").convert(mode) if mode != "F" else grey.convert("F")
    path = tmp_path / ("a.tif" if mode in ("CMYK", "I;16", "I", "F", "LA") else "a.png")
    image.save(path)
    tensor = to_tensor(path, "x")
    assert tensor.shape[1:] == (5, 6) and tensor.dtype == torch.float32 and tensor.min() >= 0 and tensor.max() <= 1
    if mode in ("L", "RGB", "RGBA", "I;16", "I", "F"):
        torch.testing.assert_close(tensor[0], torch.from_numpy(np.asarray(grey).copy()) / 255, atol=1e-3, rtol=0)


def test_transparency_is_laid_on_white():
    image = Image.new("RGBA", (2, 1), (255, 0, 0, 255))
    image.putpixel((1, 0), (0, 0, 0, 0))
    assert to_tensor(image, "x")[:, 0].T.tolist() == [[1, 0, 0], [1, 1, 1]]


def test_arrays_tensors_and_pil_agree():
    item = pictures((4, 5))[0]
    array = item.permute(1, 2, 0).numpy()
    for same in (array, item, item / 255, Image.fromarray(array), (array / 255.0)):
        torch.testing.assert_close(to_tensor(same, "x"), item / 255, atol=1e-6, rtol=0)
    assert to_tensor(array[..., 0], "x").shape == (1, 4, 5)


def test_grey_and_colour_are_converted_to_the_fitted_channels():
    colour, grey = pictures((3, 3))[0], pictures((3, 3), channels=1)[0]
    assert Pixels(channels=3).fit([grey]).collate([grey, colour])["image"].shape == (2, 3, 3, 3)
    tokenizer = Pixels().fit([grey])
    weights = torch.tensor([0.2989, 0.587, 0.114])[:, None, None]
    expected = ((colour / 255 * weights).sum(0) - tokenizer.state["mean"][0]) / tokenizer.state["std"][0]
    torch.testing.assert_close(tokenizer.collate([colour])["image"][0, 0], expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    "item, message",
    [
        (torch.full((1, 2, 2), float("nan")), "item 1 of the batch holds NaN"),
        (torch.zeros(1, 0, 3), r"item 1 of the batch has shape \(1, 0, 3\)"),
        (torch.zeros(2, 3, 3), "1 or 3 channels"),
        (torch.full((1, 2, 2), 7.0), r"values in \[7, 7\], not in \[0, 1\]"),
        (torch.zeros(1, 2, 2, dtype=torch.int64), "holds torch.int64"),
        ({"a": 1}, "item 1 of the batch is a dict"),
        ("nowhere.png", "there is no picture nowhere.png"),
    ],
)
def test_a_bad_item_is_named(item, message):
    good = pictures((2, 2), channels=1)[0]
    tokenizer = Pixels().fit([good])
    with pytest.raises(DataError, match=message):
        tokenizer.collate([good, item])


@pytest.mark.parametrize("content", [b"", b"no picture", None])
def test_a_corrupt_file_is_named(content, tmp_path):
    path = tmp_path / "broken.png"
    if content is None:  # a real picture, cut off
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 50), dtype=np.uint8)).save(path)
        content = path.read_bytes()[:400]
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"broken\.png cannot be read as a picture"):
        read_image(path)


def test_mistakes_of_use_are_named():
    with pytest.raises(DataError, match="has not seen data yet"):
        Pixels().collate(pictures((2, 2)))
    with pytest.raises(DataError, match="got no pictures"):
        Pixels().fit([])
    with pytest.raises(DataError, match="at least one picture"):
        Pixels().fit(pictures((2, 2))).collate([])
    with pytest.raises(DataError, match="would become 100 vectors, more than max_vectors=99"):
        Pixels(max_vectors=99).fit(pictures((10, 10))).collate(pictures((10, 10)))
    for make, message in (
        (lambda: Pixels(channels=2), "channels is 1, 3 or null"),
        (lambda: Pixels(size=0), "all positive"),
        (lambda: Patches(patch_size=0), "patch_size"),
        (lambda: ConvStem(widths=(4,), strides=(1,)), "one entry per stage, 2"),
        (lambda: ConvStem(pools=(5,)), "stages 0 .. 1"),
    ):
        with pytest.raises(ConfigError, match=message):
            make()
