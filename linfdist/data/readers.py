"""Read each data set's files into numpy arrays; an error names a file that is not the original.

A reader takes (folder, split, download) and returns images (uint8, [N, C, H, W]), labels (int64)
and the number of classes.
"""

import contextlib
import hashlib
import math
import os
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType, ModuleType

import numpy as np
import torch
from platformdirs import user_cache_path

Arrays = tuple[np.ndarray, np.ndarray, int]


class DataError(RuntimeError):
    """A data set is missing or is not the original."""


# The size in bytes and the MD5 of each file, as published by the authors of the data sets.
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


def cache_dir() -> Path:
    """``$XDG_CACHE_HOME/linfdist``; without it, ``linfdist`` in the platform's cache folder.

    That is ``~/.cache`` on Linux and ``~/Library/Caches`` on macOS.

    Raises:
        DataError: the path starts at a home folder that does not exist.
    """
    given = os.environ.get("XDG_CACHE_HOME")  # platformdirs ignores a path that begins with ~
    if given:
        return _expanded(given) / "linfdist"
    with _home_known("the cache folder"):
        return user_cache_path("linfdist")


def data_dir() -> Path:
    """The folder that ``LINFDIST_DATA`` names; without it, the cache folder."""
    given = os.environ.get("LINFDIST_DATA")
    return _expanded(given) if given else cache_dir()


def _expanded(folder: str) -> Path:
    with _home_known(folder):
        return Path(folder).expanduser()


@contextlib.contextmanager
def _home_known(folder: str) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise DataError(
            f"{folder} must be in a known home folder; HOME is not set, or the user does not "
            "exist. Set LINFDIST_DATA to the folder of the data sets and XDG_CACHE_HOME to a "
            "folder that can be written to."
        ) from error


def read_original(folder: Path, name: str) -> bytes:
    """The content of folder/name, after checking that its size and MD5 are the original's."""
    path, (size, md5) = folder / name, ORIGINALS[name]
    if not path.is_file():
        raise DataError(
            f"{path} is missing, although other files of its data set are there. Restore it, or "
            f"delete {path.parent} and load the data set again with download=True."
        )
    on_disk = path.stat().st_size
    if on_disk != size:
        raise DataError(
            f"{path} must have {size} bytes; it has {on_disk}: it is truncated, or a different "
            "file. Delete it and load the data set again."
        )
    content = path.read_bytes()  # read once, so that the checked bytes are the used ones
    digest = hashlib.md5(content).hexdigest()
    if digest != md5:
        raise DataError(
            f"{path} must have the original's MD5 {md5}; it has {digest}. "
            "Delete it and load the data set again."
        )
    return content


def missing(title: str, looked_in: Path, wanted: str) -> DataError:
    """The error for a data set that is not on disk and may not be downloaded."""
    return DataError(
        f"{title} is not in {looked_in} ({wanted}). Set LINFDIST_DATA to the folder that holds it, "
        "or pass download=True to download it."
    )


def not_downloaded(title: str, folder: Path, wanted: str, error: Exception) -> DataError:
    """The error for a download that failed."""
    return DataError(
        f"{title} is not in {folder} ({wanted}) and could not be downloaded: {error}. Without a "
        "network, copy it from another machine and set LINFDIST_DATA to the folder that holds it."
    )


def idx(title: str, class_name: str) -> Callable[[Path, str, bool], Arrays]:
    def read(folder: Path, split: str, download: bool) -> Arrays:
        names = [name for name in ORIGINALS if name.startswith(f"{class_name}/")]
        dataset = getattr(torchvision_datasets(), class_name)
        absent = [name for name in names if not (folder / name).is_file()]
        if absent and download:
            try:
                dataset(folder, download=True)
            except (OSError, RuntimeError) as error:
                raise not_downloaded(title, folder, ", ".join(absent), error) from error
        elif len(absent) == len(names):
            raise missing(title, folder, f"{class_name}/raw/*-ubyte")
        contents = {name: read_original(folder, name) for name in names}
        prefix = f"{class_name}/raw/{'train' if split == 'train' else 't10k'}"
        images, labels = (
            read_idx(folder / name, contents[name], trailing)
            for name, trailing in (
                (f"{prefix}-images-idx3-ubyte", (28, 28)),
                (f"{prefix}-labels-idx1-ubyte", ()),
            )
        )
        if len(images) != len(labels):
            raise DataError(
                f"{folder / prefix}-*-ubyte must hold one label for each image; got {len(images)} "
                f"images and {len(labels)} labels. Delete them and load the data set again."
            )
        return images[:, None], labels.astype(np.int64), len(dataset.classes)

    return read


