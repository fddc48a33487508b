"""Downloads of torchvision's sets: whole ones, refused ones, broken ones, from a server on the loopback interface."""

from __future__ import annotations

import gzip
import hashlib
import io
import pickle
import socket
import struct
import tarfile

import numpy as np
import pytest
import torch
import torchvision

from vsattn.errors import DataError
from vsattn.tasks.data import download
from vsattn.tasks.data.images import CIFAR10, MNIST, FashionMNIST

KINDS = {FashionMNIST: torchvision.datasets.FashionMNIST, MNIST: torchvision.datasets.MNIST}


def dead_address():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}/"


def idx(array):
    header = struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    return gzip.compress(header + array.astype(np.uint8).tobytes())


@pytest.fixture
def archives(monkeypatch):
    """The four archives of a tiny set, whose checksums torchvision is told."""
    random = np.random.default_rng(0)
    files = {}
    for split, count in (("train", 40), ("t10k", 20)):
        files[f"{split}-images-idx3-ubyte.gz"] = idx(random.integers(0, 256, (count, 28, 28)))
        files[f"{split}-labels-idx1-ubyte.gz"] = idx(np.arange(count) % 10)
    for kind in KINDS.values():
        monkeypatch.setattr(kind, "resources", [(n, hashlib.md5(c).hexdigest()) for n, c in files.items()])
    return files


def failure(data):
    with pytest.raises(DataError) as caught:
        data.setup(0)
    return str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_set_comes_from_the_server(kind, archives, serve, tmp_path, monkeypatch):
    monkeypatch.setattr(KINDS[kind], "mirrors", [dead_address(), serve(archives)])
    root = tmp_path / "deep" / "data"
    data = kind(root)
    data.setup(0)
    assert (len(data.train), len(data.val), len(data.test)) == (30, 10, 20)
    assert sorted(p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file()) == sorted(kind.files)
    expected = torchvision.datasets.__dict__[kind.__name__](str(root), train=False)
    assert torch.equal(data.test.images[:, 0], expected.data)


def test_a_dead_address_names_every_file_and_the_reason(archives, tmp_path, monkeypatch):
    monkeypatch.setattr(torchvision.datasets.FashionMNIST, "mirrors", [dead_address()])
    message = failure(FashionMNIST(tmp_path))
    assert "refused" in message and "VSATTN_DATA" in message and "paths.data" in message
    for split, letter in (("train", 3), ("t10k", 3)):
        assert f"{tmp_path}/FashionMNIST/raw/{split}-images-idx{letter}-ubyte (missing)" in message
        assert f"{tmp_path}/FashionMNIST/raw/{split}-labels-idx1-ubyte (missing)" in message
    assert list(tmp_path.iterdir()) == []


def test_a_download_that_breaks_off_leaves_nothing_behind(archives, serve, tmp_path, monkeypatch):
    broken = {**archives, "t10k-images-idx3-ubyte.gz": archives["t10k-images-idx3-ubyte.gz"][:100]}
    monkeypatch.setattr(torchvision.datasets.FashionMNIST, "mirrors", [serve(broken)])
    assert "corrupted" in failure(FashionMNIST(tmp_path))
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(torchvision.datasets.FashionMNIST, "mirrors", [serve(archives)])
    FashionMNIST(tmp_path).setup(0)


def test_a_server_that_says_nothing_is_given_up(archives, serve, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "TIMEOUT", 0.2)
    monkeypatch.setattr(torchvision.datasets.FashionMNIST, "mirrors", [serve(dict.fromkeys(archives))])
    assert "timed out" in failure(FashionMNIST(tmp_path))
    assert socket.getdefaulttimeout() is None


def test_archives_fetched_by_hand_are_unpacked(archives, tmp_path, monkeypatch):
    monkeypatch.setattr(torchvision.datasets.FashionMNIST, "mirrors", [dead_address()])
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for name, content in archives.items():
        (raw / name).write_bytes(content)
    data = FashionMNIST(tmp_path)
    data.setup(0)
    assert len(data.test) == 20 and (raw / "t10k-labels-idx1-ubyte").is_file()


def test_a_damaged_file_is_reported_with_its_length(archives, serve, tmp_path, monkeypatch):
    monkeypatch.setattr(torchvision.datasets.FashionMNIST, "mirrors", [serve(archives)])
    FashionMNIST(tmp_path).setup(0)
    victim = tmp_path / "FashionMNIST" / "raw" / "train-images-idx3-ubyte"
    victim.write_bytes(victim.read_bytes()[:1000])
    message = failure(FashionMNIST(tmp_path))
    assert "cannot be read" in message and f"{victim} (1,000 bytes)" in message
    victim.unlink()
    FashionMNIST(tmp_path).setup(0)


def test_a_root_that_is_a_file_is_reported(archives, tmp_path):
    (tmp_path / "file").write_text("here")
    assert str(tmp_path / "file") in failure(FashionMNIST(tmp_path / "file"))


def test_cifar10_comes_from_its_archive(serve, tmp_path, monkeypatch):
    random, members = np.random.default_rng(0), {"batches.meta": {"label_names": [f"kind {i}" for i in range(10)]}}
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        members[name] = {"data": random.integers(0, 256, (20, 3072), dtype=np.uint8), "labels": list(range(10)) * 2}
    packed = {name: pickle.dumps(content) for name, content in members.items()}
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        for name, content in packed.items():
            info = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    kind, sums = torchvision.datasets.CIFAR10, {n: hashlib.md5(c).hexdigest() for n, c in packed.items()}
    monkeypatch.setattr(kind, "url", serve({"cifar-10-python.tar.gz": archive.getvalue()}) + "cifar-10-python.tar.gz")
    monkeypatch.setattr(kind, "tgz_md5", hashlib.md5(archive.getvalue()).hexdigest())
    monkeypatch.setattr(kind, "train_list", [[f"data_batch_{i}", sums[f"data_batch_{i}"]] for i in range(1, 6)])
    monkeypatch.setattr(kind, "test_list", [["test_batch", sums["test_batch"]]])
    monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": sums["batches.meta"]})
    data = CIFAR10(tmp_path)
    data.setup(0)
    assert (len(data.train), len(data.val), len(data.test)) == (90, 10, 20) and data.classes[3] == "kind 3"
    expected = torch.from_numpy(members["test_batch"]["data"][7].reshape(3, 32, 32))
    assert torch.equal(data.test[7][0], expected) and data.test[7][1] == 7
