"""What float32 stands for in torch's matrix products and convolutions, for a while.

Torch has two kinds of knobs for it. ``torch.autocast`` is the calling thread's: it casts operands
to half precision. The precision of float32 products is the whole process's: one old setting,
``torch.set_float32_matmul_precision``, and one of each operation of each backend, such as
``torch.backends.mkldnn.matmul.fp32_precision``. Both contexts here set all that they speak of.

The process's settings are those of the strictest context that any thread is in: a certificate is
of float32 whatever another thread trains with, and no thread waits for another. Of contexts inside
each other in one thread the innermost counts.
"""

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import torch

IEEE = "ieee"
ORDER = (IEEE, "highest", "high", "medium")  # the strictest first
# The devices that torch has autocast for.
AUTOCAST = ("cpu", "cuda", "mps", "xpu", "hpu", "xla", "mtia", "maia", "ipu", "privateuseone")
_backends = torch.backends
_PRODUCTS = (_backends.cuda.matmul, _backends.mkldnn.matmul)
_ON_CPU = (_backends.mkldnn.conv, _backends.mkldnn.rnn)
_ON_GPU = (_backends.cudnn.conv, _backends.cudnn.rnn)
_KNOBS = _PRODUCTS + _ON_CPU + _ON_GPU


@contextlib.contextmanager
def ieee_float32() -> Iterator[None]:
    """Every float32 operation is IEEE 754's, whatever torch is set to; afterwards it is as before.

    TF32 and bfloat16 are off in products and convolutions, and so is autocast in this thread.
    """
    with _precision(IEEE):
        yield


@contextlib.contextmanager
def matmul_precision(name: str) -> Iterator[None]:
    """``torch.set_float32_matmul_precision(name)`` inside, and what it was before afterwards.

    Autocast is off in this thread, so that the name alone says what products are in. Convolutions
    on a CPU are in float32, as torch has them unless it is told otherwise; those of cuDNN, which
    torch has in TF32, stay as they are.
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
    """The settings of the process, which all threads share."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.wanted: dict[int, list[str]] = {}  # of each thread, the innermost last
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
        """Set what the strictest thread wants, or once there is none what there was before."""
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
    """Torch's old setting; None where the new ones contradict it, which torch refuses to read."""
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
        knob.fp32_precision = "none"  # what all backends say, which may be what it said before
        if knob.fp32_precision != value:
            knob.fp32_precision = value


_process = _Process()
