"""The compiled module, if there is one, and what runs on a device.

The CPU kernels use OpenMP. ``torch`` is imported before the module so that both share torch's
thread pool: ``torch.set_num_threads`` then counts for these kernels too, and no second pool of
threads competes for the cores.
"""

import functools
import importlib
import warnings
from types import ModuleType

import torch


@functools.cache
def module() -> ModuleType | None:
    """``linfdist.ops._native``, or None with one warning where it was not built."""
    try:
        return importlib.import_module("linfdist.ops._native")
    except ImportError as error:
        warnings.warn(
            f"linfdist: the native kernels could not be loaded ({error}); the pure-torch reference "
            'runs instead, 10 to 100 times slower. Reinstall with "pip install -e ." on a machine '
            "with a C++20 compiler.",
            RuntimeWarning,
            stacklevel=2,
        )
        return None


@functools.cache
def warn_reference(device_type: str) -> None:
    """Say once that a device has no native kernels."""
    warnings.warn(
        f"linfdist: this build has no native kernels for {device_type!r} tensors; the pure-torch "
        "reference runs instead, correct but slow.",
        RuntimeWarning,
        stacklevel=3,
    )


def backend(device: torch.device | str = "cpu") -> str:
    """What runs on ``device``: ``"native (avx512)"``, ``"native (avx2)"`` … or ``"reference"``."""
    device = torch.device(device)
    if device.type == "cpu" and (native := module()) is not None:
        return f"native ({native.cpu_isa()})"
    return "reference"
