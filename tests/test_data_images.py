"""Image data sets: splits, downloads that work and fail, own folders, and augmentation of the training split."""

from __future__ import annotations

import gzip
import hashlib
import http.server
import struct
import threading
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from sklearn.datasets import load_digits

from vsattn.errors import ConfigError, DataError
from vsattn.tasks.data.augment import ImageAugment, Mix
from vsattn.tasks.data.base import Augmented, split_off
from vsattn.tasks.data.images import CIFAR10, Digits, FashionMNIST, ImageFolder
from vsattn.tokenizers.images import to_tensor

SHARED = Path(__file__).resolve().parents[1] / "../shared/data"


def test_digits_are_scikit_learns_halves_and_the_validation_is_a_tenth_of_each_class():
    data = Digits()
    data.setup(0)
    images, targets = load_digits(return_X_y=True)
    assert (len(data.train), len(data.val), len(data.test)) == (808, 90, 899)
    assert [t for _, t in (data.test[i] for i in range(899))] == targets[898:].tolist()
    torch.testing.assert_close(
        data.test[0][0].flatten() / 255 * 16, torch.tensor(images[898]).float(), atol=0.05, rtol=0
    )
    assert torch.bincount(data.val.targets).tolist() == pytest.approx([9] * 10, abs=1)
    other = Digits()
    other.setup(1)
    assert not torch.equal(other.val.images, data.val.images)
    again = Digits()
    again.setup(0)
    assert torch.equal(again.val.images, data.val.images)


def test_split_off_is_disjoint_complete_and_leaves_every_class_something():
    targets = [0] * 30 + [1] * 2 + [2]
    rest, part = split_off(targets, 0.1, seed=3)
    assert sorted(rest + part) == list(range(33))
    assert [sum(targets[i] == c for i in part) for c in range(3)] == [3, 1, 0]


def test_fit_items_are_spread_over_the_training_split():
    data = Digits()
    data.setup(0)
    assert len(data.fit_items(100)) <= 100 and len(data.fit_items(10**6)) == 808


@pytest.mark.skipif(not (SHARED / "FashionMNIST").is_dir(), reason="no FashionMNIST in ../shared/data")
def test_fashion_mnist_is_found_and_split():
    data = FashionMNIST(SHARED)
    data.setup(0)
    assert (len(data.train), len(data.val), len(data.test)) == (54000, 6000, 10000)
    assert data.classes[9] == "Ankle boot" and torch.bincount(data.val.targets).tolist() == [600] * 10
    reference = torchvision.datasets.FashionMNIST(str(SHARED), train=False)
    assert torch.equal(data.test.images[:, 0], reference.data) and data.test[5][0].shape == (1, 28, 28)


def idx(array: np.ndarray) -> bytes:
    header = struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    return gzip.compress(header + array.astype(np.uint8).tobytes())


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    """Serve a tiny FashionMNIST on the loopback interface, with its own checksums."""
    files = {}
    for split, count in (("train", 40), ("t10k", 20)):
        files[f"{split}-images-idx3-ubyte.gz"] = idx(np.random.default_rng(0).integers(0, 255, (count, 28, 28)))
        files[f"{split}-labels-idx1-ubyte.gz"] = idx(np.arange(count) % 10)
    folder = tmp_path / "mirror"
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            return None

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    kind = torchvision.datasets.FashionMNIST
    resources = [(name, hashlib.md5(content).hexdigest()) for name, content in files.items()]
    monkeypatch.setattr(kind, "resources", resources)
    monkeypatch.setattr(kind, "mirrors", [f"http://127.0.0.1:{server.server_port}/"])
    yield folder
    server.shutdown()
    server.server_close()


def test_a_missing_set_is_downloaded_once(mirror, tmp_path):
    data = FashionMNIST(tmp_path / "data")
    data.setup(0)
    assert (len(data.train), len(data.val), len(data.test)) == (30, 10, 20)
    for file in mirror.iterdir():
        file.unlink()
    again = FashionMNIST(tmp_path / "data")
    again.setup(0)
    assert torch.equal(again.train.images, data.train.images)


