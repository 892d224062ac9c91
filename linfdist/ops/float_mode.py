"""The floating-point mode of all threads that compute: results to nearest, denormals kept.

A mode belongs to a thread, and a thread of a pool keeps the one that its maker had when it was
made: one parallel operation under ``torch.set_flush_denormal(True)`` leaves workers that go on
flushing after ``(False)``.
"""

import functools

import torch
from torch import Tensor

from linfdist.ops import native

GRAIN = 2**15  # elements for which torch starts one more thread


def check_float_mode(caller: str, device: torch.device) -> None:
    """Refuse to go on where a thread does not round to nearest or does not keep denormals.

    First the workers of the calling thread's pool take its mode, where the native module is built;
    then a sum on all threads shows what holds. ``device`` is looked at as well as the CPU.

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
    found = (a.expand(-(-elements // len(a)), -1) + b).cpu().view(torch.int32)
    wrong = found.numpy() != expected.numpy()  # in one thread
    if not wrong.any():
        return
    if wrong[:, ::3].any():
        raise ValueError(
            f"{caller}: denormals must be kept on every thread; they are flushed to 0, which no "
            "bound here covers. Call torch.set_flush_denormal(False); where that was done, start a "
            "new process: threads that were made before it keep flushing."
        )
    raise ValueError(
        f"{caller}: results must be rounded to nearest on every thread; another rounding mode is "
        "set. Set FE_TONEAREST, as it is in a new process."
    )


@functools.cache
def _sums() -> tuple[Tensor, Tensor, Tensor]:
    """The bits of two float32 summands and of their sum to nearest, three sums in turn.

    2^-149 + 0 = 2^-149, which flushing changes; 1 + 2^-24 = 1, which rounding upward does; and
    1 + 1.5 · 2^-24 = 1 + 2^-23, which rounding downward or to zero does. As integers, because a
    thread that flushes could neither make nor compare a denormal.
    """
    one, half = 0x3F800000, 0x33800000  # 1 and 2^-24; a step of the bits is one of the numbers
    bits = ((1, one, one), (0, half, half + 0x400000), (1, one, one + 1))
    return tuple(torch.tensor(row, dtype=torch.int32, device="cpu").repeat(1024) for row in bits)
