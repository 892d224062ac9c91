"""The data sets as uint8 tensors, their augmentation and batches.

Images stay uint8 until ``to_pixels`` turns a batch into float32 in [0, 1], the unit of every eps in
this package.
"""

from linfdist.data.augmentation import Augmentation, augment, cut_windows, draw_windows
from linfdist.data.readers import DataError
from linfdist.data.sets import (
    DATASETS,
    VALIDATION_IMAGES,
    DatasetInfo,
    ImageSet,
    center_crop,
    check_image_set,
    load,
    split_validation,
    to_pixels,
)

__all__ = [
    "DATASETS",
    "VALIDATION_IMAGES",
    "Augmentation",
    "DataError",
    "DatasetInfo",
    "ImageSet",
    "augment",
    "center_crop",
    "check_image_set",
    "cut_windows",
    "draw_windows",
    "load",
    "split_validation",
    "to_pixels",
]