@pytest.mark.parametrize("kind", [FashionMNIST, CIFAR10])
def test_a_failed_download_says_which_files_belong_where(kind, tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("network is unreachable")

    monkeypatch.setattr("torchvision.datasets.mnist.download_and_extract_archive", refuse)
    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", refuse)
    with pytest.raises(DataError) as caught:
        kind(tmp_path).setup(0)
    message = str(caught.value)
    assert "could not be downloaded" in message and "VSATTN_DATA" in message
    for name in kind.files:
        assert str(tmp_path / name) in message


def test_a_corrupt_download_is_refused(mirror, tmp_path):
    (mirror / "train-images-idx3-ubyte.gz").write_bytes(b"not what the checksum says")
    with pytest.raises(DataError, match="could not be downloaded"):
        FashionMNIST(tmp_path / "data").setup(0)


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for split, count in (("train", 6), ("test", 2)):
        for name in ("cat", "dog"):
            place = tmp_path / split / name
            place.mkdir(parents=True)
            for i in range(count):
                mode, suffix = [("L", "png"), ("RGB", "jpg"), ("RGBA", "png"), ("P", "gif")][i % 4]
                array = rng.integers(0, 255, (5 + i, 7, 3), dtype=np.uint8)
                Image.fromarray(array).convert(mode).save(place / f"{i}.{suffix}")
    (tmp_path / "train" / "cat" / ".hidden").write_text("ignored")
    return tmp_path


def test_own_folders_are_read_with_and_without_val(folder):
    data = ImageFolder(folder, val_fraction=0.2)
    data.setup(0)
    assert data.classes == ["cat", "dog"] and (len(data.train), len(data.val), len(data.test)) == (10, 2, 4)
    assert not set(data.train.paths) & set(data.val.paths)
    image, target = data.test[3]
    assert isinstance(image, Image.Image) and target == 1
    (folder / "test").rename(folder / "val")
    (folder / "val" / "cat").parent.parent.joinpath("test").mkdir()
    for name in ("cat", "dog"):
        (folder / "test" / name).mkdir()
        Image.new("RGB", (3, 3)).save(folder / "test" / name / "a.png")
    data.setup(0)
    assert (len(data.train), len(data.val), len(data.test)) == (12, 4, 2)


def test_what_is_wrong_with_a_folder_is_named(folder, tmp_path_factory):
    def fails(message, root=folder):
        with pytest.raises(DataError, match=message):
            data = ImageFolder(root)
            data.setup(0)
            return data.train[0]

    fails("there is no folder .*nowhere", tmp_path_factory.mktemp("x") / "nowhere")
    stray = folder / "test" / "1.png"
    Image.new("L", (2, 2)).save(stray)
    fails(r"1\.png lies in no class folder")
    stray.unlink()
    note = folder / "train" / "dog" / "notes.txt"
    note.write_text("hello")
    fails("notes.txt is no picture file")
    note.unlink()
    (folder / "test" / "horse").mkdir()
    Image.new("L", (2, 2)).save(folder / "test" / "horse" / "a.png")
    fails("classes that train does not know: horse")
    (folder / "test" / "horse" / "a.png").unlink()
    (folder / "test" / "horse").rmdir()
    (folder / "train" / "bird").mkdir()
    fails("class folder .*bird holds no picture")
    (folder / "train" / "bird").rmdir()
    for path in sorted((folder / "train").rglob("*.*")):
        path.write_bytes(b"")
    fails("cannot be read as a picture")
    (folder / "test").rename(folder / "tset")
    fails("there is no folder .*test; .* needs train/, test/")


def test_augmentation_touches_the_training_split_alone_and_repeats_under_a_seed():
    data = Digits(augment=ImageAugment(rotation=10, shift=0.1, scale=0.1, shear=5, crop_padding=1, cutout=3))
    data.setup(0)
    augmented = Augmented(data.train, data.augment)
    torch.manual_seed(0)
    first, target = augmented[0]
    assert target == data.train[0][1] and first.shape == (1, 8, 8) and first.dtype == torch.uint8
    assert not torch.equal(first, data.train[0][0])
    torch.manual_seed(0)
    assert torch.equal(augmented[0][0], first)
    assert torch.equal(data.val[0][0], data.val[0][0])


@pytest.mark.parametrize(
    "item", [torch.randint(0, 255, (3, 9, 7), dtype=torch.uint8), Image.new("RGBA", (7, 9)), Image.new("L", (7, 9))]
)
def test_augmentation_keeps_the_size(item):
    torch.manual_seed(0)
    augment = ImageAugment(flip=True, rand_augment=2, crop_padding=2, cutout=4)
    for _ in range(20):
        assert augment(item).shape[1:] == (9, 7)


def test_each_distortion_is_what_it_says():
    image = torch.arange(64, dtype=torch.uint8).view(1, 8, 8)
    torch.manual_seed(0)
    assert {tuple(ImageAugment(flip=True)(image)[0, 0].tolist()) for _ in range(20)} == {
        tuple(range(8)), tuple(reversed(range(8)))
    }  # fmt: skip
    crops = {tuple(ImageAugment(crop_padding=1)(image).flatten().tolist()) for _ in range(200)}
    assert len(crops) == 9
    cut = torch.stack([ImageAugment(cutout=4)(image) for _ in range(200)])
    changed = (cut != image).flatten(1).sum(1)
    assert changed.max() <= 16 and 60 <= (changed == 0).sum() <= 140
    assert torch.equal(ImageAugment()(image), image)
    for fields in ({"scale": 1.0}, {"cutout": -1}, {"shift": 2}):
        with pytest.raises(ConfigError, match="ImageAugment"):
            ImageAugment(**fields)


@pytest.mark.parametrize("alphas", [{"mixup": 1.0}, {"cutmix": 1.0}, {"mixup": 0.4, "cutmix": 0.4}])
def test_mix_keeps_the_share_of_each_class(alphas):
    torch.manual_seed(0)
    batch = {"image": torch.randn(6, 1, 4, 4), "target": torch.arange(6)}
    mixed = Mix(6, **alphas)(batch)
    assert mixed["image"].shape == (6, 1, 4, 4) and mixed["target"].shape == (6, 6)
    torch.testing.assert_close(mixed["target"].sum(1), torch.ones(6))
    assert any(not torch.equal(Mix(6, **alphas)(batch)["image"], batch["image"]) for _ in range(5))
    assert Mix(6)(batch) is batch
    with pytest.raises(ConfigError, match="one size"):
        Mix(6, mixup=1.0)({**batch, "size": torch.zeros(6, 2)})


def test_a_keyed_transparency_looks_the_same_in_training_and_testing(tmp_path):
    image = Image.new("L", (4, 4), 0)
    image.save(tmp_path / "keyed.png", transparency=0)
    keyed = Image.open(tmp_path / "keyed.png")
    assert keyed.mode == "L" and "transparency" in keyed.info
    trained = ImageAugment()(keyed)
    tested = to_tensor(tmp_path / "keyed.png", "x")
    torch.testing.assert_close(trained.float().mean() / 255, tested.mean())


def test_links_that_lead_back_are_followed_once(folder):
    (folder / "train" / "cat" / "again").symlink_to(folder / "train" / "cat", target_is_directory=True)
    data = ImageFolder(folder, val_fraction=0.2)
    data.setup(0)
    assert (len(data.train), len(data.val)) == (10, 2)
