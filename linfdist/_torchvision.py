"""One import of torchvision that also works beside a CPU-only torch.

PyPI's torchvision wheel for Linux is linked against a CUDA torch. Beside a CPU-only torch its C++
library does not load, so the operators that it would declare do not exist, and
``import torchvision`` stops at the first Python decorator that names one:
``RuntimeError: operator torchvision::nms does not exist`` (then the same for ``qnms``). Declaring
the two schemas first is enough; this package reads images and never calls either operator.
"""

from functools import cache
from types import ModuleType

import torch

_SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}


def datasets() -> ModuleType:
    """``torchvision.datasets``, imported on first use."""
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
