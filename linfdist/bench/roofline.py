"""What a GPU allows: pairs a second from the instructions of a pair, bytes from its bandwidth.

A pair is one |x − w|. An instruction of the FMA pipe (add, multiply, multiply-add), a minimum or
maximum, and a special function (exp2, log2) have each their own rate, and all together at most 128
are issued, by each multiprocessor in each clock. The slowest of these is the roofline.

There is none for a CPU: its clock depends on the vector instructions in use and on its neighbours.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch

from linfdist.bench.timing import best_seconds

ISSUED = 128  # a clock and multiprocessor: four schedulers, a warp of 32 each
MIN_MAX, SPECIAL = 64, 16
# Of the FMA pipe in float32, by compute capability: CUDA C++ Programming Guide, throughput of
# arithmetic instructions.
FMA: Mapping[str, int] = MappingProxyType({"8.0": 64, "8.6": 128, "8.9": 128, "9.0": 128})
COPY_BYTES = 2**30  # far more than any cache


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """What the rooflines need of a GPU; None is unknown, and then there is no roofline."""

    capability: str
    multiprocessors: int
    clock_mhz: float | None  # the highest, so that a share of the roofline is never flattered
    bandwidth_gb_per_second: float | None  # measured: a copy in the same run, read plus written


@dataclass(frozen=True, kw_only=True)
class Instructions:
    """Instructions of one pair, by pipe."""

    fma: int
    min_max: int = 0
    special: int = 0


def hardware(device: torch.device) -> Hardware | None:
    """The device's rates; None for a CPU."""
    if device.type != "cuda":
        return None
    properties = torch.cuda.get_device_properties(device)
    clock_khz = getattr(properties, "clock_rate", 0)
    return Hardware(
        capability=f"{properties.major}.{properties.minor}",
        multiprocessors=properties.multi_processor_count,
        clock_mhz=clock_khz / 1e3 or None,
        bandwidth_gb_per_second=2 * COPY_BYTES / _copy_seconds(device) / 1e9,
    )


def _copy_seconds(device: torch.device) -> float:
    source = torch.zeros(COPY_BYTES, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return best_seconds(lambda: target.copy_(source), device)


def instructions(p: float, backward: bool) -> Instructions | None:
    """What one pair costs at the least; None where the work does not grow with the pairs.

    Forward: a subtraction, then at p = ∞ a maximum, and at finite p a scaling, the power and the
    sum. A whole power is a chain of multiplications by repeated squaring, the last one fused with
    the sum; a real one is exp2(p log2), its scaling a multiply-add. Backward, both gradients come
    from one power p − 1 by a multiply-add each. At p = ∞ it touches one entry of each neuron only.
    """
    if math.isinf(p):
        return None if backward else Instructions(fma=1, min_max=1)
    power = p - 1 if backward else p
    if power != int(power):
        return _real_power(backward)
    chain = _multiplications(int(power))
    return Instructions(fma=2 + chain + 2 if backward else 2 + chain)


def _real_power(backward: bool) -> Instructions:
    return Instructions(fma=4 if backward else 3, special=2)


def _multiplications(power: int) -> int:
    """Of repeated squaring: one a bit after the first, one more for each such bit that is set."""
    return power.bit_length() + power.bit_count() - 2 if power > 0 else 0


def pairs_per_clock(cost: Instructions, capability: str) -> float | None:
    """What a multiprocessor can do of ``cost`` in one clock; None for an unknown capability."""
    if capability not in FMA:
        return None
    pipes = ((cost.fma, FMA[capability]), (cost.min_max, MIN_MAX), (cost.special, SPECIAL))
    issued = ISSUED / (cost.fma + cost.min_max + cost.special)
    return min(issued, *(rate / count for count, rate in pipes if count))


def pairs_per_second(p: float, backward: bool, found: Hardware | None) -> float | None:
    """The roofline of one pass; the better way where a whole power may be taken as a real one."""
    cost = instructions(p, backward)
    if found is None or cost is None or found.clock_mhz is None:
        return None
    ways = [cost] if math.isinf(p) else [cost, _real_power(backward)]
    rates = [pairs_per_clock(way, found.capability) for way in ways]
    if None in rates:
        return None
    return max(rates) * found.multiprocessors * found.clock_mhz * 1e6


def least_seconds(
    pairs: float, p: float, with_backward: bool, found: Hardware | None
) -> float | None:
    """The least time for a pass, or for forward and backward; at p = ∞ the forward pass alone."""
    forward = pairs_per_second(p, False, found)
    if forward is None:
        return None
    backward = pairs_per_second(p, True, found) if with_backward else None
    return pairs / forward + (pairs / backward if backward else 0.0)
