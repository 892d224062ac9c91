"""Read each data set's files into numpy arrays; a file that is not the original is named.

A reader takes (folder, split, download) and returns images (uint8, [N, C, H, W]), labels (int64)
and the number of classes.
"""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType

import numpy as np

from linfdist import _torchvision

Arrays = tuple[np.ndarray, np.ndarray, int]


class DataError(RuntimeError):
    """A data set is missing or is not the original."""


# Size in bytes and MD5 of the files that the data sets' authors published.
ORIGINALS: Mapping[str, tuple[int, str]] = MappingProxyType(
    {
        "MNIST/raw/train-images-idx3-ubyte": (47040016, "6bbc9ace898e44ae57da46a324031adb"),
        "MNIST/raw/train-labels-idx1-ubyte": (60008, "a25bea736e30d166cdddb491f175f624"),
        "MNIST/raw/t10k-images-idx3-ubyte": (7840016, "2646ac647ad5339dbf082846283269ea"),
        "MNIST/raw/t10k-labels-idx1-ubyte": (10008, "27ae3e4e09519cfbb04c329615203637"),
        "FashionMNIST/raw/train-images-idx3-ubyte": (47040016, "f4a8712d7a061bf5bd6d2ca38dc4d50a"),
        "FashionMNIST/raw/train-labels-idx1-ubyte": (60008, "9018921c3c673c538a1fc5bad174d6f9"),
        "FashionMNIST/raw/t10k-images-idx3-ubyte": (7840016, "8181f5470baa50b63fa0f6fddb340f0a"),
        "FashionMNIST/raw/t10k-labels-idx1-ubyte": (10008, "15d484375f8d13e6eb1aabb0c3f46965"),
        "cifar-10-batches-bin/data_batch_1.bin": (30730000, "5dd7e06a14cb22eb9f671a540d1b7c25"),
        "cifar-10-batches-bin/data_batch_2.bin": (30730000, "5ea93a67294ea407fff1d09f752e9692"),
        "cifar-10-batches-bin/data_batch_3.bin": (30730000, "942cd6a4bcdd0dd3c604fbe906cb4421"),
        "cifar-10-batches-bin/data_batch_4.bin": (30730000, "ae636b3ba5c66a11e91e8cb52e771fcb"),
        "cifar-10-batches-bin/data_batch_5.bin": (30730000, "53f37980c15c3d472c316c40844f3f0d"),
        "cifar-10-batches-bin/test_batch.bin": (30730000, "803d5f7f4d78ea53de84dbe85f74fb6d"),
    }
)
TINYIMAGENET = "tiny-imagenet-200"
TINYIMAGENET_URL = "https://cs231n.stanford.edu/tiny-imagenet-200.zip"
TINYIMAGENET_MD5 = "90528d7ca1a48142e341f4ef8d21d0de"


