"""The data sets as uint8 tensors, and augmentation of whole batches on any device.

Images stay uint8 until ``to_pixels`` turns a batch into float32 in [0, 1], the unit of every eps
in this package.

The folder of a data set is the first of these that is set. A data set that is missing there is
downloaded into it:

1. the argument ``root``;
2. the folder that ``LINFDIST_DATA`` names;
3. ``$XDG_CACHE_HOME/linfdist``, by default ``~/.cache/linfdist`` on Linux and
   ``~/Library/Caches/linfdist`` on macOS.

In each, ``~`` stands for the home folder. The digits are part of scikit-learn and need no folder.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import torch
from torch import Tensor

from linfdist.data import readers
from linfdist.data.readers import DataError as DataError
from linfdist.data.tinyimagenet import read_tinyimagenet
from linfdist.system.inputs import channel_means, class_count, deviation, image_shape, pixel_radius
from linfdist.system.names import unknown
from linfdist.system.serialise import check_fields
from linfdist.system.values import file, flag, shown, whole

VALIDATION_IMAGES = 5_000  # of the training images, or a tenth of them if that is fewer


READERS: Mapping[str, Callable[[Path, str, bool], readers.Arrays]] = MappingProxyType(
    {
        "mnist": readers.idx("MNIST", "MNIST"),
        "fashion_mnist": readers.idx("Fashion-MNIST", "FashionMNIST"),
        "cifar10": readers.read_cifar10,
        "tinyimagenet": read_tinyimagenet,
        "digits": readers.read_digits,
    }
)


@dataclass(frozen=True, kw_only=True)
class DatasetInfo:
    """The properties of a data set that networks and certificates need.

    Numpy numbers are converted to Python numbers.

    Args:
        name: the name by which ``load`` knows the data set.
        title: the name of the data set in tables and figures.
        input_shape: (channels, height, width) of the network's input.
        num_classes: the number of classes.
        mean: the mean that normalisation subtracts, one value per channel.
        std: the number by which normalisation divides. It is one scalar for all channels, so that
            an l_inf ball of pixels stays an l_inf ball after normalisation.
        eps: the paper's radius, in pixels.
    """

    name: str
    title: str
    input_shape: tuple[int, int, int]
    num_classes: int
    mean: tuple[float, ...]
    std: float
    eps: Fraction

    def __post_init__(self) -> None:
        caller = "DatasetInfo"
        shape = image_shape(self.input_shape, caller)
        pixel_radius(self.eps, caller)
        fields = {
            "input_shape": shape,
            "num_classes": class_count(self.num_classes, caller),
            "mean": channel_means(self.mean, shape[0], caller),
            "std": deviation(self.std, caller),
        }
        for name, value in fields.items():
            object.__setattr__(self, name, value)
        check_fields(self)


# mean and std are the authors' constants of normalisation; those of the digits are the mean and the
# standard deviation of the training images.
DATASETS: Mapping[str, DatasetInfo] = MappingProxyType(
    {
        info.name: info
        for info in (
            DatasetInfo(
                name="mnist",
                title="MNIST",
                input_shape=(1, 28, 28),
                num_classes=10,
                mean=(0.1307,),
                std=0.3081,
                eps=Fraction(3, 10),
            ),
            DatasetInfo(
                name="fashion_mnist",
                title="Fashion-MNIST",
                input_shape=(1, 28, 28),
                num_classes=10,
                mean=(0.2860,),
                std=0.3520,
                eps=Fraction(1, 10),
            ),
            DatasetInfo(
                name="cifar10",
                title="CIFAR-10",
                input_shape=(3, 32, 32),
                num_classes=10,
                mean=(0.4914, 0.4822, 0.4465),
                std=0.2009,
                eps=Fraction(8, 255),
            ),
            DatasetInfo(
                name="tinyimagenet",
                title="TinyImageNet",
                input_shape=(3, 56, 56),
                num_classes=200,
                mean=(0.4802, 0.4481, 0.3975),
                std=0.2276,
                eps=Fraction(1, 255),
            ),
            DatasetInfo(
                name="digits",
                title="digits (scikit-learn)",
                input_shape=(1, 8, 8),
                num_classes=10,
                mean=(0.3051,),
                std=0.3758,
                eps=Fraction(1, 10),
            ),
        )
    }
)


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images with their labels.

    Args:
        images: uint8 of shape [N, C, H, W].
        labels: int64 of shape [N].
        info: describes the data set. ``info.num_classes`` is the number of classes found in the
            files. ``info.input_shape`` is the shape of a network's input; TinyImageNet's training
            images are larger, to leave room for the random crop.
        validation: True if ``split_validation`` has kept these training images from training.
    """

    images: Tensor
    labels: Tensor
    info: DatasetInfo
    validation: bool = False

    def __post_init__(self) -> None:
        flag(self.validation, "ImageSet: validation")
        for name, kind in (("images", Tensor), ("labels", Tensor), ("info", DatasetInfo)):
            value = getattr(self, name)
            if not isinstance(value, kind):
                raise TypeError(
                    f"ImageSet: {name} must be a {kind.__name__}; got {type(value).__name__}."
                )
        if self.images.dtype != torch.uint8 or self.images.ndim != 4:
            raise ValueError(
                "ImageSet: images must be uint8 of shape [N, C, H, W]; got "
                f"{self.images.dtype} of shape {tuple(self.images.shape)}."
            )
        if self.labels.dtype != torch.int64 or self.labels.shape != self.images.shape[:1]:
            raise ValueError(
                f"ImageSet: labels must be int64 of shape ({len(self.images)},), one for each "
                f"image; got {self.labels.dtype} of shape {tuple(self.labels.shape)}."
            )
        if self.labels.device != self.images.device:
            raise ValueError(
                "ImageSet: images and labels must be on one device; got "
                f"{self.images.device} and {self.labels.device}. Move the labels."
            )
        outside = _first_outside(self.labels, self.info.num_classes)
        if outside is not None:
            raise ValueError(
                f"ImageSet: labels must be in 0..{self.info.num_classes - 1}; image {outside} has "
                f"label {int(self.labels[outside])}. Labels must start at 0, and info.num_classes "
                "must be the number of classes."
            )

    def __len__(self) -> int:
        return len(self.images)

    def to(self, device: torch.device | str) -> "ImageSet":
        """The same set on another device."""
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))

    def take(self, n: int | None) -> "ImageSet":
        """The first n images; None takes them all."""
        if n is None:
            return self
        n = whole(n, "ImageSet.take: n", least=None)
        if not 0 < n <= len(self):
            raise ValueError(
                f"ImageSet.take: n must be in 1..{len(self)}, the number of images; got {n}. "
                "Pass None for all."
            )
        return replace(self, images=self.images[:n], labels=self.labels[:n])


