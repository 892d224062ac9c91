"""The data sets: read whole or named."""

import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.original_files import idx, write_original
from PIL import Image
from platformdirs.macos import MacOS

from linfdist import data
from linfdist.data import DataError, readers, sets, tinyimagenet


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


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

    mnist = sys.modules[readers.torchvision_datasets().MNIST.__module__]
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


# Where the training and the validation images of a class lie; "" of the latter: in a table.
LAYOUTS = {
    "published": ("train/{}/images", ""),
    "folders": ("train/{}/images", "val/{}"),
    "images in folders": ("train/{}/images", "val/{}/images"),
    "folders in images": ("train/{}/images", "val/images/{}"),
    "no images in train": ("train/{}", "val/{}"),
}


def tiny_imagenet(folder: Path, layout: str = "folders") -> Path:
    """Two classes of 500 + 50 plain images each: the class is in red, the rank in blue."""
    root = folder / "tiny-imagenet-200"
    annotations = []
    for label, name in enumerate(("n01", "n02")):
        for split, count in (("train", 500), ("val", 50)):
            place = LAYOUTS[layout][split == "val"] or "val/images"
            target, prefix = root / place.format(name), name if split == "train" else "val"
            target.mkdir(parents=True, exist_ok=True)
            for rank in range(count):
                number = rank if split == "train" else 2 * rank + label
                colour = (200 * label, 0, min(rank, 250))
                file = target / f"{prefix}_{number}.JPEG"
                Image.new("RGB", (64, 64), colour).save(file, quality=95)
                annotations.append(f"{file.name}\t{name}\t0\t0\t62\t62\n" * (split == "val"))
    if layout == "published":
        (root / "val" / "val_annotations.txt").write_text("".join(annotations))
    return root


@pytest.fixture(scope="module", params=LAYOUTS)
def tiny_root(request, tmp_path_factory):
    return tiny_imagenet(tmp_path_factory.mktemp("tiny"), request.param)


def litter(root: Path) -> None:
    """What editors and other systems leave in folders."""
    for folder in (root / "train", root / "val", *root.glob("*/*/"), *root.glob("*/*/*/")):
        (folder / ".ipynb_checkpoints").mkdir(exist_ok=True)
        (folder / ".DS_Store").touch()
        (folder / "._n01_0.JPEG").write_bytes(b"not an image")


def test_tinyimagenet_is_read_in_every_layout(tiny_root):
    litter(tiny_root)
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


def test_tinyimagenet_in_no_layout_says_where_it_looked(tmp_path):
    (tmp_path / "tiny-imagenet-200" / "train" / "n01" / "pictures").mkdir(parents=True)
    message = r"\*\.JPEG files in one of train/<class>/images, train/<class>; it holds none"
    with pytest.raises(DataError, match=message):
        data.load("tinyimagenet", "train", root=tmp_path)


def test_tinyimagenet_is_decoded_once_and_again_after_a_change(tmp_path, cache, monkeypatch):
    root = tiny_imagenet(tmp_path, "folders")
    decoded, decode = [], tinyimagenet._decode

    def counted(path):
        decoded.append(path)
        return decode(path)

    def load():
        return data.load("tinyimagenet", "test", root=tmp_path).images

    monkeypatch.setattr(tinyimagenet, "_decode", counted)
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
    with pytest.raises(DataError, match=r"could not be downloaded: .*Without a network, copy it"):
        data.load(name, "train", root=tmp_path)


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match=r"Unknown data set 'cifar'\. Did you mean 'cifar10'\?"):
        data.load("cifar", "train")
    with pytest.raises(ValueError, match="split must be 'train' or 'test'; got 'val'"):
        data.load("digits", "val")


# --- folders ------------------------------------------------------------------------------------


