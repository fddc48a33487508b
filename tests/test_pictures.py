"""Own pictures from files to vectors: odd modes, broken bytes, mixed sizes, hidden files, loader workers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader

from vsattn.errors import ConfigError, DataError
from vsattn.tasks.data.augment import ImageAugment
from vsattn.tasks.data.base import Augmented
from vsattn.tasks.data.images import Digits, ImageFolder
from vsattn.tokenizers import ConvStem, Patches, Pixels, images
from vsattn.tokenizers.images import read_image, to_tensor


def ramp(height=5, width=6):
    return Image.fromarray(np.linspace(0, 255, height * width, dtype=np.uint8).reshape(height, width))


def test_photographs_are_turned_upright_from_file_and_from_pil(tmp_path):
    upright = ramp()
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 270 degrees to see it upright
    path = tmp_path / "turned.png"
    upright.transpose(Image.Transpose.ROTATE_90).save(path, exif=exif)
    expected = to_tensor(upright, "x")
    assert torch.equal(to_tensor(path, "x"), expected)
    with Image.open(path) as opened:
        assert torch.equal(to_tensor(opened, "x"), expected)
    assert torch.equal(to_tensor(read_image(path), "x"), expected)


def test_grey_stays_grey_with_transparency_and_white_shows_through():
    grey = Image.merge("LA", [Image.new("L", (2, 1), 100), Image.fromarray(np.array([[255, 0]], dtype=np.uint8))])
    torch.testing.assert_close(to_tensor(grey, "x"), torch.tensor([[[100 / 255, 1.0]]]))
    keyed = Image.fromarray(np.array([[7, 100]], dtype=np.uint8))
    keyed.info["transparency"] = 7
    torch.testing.assert_close(to_tensor(keyed, "x"), torch.tensor([[[1.0, 100 / 255]]]))
    palette = Image.fromarray(np.array([[0, 1]], dtype=np.uint8), "L").convert("P")
    palette.putpalette([255, 0, 0, 0, 0, 255])
    palette.info["transparency"] = 0
    assert to_tensor(palette, "x")[:, 0].T.tolist() == [[1, 1, 1], [0, 0, 1]]


@pytest.mark.parametrize("mode", ["La", "PA", "RGBa", "YCbCr", "HSV", "LAB", "RGBX"])
def test_rare_modes_are_read(mode):
    tensor = to_tensor(Image.new(mode, (4, 3)), "x")
    assert tensor.shape[1:] == (3, 4) and bool(tensor.isfinite().all())


def test_sixteen_bits_keep_their_scale():
    dark = Image.fromarray(np.full((2, 2), 200, dtype=np.uint16))
    torch.testing.assert_close(to_tensor(dark, "x"), torch.full((1, 2, 2), 200 / 65535))


@pytest.mark.parametrize(
    "image, message",
    [
        (Image.new("L", (0, 4)), "here is 4 x 0 pixels: empty"),
        (Image.fromarray(np.array([[np.nan, 1]], dtype=np.float32)), "here holds NaN"),
        (Image.fromarray(np.array([[70000, 1]], dtype=np.int32)), r"here has values in \[1, 70000\]"),
        (np.zeros((3, 4, 5), dtype=np.uint8), r"here has shape \(3, 4, 5\); a picture is \(H, W\) or \(H, W, C\)"),
        (np.zeros((4, 5), dtype=object), "here holds object"),
        (np.zeros((4, 5), dtype=np.int64), "here holds torch.int64"),
    ],
)
def test_pictures_that_cannot_be_meant_are_named(image, message):
    with pytest.raises(DataError, match=message):
        to_tensor(image, "here")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "bmp", "tif", "webp", "ppm"])
def test_damaged_bytes_give_a_picture_or_an_error_that_names_the_file(suffix, tmp_path):
    path = tmp_path / f"damaged.{suffix}"
    random = np.random.default_rng(0)
    Image.fromarray(random.integers(0, 256, (9, 11, 3), dtype=np.uint8)).save(path)
    whole = path.read_bytes()
    refused = 0
    for trial in range(60):
        changed = bytearray(whole)
        for place in random.integers(0, min(len(whole), 120), 3):
            changed[place] = random.integers(0, 256)
        path.write_bytes(bytes(changed)[: len(whole) if trial % 2 else int(random.integers(0, len(whole)))])
        try:
            read_image(path)
        except DataError as error:
            assert str(path) in str(error)
            refused += 1
    assert refused > 5


def test_a_corrupt_picture_is_named_through_a_loader_worker(tmp_path):
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(3):
                ramp().save(tmp_path / split / name / f"{i}.png")
    data = ImageFolder(tmp_path)
    data.setup(0)
    (tmp_path / "test" / "dog" / "1.png").write_bytes(b"\x89PNG nothing")
    tokenizer = Pixels().fit(data.fit_items(100))
    loader = DataLoader(data.test, num_workers=1, collate_fn=lambda pairs: tokenizer.collate([i for i, _ in pairs]))
    batches = iter(loader)
    with pytest.raises(DataError, match=r"dog.1\.png cannot be read as a picture"):
        for _ in range(6):
            next(batches)
    assert sum(1 for _ in batches) == 1  # the loader is still whole, and its worker ends by itself


def test_hidden_files_litter_and_deep_folders(tmp_path):
    for place in ("train/cat", "train/dog/deep/er", "train/.trash", "train/cat/.ipynb_checkpoints", "test/dog"):
        (tmp_path / place).mkdir(parents=True)
        ramp().save(tmp_path / place / "B.PNG")
    for litter in (
        "train/cat/Thumbs.db",
        "train/cat/.DS_Store",
        "train/dog/desktop.ini",
        "train/dog/._B.png",
        "train/note.txt",
    ):
        (tmp_path / litter).write_text("x")
    ramp().save(tmp_path / "train/cat/a.png")
    ramp().save(tmp_path / "train/dog/a.png")
    data = ImageFolder(tmp_path, val_fraction=0.5)
    data.setup(0)
    assert data.classes == ["cat", "dog"] and (len(data.train), len(data.val), len(data.test)) == (2, 2, 1)
    assert data.test[0][1] == 1
    assert {p.relative_to(tmp_path / "train").as_posix() for p in (*data.train.paths, *data.val.paths)} == {
        "cat/B.PNG", "cat/a.png", "dog/deep/er/B.PNG", "dog/a.png"
    }  # fmt: skip


def test_pictures_without_class_folders_are_explained(tmp_path):
    (tmp_path / "train").mkdir()
    ramp().save(tmp_path / "train" / "a.png")
    with pytest.raises(DataError, match=r"a\.png lies in no class folder: pictures lie like"):
        ImageFolder(tmp_path).setup(0)


class Counted(list):
    """A list of how many of whose items were read."""

    def __init__(self, *items):
        super().__init__(*items)
        self.asked = []

    def __getitem__(self, index):
        self.asked.append(index)
        return super().__getitem__(index)


def test_fit_reads_evenly_spaced_items(monkeypatch):
    monkeypatch.setattr(images, "FIT_ITEMS", 4)
    items = Counted(torch.full((1, 2, 2), i, dtype=torch.uint8) for i in range(10))
    tokenizer = Pixels().fit(items)
    assert items.asked == [0, 3, 6, 9] and tokenizer.state["mean"] == pytest.approx([4.5 / 255])


def test_fit_equals_the_moments_of_all_pixels_of_mixed_pictures():
    generator = torch.Generator().manual_seed(0)
    items = [
        torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
        for shape in ((1, 4, 4), (3, 2, 7), (1, 3, 3))
    ]
    pixels = torch.cat([i.expand(3, -1, -1).flatten(1) for i in items], 1).double() / 255
    for state in (Pixels().fit(items).state, Pixels().fit(iter(items)).state, Pixels(channels=3).fit(items).state):
        assert state["channels"] == 3 and (state["height"], state["width"]) == (4, 7)
        torch.testing.assert_close(torch.tensor(state["mean"]), pixels.mean(1).float(), atol=1e-6, rtol=0)
        torch.testing.assert_close(torch.tensor(state["std"]), pixels.std(1, correction=0).float(), atol=1e-6, rtol=0)
    grey = Pixels(channels=1).fit(items).state
    assert len(grey["mean"]) == 1 and Pixels().fit(items[::2]).state["channels"] == 1


def test_a_size_too_large_shows_in_fit_and_a_foreign_state_is_refused():
    with pytest.raises(DataError, match="training item 1 is 80 x 80 and would become 6400 vectors"):
        Pixels().fit([torch.zeros(1, 8, 8), torch.zeros(1, 80, 80)])
    with pytest.raises(DataError, match="no state of Patches: channels, height, mean, std, width missing"):
        Patches().load_state({"words": []})


@pytest.mark.parametrize("size, patch", [((8, 12), 4), ((7, 9), 4), ((3, 3), 5)])
def test_patches_equal_a_strided_convolution_of_the_padded_picture(size, patch):
    item = torch.randint(0, 256, (3, *size), dtype=torch.uint8)
    tokenizer = Patches(patch_size=patch).fit([item])
    embedder, batch = tokenizer.embedder(6), tokenizer.collate([item])
    oracle = nn.Conv2d(3, 6, patch, stride=patch)
    oracle.load_state_dict(embedder.project.state_dict())
    padded = nn.functional.pad(batch["image"], (0, -size[1] % patch, 0, -size[0] % patch))
    torch.testing.assert_close(embedder(batch).x, oracle(padded).flatten(2).transpose(1, 2), atol=1e-5, rtol=1e-5)


def test_padding_does_not_enter_the_batch_statistics_of_the_stem():
    torch.manual_seed(0)
    items = [torch.randint(0, 256, (1, *size), dtype=torch.uint8) for size in ((4, 4), (9, 6), (5, 11))]
    tokenizer = ConvStem(widths=(3,), strides=(1, 1)).fit(items)
    embedder = tokenizer.embedder(4).train()
    first = embedder.convolutions[0]
    alone = [first(tokenizer.collate([item])["image"])[0].flatten(1) for item in items]
    oracle = nn.BatchNorm1d(3)
    expected = oracle(torch.cat(alone, 1).T)
    assert expected.shape == (16 + 54 + 55, 3)
    embedder(tokenizer.collate(items)).x.sum().backward()
    torch.testing.assert_close(embedder.norms[0].running_mean, oracle.running_mean, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(embedder.norms[0].running_var, oracle.running_var, atol=1e-6, rtol=1e-5)
    assert all(bool(p.grad.isfinite().all()) for p in embedder.parameters())


def test_augmentation_repeats_with_the_same_workers_and_differs_between_epochs():
    data = Digits(augment=ImageAugment(rotation=10, shift=0.2, scale=0.1, shear=5, flip=True, rand_augment=1, cutout=2))
    data.setup(0)
    items = Augmented([data.train[i] for i in range(12)], data.augment)

    def epochs():
        loader = DataLoader(items, batch_size=3, num_workers=2, generator=torch.Generator().manual_seed(5))
        return [torch.cat([images for images, _ in loader]) for _ in range(2)]

    first, again = epochs(), epochs()
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    assert not torch.equal(first[0], first[1])


@pytest.mark.bench
@pytest.mark.parametrize("side", [8, 28])
def test_augmentation_is_quick(side):
    import time

    item = torch.randint(0, 256, (1, side, side), dtype=torch.uint8)
    flip_crop_cut = ImageAugment(crop_padding=2, flip=True, cutout=side // 4)
    affine = ImageAugment(rotation=11, shift=0.25, scale=0.12, shear=8)
    for augment, limit in ((flip_crop_cut, 150e-6), (affine, 300e-6)):
        start = time.perf_counter()
        for _ in range(500):
            augment(item)
        assert (time.perf_counter() - start) / 500 < limit


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.5])
def test_a_validation_part_of_nothing_or_all_is_a_config_error(fraction, tmp_path):
    with pytest.raises(ConfigError, match="val_fraction is between 0 and 1"):
        ImageFolder(tmp_path, val_fraction=fraction)