def check_image_set(value: object, what: str) -> None:
    """Refuse any value except an ``ImageSet``; ``what`` names the value in the error.

    Raises:
        TypeError: ``value`` is something else, such as a torch data set or data loader.
    """
    if not isinstance(value, ImageSet):
        raise TypeError(
            f"{what} must be a linfdist.data.ImageSet; got {type(value).__name__}. Build one from "
            "images and labels: ImageSet(images, labels, info)."
        )


def load(
    name: str,
    split: Literal["train", "test"],
    *,
    root: Path | str | None = None,
    download: bool = True,
) -> ImageSet:
    """Read one split of a data set of ``DATASETS``, and download it if it is missing.

    The order of the images mixes the classes, so that ``take`` gives a sensible subset.

    TinyImageNet differs in three ways:

    - "test" is the labelled validation set, already cut to its centre 56x56.
    - The number of classes is the number of folders found.
    - The first load decodes the JPEG files and keeps the result under the cache folder.

    Raises:
        ValueError: the name or the split is unknown.
        DataError: the files are missing and cannot be downloaded, cannot be read, or are not the
            originals; or no folder is given and there is no home folder.
    """
    if name not in DATASETS:
        raise ValueError(unknown("data set", name, DATASETS))
    if split not in ("train", "test"):
        raise ValueError(f"load: split must be 'train' or 'test'; got {split!r}.")
    info = DATASETS[name]
    read = READERS[name]
    if root is not None:
        root = file(root, "load: root")
    in_a_package = read is readers.read_digits  # it needs no folder
    folder = root or (Path() if in_a_package else readers.data_dir())
    try:
        pixels, classes, num_classes = read(folder, split, download)
    except OSError as error:
        raise DataError(
            f"{info.title} in {folder} must be readable; it is not ({error}). Change the "
            "permissions, or set LINFDIST_DATA to a copy."
        ) from error
    images, labels = torch.from_numpy(pixels), torch.from_numpy(classes)
    outside = _first_outside(labels, num_classes)
    if outside is not None:
        raise DataError(
            f"{info.title}: labels must be in 0..{num_classes - 1}; image {outside} has label "
            f"{int(labels[outside])}. The file in {folder} is not the original: delete it and load "
            "the data set again."
        )
    if split == "test":
        images = center_crop(images, info.input_shape[-1])
    return ImageSet(images, labels, replace(info, num_classes=num_classes))


def _first_outside(labels: Tensor, num_classes: int) -> int | None:
    """The index of the first image whose label is not a class; None if every label is one."""
    outside = (labels < 0) | (labels >= num_classes)
    return int(outside.nonzero()[0]) if outside.any() else None


def split_validation(train: ImageSet) -> tuple[ImageSet, ImageSet]:
    """Split training images into those for training and those for choosing settings.

    Returns (training, validation). The validation images are the last 5,000, or the last tenth if
    that is fewer, cut to the centre like test images. Both sets contain every class, because the
    order of the images mixes the classes.

    Raises:
        ValueError: ``train`` has fewer than ten images, or holds validation images already.
    """
    if train.validation or len(train) < 10:
        raise ValueError(
            "split_validation: train must hold at least ten training images and must not be split "
            f"already; got {len(train)} {'validation' if train.validation else 'training'} images."
        )
    rest = len(train) - min(VALIDATION_IMAGES, len(train) // 10)
    kept = center_crop(train.images[rest:], train.info.input_shape[-1])
    validation = replace(train, images=kept, labels=train.labels[rest:], validation=True)
    return train.take(rest), validation


def center_crop(images: Tensor, size: int) -> Tensor:
    """The central ``size`` x ``size`` pixels of images [..., H, W]."""
    height, width = images.shape[-2:]
    if size > min(height, width):
        raise ValueError(
            f"center_crop: size must be at most the image's sides ({height}, {width}); got {size}."
        )
    top, left = (height - size) // 2, (width - size) // 2
    return images[..., top : top + size, left : left + size].contiguous()


def to_pixels(images: Tensor) -> Tensor:
    """Convert uint8 images to float32 in [0, 1]: the uint8 value divided by 255."""
    if not isinstance(images, Tensor):
        raise TypeError(
            f"to_pixels: images must be a torch.Tensor; got {shown(images)}. Use torch.as_tensor."
        )
    if images.dtype != torch.uint8:
        raise ValueError(f"to_pixels: images must be uint8 (0..255); got {images.dtype}.")
    return images.to(torch.float32) / 255
