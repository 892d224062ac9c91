"""The data sets: read whole or named."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from linfdist import _readers, _tinyimagenet, _torchvision, data
from linfdist.data import DataError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def write_original(monkeypatch, folder: Path, name: str, content: bytes) -> None:
    """Write a small file and let it pass for the original."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    originals = dict(_readers.ORIGINALS)
    originals[name] = (len(content), hashlib.md5(content).hexdigest())
    monkeypatch.setattr(_readers, "ORIGINALS", originals)


def idx(array: np.ndarray) -> bytes:
    head = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes()
    return head + array.astype(np.uint8).tobytes()


@pytest.fixture(params=["mnist", "fashion_mnist"])
def idx_set(request, tmp_path, monkeypatch):
    folder_name = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST"}[request.param]
    rng = np.random.default_rng(0)
    written = {}
    for prefix, count in (("train", 7), ("t10k", 5)):
        images = rng.integers(0, 256, (count, 28, 28))
        labels = np.arange(count) % 10
        raw = f"{folder_name}/raw/{prefix}"
        write_original(monkeypatch, tmp_path, f"{raw}-images-idx3-ubyte", idx(images))
        write_original(monkeypatch, tmp_path, f"{raw}-labels-idx1-ubyte", idx(labels))
        written["train" if prefix == "train" else "test"] = images, labels
    return request.param, folder_name, tmp_path, written


@pytest.mark.parametrize("split", ["train", "test"])
def test_idx_files_are_read_as_they_lie(idx_set, split):
    name, _, folder, written = idx_set
    images, labels = written[split]
    read = data.load(name, split, root=folder, download=False)
    assert np.array_equal(read.images[:, 0].numpy(), images)
    assert np.array_equal(read.labels.numpy(), labels)
    assert read.info == data.DATASETS[name]


def test_a_truncated_file_is_named(idx_set):
    name, folder_name, folder, _ = idx_set
    path = folder / folder_name / "raw" / "train-images-idx3-ubyte"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    message = f"train-images-idx3-ubyte must have {len(whole)} bytes; it has {len(whole) - 1}"
    with pytest.raises(DataError, match=message):
        data.load(name, "train", root=folder)


def test_a_changed_file_is_named(idx_set):
    name, folder_name, folder, _ = idx_set
    path = folder / folder_name / "raw" / "t10k-labels-idx1-ubyte"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"t10k-labels-idx1-ubyte must have the original's MD5"):
        data.load(name, "train", root=folder)


def test_a_missing_file_of_a_data_set_is_named(idx_set):
    name, folder_name, folder, _ = idx_set
    (folder / folder_name / "raw" / "t10k-images-idx3-ubyte").unlink()
    message = r"t10k-images-idx3-ubyte is missing, although .* Restore it, or delete .*raw and load"
    with pytest.raises(DataError, match=message):
        data.load(name, "train", root=folder, download=False)


def test_an_interrupted_download_goes_on(idx_set, monkeypatch):
    name, folder_name, folder, written = idx_set
    raw = folder / folder_name / "raw"
    whole = {path.name: path.read_bytes() for path in raw.iterdir()}
    (raw / "t10k-images-idx3-ubyte").unlink()

    def fetch(url, download_root, filename, md5):
        unpacked = Path(filename).stem
        (Path(download_root) / unpacked).write_bytes(whole[unpacked])

    mnist = sys.modules[_torchvision.datasets().MNIST.__module__]
    monkeypatch.setattr(mnist, "download_and_extract_archive", fetch)
    read = data.load(name, "test", root=folder)
    assert np.array_equal(read.images[:, 0].numpy(), written["test"][0])


def test_a_download_that_cannot_go_on_names_what_is_missing(idx_set, monkeypatch):
    name, folder_name, folder, _ = idx_set
    (folder / folder_name / "raw" / "t10k-images-idx3-ubyte").unlink()

    def no_network(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr("urllib.request.urlopen", no_network)
    message = r"\(\w+/raw/t10k-images-idx3-ubyte\) and could not be downloaded: .*no route to host"
    with pytest.raises(DataError, match=message):
        data.load(name, "train", root=folder)


def cifar10_binaries(monkeypatch, folder: Path, labels: np.ndarray) -> np.ndarray:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (len(labels), 3, 32, 32), dtype=np.uint8)
    names = [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]
    for name, x, y in zip(names, np.split(images, 6), np.split(labels, 6), strict=True):
        records = np.concatenate([y[:, None].astype(np.uint8), x.reshape(len(x), -1)], axis=1)
        write_original(monkeypatch, folder, f"cifar-10-batches-bin/{name}", records.tobytes())
    return images