def test_a_tilde_is_the_home_folder_wherever_a_folder_is_given(idx_set, monkeypatch):
    name, _, folder, written = idx_set
    monkeypatch.setenv("HOME", str(folder.parent))
    monkeypatch.chdir(folder)
    home = f"~/{folder.name}"
    monkeypatch.setenv("LINFDIST_DATA", home)
    for given in ({}, {"root": home}, {"root": Path(home)}, {"root": str(folder)}):
        read = data.load(name, "test", download=False, **given)
        assert np.array_equal(read.images[:, 0].numpy(), written["test"][0])
    monkeypatch.delenv("LINFDIST_DATA")
    monkeypatch.setenv("XDG_CACHE_HOME", "~/elsewhere")
    assert readers.data_dir() == folder.parent / "elsewhere" / "linfdist"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert readers.data_dir() == folder.parent / ".cache" / "linfdist"
    assert not (folder / "~").exists()


def test_the_cache_folder_is_the_platforms(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr("platformdirs.PlatformDirs", MacOS)
    assert readers.cache_dir() == tmp_path / "Library" / "Caches" / "linfdist"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "given"))
    assert readers.cache_dir() == tmp_path / "given" / "linfdist"


@pytest.fixture
def homeless(monkeypatch):
    """HOME is not set, and the user is not in the system's list."""

    def unknown(*args):
        raise KeyError("no such user")

    import pwd

    for name in ("HOME", "XDG_CACHE_HOME", "LINFDIST_DATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.setattr(pwd, "getpwnam", unknown)


def test_without_a_home_folder_the_digits_are_there_and_the_rest_is_named(homeless, monkeypatch):
    assert len(data.load("digits", "train")) == 1440
    message = (
        r"Set LINFDIST_DATA to the folder of the data sets and XDG_CACHE_HOME to a folder that can"
    )
    for name in FILE_SETS:
        with pytest.raises(DataError, match=message):
            data.load(name, "train")
    for given in ("~/data", "~nobody/data"):
        monkeypatch.setenv("LINFDIST_DATA", given)
        with pytest.raises(DataError, match=f"{given} must be in a known home folder.*{message}"):
            data.load("mnist", "train")
        with pytest.raises(ValueError, match=f"load: root must .* home folder of {given} is"):
            data.load("mnist", "train", root=given)


def test_a_cache_needs_a_home_folder_too(tmp_path, homeless):
    """The files are read from another folder, the decoded images go to the cache."""
    root = tiny_imagenet(tmp_path)
    with pytest.raises(DataError, match="XDG_CACHE_HOME to a folder that can be written to"):
        data.load("tinyimagenet", "test", root=root.parent)


@pytest.mark.parametrize("root", [3, b"x", ["x"]])
def test_a_root_that_is_no_path_is_named(root):
    with pytest.raises(TypeError, match="load: root must be a path, as text or a Path; got "):
        data.load("mnist", "train", root=root)


@pytest.mark.parametrize("umask", [0o022, 0o002, 0o077])
def test_the_cache_can_be_read_by_whom_the_umask_says(tmp_path, umask):
    before = os.umask(umask)
    try:
        tinyimagenet._keep(tmp_path / "new" / "c.bytes", np.zeros((1, 3, 4, 4), np.uint8))
    finally:
        os.umask(before)
    assert (tmp_path / "new" / "c.bytes").stat().st_mode & 0o777 == 0o666 & ~umask
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o777 & ~umask


def refused(path, *args, **kwargs):
    raise PermissionError(13, "Permission denied", str(path))


def test_a_cache_that_cannot_be_read_is_decoded_again(tmp_path, cache, monkeypatch):
    tiny_imagenet(tmp_path)
    first = data.load("tinyimagenet", "test", root=tmp_path).images
    (kept,) = (cache / "linfdist").glob("*.bytes")
    kept.write_bytes(b"of another user")
    with monkeypatch.context() as patch:
        patch.setattr(np, "fromfile", refused)
        assert torch.equal(data.load("tinyimagenet", "test", root=tmp_path).images, first)
    assert len(kept.read_bytes()) == 100 * 3 * 64 * 64 + 32


def test_files_that_cannot_be_read_are_named_and_not_to_be_deleted(idx_set, tmp_path, monkeypatch):
    name, _, folder, _ = idx_set
    tiny_imagenet(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", refused)
        for given in (name, "tinyimagenet"):
            with pytest.raises(DataError, match=r"must be readable; it is not .*Change the permis"):
                data.load(given, "train", root=folder)


def test_an_own_set_with_labels_from_1_is_told_so_and_keeps_its_files():
    info = data.DATASETS["digits"]
    images, labels = torch.zeros(10, 1, 8, 8, dtype=torch.uint8), torch.arange(10)
    with pytest.raises(ValueError, match=r"has label 10\. Labels must start at 0") as caught:
        data.ImageSet(images, labels + 1, info)
    assert not isinstance(caught.value, DataError) and "delete" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": np.zeros((2, 1, 8, 8), np.uint8)}, "images must be a Tensor; got ndarray"),
        ({"labels": [0, 1]}, "labels must be a Tensor; got list"),
        ({"info": "digits"}, "info must be a DatasetInfo; got str"),
    ],
)
def test_an_own_set_of_other_types_is_named(change, message):
    parts = {
        "images": torch.zeros(2, 1, 8, 8, dtype=torch.uint8),
        "labels": torch.zeros(2, dtype=torch.int64),
        "info": data.DATASETS["digits"],
    }
    with pytest.raises(TypeError, match=f"ImageSet: {message}"):
        data.ImageSet(**parts | change)
    with pytest.raises(TypeError, match=r"take: n must be a whole number; got 1\.5"):
        data.ImageSet(**parts).take(1.5)


