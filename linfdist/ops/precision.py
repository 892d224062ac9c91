"""Contexts that set the precision of float32 in torch's matrix products and convolutions.

Torch has two kinds of settings:

- ``torch.autocast`` belongs to the calling thread and casts operands to half precision.
- The precision of float32 products belongs to the whole process. It has one old setting,
  ``torch.set_float32_matmul_precision``, and one setting per operation of each backend, such as
  ``torch.backends.mkldnn.matmul.fp32_precision``.

Both contexts here set every setting that they mention. The process gets the settings of the
strictest context that any thread is in: a certificate uses float32 even while another thread trains
at a lower precision, and no thread waits for another. If one thread nests contexts, its innermost
context counts.
"""

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import torch

IEEE = "ieee"
ORDER = (IEEE, "highest", "high", "medium")  # the strictest first
# The devices for which torch has autocast.
AUTOCAST = ("cpu", "cuda", "mps", "xpu", "hpu", "xla", "mtia", "maia", "ipu", "privateuseone")
_backends: Any = torch.backends  # torch declares no types for these settings
_PRODUCTS = (_backends.cuda.matmul, _backends.mkldnn.matmul)
_ON_CPU = (_backends.mkldnn.conv, _backends.mkldnn.rnn)
_ON_GPU = (_backends.cudnn.conv, _backends.cudnn.rnn)
_KNOBS = _PRODUCTS + _ON_CPU + _ON_GPU


@contextlib.contextmanager
def ieee_float32() -> Iterator[None]:
    """Make every float32 operation IEEE 754's, whatever torch's settings; restore them on leaving.

    Products and convolutions use neither TF32 nor bfloat16, and autocast is off in this thread.
    """
    with _precision(IEEE):
        yield


@contextlib.contextmanager
def matmul_precision(name: str) -> Iterator[None]:
    """Set ``torch.set_float32_matmul_precision(name)`` inside, and restore it on leaving.

    Autocast is off in this thread, so ``name`` alone determines the precision of products.
    Convolutions on a CPU use float32, which is torch's default. Convolutions of cuDNN, for which
    torch's default is TF32, keep their setting.
    """
    with _precision(name):
        yield


@contextlib.contextmanager
def _precision(name: str) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        stack.enter_context(_process.wants(name))
        for device in AUTOCAST:
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        yield


class _Process:
    """The settings of the process; all threads share them."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.wanted: dict[int, list[str]] = {}  # for each thread, innermost last
        self.current: str | None = None
        self.before: tuple[str | None, list[str]] = (None, [])

    @contextlib.contextmanager
    def wants(self, name: str) -> Iterator[None]:
        thread = threading.get_ident()
        with self.lock:
            self.wanted.setdefault(thread, []).append(name)
            try:
                self._settle()
            except BaseException:
                self._forget(thread)
                raise
        try:
            yield
        finally:
            with self.lock:
                self._forget(thread)
                self._settle()

    def _forget(self, thread: int) -> None:
        self.wanted[thread].pop()
        if not self.wanted[thread]:
            del self.wanted[thread]

    def _settle(self) -> None:
        """Set what the strictest thread wants; without any thread restore the former settings."""
        names = {stack[-1] for stack in self.wanted.values()}
        wanted = min(names, key=ORDER.index) if names else None
        if wanted == self.current:
            return
        if self.current is None:
            self.before = matmul_setting(), [knob.fp32_precision for knob in _KNOBS]
        if wanted is None:
            _restore(*self.before)
        else:
            torch.set_float32_matmul_precision("highest" if wanted == IEEE else wanted)
            for knob in _ON_CPU + (_ON_GPU if wanted == IEEE else ()):
                knob.fp32_precision = "ieee"
            if wanted != IEEE and self.current == IEEE:
                _put(_ON_GPU, self.before[1][-len(_ON_GPU) :])
        self.current = wanted


def matmul_setting() -> str | None:
    """Torch's old setting; None if the new ones contradict it, as torch then refuses to read it."""
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:
        return None


def _restore(legacy: str | None, values: list[str]) -> None:
    if legacy is not None:
        torch.set_float32_matmul_precision(legacy)
    _put(_KNOBS, values)


def _put(knobs: tuple[Any, ...], values: list[str]) -> None:
    for knob, value in zip(knobs, values, strict=True):
        knob.fp32_precision = "none"  # inherit from all backends, perhaps this value
        if knob.fp32_precision != value:
            knob.fp32_precision = value


_process = _Process()