def cache_dir() -> Path:
    """``$XDG_CACHE_HOME/linfdist``, by default ``~/.cache/linfdist``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "linfdist"


def data_dir() -> Path:
    """The folder that ``LINFDIST_DATA`` names, else the cache folder."""
    given = os.environ.get("LINFDIST_DATA")
    return Path(given) if given else cache_dir()


def check_original(folder: Path, name: str) -> Path:
    """The path of folder/name, once its size and MD5 are those of the original."""
    path, (size, md5) = folder / name, ORIGINALS[name]
    if not path.is_file():
        raise DataError(
            f"{path} is missing, although other files of its data set are there. Restore it, or "
            f"delete {path.parent} and load the data set again with download=True."
        )
    found = path.stat().st_size
    if found != size:
        raise DataError(
            f"{path} must have {size} bytes; it has {found}: it is cut short or another file. "
            "Delete it and load the data set again."
        )
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "md5").hexdigest()
    if digest != md5:
        raise DataError(
            f"{path} must have the original's MD5 {md5}; it has {digest}. "
            "Delete it and load the data set again."
        )
    return path


def missing(title: str, looked_in: Path, wanted: str) -> DataError:
    """The error for a data set that is not on disk and may not be downloaded."""
    return DataError(
        f"{title} is not in {looked_in} ({wanted}). Set LINFDIST_DATA to the folder that holds it, "
        "or let it be downloaded with download=True."
    )


def not_downloaded(title: str, folder: Path, wanted: str, error: Exception) -> DataError:
    """The error for a download that failed."""
    return DataError(
        f"{title} is not in {folder} ({wanted}) and could not be downloaded: {error}. "
        "With no network, copy it from another machine and set LINFDIST_DATA to the folder "
        "that holds it."
    )


def _idx(title: str, class_name: str) -> Callable[[Path, str, bool], Arrays]:
    def read(folder: Path, split: str, download: bool) -> Arrays:
        names = [name for name in ORIGINALS if name.startswith(f"{class_name}/")]
        dataset = getattr(_torchvision.datasets(), class_name)
        absent = [name for name in names if not (folder / name).is_file()]
        if absent and download:
            try:
                dataset(folder, download=True)
            except (OSError, RuntimeError) as error:
                raise not_downloaded(title, folder, ", ".join(absent), error) from error
        elif len(absent) == len(names):
            raise missing(title, folder, f"{class_name}/raw/*-ubyte")
        for name in names:
            check_original(folder, name)
        read_set = dataset(folder, train=split == "train")
        return read_set.data.numpy()[:, None], read_set.targets.numpy(), len(dataset.classes)

    return read


def read_cifar10(folder: Path, split: str, download: bool) -> Arrays:
    """CIFAR-10: the official binary version where it is there, else torchvision's."""
    binaries = [name for name in ORIGINALS if name.startswith("cifar-10-batches-bin/")]
    if any((folder / name).is_file() for name in binaries):
        chosen = [name for name in binaries if ("test" in name) == (split == "test")]
        records = [np.fromfile(check_original(folder, name), np.uint8) for name in chosen]
        # A record is one byte of label and three planes of 32x32 bytes.
        table = np.concatenate(records).reshape(-1, 1 + 3 * 32 * 32)
        return table[:, 1:].reshape(-1, 3, 32, 32).copy(), table[:, 0].astype(np.int64), 10
    wanted = "cifar-10-batches-bin/*.bin or cifar-10-batches-py/"
    there = (folder / "cifar-10-batches-py").is_dir()
    if not there and not download:
        raise missing("CIFAR-10", folder, wanted)
    try:
        pickled = _torchvision.datasets().CIFAR10(folder, split == "train", download=download)
    except (OSError, RuntimeError) as error:
        if there and not download:
            raise DataError(
                f"{folder / 'cifar-10-batches-py'} is incomplete or not the original. "
                "Delete it, or load with download=True."
            ) from error
        raise not_downloaded("CIFAR-10", folder, wanted, error) from error
    images = np.ascontiguousarray(pickled.data.transpose(0, 3, 1, 2))
    return images, np.asarray(pickled.targets, np.int64), 10


