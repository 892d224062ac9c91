"""The batches of a run: their images, the order of the images and the augmentation."""

import math

import numpy as np
import torch
from torch import Tensor

from linfdist.data.augmentation import Augmentation, cut_windows, draw_windows
from linfdist.data.sets import ImageSet, to_pixels
from linfdist.system import distributed


class Batches:
    """Random batches of ``images``, which are stored as uint8 on their device.

    A batch depends only on the seed, the epoch and the index. It is the same on every device, in a
    resumed run, and for any number of processes, each of which gets its share of the batch. The
    last batch of an epoch may be smaller. The random numbers of an epoch are drawn on the host and
    copied to the device once; the host does not wait for the device.
    """

    def __init__(
        self, images: ImageSet, augmentation: Augmentation, batch_size: int, seed: int
    ) -> None:
        self.images = images
        self.augmentation = augmentation
        self.batch_size = batch_size
        self.seed = seed
        self.epoch: int | None = None
        self.generator = torch.Generator()

    def __len__(self) -> int:
        """The number of batches in an epoch."""
        return math.ceil(len(self.images) / self.batch_size)

    def size(self, index: int) -> int:
        """The number of images in a batch, summed over all processes."""
        return min(self.batch_size, len(self.images) - index * self.batch_size)

    def get(self, epoch: int, index: int) -> tuple[Tensor, Tensor]:
        """Pixels and labels of this process's share of a batch."""
        if self.epoch != epoch:
            self.order, self.windows = self._draw(epoch)
            self.epoch = epoch
        own = distributed.share(self.size(index))
        first = index * self.batch_size
        own = slice(first + own.start, first + own.stop)
        chosen = self.order[own]
        images = cut_windows(self.images.images[chosen], self.windows[own], self.augmentation)
        return to_pixels(images), self.images.labels[chosen]

    def _draw(self, epoch: int) -> tuple[Tensor, Tensor]:
        """The order of the images in an epoch, and the window of each."""
        self.generator.manual_seed(_derive(self.seed, epoch))
        order = torch.randperm(len(self.images), generator=self.generator, device="cpu")
        shape = self.images.images.shape[1:]
        windows = []
        for index in range(len(self)):
            self.generator.manual_seed(_derive(self.seed, epoch, index))
            number = self.size(index)
            windows.append(draw_windows(number, shape, self.augmentation, self.generator))
        return self._to_device(order), self._to_device(torch.cat(windows))

    def _to_device(self, tensor: Tensor) -> Tensor:
        device = self.images.images.device
        if device.type == "cuda":  # a copy from pageable memory would wait for the device
            tensor = tensor.pin_memory()
        return tensor.to(device, non_blocking=True)


def _derive(*keys: int) -> int:
    """A well-mixed seed for a generator, computed from the keys."""
    return int(np.random.SeedSequence(keys).generate_state(1, np.uint64)[0] >> 1)
