"""Read TinyImageNet: decode its JPEG files once and keep the result under the cache folder."""

import contextlib
import hashlib
import io
import math
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType

import numpy as np

from linfdist.data.readers import (
    Arrays,
    DataError,
    cache_dir,
    missing,
    not_downloaded,
    torchvision_datasets,
)

TINYIMAGENET = "tiny-imagenet-200"
TINYIMAGENET_URL = "https://cs231n.stanford.edu/tiny-imagenet-200.zip"
TINYIMAGENET_MD5 = "90528d7ca1a48142e341f4ef8d21d0de"


def read_tinyimagenet(folder: Path, split: str, download: bool) -> Arrays:
    """Read the TinyImageNet classes that have a folder in train/; decoded images are cached."""
    root = folder / TINYIMAGENET
    if not root.is_dir():
        _get_tinyimagenet(folder, download)
    classes = sorted(path.name for path in (root / "train").glob("*/") if _shown(path))
    if not classes:
        raise DataError(f"{root / 'train'} must hold one folder for each class; it holds none.")
    per_class = 500 if split == "train" else 50
    paths = _in_folders(root, split, classes)
    if split == "test" and not any(paths.values()):
        paths = _annotated(root, classes)
    if not any(paths.values()):
        looked_in = ", ".join(layout.format("<class>") for layout in FILE_LAYOUTS[split])
        raise DataError(f"{root} must hold *.JPEG files in one of {looked_in}; it holds none.")
    for name, files in paths.items():
        if len(files) != per_class:
            raise DataError(
                f"{root}: class {name} must have {per_class} {split} images; it has {len(files)}. "
                f"Restore them, or delete {root} and load the data set again."
            )
    # Image 0 of every class, then image 1 of every class, and so on.
    ordered = [paths[name][rank] for rank in range(per_class) for name in classes]
    labels = np.tile(np.arange(len(classes)), per_class)
    return _decoded(root, split, ordered), labels, len(classes)


def _number(path: Path) -> int:
    match = re.fullmatch(r".*_([0-9]{1,9})\.JPEG", path.name)
    if not match:
        raise DataError(
            f"{path} must be called <class>_<number>.JPEG; it is not an original file. Delete it."
        )
    return int(match[1])


# The folders of a class's images: first as published, then as the usual scripts arrange them.
FILE_LAYOUTS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "train": ("train/{}/images", "train/{}"),
        "test": ("val/{}", "val/{}/images", "val/images/{}"),
    }
)


def _in_folders(root: Path, split: str, classes: list[str]) -> dict[str, list[Path]]:
    """The images of each class, from the first layout that contains any image."""
    paths: dict[str, list[Path]] = {}
    for layout in FILE_LAYOUTS[split]:
        paths = {name: _numbered(root / layout.format(name)) for name in classes}
        if any(paths.values()):
            break
    return paths


def _numbered(folder: Path) -> list[Path]:
    return sorted(filter(_shown, folder.glob("*.JPEG")), key=_number)


def _shown(path: Path) -> bool:
    """Whether ``path`` is not hidden; editors and operating systems leave hidden files."""
    return not path.name.startswith(".")


def _annotated(root: Path, classes: list[str]) -> dict[str, list[Path]]:
    """The validation images as published: one folder, and a table of file names and classes."""
    table = root / "val" / "val_annotations.txt"
    if not table.is_file():
        raise DataError(f"{root / 'val'} must hold val_annotations.txt or a folder for each class.")
    paths: dict[str, list[Path]] = {name: [] for name in classes}
    try:
        lines = table.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{table} is not text: {error}. Restore it.") from error
    for line in lines:
        file, name, *_ = [*line.split("\t"), "", ""]
        if not re.fullmatch(r"val_[0-9]{1,9}\.JPEG", file):
            raise DataError(
                f"{table}: a line must begin with val_<number>.JPEG; got {file[:50]!r}."
            )
        if name not in paths:
            raise DataError(f"{table}: class {name} of {file} has no folder in {root / 'train'}.")
        paths[name].append(root / "val" / "images" / file)
    files = [path.name for some in paths.values() for path in some]
    if len({*files}) < len(files):
        twice = max(files, key=files.count)
        raise DataError(f"{table} must name each image once; it names {twice} twice. Restore it.")
    return {name: sorted(some, key=_number) for name, some in paths.items()}


def _decoded(root: Path, split: str, paths: list[Path]) -> np.ndarray:
    """All images as one array, kept under the cache folder until a file changes."""
    key = hashlib.sha256()
    for path in paths:
        if not path.is_file():
            raise DataError(f"{path} is missing. Delete {root} and load the data set again.")
        stat = path.stat()
        key.update(f"{path.resolve()} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    cached = cache_dir() / f"{TINYIMAGENET}-{split}-{key.hexdigest()[:16]}.bytes"
    images = _kept(cached, (len(paths), 3, 64, 64))
    if images is None:
        with ThreadPoolExecutor() as pool:
            decoded = list(pool.map(_decode, paths, chunksize=256))
        images = np.ascontiguousarray(np.stack(decoded))
        _keep(cached, images)
    return images


def _keep(cached: Path, images: np.ndarray) -> None:
    """Write the images, followed by their SHA-256."""
    unfinished = cached.with_name(f"{cached.name}-{uuid.uuid4().hex}.part")
    try:
        cached.parent.mkdir(parents=True, exist_ok=True)
        with unfinished.open("xb") as file:  # the umask decides who can read it
            file.write(images.data)
            file.write(hashlib.sha256(images.data).digest())
        os.replace(unfinished, cached)
    except OSError as error:
        with contextlib.suppress(OSError):
            unfinished.unlink()
        raise DataError(
            f"{cached} must hold the decoded images; it cannot be written ({error}). Free some "
            "space, or set XDG_CACHE_HOME to another folder."
        ) from error


def _kept(cached: Path, shape: tuple[int, ...]) -> np.ndarray | None:
    """The images that ``_keep`` wrote; None if the file is missing, damaged or unreadable."""
    try:
        content = np.fromfile(cached, np.uint8)
    except OSError:
        return None
    images, digest = np.split(content, [max(0, len(content) - 32)])
    if len(images) != math.prod(shape) or digest.tobytes() != hashlib.sha256(images.data).digest():
        return None
    return images.reshape(shape)


def _decode(path: Path) -> np.ndarray:
    from PIL import Image

    content = path.read_bytes()
    try:
        with Image.open(io.BytesIO(content), formats=["JPEG"]) as image:
            width, height = image.size
            if (width, height) == (64, 64):  # other sizes are not decoded: they may be enormous
                return np.asarray(image.convert("RGB")).transpose(2, 0, 1)
    except Exception as error:  # PIL can raise any exception on damaged bytes
        raise DataError(f"{path} is not a whole JPEG file: {error}.") from error
    raise DataError(f"{path} must be 64x64 pixels; it is {width}x{height}.")


def _get_tinyimagenet(folder: Path, download: bool) -> None:
    wanted = f"{TINYIMAGENET}/train/<class>/images/*.JPEG; published at {TINYIMAGENET_URL}"
    if not download:
        raise missing("TinyImageNet", folder, wanted)
    utils = torchvision_datasets().utils
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as unpacked:
            utils.download_and_extract_archive(
                TINYIMAGENET_URL, str(folder), extract_root=unpacked, md5=TINYIMAGENET_MD5
            )
            shutil.move(Path(unpacked) / TINYIMAGENET, folder / TINYIMAGENET)
    except (OSError, RuntimeError) as error:
        raise not_downloaded("TinyImageNet", folder, wanted, error) from error
