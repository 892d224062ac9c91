"""The compiled module, if there is one, and the implementation that runs on a device.

The CPU kernels use OpenMP. ``torch`` is imported before the module so that both share torch's
thread pool: ``torch.set_num_threads`` then applies to these kernels too, and no second thread pool
competes for the cores.
"""

import functools
import importlib
import re
import warnings
from types import ModuleType

import torch
from torch import Tensor


@functools.cache
def module() -> ModuleType | None:
    """``linfdist.ops._native``, or None, after one warning, if it was not built."""
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


def compiled() -> ModuleType:
    """``module()``, where the caller knows that there is one."""
    built = module()
    if built is None:
        raise RuntimeError("linfdist: the native kernels were not built. Reinstall the package.")
    return built


def runs_on(device: torch.device) -> bool:
    """Whether the native kernels of this build accept tensors of ``device``."""
    if device.type == "cpu":
        return module() is not None
    return device.type == "cuda" and module() is not None and _runs_on_gpu(device)


@functools.cache
def _runs_on_gpu(device: torch.device) -> bool:
    return covers(compiled().cuda_architectures, _capability(device))


def covers(architectures: str, capability: tuple[int, int] | None) -> bool:
    """Whether kernels built for ``architectures``, such as "80-real 90", run on a GPU.

    "80-real" runs on 8.0 and later 8.x. "90" includes PTX and runs on 9.0 and everything later. A
    ``capability`` of None stands for a machine without a GPU, where only the build counts.
    """
    built = re.findall(r"(\d+)[af]?(-real)?", architectures)
    if not built or capability is None:
        return architectures != ""
    own = 10 * capability[0] + capability[1]
    return any(
        int(first) <= own and (not real or int(first) // 10 == capability[0])
        for first, real in built
    )


def _capability(device: torch.device) -> tuple[int, int] | None:
    return torch.cuda.get_device_capability(device) if torch.cuda.is_available() else None


def call(name: str, first: Tensor, *others: Tensor | float) -> None:
    """Run a native function on the device of its first tensor.

    On a GPU the kernels are queued on torch's current stream of that device.
    """
    function, device = getattr(compiled(), name), first.device
    if device.type == "cpu":
        function(first, *others)
        return
    with torch.cuda.device(device):
        function(first, *others, torch.cuda.current_stream(device).cuda_stream)


def share_float_mode() -> None:
    """Copy the calling thread's floating-point mode to its workers, if there is a module."""
    if module() is not None:
        compiled().share_float_mode()


def backward_workspace(x: Tensor, weight: Tensor, p: float) -> tuple[Tensor, ...]:
    """The memory that a native backward pass needs in addition to its results: none on the CPU.

    Torch's allocator provides the memory, so that torch counts and reuses it.
    """
    if x.device.type == "cpu":
        return ()
    return _workspace("backward_workspace", x, weight, p)


def lse_workspace(x: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
    """``backward_workspace`` for the backward pass of the direct LogSumExp."""
    return () if x.device.type == "cpu" else _workspace("lse_workspace", x, weight)


def _workspace(name: str, x: Tensor, weight: Tensor, *p: float) -> tuple[Tensor]:
    sizes = (x.shape[0], weight.shape[0], x.shape[1])
    with torch.cuda.device(x.device):
        size = getattr(compiled(), name)(*sizes, *p, x.element_size())
    return (torch.empty(size, dtype=torch.uint8, device=x.device),)


@functools.cache
def warn_reference(device_type: str) -> None:
    """Warn once that a device has no native kernels."""
    warnings.warn(
        f"linfdist: this build has no native kernels for {device_type!r} tensors; the pure-torch "
        'reference runs instead, correct but slow. For CUDA, reinstall with "pip install -e ." '
        "where nvcc is on PATH.",
        RuntimeWarning,
        stacklevel=3,
    )


def backend(device: torch.device | str = "cpu") -> str:
    """The name of the implementation that runs on ``device``.

    ``"native (avx512)"``, ``"native (avx2)"``, ``"native (baseline)"``, ``"native (cuda)"`` or
    ``"reference"``, the pure-torch fallback.
    """
    device = torch.device(device)
    if not runs_on(device):
        return "reference"
    return f"native ({compiled().cpu_isa() if device.type == 'cpu' else 'cuda'})"
