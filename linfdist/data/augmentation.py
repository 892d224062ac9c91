"""Augmentation of whole batches, on any device."""

from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from linfdist.data.readers import DataError as DataError
from linfdist.system.serialise import OMITTED_AT_DEFAULT, check_fields


@dataclass(frozen=True)
class Augmentation:
    """Pad each image, cut out a random window, and flip the image with probability 1/2.

    Args:
        padding: the number of pixels added on each side.
        flip: whether images are flipped horizontally, each with probability 1/2.
        crop: the side of the window; None keeps the images' size.
        pad_with: "zeros" pads with black pixels, because the padding comes before the network
            normalises; "edge" repeats the image's border.
    """

    padding: int = 0
    flip: bool = False
    crop: int | None = None
    pad_with: Literal["zeros", "edge"] = field(default="zeros", metadata=OMITTED_AT_DEFAULT)

    def __post_init__(self) -> None:
        check_fields(self)
        if self.padding < 0:
            raise ValueError(f"Augmentation: padding must be at least 0; got {self.padding}.")
        if self.crop is not None and self.crop < 1:
            raise ValueError(f"Augmentation: crop must be at least 1 or None; got {self.crop}.")


def draw_windows(
    number: int,
    image_shape: tuple[int, ...],
    augmentation: Augmentation,
    generator: torch.Generator,
) -> Tensor:
    """Draw random windows for ``number`` images of ``image_shape`` (C, H, W), for ``cut_windows``.

    The result is int64 of shape (number, 3), on the generator's device. Each row holds the window's
    first row and first column in the padded image, and 1 if the window is flipped, else 0.
    """
    (height, width), (crop_height, crop_width) = _sides(image_shape, augmentation)

    def draw(high: int) -> Tensor:
        return torch.randint(high, (number,), generator=generator, device=generator.device)

    windows = torch.zeros(number, 3, dtype=torch.int64, device=generator.device)
    if height > crop_height or width > crop_width:
        windows[:, 0] = draw(height - crop_height + 1)
        windows[:, 1] = draw(width - crop_width + 1)
    if augmentation.flip:
        windows[:, 2] = draw(2)
    return windows


def cut_windows(images: Tensor, windows: Tensor, augmentation: Augmentation) -> Tensor:
    """Cut one window out of each image of a batch ([B, C, H, W]): shape [B, C, crop, crop].

    ``windows`` is the result of ``draw_windows``, moved to the images' device. The host does not
    wait for the device.
    """
    _, (crop_height, crop_width) = _sides(images.shape[1:], augmentation)
    top, left, flipped = windows.unsqueeze(2).unbind(1)
    rows = torch.arange(crop_height, device=images.device) + top
    columns = torch.arange(crop_width, device=images.device) + left
    columns = torch.where(flipped == 1, columns.flip(1), columns)
    padding = augmentation.padding
    if augmentation.pad_with == "edge":  # take the nearest pixel instead of padding
        rows = (rows - padding).clamp(0, images.shape[2] - 1)
        columns = (columns - padding).clamp(0, images.shape[3] - 1)
    else:
        images = F.pad(images, (padding,) * 4)
    window = (rows[:, :, None] * images.shape[3] + columns[:, None, :]).flatten(1)
    chosen = images.flatten(2).gather(2, window[:, None].expand(-1, images.shape[1], -1))
    return chosen.unflatten(2, (crop_height, crop_width))


def augment(images: Tensor, augmentation: Augmentation, generator: torch.Generator) -> Tensor:
    """Apply a random window and flip to each image of a batch (uint8, [B, C, H, W]).

    The result has shape [B, C, crop, crop]. The random numbers are drawn on the generator's device,
    so a CPU generator gives the same batch on every device.
    """
    if images.dtype != torch.uint8 or images.ndim != 4:
        raise ValueError(
            "augment: images must be uint8 of shape [B, C, H, W]; got "
            f"{images.dtype} of shape {tuple(images.shape)}."
        )
    windows = draw_windows(len(images), images.shape[1:], augmentation, generator)
    return cut_windows(images, windows.to(images.device), augmentation)


def _sides(
    image_shape: tuple[int, ...], augmentation: Augmentation
) -> tuple[tuple[int, int], tuple[int, int]]:
    """(height, width) of the padded image, and (height, width) of the window."""
    _, height, width = image_shape
    crop = augmentation.crop
    window = (height, width) if crop is None else (crop, crop)
    padded = (height + 2 * augmentation.padding, width + 2 * augmentation.padding)
    if window[0] > padded[0] or window[1] > padded[1]:
        raise ValueError(
            f"augment: crop must be at most the padded image's sides {padded}; got {crop}. Raise "
            "padding or lower crop."
        )
    return padded, window
