"""The floating-point mode of all computing threads: rounding to nearest, denormals kept.

Each thread has its own mode. A pool thread inherits the mode of the thread that creates it, and
keeps that mode. One parallel operation under ``torch.set_flush_denormal(True)`` therefore leaves
workers that still flush denormals after ``torch.set_flush_denormal(False)``.
"""

import functools

import torch
from torch import Tensor

from linfdist.ops import native

GRAIN = 2**15  # elements per thread that torch starts


def check_float_mode(caller: str, device: torch.device) -> None:
    """Raise an error if a thread does not round to nearest or does not keep denormals.

    If the native module is built, the workers of the calling thread's pool first take that thread's
    mode. Then sums on all threads test the mode, on the CPU and on ``device``.

    Raises:
        ValueError: denormals are flushed or results are not rounded to nearest.
    """
    native.share_float_mode()
    threads = torch.get_num_threads()
    _check_sums(caller, torch.device("cpu"), threads * GRAIN)
    if device.type != "cpu":
        _check_sums(caller, device, GRAIN)


def _check_sums(caller: str, device: torch.device, elements: int) -> None:
    a, b, expected = _sums()
    a, b = (value.to(device).view(torch.float32) for value in (a, b))
    sums = (a.expand(-(-elements // len(a)), -1) + b).cpu().view(torch.int32)
    wrong = sums.numpy() != expected.numpy()  # numpy compares in one thread
    if not wrong.any():
        return
    if wrong[:, ::3].any():
        raise ValueError(
            f"{caller}: denormals must be kept on every thread; they are flushed to 0, which no "
            "bound here covers. Call torch.set_flush_denormal(False). If that does not help, start "
            "a new process, because threads that exist already keep flushing."
        )
    raise ValueError(
        f"{caller}: results must be rounded to nearest on every thread; another rounding mode is "
        "set. Set FE_TONEAREST, the mode of every new process."
    )


@functools.cache
def _sums() -> tuple[Tensor, Tensor, Tensor]:
    """The bits of two float32 summands and of their sum to nearest, for three sums in turn.

    - 2^-149 + 0 = 2^-149, which flushing changes;
    - 1 + 2^-24 = 1, which rounding upward changes;
    - 1 + 1.5 · 2^-24 = 1 + 2^-23, which rounding downward or to zero changes.

    The bits are integers, because a flushing thread can neither create nor compare a denormal.
    """
    one, half = 0x3F800000, 0x33800000  # 1 and 2^-24; one more in the bits is the next number
    bits = ((1, one, one), (0, half, half + 0x400000), (1, one, one + 1))
    a, b, total = (torch.tensor(row, dtype=torch.int32, device="cpu").repeat(1024) for row in bits)
    return a, b, total