def test_cifar10_binaries_are_read_in_order(tmp_path, monkeypatch):
    labels = np.arange(12) % 10
    images = cifar10_binaries(monkeypatch, tmp_path, labels)
    train = data.load("cifar10", "train", root=tmp_path, download=False)
    test = data.load("cifar10", "test", root=tmp_path, download=False)
    assert np.array_equal(torch.cat([train.images, test.images]).numpy(), images)
    assert np.array_equal(torch.cat([train.labels, test.labels]).numpy(), labels)


def test_a_missing_cifar10_binary_is_named(tmp_path, monkeypatch):
    cifar10_binaries(monkeypatch, tmp_path, np.arange(12) % 10)
    (tmp_path / "cifar-10-batches-bin" / "data_batch_2.bin").unlink()
    message = r"data_batch_2\.bin is missing, .* Restore it, or delete .*cifar-10-batches-bin and"
    with pytest.raises(DataError, match=message):
        data.load("cifar10", "train", root=tmp_path)


def test_a_label_out_of_range_is_named(tmp_path, monkeypatch):
    cifar10_binaries(monkeypatch, tmp_path, np.array([0, 1, 2, 10, 4, 5, 6, 7, 8, 9, 0, 1]))
    with pytest.raises(DataError, match=r"labels must be in 0\.\.9; image 3 has label 10"):
        data.load("cifar10", "train", root=tmp_path)


def test_a_damaged_pickled_cifar10_is_named(tmp_path):
    (tmp_path / "cifar-10-batches-py").mkdir()
    with pytest.raises(DataError, match="cifar-10-batches-py is incomplete or not the original"):
        data.load("cifar10", "train", root=tmp_path, download=False)


def tiny_imagenet(folder: Path, layout: str) -> Path:
    """Two classes of 500 + 50 plain images each: the class is in red, the rank in blue."""
    root = folder / "tiny-imagenet-200"
    annotations = []
    for label, name in enumerate(("n01", "n02")):
        for split, count in (("train", 500), ("val", 50)):
            if split == "train":
                target, prefix = root / "train" / name / "images", name
            elif layout == "folders":
                target, prefix = root / "val" / name, "val"
            else:
                target, prefix = root / "val" / "images", "val"
            target.mkdir(parents=True, exist_ok=True)
            for rank in range(count):
                number = rank if split == "train" else 2 * rank + label
                colour = (200 * label, 0, min(rank, 250))
                file = target / f"{prefix}_{number}.JPEG"
                Image.new("RGB", (64, 64), colour).save(file, quality=95)
                annotations.append(f"{file.name}\t{name}\t0\t0\t62\t62\n" * (split == "val"))
    if layout == "annotations":
        (root / "val" / "val_annotations.txt").write_text("".join(annotations))
    return root


@pytest.fixture(scope="module", params=["folders", "annotations"])
def tiny_root(request, tmp_path_factory):
    return tiny_imagenet(tmp_path_factory.mktemp(request.param), request.param)