def read_digits(folder: Path, split: str, download: bool) -> Arrays:
    """scikit-learn's 1797 digits: of every 50 in a row the last ten are for testing."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    test = np.arange(len(labels)) // 10 % 5 == 4  # the labels come in runs of 0..9
    chosen = test if split == "test" else ~test
    images = np.round(pixels[chosen] * (255 / 16)).astype(np.uint8)
    return images.reshape(-1, 1, 8, 8), labels[chosen].astype(np.int64), 10


def read_tinyimagenet(folder: Path, split: str, download: bool) -> Arrays:
    """TinyImageNet: whichever classes lie in train/, decoded once and then cached."""
    root = folder / TINYIMAGENET
    if not root.is_dir():
        _get_tinyimagenet(folder, download)
    classes = sorted(path.name for path in (root / "train").glob("*/"))
    if not classes:
        raise DataError(f"{root / 'train'} must hold one folder for each class; it holds none.")
    per_class = 500 if split == "train" else 50
    paths = {name: _numbered(root, split, name) for name in classes}
    if split == "test" and not any(paths.values()):
        paths = _annotated(root, classes)
    for name, files in paths.items():
        if len(files) != per_class:
            raise DataError(
                f"{root}: class {name} must have {per_class} {split} images; it has {len(files)}. "
                f"Delete {root} and load the data set again."
            )
    # Image 0 of every class, then image 1 of every class, and so on.
    ordered = [paths[name][rank] for rank in range(per_class) for name in classes]
    labels = np.tile(np.arange(len(classes)), per_class)
    return _decoded(root, split, ordered), labels, len(classes)


def _number(path: Path) -> int:
    return int(path.stem.rpartition("_")[2])


def _numbered(root: Path, split: str, name: str) -> list[Path]:
    inside = root / "train" / name / "images" if split == "train" else root / "val" / name
    return sorted(inside.glob("*.JPEG"), key=_number)


def _annotated(root: Path, classes: list[str]) -> dict[str, list[Path]]:
    """The validation images as published: one folder, and a table of file name and class."""
    table = root / "val" / "val_annotations.txt"
    if not table.is_file():
        raise DataError(f"{root / 'val'} must hold val_annotations.txt or a folder for each class.")
    paths: dict[str, list[Path]] = {name: [] for name in classes}
    for line in table.read_text().splitlines():
        file, name = line.split("\t")[:2]
        if name not in paths:
            raise DataError(f"{table}: class {name} of {file} has no folder in {root / 'train'}.")
        paths[name].append(root / "val" / "images" / file)
    return {name: sorted(files, key=_number) for name, files in paths.items()}


def _decoded(root: Path, split: str, paths: list[Path]) -> np.ndarray:
    """All images as one array, kept under the cache folder until a file changes."""
    key = hashlib.sha256()
    for path in paths:
        if not path.is_file():
            raise DataError(f"{path} is missing. Delete {root} and load the data set again.")
        stat = path.stat()
        key.update(f"{path.resolve()} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    cached = cache_dir() / f"{TINYIMAGENET}-{split}-{key.hexdigest()[:16]}.npy"
    if cached.is_file():
        return np.load(cached)
    with ThreadPoolExecutor() as pool:
        images = np.stack(list(pool.map(_decode, paths, chunksize=256)))
    cached.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=cached.parent, suffix=".part", delete=False) as file:
        np.save(file, images)
    os.replace(file.name, cached)
    return images


def _decode(path: Path) -> np.ndarray:
    from PIL import Image

    try:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"))
    except OSError as error:
        raise DataError(f"{path} is not a whole JPEG file: {error}.") from error
    if pixels.shape != (64, 64, 3):
        raise DataError(f"{path} must be 64x64 pixels; it is {pixels.shape[1]}x{pixels.shape[0]}.")
    return pixels.transpose(2, 0, 1)


def _get_tinyimagenet(folder: Path, download: bool) -> None:
    wanted = f"{TINYIMAGENET}/train/<class>/images/*.JPEG; published at {TINYIMAGENET_URL}"
    if not download:
        raise missing("TinyImageNet", folder, wanted)
    utils = _torchvision.datasets().utils
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as unpacked:
            utils.download_and_extract_archive(
                TINYIMAGENET_URL, str(folder), extract_root=unpacked, md5=TINYIMAGENET_MD5
            )
            shutil.move(Path(unpacked) / TINYIMAGENET, folder / TINYIMAGENET)
    except (OSError, RuntimeError) as error:
        raise not_downloaded("TinyImageNet", folder, wanted, error) from error


READERS: Mapping[str, Callable[[Path, str, bool], Arrays]] = MappingProxyType(
    {
        "mnist": _idx("MNIST", "MNIST"),
        "fashion_mnist": _idx("Fashion-MNIST", "FashionMNIST"),
        "cifar10": read_cifar10,
        "tinyimagenet": read_tinyimagenet,
        "digits": read_digits,
    }
)
