"""Checks of the arguments of ``fit``, made before training starts."""

from collections.abc import Iterator
from typing import Any

from linfdist.data import ImageSet, check_image_set
from linfdist.robust.checks import check_labels, check_net
from linfdist.system import distributed, values
from linfdist.training.checkpoint import CheckpointConfig
from linfdist.training.config import AnyTrainConfig, Net, TrainConfig


def check_fit(net: Net, train: ImageSet, test: ImageSet | None, config: AnyTrainConfig) -> None:
    """Refuse images or labels that do not fit the network; the recipe refuses the network."""
    if not isinstance(config, AnyTrainConfig):
        raise TypeError(
            "fit: config must be a TrainConfig, BoundTrainConfig or LayerwiseTrainConfig; got "
            f"{type(config).__name__}."
        )
    check_image_set(train, "fit: train")
    if test is not None:
        check_image_set(test, "fit: test")
    check_net(net, "fit")
    if len(train) == 0:
        raise ValueError("fit: train must hold at least one image; got none.")
    if config.train_images is not None and config.train_images > len(train):
        raise ValueError(
            f"fit: train_images must be at most {len(train)}, the number of images; got "
            f"{config.train_images}."
        )
    if isinstance(config, TrainConfig) and len(train.take(config.train_images)) == 1:
        raise ValueError(
            "fit: train must hold at least two images; got one. A mean shift turns a single image "
            "into 0."
        )
    for shape, name in _shapes(train, test, config):
        if shape != net.input_shape:
            raise ValueError(
                f"fit: {name} images must have the network's input_shape={net.input_shape}; got "
                f"{shape}. Set Augmentation.crop or build the network for these images."
            )
    for images in (train, test):
        if images is not None:
            check_labels(images.labels, net.num_classes, "fit")


def check_share(config: AnyTrainConfig) -> None:
    """Refuse batches so small that a process could shift a single image by its own mean."""
    processes = distributed.size()
    if isinstance(config, TrainConfig) and config.batch_size < 2 * processes:
        raise ValueError(
            f"fit: batch_size must be at least {2 * processes} for {processes} processes with "
            f"sync_mean_shift=False; got {config.batch_size}. A mean shift turns a share of one "
            "image into 0."
        )


def check_seconds(seconds: Any, checkpoint: CheckpointConfig | None) -> float | None:
    """The time limit of a call; refuses one without a checkpoint, which would lose all progress."""
    seconds = values.seconds(seconds, "fit: seconds")
    if seconds is not None and checkpoint is None:
        raise ValueError(
            f"fit: seconds={seconds:g} must come with a checkpoint to continue from; got none. "
            "Pass a path as checkpoint."
        )
    return seconds


def _shapes(
    train: ImageSet, test: ImageSet | None, config: AnyTrainConfig
) -> Iterator[tuple[tuple[int, ...], str]]:
    """The image shapes that reach the network, each with the name of its set."""
    crop = config.augmentation.crop
    shape = tuple(train.images.shape[1:])
    yield (shape if crop is None else (shape[0], crop, crop)), "training"
    if test is not None:
        yield tuple(test.images.shape[1:]), "test"