def test_tinyimagenet_is_read_in_both_layouts(tiny_root):
    train = data.load("tinyimagenet", "train", root=tiny_root.parent, download=False)
    test = data.load("tinyimagenet", "test", root=tiny_root.parent, download=False)
    assert train.images.shape == (1000, 3, 64, 64)
    assert test.images.shape == (100, 3, 56, 56)
    assert train.info.num_classes == 2
    for split in (train, test):
        assert torch.equal(split.labels, torch.arange(len(split)) % 2)
        red, blue = split.images[:, 0, 30, 30].int(), split.images[:, 2, 30, 30].int()
        rank = (torch.arange(len(split)) // 2).clamp(max=250)
        assert torch.equal(red > 100, split.labels == 1)
        assert (blue - rank).abs().max() <= 4  # JPEG rounds colours


def test_tinyimagenet_is_decoded_once_and_again_after_a_change(tmp_path, cache, monkeypatch):
    root = tiny_imagenet(tmp_path, "folders")
    decoded, decode = [], _tinyimagenet._decode

    def counted(path):
        decoded.append(path)
        return decode(path)

    def load():
        return data.load("tinyimagenet", "test", root=tmp_path).images

    monkeypatch.setattr(_tinyimagenet, "_decode", counted)
    first = load()
    assert torch.equal(load(), first) and len(decoded) == 100
    os.utime(root / "val" / "n01" / "val_0.JPEG", (1, 1))
    assert torch.equal(load(), first) and len(decoded) == 200
    for cached in (cache / "linfdist").glob("*.bytes"):
        content = bytearray(cached.read_bytes())
        content[len(content) // 2] ^= 1
        cached.write_bytes(content)
    assert torch.equal(load(), first) and len(decoded) == 300
    assert not list((cache / "linfdist").glob("*.part"))


def test_damaged_tinyimagenet_is_named(tmp_path):
    root = tiny_imagenet(tmp_path, "folders")
    image = root / "val" / "n01" / "val_0.JPEG"
    whole = image.read_bytes()
    image.write_bytes(whole[:-200])
    with pytest.raises(DataError, match=r"val_0\.JPEG is not a whole JPEG file"):
        data.load("tinyimagenet", "test", root=tmp_path)
    Image.new("RGB", (32, 64)).save(image)
    with pytest.raises(DataError, match=r"val_0\.JPEG must be 64x64 pixels; it is 32x64"):
        data.load("tinyimagenet", "test", root=tmp_path)
    image.unlink()
    with pytest.raises(DataError, match="class n01 must have 50 test images; it has 49"):
        data.load("tinyimagenet", "test", root=tmp_path)


def test_tinyimagenet_annotations_are_checked(tmp_path):
    root = tmp_path / "tiny-imagenet-200"
    (root / "train").mkdir(parents=True)
    with pytest.raises(DataError, match="train must hold one folder for each class"):
        data.load("tinyimagenet", "test", root=tmp_path)
    (root / "train" / "n01").mkdir()
    with pytest.raises(DataError, match=r"val must hold val_annotations\.txt or a folder"):
        data.load("tinyimagenet", "test", root=tmp_path)
    (root / "val").mkdir()
    table = root / "val" / "val_annotations.txt"
    table.write_text("val_0.JPEG\tn02\t0\t0\t9\t9\n")
    with pytest.raises(DataError, match=r"class n02 of val_0\.JPEG has no folder in .*train"):
        data.load("tinyimagenet", "test", root=tmp_path)
    table.write_text("".join(f"val_{i}.JPEG\tn01\t0\t0\t9\t9\n" for i in range(50)))
    with pytest.raises(DataError, match=r"val_0\.JPEG is missing"):
        data.load("tinyimagenet", "test", root=tmp_path)


FILE_SETS = [name for name in data.DATASETS if name != "digits"]


@pytest.mark.parametrize("name", FILE_SETS)
def test_a_missing_data_set_says_where_it_was_looked_for(name, tmp_path, monkeypatch):
    monkeypatch.setenv("LINFDIST_DATA", str(tmp_path / "nowhere"))
    title = data.DATASETS[name].title
    with pytest.raises(DataError, match=rf"{title} is not in .*nowhere .*Set LINFDIST_DATA"):
        data.load(name, "train", download=False)


def test_tinyimagenet_says_where_it_is_published(tmp_path):
    with pytest.raises(DataError, match=r"https://cs231n\.stanford\.edu/tiny-imagenet-200\.zip"):
        data.load("tinyimagenet", "train", root=tmp_path, download=False)


@pytest.mark.parametrize("name", FILE_SETS)
def test_a_failed_download_is_explained(name, tmp_path, monkeypatch):
    def no_network(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr("urllib.request.urlopen", no_network)
    with pytest.raises(DataError, match=r"could not be downloaded: .*With no network, copy it"):
        data.load(name, "train", root=tmp_path)


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match=r"Unknown data set 'cifar'\. Did you mean 'cifar10'\?"):
        data.load("cifar", "train")
    with pytest.raises(ValueError, match="split must be 'train' or 'test'; got 'val'"):
        data.load("digits", "val")


def test_digits_need_no_file():
    train, test = data.load("digits", "train"), data.load("digits", "test")
    assert len(train) + len(test) == 1797
    assert train.images.shape[1:] == data.DATASETS["digits"].input_shape
    assert train.images.max() == 255
    for split in (train, test):
        assert torch.bincount(split.labels).min() > 0.08 * len(split)
    pixels = data.to_pixels(train.images)
    assert pixels.mean().item() == pytest.approx(train.info.mean[0], abs=1e-4)
    assert pixels.std().item() == pytest.approx(train.info.std, abs=1e-4)


REAL = pytest.mark.skipif("LINFDIST_DATA" not in os.environ, reason="LINFDIST_DATA is not set")
SIZES = {"mnist": (60000, 10000), "fashion_mnist": (60000, 10000), "cifar10": (50000, 10000)}


@REAL
@pytest.mark.parametrize("name", SIZES)
def test_the_originals_are_whole(name):
    for split, size in zip(("train", "test"), SIZES[name], strict=True):
        read = data.load(name, split, download=False)
        assert len(read) == size
        assert torch.equal(
            torch.bincount(read.labels[:1000]) > 50, torch.ones(10, dtype=torch.bool)
        )


def test_torchvision_is_imported_late_and_without_its_compiled_library():
    """In a fresh process: the package alone imports no torchvision; asked for, it is there."""
    script = (
        "import sys, linfdist.data;"
        "assert 'torchvision' not in sys.modules and 'sklearn' not in sys.modules;"
        "from linfdist import _torchvision;"
        "assert _torchvision.datasets().MNIST.__name__ == 'MNIST'"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", script], check=True)