# --- the sets themselves ------------------------------------------------------------------------


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


# As published with [Zhang2021]: title, shape, classes, means, std, eps.
PUBLISHED = {
    "mnist": ("MNIST", (1, 28, 28), 10, (0.1307,), 0.3081, Fraction(3, 10)),
    "fashion_mnist": ("Fashion-MNIST", (1, 28, 28), 10, (0.2860,), 0.3520, Fraction(1, 10)),
    "cifar10": ("CIFAR-10", (3, 32, 32), 10, (0.4914, 0.4822, 0.4465), 0.2009, Fraction(8, 255)),
    "tinyimagenet": (
        *("TinyImageNet", (3, 56, 56), 200),
        *((0.4802, 0.4481, 0.3975), 0.2276, Fraction(1, 255)),
    ),
    "digits": ("digits (scikit-learn)", (1, 8, 8), 10, (0.3051,), 0.3758, Fraction(1, 10)),
}


def test_every_data_set_has_its_published_constants():
    assert data.DATASETS.keys() == PUBLISHED.keys() == sets.READERS.keys()
    for name, (title, shape, classes, mean, std, eps) in PUBLISHED.items():
        info = data.DATASETS[name]
        assert info == data.DatasetInfo(
            name=name,
            title=title,
            input_shape=shape,
            num_classes=classes,
            mean=mean,
            std=std,
            eps=eps,
        )


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


@REAL
@pytest.mark.parametrize(
    ("name", "each_image", "off"),
    # The published std of Fashion-MNIST is a thousandth off. That of CIFAR-10 is the mean over its
    # images and channels of an image's own; every fifth image is taken here.
    [("mnist", False, 1e-4), ("fashion_mnist", False, 1.1e-3), ("cifar10", True, 2e-4)],
)
def test_the_constants_are_those_of_the_training_images(name, each_image, off):
    """Computed by other means than the package's: integers of numpy, in float64."""
    read = data.load(name, "train", download=False)
    images = read.images.numpy()
    assert images.max() == 255 and images.min() == 0
    assert images.shape[1:] == read.info.input_shape
    assert np.unique(read.labels.numpy()).tolist() == [*range(read.info.num_classes)]
    mean = images.mean((0, 2, 3), dtype=np.float64) / 255
    assert mean.tolist() == pytest.approx(list(read.info.mean), abs=1e-4)
    if each_image:
        some = images[::5].astype(np.float32) / 255
        std = some.std((2, 3)).mean()
    else:
        std = images.astype(np.float32).std(dtype=np.float64) / 255
    assert std == pytest.approx(read.info.std, abs=off)


def test_torchvision_is_imported_late_and_without_its_compiled_library():
    """In a fresh process: the package alone imports no torchvision; asked for, it is there."""
    script = (
        "import sys, linfdist.data;"
        "assert 'torchvision' not in sys.modules and 'sklearn' not in sys.modules;"
        "from linfdist.data.readers import torchvision_datasets;"
        "assert torchvision_datasets().MNIST.__name__ == 'MNIST'"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", script], check=True)