def read_idx(path: Path, content: bytes, trailing: tuple[int, ...]) -> np.ndarray:
    """The uint8 array of shape [N, *trailing] in an IDX file's bytes; errors name ``path``."""
    head = 4 + 4 * (1 + len(trailing))
    shape = tuple(map(int, np.frombuffer(content[4:head], ">u4"))) if len(content) >= head else ()
    expected = bytes([0, 0, 8, 1 + len(trailing)])  # 8: unsigned bytes
    if content[:4] != expected or shape[1:] != trailing or len(content) - head != math.prod(shape):
        raise DataError(
            f"{path} must be an IDX file of bytes of shape {('N', *trailing)}; it begins with "
            f"{content[:head].hex()} and has {len(content)} bytes. Delete it and load the data set "
            "again."
        )
    return np.frombuffer(content, np.uint8, offset=head).reshape(shape).copy()


def read_cifar10(folder: Path, split: str, download: bool) -> Arrays:
    """Read CIFAR-10: the official binary version if the folder has it, else torchvision's."""
    binaries = [name for name in ORIGINALS if name.startswith("cifar-10-batches-bin/")]
    if any((folder / name).is_file() for name in binaries):
        chosen = [name for name in binaries if ("test" in name) == (split == "test")]
        tables = [read_records(folder / name, read_original(folder, name)) for name in chosen]
        table = np.concatenate(tables)
        return table[:, 1:].reshape(-1, 3, 32, 32).copy(), table[:, 0].astype(np.int64), 10
    wanted = "cifar-10-batches-bin/*.bin or cifar-10-batches-py/"
    there = (folder / "cifar-10-batches-py").is_dir()
    if not there and not download:
        raise missing("CIFAR-10", folder, wanted)
    try:
        pickled = torchvision_datasets().CIFAR10(folder, split == "train", download=download)
    except (OSError, RuntimeError) as error:
        if there and not download:
            raise DataError(
                f"{folder / 'cifar-10-batches-py'} is incomplete or not the original. "
                "Delete it, or load with download=True."
            ) from error
        raise not_downloaded("CIFAR-10", folder, wanted, error) from error
    images = np.ascontiguousarray(pickled.data.transpose(0, 3, 1, 2))
    return images, np.asarray(pickled.targets, np.int64), 10


def read_records(path: Path, content: bytes) -> np.ndarray:
    """CIFAR-10's binary records, one per row: one byte of label and three planes of 32x32 bytes."""
    size = 1 + 3 * 32 * 32
    if len(content) % size:
        raise DataError(
            f"{path} must hold records of {size} bytes; it has {len(content)} bytes. Delete it and "
            "load the data set again."
        )
    return np.frombuffer(content, np.uint8).reshape(-1, size)


def read_digits(folder: Path | None, split: str, download: bool) -> Arrays:
    """Read scikit-learn's 1797 digits: the last ten of every 50 successive ones are for testing."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    test = np.arange(len(labels)) // 10 % 5 == 4  # the labels come in runs of 0..9
    chosen = test if split == "test" else ~test
    images = np.round(pixels[chosen] * (255 / 16)).astype(np.uint8)
    return images.reshape(-1, 1, 8, 8), labels[chosen].astype(np.int64), 10


_SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}


def torchvision_datasets() -> ModuleType:
    """``torchvision.datasets``, imported on first use; it also works with a CPU-only torch.

    PyPI's torchvision wheel for Linux is linked against a CUDA torch. With a CPU-only torch, its
    C++ library does not load, so its operators are not declared. ``import torchvision`` then fails
    at the first Python decorator that names one of them:
    ``RuntimeError: operator torchvision::nms does not exist`` (then the same for ``qnms``).
    Declaring the two schemas first is enough: this package reads images and never calls either
    operator.
    """
    try:
        import torchvision
    except RuntimeError as error:
        if "operator torchvision::" not in str(error):
            raise
        _declare_missing_operators()
        import torchvision
    return torchvision.datasets


@cache  # a declaration lives as long as the library object that made it
def _declare_missing_operators() -> torch.library.Library:
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name, schema in _SCHEMAS.items():
        if not hasattr(torch.ops.torchvision, name):
            library.define(schema)
    return library
